"""Nightminer's library. Importing it does nothing; see README.md for the map of its rooms."""
