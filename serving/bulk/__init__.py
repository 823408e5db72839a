"""Bulk embedding on Apache Beam: folders of image files, or TFRecords, to Parquet.

    python -m serving.bulk --model models/encoder --input 'pictures/**' --output embeddings

`options` holds a job's arguments; `job` checks them, runs a pipeline on one of Beam's runners and
writes the manifest; `pipeline` has the steps for each picture; `sources` reads; `encoder` is the
model for Beam's RunInference. Needs the extra `tf_avae[beam]`; see docs/bulk.md.
"""

import logging

from tf_avae.backend import need


def _worth_saying(record: logging.LogRecord) -> bool:
    """Drops Beam's warnings, on loading and with each batch, of missing extras for clouds."""
    return "apache_beam" not in record.pathname or record.levelno > logging.WARNING


logging.getLogger().addFilter(_worth_saying)


def check_installed() -> None:
    """Raises `InputError` if Apache Beam is not installed; the modules here import it."""
    need({"apache_beam": "Apache Beam", "pyarrow": "pyarrow"}, "beam")
