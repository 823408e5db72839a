"""The arguments of a bulk job, without Beam."""

from dataclasses import dataclass

FORMATS = ("files", "tfrecord")
"""Kinds of files that a pattern matches: images, or records that hold them."""


@dataclass(frozen=True)
class Job:
    """The arguments of a bulk job.

    Attributes:
        model: a SavedModel, or a folder of numbered versions, of which the newest is taken.
        input: a pattern of files as Beam matches it: `*` within a folder, `**` at any depth.
        output: a folder, empty or not there yet.
        format: of the files, one of `FORMATS`.
        feature: of records, which holds the picture.
        batch_size: pictures at once, at least 1.
        shards: number of Parquet files; None: the runner's choice.
        trust: whether to open a model that may do more than compute.
        certify: radius within which the embeddings are bounded too; None: they are not.
    """

    model: str
    input: str
    output: str
    format: str = FORMATS[0]
    feature: str = "image"
    batch_size: int = 64
    shards: int | None = None
    trust: bool = False
    certify: float | None = None
