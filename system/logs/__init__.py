"""Driving-log readers: one protocol, an explicit ordered registry, and the cutting of logs into scene windows."""
