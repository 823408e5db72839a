"""Steps per second of each objective, and images per second of the input pipeline alone.

`python -m benchmarks.rates` times everything in turn, several rounds in one process, and gives
medians: machines are noisy, so only ratios within one run say something.
"""

import argparse
import statistics
from pathlib import Path

from tf_avae.config import Config
from tf_avae.datasets import DATASETS
from tf_avae.files import write_json
from tf_avae.objectives import OBJECTIVES
from tf_avae.provenance import provenance
from tf_avae.runs import build_model, resolve
from training.timing import Steps, fit_steps, paired_rates, time_factor


def main() -> None:
    """Prints a table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="mlp")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per timing")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    data = DATASETS["color_mnist"].open()
    batches = data.train(arguments.batch_size, seed=0)

    def pipeline(steps: int) -> None:
        batches.take(steps).reduce(0, lambda count, _: count + 1)

    timed: dict[str, Steps] = {"pipeline": pipeline}
    for algo in OBJECTIVES:
        config = resolve(Config(algo=algo, arch=arguments.arch, precision=arguments.precision))
        timed[algo] = fit_steps(build_model(config, data.image_shape), batches)
    rates = paired_rates(timed, rounds=arguments.rounds, seconds=arguments.seconds)
    rows = {}
    for name, measured in rates.items():
        rows[name] = {
            "steps_per_second": statistics.median(measured),
            "images_per_second": statistics.median(measured) * arguments.batch_size,
            "time_factor": time_factor(rates, name, "vae")["value"],
        }
    print(f"{'':10} {'steps/s':>9} {'images/s':>9} {'time over vae':>14}")
    for name, row in rows.items():
        print(
            f"{name:10} {row['steps_per_second']:9.1f} {row['images_per_second']:9.0f} "
            f"{row['time_factor']:14.3f}"
        )
    fastest = max(row["images_per_second"] for name, row in rows.items() if name != "pipeline")
    headroom = rows["pipeline"]["images_per_second"] / fastest
    print(f"the pipeline alone delivers {headroom:.1f} times what the fastest objective consumes")
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        write_json(arguments.json, {"settings": settings, "rows": rows, "headroom": headroom}
                   | provenance())  # fmt: skip


if __name__ == "__main__":
    main()
