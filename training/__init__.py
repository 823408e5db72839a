"""Command lines over `tf_avae`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up notices of TensorFlow's

import tf_avae  # noqa: F401
