"""Corpora of RGB and infrared pictures of the same instant."""
