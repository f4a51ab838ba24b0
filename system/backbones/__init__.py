"""Frozen towers behind two small protocols: image and text in one space, and dense features."""
