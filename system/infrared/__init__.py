"""Infrared detectors and segmenters on distilled backbones, and how they are judged. No Ray."""
