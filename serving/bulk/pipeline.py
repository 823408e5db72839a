"""The steps for each picture: read, embed, write to Parquet; or write why it is refused."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

from serving.bulk.encoder import Encoder, Prediction
from serving.bulk.options import Job
from serving.bulk.sources import READERS, Found, listed
from tf_avae.errors import InputError
from tf_avae.image_files.converting import readable

ROWS, REFUSED = "embeddings", "refused.jsonl"
"""Names in the output: a folder with Parquet files only, as their readers want it, and a file."""

COUNTED = "serving.bulk"
"""The metrics' namespace: "embedded" and "refused" count pictures."""

_ROWS_AT_ONCE = 1000  # in a row group: files of several shards are dealt these


def schema(model: Mapping[str, Any], outputs: Sequence[str]) -> pa.Schema:
    """The columns of the output, one row a picture, with the facts of `model` as JSON under the key
    "tf_avae" of the metadata.

    `path` string; `embedding` list of D float32, the posterior's mean; `variance` list of D
    float32; `inconsistency` float32; and where it is certified `lower` and `upper`, lists of D
    float32; of these the `outputs`.
    """
    floats = pa.list_(pa.field("element", pa.float32(), nullable=False))
    kinds = {"inconsistency": pa.float32()}
    fields = {"path": pa.string(), **{name: kinds.get(name, floats) for name in outputs}}
    columns = [pa.field(name, kind, nullable=False) for name, kind in fields.items()]
    return pa.schema(columns, metadata={"tf_avae": json.dumps(model)})


def build(
    pipeline: beam.Pipeline,
    job: Job,
    encoder: Encoder,
    columns: pa.Schema,
    pattern: str,
    output: str,
) -> None:
    """Adds a job's steps to a pipeline; `pattern` and `output` are the job's, in Beam's form."""
    read = (
        pipeline
        | "Pattern" >> beam.Create([pattern])
        | "Match" >> beam.FlatMap(listed)
        # What follows is one step: contents of files stay on the worker that reads them.
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(_Read(job)).with_outputs("refused", main="files")
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
        num_shards=job.shards or 0,  # 0: the runner's choice
    )
    _ = (
        (read.refused, embedded.refused)
        | "All refused" >> beam.Flatten()
        | "As JSON" >> beam.Map(_line)
        | "Write refused"
        >> beam.io.WriteToText(FileSystems.join(output, REFUSED), shard_name_template="")
    )


class _Read(beam.DoFn):
    def __init__(self, job: Job):
        self._job = job

    def process(self, file: FileMetadata | Found) -> Iterator[Any]:
        if isinstance(file, Found):
            yield _refused(file.path, file.fault)
            return
        read = READERS[self._job.format]
        for found in read(file.path, file.size_in_bytes, self._job.feature):
            try:
                content = readable(found.content)
            except InputError as error:
                yield _refused(found.path, str(error))
                continue
            if found.fault:
                yield _refused(found.path, found.fault)
            else:
                yield found.path, content


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


def _line(refusal: tuple[str, str]) -> str:
    path, why = refusal
    return json.dumps({"path": path, "error": why})
