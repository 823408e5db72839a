"""`python -m tests.conformance.prepare FOLDER`: models and config files for the conformance suite,
and the command that starts the container with them."""

import re
import shutil
import sys
from pathlib import Path

from tests.conformance import kinds
from tf_avae.config import Config
from tf_avae.datasets import DATASETS
from tf_avae.runs.plan import Stage, build_model, resolve
from tf_avae.runs.run import Run
from tf_avae.saved.exports import export_run

MODEL = "encoder"
KINDS = "kinds"  # whose signatures are of all kinds
ODD_LABEL = "a!#$%&'()*+,/:;=?@[]"  # with all that a path must escape
VERSIONS = (1, 2)
LABELS = {"stable": 1, "canary": 2}
LARGEST_BATCH = 8
ENQUEUED = 2
DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text()
RELEASE = re.search(r"^ARG TF_SERVING_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)[1]

_MODELS = """model_config_list {{
  config {{
    name: "{model}"
    base_path: "{root}/models/{model}"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
    version_labels {{ key: "{odd}" value: 1 }}
  }}
  config {{
    name: "{kinds}"
    base_path: "{root}/models/{kinds}"
    model_type: TENSORFLOW
  }}
}}
"""
_BATCHING = f"""max_batch_size {{ value: {LARGEST_BATCH} }}
batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: {ENQUEUED} }}
num_batch_threads {{ value: 1 }}
allowed_batch_sizes: 1
allowed_batch_sizes: 4
allowed_batch_sizes: {LARGEST_BATCH}
"""
_MONITORING = "prometheus_config { enable: true }\n"


def untrained_run(folder: Path, arch: str = "mlp") -> Path:
    """A run that has its initial weights."""
    config = resolve(Config(algo="avae", arch=arch, steps=1, latent_dim=8))
    data = DATASETS[config.dataset].open()
    run = Run.create(folder, config, data.checksums)
    run.save_checkpoint(Stage(0, "avae", 1), build_model(config, data.image_shape))
    return run.path


def prepare(folder: Path, root: str | None = None) -> list[str]:
    """Writes models and config files.

    Args:
        folder: where to.
        root: the folder's name where the server runs, if that is another one.

    Returns:
        The flags that the server needs, ports aside.
    """
    root = root or str(folder)
    run, base = untrained_run(folder / "run"), folder / "models" / MODEL
    first, *others = VERSIONS
    made = export_run(run, base, version=first, batch_sizes=(1, 4, 8))
    for version in others:  # the same once more
        shutil.copytree(made, base / str(version))
    # As a folder with leading zeros, whose number counts.
    kinds.save(folder / "models" / KINDS / "00000123")
    (folder / "models.txt").write_text(
        _MODELS.format(model=MODEL, kinds=KINDS, odd=ODD_LABEL, root=root)
    )
    (folder / "batching.txt").write_text(_BATCHING)
    (folder / "monitoring.txt").write_text(_MONITORING)
    return [
        f"--model_config_file={root}/models.txt",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
        # A request holds a thread while it waits: more of them than the queue takes.
        "--grpc_max_threads=512",
        f"--batching_parameters_file={root}/batching.txt",
        f"--monitoring_config_file={root}/monitoring.txt",
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    flags = prepare(folder, "/conformance")
    print(
        f"docker run --rm -p 8500:8500 -p 8501:8501 -v {folder}:/conformance "
        f"--entrypoint tensorflow_model_server tensorflow/serving:{RELEASE} --port=8500 "
        "--rest_api_port=8501 " + " ".join(flags)
    )
