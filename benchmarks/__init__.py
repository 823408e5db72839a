"""Timings and studies behind what the documentation says."""

import training  # noqa: F401 (imports TensorFlow without its start-up notices)
