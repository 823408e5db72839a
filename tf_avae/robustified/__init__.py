"""Encoders that somebody has, made robust without labels: `python -m training.robustify`."""
