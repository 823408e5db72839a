"""A bulk job from its options to its manifest."""

import argparse
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult

from serving.bulk.encoder import SIGNATURE, Encoder, abandon, check, watch
from serving.bulk.options import Job
from serving.bulk.pipeline import COUNTED, REFUSED, ROWS, build, schema
from serving.bulk.sources import Found, is_local, listed
from tf_avae.console.printing import note
from tf_avae.console.progress import Counter
from tf_avae.errors import InputError, reason
from tf_avae.files import absolute, shown, write_json
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.provenance import provenance, published, session

MANIFEST = "manifest.json"
"""Written last: an output without it is not complete."""

RUNNER = "FnApiRunner"
"""Beam's direct runner for Python. DirectRunner would first try Prism, a program that it
downloads."""

_GRACE = 10.0  # seconds for the batch under way when the command is stopped


def run(
    job: Job, options: PipelineOptions, update: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Runs a job and returns its manifest, which is also in the output as `manifest.json`.

    Args:
        job: what to do.
        options: Beam's, with the runner.
        update: called with the number of files done, after each batch that this process computes;
            prints progress unless given.

    Raises:
        InputError: no file matches, there is no such model, the output is in use, or an option is
            out of range; nothing was written.
    """
    for name, value in (("batch size", job.batch_size), ("number of shards", job.shards)):
        if value is not None and value < 1:
            raise InputError(f"the {name} is {value}; it must be at least 1")
    pipeline = _pipeline(options)
    output = _free(job.output)
    matched = matching(job.input)
    saved = SavedModel(job.model, trust=job.trust)
    outputs = check(saved, job.certify)
    model = {**_about(saved), **({} if job.certify is None else {"epsilon": job.certify})}
    columns = schema(model, outputs)
    encoder = Encoder(
        saved.path, model["sha256"], job.batch_size, trust=job.trust, certify=job.certify
    )
    build(pipeline, job, encoder, columns, local_pattern(job.input), output)
    if is_local(output):
        Path(output).mkdir(parents=True, exist_ok=True)
    total = len(matched) if job.format == "files" else None
    start = time.monotonic()
    watch(update or Counter("embedding", total).update)
    with _unsigned(output):
        result = _in_thread(lambda: _finished(pipeline))
        seconds = time.monotonic() - start
        return _sign(job, output, model, columns, _counts(result), seconds)


def pipeline_options(words: list[str], prog: str) -> PipelineOptions:
    """Beam's options from the words of a command line that are not the command's own.

    Raises:
        InputError: a word is no option; but runners elsewhere may have options of their own.
        SystemExit: a value is refused; one line has said so for the command `prog`.
    """
    unknown: list[str] = []

    def try_out(parser: argparse.ArgumentParser) -> None:
        # Beam itself ignores unknown options.
        parser.prog, parser.usage = prog, argparse.SUPPRESS
        unknown.extend(parser.parse_known_args(words)[1])

    PipelineOptions([]).get_all_options(add_extra_args_fn=try_out)
    stray = [word for word in unknown[:1] if not word.startswith("-")]
    if stray:
        raise InputError(
            f"{stray[0]!r} belongs to no option; a pattern must be in quotes, or the shell "
            "replaces it by the names of files"
        )
    options = PipelineOptions(words)
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or RUNNER
    if unknown and _is_here(standard.runner):
        raise InputError(f"{unknown[0]} is no option of this command or of Beam; see {prog} --help")
    return options


def _is_here(runner: str) -> bool:
    """Whether a runner works on this machine."""
    return _short(runner) in map(_short, StandardOptions.LOCAL_RUNNERS)


def _short(runner: str) -> str:
    """A runner's name as Beam compares it."""
    return runner.lower().removesuffix("runner")


def _free(output: str) -> str:
    """The output's path; raises `InputError` if it cannot be used."""
    if any(sign in output for sign in "*?["):
        # Beam finds its own files by patterns.
        raise InputError(f"output is {output}; it must be without any of * ? [")
    if is_local(output):
        path = absolute(output)
        if path.exists() and not path.is_dir():
            raise InputError(f"output is {path}, a file; give a folder")
        output, used = str(path), path.is_dir() and any(path.iterdir())
    else:
        used = bool(_match(f"{output.rstrip('/')}/*", [1]))
    if used:
        raise InputError(f"output is {output}, which is not empty; give another, or remove it")
    return output


def local_pattern(pattern: str) -> str:
    """A pattern as Beam wants it: in a folder with a name, "." if it is this one."""
    if not is_local(pattern):
        return pattern
    if pattern.startswith("~"):
        pattern = str(Path(pattern).expanduser())
    named = "/" in re.split(r"[*?[]", pattern)[0]
    return pattern if named else f"./{pattern}"


def matching(pattern: str) -> list[FileMetadata | Found]:
    """The matches of a pattern; raises `InputError` if there are none."""
    if is_local(pattern) and Path(pattern).is_dir():
        raise InputError(f"input is {pattern}, a folder; all files in it are '{pattern}/**'")
    try:
        found = list(listed(local_pattern(pattern)))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot look for {pattern}: {reason(error)}") from error
    if not found:
        raise InputError(
            f"input is {pattern}, which no file matches; * is any name in a folder, ** at any depth"
        )
    return found


def _match(pattern: str, limits: list[int] | None = None) -> list[FileMetadata]:
    try:
        (found,) = FileSystems.match([pattern], limits)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot look for {pattern}: {reason(error)}") from error
    return found.metadata_list


def _about(saved: SavedModel) -> dict[str, Any]:
    """The facts of a model that each file holds."""
    version = saved.path.name if saved.path.name.isdigit() else None
    return {
        "name": saved.path.parent.name if version else saved.path.name,
        "version": int(version) if version else None,
        "path": published(str(saved.path)),
        "sha256": saved.checksum,
        "signature": SIGNATURE,
    }


def _pipeline(options: PipelineOptions) -> beam.Pipeline:
    try:
        return beam.Pipeline(options=options)
    except (ValueError, ImportError, AttributeError) as error:
        runner = options.view_as(StandardOptions).runner
        raise InputError(f"the runner {runner} cannot be used: {reason(error)}") from error


@contextmanager
def _unsigned(output: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        note(f"\n{shown(output)} is not whole: it has no {MANIFEST}; remove it to try again")
        found = _of_system(error, output)
        if found:
            raise found from error
        raise


def _finished(pipeline: beam.Pipeline) -> PipelineResult:
    log = logging.getLogger("apache_beam")
    before = log.level
    if _is_here(pipeline.options.view_as(StandardOptions).runner):
        log.setLevel(logging.CRITICAL)  # the error that ends a pipeline is also raised
    try:
        result = pipeline.run()
        result.wait_until_finish()
        return result
    finally:
        log.setLevel(before)


def _of_system(error: BaseException, output: str) -> OSError | None:
    """The system's error that ended a job, if one did, such as a full disk: Beam raises a
    RuntimeError that holds it as text."""
    if not isinstance(error, RuntimeError | OSError):
        return None
    found = re.search(r"\[Errno (\d+)\]", str(error))
    number = int(found[1]) if found else 0
    place = getattr(error, "filename", None) or output
    return OSError(number, os.strerror(number), place) if number else None


def _in_thread(work: Callable[[], PipelineResult]) -> PipelineResult:
    """Works in another thread: in the main thread, Beam would make the exception of a signal an
    error of the pipeline."""
    future: Future[PipelineResult] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return future.result()
    except BaseException:
        abandon()
        logging.disable(logging.ERROR)  # Beam would log the abandoned batch at length
        thread.join(_GRACE)
        logging.disable(logging.NOTSET)
        raise


def _counts(result: PipelineResult) -> dict[str, int]:
    found = result.metrics().query(MetricsFilter().with_namespace(COUNTED))["counters"]
    counts = {"embedded": 0, "refused": 0}
    for counter in found:
        if counter.key.metric.name in counts:
            counts[counter.key.metric.name] += counter.result or 0
    return counts


def _sign(
    job: Job,
    output: str,
    model: dict[str, Any],
    columns: pa.Schema,
    counts: dict[str, int],
    seconds: float,
) -> dict[str, Any]:
    """Writes the manifest, and returns it."""
    files = _match(FileSystems.join(output, ROWS, "*.parquet"))
    manifest = {
        **counts,
        "files": sorted(f"{ROWS}/{FileSystems.split(file.path)[1]}" for file in files),
        "refusals": REFUSED,
        "columns": {field.name: str(field.type) for field in columns},
        "model": model,
        "job": vars(job),
        "seconds": seconds,
        "images_per_second": counts["embedded"] / seconds,
        **session(),
        **provenance(),
        "beam": beam.__version__,
        "pyarrow": pa.__version__,
    }
    path = FileSystems.join(output, MANIFEST)
    if is_local(output):
        write_json(Path(path), manifest)
    else:
        with FileSystems.create(path) as file:  # storage services show a file when it is closed
            file.write(json.dumps(manifest, indent=2).encode())
    return manifest
