"""What the package needs, and why each requirement is there."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="tf-avae",
    version="0.1.0",
    description="Image representations that stay put under adversarial perturbation",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["tf_avae", "tf_avae.*", "training", "training.*"]),
    package_data={
        "tf_avae.datasets": ["mnist/*"],
        "tf_avae.evaluation": ["report.css"],
        "tf_avae": ["py.typed"],
        "training.theory": ["*.md"],
    },
    # The bounds are the releases that the test suite was run with: see docs/dependencies.md.
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.12,<3.16",
        "numpy>=2,<3",
        # Densities and divergences. TFP still imports Keras 2, which now ships as tf-keras.
        "tensorflow-probability>=0.25,<0.26",
        "tf-keras>=2.20,<2.22",
        # The ColorMNIST builder. TFDS 4.9.10 imports importlib_resources without requiring it.
        "tensorflow-datasets>=4.9.9,<4.10",
        "importlib-resources>=6",
        # The protocol buffers of TensorFlow Serving, for the gRPC client and the exporter.
        "tensorflow-serving-api>=2.19,<2.22",
        # Writes and shows the scalars and pictures of a run; tensorflow no longer brings it.
        "tensorboard>=2.20,<2.22",
        # Probes and nearest neighbours of evaluations, by a standard solver.
        "scikit-learn>=1.7,<1.10",
        # Pictures of a run and of reports: labelled grids of images, charts.
        "matplotlib>=3.10,<4",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        # Two processes; attacks stay in their balls for any input; reports in a real browser.
        "test": [
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.150,<7",
            "playwright>=1.55,<2",
        ],
        "lint": ["ruff>=0.17,<0.18", "mypy>=2.4,<3"],
    },
)
