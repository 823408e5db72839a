"""Command lines over `tf_avae`."""

import tf_avae  # noqa: F401
