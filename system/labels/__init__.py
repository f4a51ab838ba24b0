"""What is really known of scenes: which tag holds, which does not, and who says so."""
