"""Image files to pixels: one decoding for training and for the served graph."""
