"""Which encoder passes should update batch normalisation's statistics? (docs/objectives.md)

`python -m benchmarks.batch_norm` trains the conv architecture under each setting of
`--batch-norm` and measures, on held-out images and in inference mode:

- held-out bound and reconstruction, in nats;
- inconsistency: mean W2^2 between q(z|x) and q(z|g(mu(x)));
- displacement: mean W2^2 between q(z|x) and q(z|x'), x' found by PGD on that distance in an
  L-infinity ball (20 steps), without any label.

The last two are given as fractions of the mean W2^2 between two different images, since an
encoder that maps everything to one place moves little.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from tf_avae.attacks import pgd
from tf_avae.backend import tf
from tf_avae.config import Config, read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer, say
from tf_avae.datasets import DATASETS, ImageData
from tf_avae.distributions import Posterior, w2_squared
from tf_avae.files import write_json
from tf_avae.model import AVAE
from tf_avae.records import damage_told
from tf_avae.runs.plan import build_model, resolve
from training.session import held_out_terms

_IMAGES = 500


def measure(model: AVAE, images: tf.Tensor, epsilon: float) -> dict[str, float]:
    """Inconsistency and displacement of an encoder as fractions of the spread of its codes."""
    q = model.encode(images)
    other = Posterior(tf.roll(q.mean, 1, 0), tf.roll(q.variance, 1, 0))
    spread = tf.reduce_mean(w2_squared(q, other))
    attacked = pgd(
        lambda x: w2_squared(q, model.encode(x)),
        images,
        epsilon=epsilon,
        steps=20,
        seed=tf.constant([0, 0]),
    )
    return {
        "spread": float(spread),
        "inconsistency": float(tf.reduce_mean(model(images)["inconsistency"]) / spread),
        "displacement": float(tf.reduce_mean(w2_squared(q, model.encode(attacked))) / spread),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a row per training."""
    lines = [
        "| objective | seed | `--batch-norm` | bound | reconstruction | spread | inconsistency "
        "| displacement |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| `{row['algo']}` | {row['seed']} | {row['batch_norm']} | {row['bound']:.0f} "
        f"| {row['reconstruction']:.0f} | {row['spread']:.1f} | {row['inconsistency']:.4f} "
        f"| {row['displacement']:.4f} |"
        for row in rows
    ]
    return "\n".join(lines)


def train(
    data: ImageData, algo: str, batch_norm: str, seed: int, given: argparse.Namespace
) -> AVAE:
    """The conv model after a short training, from scratch."""
    config = resolve(
        Config(
            algo=algo,
            arch="conv",
            batch_norm=batch_norm,
            obs_var=given.obs_var,
            learning_rate=given.learning_rate,
            pgd_steps=5,
            seed=seed,
        )
    )
    model = build_model(config, data.image_shape)
    model.fit(data.train(64, seed=seed).take(given.steps), shuffle=False, verbose=0)
    return model


def main(argv: list[str] | None = None) -> int:
    """Trains, measures and prints a table; results go into a JSON file as they come."""
    parser = Parser(
        prog="python -m benchmarks.batch_norm", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--algos", nargs="+", default=["avae", "se_avae"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--obs-var", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=Path("batch_norm.json"))
    parser.add_argument("--from", dest="source", type=Path, help="print the table of kept results")
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    if given.source:
        kept = read_json(given.source)
        with damage_told(given.source, "measure again"):
            answer(table(kept["rows"]))
        return 0
    data = DATASETS["color_mnist"].open(validation=_IMAGES)
    images, _ = next(iter(data.held_out(_IMAGES)))
    settings = {k: v for k, v in vars(given).items() if k not in ("out", "source")}
    rows: list[dict[str, Any]] = []
    for algo, seed, batch_norm in itertools.product(
        given.algos, given.seeds, ("data", "clean", "all")
    ):
        model = train(data, algo, batch_norm, seed, given)
        terms = held_out_terms(model, data)
        rows.append(
            {"algo": algo, "batch_norm": batch_norm, "seed": seed}
            | {name: terms[name] for name in ("bound", "reconstruction")}
            | measure(model, images, given.epsilon)
        )
        write_json(given.out, {"arguments": settings, "rows": rows})
        say(str(rows[-1]))
    answer(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
