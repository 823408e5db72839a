"""Bulk embedding on Apache Beam: folders of image files, or TFRecords, to Parquet.

    python -m serving.bulk --model models/encoder --input 'pictures/**' --output embeddings

`options` is what a job is told; `job` checks it, runs a pipeline on one of Beam's runners and signs
the result with a manifest; `pipeline` says what is done with each picture; `sources` reads;
`encoder` is the model as Beam's RunInference takes it. Needs the extra `tf_avae[beam]`; see
docs/bulk.md.
"""

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up notices of TensorFlow's

from serving import require
from tf_avae.errors import InputError


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what Beam says, on loading and with each batch, of extras for clouds that are missing."""
    return "apache_beam" not in record.pathname or record.levelno > logging.WARNING


logging.getLogger().addFilter(_worth_saying)


def check_installed() -> None:
    """Raises `InputError` where Apache Beam is not installed; the modules here import it."""
    try:
        require("beam", apache_beam="Apache Beam", pyarrow="pyarrow")
    except ModuleNotFoundError as error:
        raise InputError(str(error)) from error
