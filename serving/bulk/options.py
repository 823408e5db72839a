"""What a bulk job is told; Beam is not imported for that."""

from dataclasses import dataclass

FORMATS = ("files", "tfrecord")
"""What the files are that a pattern matches: images, or records that hold them."""


@dataclass(frozen=True)
class Job:
    """What is to be embedded, by what, and where to.

    Attributes:
        model: a SavedModel, or a folder of numbered versions, of which the newest is taken.
        input: a pattern of files as Beam matches it: `*` within a folder, `**` at any depth.
        output: a folder, empty or not there yet.
        format: of the files, one of `FORMATS`.
        feature: of records, which holds the picture.
        batch_size: pictures at once, at least 1.
        shards: number of Parquet files, or None for as many as the runner makes.
        trust: whether to open a model that may do more than compute.
    """

    model: str
    input: str
    output: str
    format: str = FORMATS[0]
    feature: str = "image"
    batch_size: int = 64
    shards: int | None = None
    trust: bool = False
