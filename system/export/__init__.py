"""Scenes taken out of a store in the formats that other people's tools read. One format a file; `run.py` first."""
