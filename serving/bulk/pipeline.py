"""What is done with each picture: read, embedded, written to Parquet; or refused, and noted."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

from serving.bulk.encoder import Encoder, Prediction
from serving.bulk.sources import READERS, Found, listed

ROWS, REFUSED = "embeddings", "refused.jsonl"
"""Names in the output: of the folder that holds nothing but Parquet files, as readers of such
folders want it, and of the file beside it."""

COUNTED = "serving.bulk"
"""The metrics' namespace: "embedded" and "refused" count pictures."""

_ROWS_AT_ONCE = 1000  # in a row group: files of several shards are dealt these

Refusal = tuple[str, str]
"""The path of what could not be embedded, and why."""


def schema(model: Mapping[str, Any]) -> pa.Schema:
    """The columns of the output, a row a picture.

    `path` string; `embedding` list of D float32, the posterior's mean; `variance` list of D
    float32; `inconsistency` float32. Under the key "tf_avae" of each file's metadata is `model` as
    JSON.

    Args:
        model: what is to be said of it.
    """
    floats = pa.list_(pa.field("element", pa.float32(), nullable=False))
    fields = {
        "path": pa.string(), "embedding": floats, "variance": floats, "inconsistency": pa.float32(),
    }  # fmt: skip
    columns = [pa.field(name, kind, nullable=False) for name, kind in fields.items()]
    return pa.schema(columns, metadata={"tf_avae": json.dumps(model)})


def build(
    pipeline: beam.Pipeline,
    encoder: Encoder,
    columns: pa.Schema,
    pattern: str,
    output: str,
    *,
    format: str,
    feature: str,
    shards: int,
) -> None:
    """Adds to a pipeline all that is done.

    Args:
        pipeline: to be run afterwards.
        encoder: that embeds.
        columns: of the output.
        pattern: of the files, as Beam matches it.
        output: a folder.
        format: of the files, a key of `READERS`.
        feature: of records, which holds the picture.
        shards: number of Parquet files; as many as the runner likes if 0.
    """
    read = (
        pipeline
        | "Pattern" >> beam.Create([pattern])
        | "Match" >> beam.FlatMap(listed)
        # What follows is one step: contents of files stay on the worker that reads them.
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(_Read(format, feature)).with_outputs("refused", main="files")
    )
    embedded = (
        read.files
        | "Embed" >> RunInference(KeyedModelHandler(encoder))
        | "Sort" >> beam.ParDo(_Sort()).with_outputs("refused", main="rows")
    )
    _ = embedded.rows | "Write rows" >> beam.io.WriteToParquet(
        FileSystems.join(output, ROWS, "part"),
        columns,
        row_group_buffer_size=1,  # a row group is what was read at once
        record_batch_size=_ROWS_AT_ONCE,
        codec="zstd",
        use_compliant_nested_type=True,
        file_name_suffix=".parquet",
        num_shards=shards,
    )
    _ = (
        (read.refused, embedded.refused)
        | "All refused" >> beam.Flatten()
        | "As JSON" >> beam.Map(_line)
        | "Write refused"
        >> beam.io.WriteToText(FileSystems.join(output, REFUSED), shard_name_template="")
    )


class _Read(beam.DoFn):
    def __init__(self, format: str, feature: str):
        self._format = format
        self._feature = feature

    def process(self, file: FileMetadata | Found) -> Iterator[Any]:
        if isinstance(file, Found):
            yield _refused(file.path, file.fault)
            return
        read = READERS[self._format]
        for found in read(file.path, file.size_in_bytes, self._feature):
            if found.fault:
                yield _refused(found.path, found.fault)
            else:
                yield found.path, found.content


class _Sort(beam.DoFn):
    def process(self, element: tuple[str, Prediction]) -> Iterator[Any]:
        path, found = element
        if isinstance(found, str):
            yield _refused(path, found)
        else:
            Metrics.counter(COUNTED, "embedded").inc()
            yield {"path": path, **found}


def _refused(path: str, why: str) -> Any:
    Metrics.counter(COUNTED, "refused").inc()
    return beam.pvalue.TaggedOutput("refused", (path, why))


def _line(refusal: Refusal) -> str:
    path, why = refusal
    return json.dumps({"path": path, "error": why})
