"""FreqKD: see the spectral gap between RGB and infrared features, and distil across it. No Ray, no database."""
