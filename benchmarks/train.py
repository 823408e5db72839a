"""Training steps per second: each objective, what the arithmetic needs, and other libraries.

`python -m benchmarks.train` times all objectives of an architecture in turn, several rounds, each
in a process of its own: the time of a step over that of `vae`, beside the least that the
multiply-adds allow (benchmarks/counts.py) and the paper's. With `--against`, the steps of other
libraries too: the same networks, batches in memory, Adam and objective as ours, in the same rounds.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import counts, pairing
from benchmarks.pairing import Peer, Workers
from tf_avae.backend import keras, tf
from tf_avae.config import Config, option
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import note
from tf_avae.datasets import open_data
from tf_avae.datasets.drawn_faces.archive import draw_celeb_a
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import OBJECTIVES
from tf_avae.registry import Registry
from tf_avae.runs.plan import build_model, resolve
from training.rates import Steps, fit_steps, paired_rates, time_factor
from training.sweep.table3.study import MODELS, paper_table

OURS = Peer("ours", "this project", "benchmarks.train", None, tuple(counts.SHAPES))
PEERS: Registry[Peer] = Registry(
    "peer",
    Peer("pythae", "its VAE, in PyTorch", "peers.pythae_train", ".venv-bench", ("mlp",)),
    Peer("jax", "the same steps, jitted", "peers.jax_train", ".venv-bench", ("mlp",)),
)

_BASELINE = "vae"
_COMPARED = {"pythae": ("vae",), "jax": ("vae", "avae")}  # the objectives that a peer has
_BATCHES = 100  # kept in memory
_FIRST_STEPS = 300  # whose mean bound is compared


# ---------------------------------------------------------------------- a process


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """A case named as the objective: steps on the data, or on kept batches."""
    tf.config.experimental.enable_op_determinism()  # as training.fit
    config = resolve(Config.from_dict(settings["config"]))
    data = open_data(config)
    model = build_model(config, data.image_shape)
    if settings["batches"]:
        kept = np.load(settings["batches"])
        batches = tf.data.Dataset.from_tensor_slices(kept).repeat()
    else:
        batches = data.train(config.batch_size, seed=0)
    fit = fit_steps(model, batches)

    def run(steps: int) -> np.ndarray:
        model.reset_metrics()
        fit(steps)
        return np.array(float(model.term_means["bound"].result()))

    return {config.algo: run}


def about() -> str:
    """Version and device."""
    return f"tensorflow {tf.__version__}, {pairing.device()}"


# ---------------------------------------------------------------------- all of them


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All objectives, and the peers that are asked for, round by round."""
    with tempfile.TemporaryDirectory() as folder, Workers(given.environments) as workers:
        base = {
            "arch": given.arch, "precision": given.precision, "batch_size": given.batch_size,
            "pgd_steps": given.pgd_steps, **_data(given.arch, Path(folder)),
        }  # fmt: skip
        configs = {name: resolve(Config(algo=name, **base)) for name in OBJECTIVES}
        for name, config in configs.items():
            workers.start(name, OURS, {"config": config.to_dict(), "batches": None})
        peers = _start_peers(given, base, Path(folder), workers)
        note(f"starting {len(configs) + len(peers)} cases")
        ready = workers.ready(need=lambda name: name in configs)
        timed: dict[str, Steps] = {
            name: ready[name].steps(name, at_once(config)) for name, config in configs.items()
        }
        bounds = {}
        for name, (process, algo) in peers.items():
            if process in ready:
                each = at_once(configs[algo]) if process == _ours(algo) else 1
                timed[name] = ready[process].steps(algo, each)
                timed[name](_FIRST_STEPS)
                bounds[name] = float(ready[process].result().mean())
        rates = paired_rates(
            timed, rounds=given.rounds, seconds=given.seconds,
            progress=lambda done: note(f"round {done + 1} of {given.rounds}"),
        )  # fmt: skip
        floors = counts.floors(given.arch, given.pgd_steps)
        return {
            "settings": _settings(given),
            "device": pairing.device(),
            "about": workers.about,
            "rows": [
                _row(name, config, rates, floors[name], ready[name].peak())
                for name, config in configs.items()
            ],
            "peers": [
                _peer_row(name, algo, rates, bounds[name], ready[process].peak())
                if name in bounds
                else {"name": name, "left": workers.left[process]}
                for name, (process, algo) in peers.items()
            ],
        }


def at_once(config: Config) -> int:
    """The steps of one execution of a resolved config."""
    assert config.steps_per_execution is not None  # the config is resolved
    return config.steps_per_execution


def _data(arch: str, folder: Path) -> dict[str, Any]:
    """The fields of `Config` that say which data an architecture is trained on in the paper; faces
    are drawn."""
    if arch != "celeba":
        return {"dataset": "color_mnist"}
    draw_celeb_a(folder / "celeb_a")
    config = {"dataset": "celeb_a", "data_dir": str(folder / "celeb_a")}
    open_data(Config.from_dict(config))  # decodes them once for all
    return config


def _start_peers(
    given: argparse.Namespace, base: dict[str, Any], folder: Path, workers: Workers
) -> dict[str, tuple[str, str]]:
    """Starts the peers, and ours to compare them with.

    Returns:
        {row: (process, objective)}, ours first among those of an objective.
    """
    peers = [PEERS[name] for name in given.against]
    fitting = [peer for peer in peers if given.arch in peer.archs]
    workers.left |= {p.name: f"not for {given.arch}" for p in peers if p not in fitting}
    # pythae's p(x|z) has v = 1; it is that of all that are compared.
    config = resolve(Config(algo=_BASELINE, **base, obs_var=1.0))
    path = folder / "batches.npy"
    if fitting:
        stream = open_data(config).train(config.batch_size, seed=0).take(_BATCHES)
        np.save(path, np.stack([images for images, _ in stream.as_numpy_iterator()]))
    settings: dict[str, Any] = {"batches": str(path), "units": _units(config)}
    settings |= {k: getattr(config, k) for k in ("latent_dim", "learning_rate", "obs_var", "rho")}
    for peer in fitting:
        workers.start(peer.name, peer, settings)
    compared: dict[str, tuple[str, str]] = {}
    for algo in OBJECTIVES:
        having = [peer for peer in peers if algo in _COMPARED[peer.name]]
        if any(peer in fitting for peer in having):
            same = config.to_dict() | {"algo": algo}
            workers.start(_ours(algo), OURS, {"config": same, "batches": str(path)})
            compared[_ours(algo)] = (_ours(algo), algo)
        compared |= {f"{peer.name}, {algo}": (peer.name, algo) for peer in having}
    return compared


def _units(config: Config) -> list[int]:
    """The widths of the dense layers before an encoder's heads."""
    encoder = ARCHITECTURES[config.arch].encoder(counts.SHAPES[config.arch], config.latent_dim)
    heads = encoder.output_names
    dense = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Dense)]
    return [layer.units for layer in dense if layer.name not in heads]


def _ours(algo: str) -> str:
    return f"ours, {algo}"


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    keep = ("arch", "precision", "batch_size", "pgd_steps", "rounds", "seconds", "against")
    return {name: getattr(given, name) for name in keep}


def _row(
    name: str, config: Config, rates: dict[str, list[float]], floor: float, peak: int
) -> dict[str, Any]:
    return {
        "name": name,
        "pgd_steps": config.pgd_steps if OBJECTIVES[name].attack else None,
        "steps_per_second": statistics.median(rates[name]),
        "images_per_second": statistics.median(rates[name]) * config.batch_size,
        "time_factor": time_factor(rates, name, _BASELINE),
        "floor": floor,
        "paper": _paper(config),
        "peak_bytes": peak,
    }


def _paper(config: Config) -> float | None:
    """The time factor of the paper's Table 3, where it has one for this objective and attack."""
    attacks = OBJECTIVES[config.algo].attack
    for model in MODELS.values():
        same = not attacks or model.config.get("pgd_steps") == config.pgd_steps
        if model.config["algo"] == config.algo and same:
            return paper_table().beside["Time Factor"][model.name]
    return None


def _peer_row(
    name: str, algo: str, rates: dict[str, list[float]], bound: float, peak: int
) -> dict[str, Any]:
    return {
        "name": name,
        "steps_per_second": statistics.median(rates[name]),
        "ours_over_it": pairing.ratios(rates, _ours(algo), name),
        "bound": bound,
        "peak_bytes": peak,
    }


# ---------------------------------------------------------------------- the tables


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    settings = found["settings"]
    heads = ("objective", "steps/s", "images/s", "time over `vae`", "required", "over required",
             "paper", "peak MB")  # fmt: skip
    rows = []
    for row in found["rows"]:
        rows.append(
            [
                counts.named(row["name"], row["pgd_steps"]), f"{row['steps_per_second']:.1f}",
                f"{row['images_per_second']:,.0f}", pairing.shown(row["time_factor"]),
                f"{row['floor']:.2f}", f"{row['time_factor']['value'] / row['floor']:.2f}",
                f"{row['paper']:g}" if row["paper"] else "", pairing.megabytes(row["peak_bytes"]),
            ]
        )  # fmt: skip
    parts = [
        f"`{settings['arch']}`, {settings['precision']}, batches of {settings['batch_size']}; "
        f"{found['device']}; rounds: {settings['rounds']}.",
        pairing.rows_of(heads, rows),
    ]
    if found["peers"]:
        parts.append(pairing.rows_of(*_peer_table(found["peers"])))
        parts.append("; ".join(f"{k}: {v}" for k, v in found["about"].items() if k in PEERS) + ".")
    return "\n\n".join(part for part in parts if part != ".")


def _peer_table(peers: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    heads = ("step", "steps/s", "ours over it", f"bound, first {_FIRST_STEPS} steps", "peak MB")
    rows = [
        [row["name"], row["left"], "", "", ""]
        if "left" in row
        else [
            row["name"], f"{row['steps_per_second']:.1f}", pairing.shown(row["ours_over_it"]),
            f"{row['bound']:.1f}", pairing.megabytes(row["peak_bytes"]),
        ]
        for row in peers
    ]  # fmt: skip
    return heads, rows


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", default="mlp", choices=list(counts.SHAPES), help="[mlp]")
    parser.add_argument(
        "--precision", default="float32", choices=option("precision").choices, help="[float32]"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="[64]")
    parser.add_argument("--pgd-steps", type=int, metavar="N", help="[the architecture's]")
    pairing.add_options(parser, 5, 2.0, PEERS)
    return run_command(
        lambda: parser, argv, lambda given: pairing.report(given, lambda: _checked(given), markdown)
    )


def _checked(given: argparse.Namespace) -> dict[str, Any]:
    pairing.check_options(given)
    given.against = pairing.asked(given.against, PEERS)
    return measure(given)


if __name__ == "__main__":
    sys.exit(main())
