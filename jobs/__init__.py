"""Jobs: one file, one command."""
