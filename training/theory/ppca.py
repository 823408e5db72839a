"""Probabilistic PCA: what the objectives do in the linear case, and where the chain goes."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.objectives import DECODER, OBJECTIVES
from tf_avae.runs.plan import Stage, copy_networks
from tf_avae.theory.linear import Attack, Component, grows, resting_point
from tf_avae.theory.ppca import PPCA, AffineGaussian
from training.sweep.pages import table
from training.theory.linear import LinearTask

if TYPE_CHECKING:
    from tf_avae.model import AVAE

STEPS = 20_000

TASK = LinearTask((18.0, 6.0, 3.0))

CURVES = (4.0, 16.0, 64.0)
TABLE_RHO = (0.5, 0.9, 0.975, 0.99)
RHO = sorted({*np.round(1.0 - np.logspace(0.0, -2.5, 26), 6).tolist(), *TABLE_RHO})


def measure(steps: int, seed: int) -> dict[str, Any]:
    """All numbers of the page.

    Args:
        steps: of training for each objective.
        seed: of the models and of the data.
    """
    return {
        "settings": {"steps": steps, "seed": seed, **dataclasses.asdict(TASK)},
        "bias": bias_curves(),
        "trained": train_all(steps, seed),
        "chain": chain(seed),
    }


# ---------------------------------------------------------------------- where training stops


def bias_curves() -> list[dict[str, Any]]:
    """The resting point of each objective over rho, a curve for each l/v.

    Returns:
        for each curve its objective, coupling, reach of the attack in units of sqrt(v) and l/v,
        and lists over rho, None where the component has collapsed; "grows" says whether a
        component with tiny weights gets there.
    """
    curves = []
    for name in ("avae", "se", "se_avae", "avae_ss"):
        reaches = (0.0, 1.0) if OBJECTIVES[name].attack else (0.0,)
        for coupling in ("analytic", "sampled") if name == "avae" else ("analytic",):
            for reach in reaches:
                settings = [
                    {"rho": rho, "rho_se": rho, "coupling": coupling, "attack": Attack(reach)}
                    for rho in RHO
                ]
                found = [resting_point(name, np.array(CURVES), **s) for s in settings]
                growing = [
                    DECODER not in OBJECTIVES[name].trains or grows(name, np.array(CURVES), **s)
                    for s in settings
                ]
                for i, ratio in enumerate(CURVES):
                    curves.append({
                        "objective": name, "coupling": coupling, "reach": reach,
                        "signal_to_noise": ratio, "rho": list(RHO), **_curve(found, i),
                        "grows": [bool(np.broadcast_to(g, len(CURVES))[i]) for g in growing],
                    })  # fmt: skip
    return curves


def _curve(found: list[Component], i: int) -> dict[str, list[float | None]]:
    """What is shown of component i, a number for each rho."""
    columns = {
        "bias": [c.bias[i] for c in found],
        "encoder_ratio": [c.encoder[i] / c.exact_encoder[i] for c in found],
        "variance_ratio": [c.variance[i] / c.exact_variance[i] for c in found],
        "signal_ratio": [c.decoder[i] ** 2 / CURVES[i] for c in found],
        "code_variance": [c.code_variance[i] for c in found],
    }
    kept = [c.contraction[i] > 1e-6 for c in found]
    return {
        key: [float(f"{v:.6g}") if k else None for v, k in zip(values, kept, strict=True)]
        for key, values in columns.items()
    }


def train_all(steps: int, seed: int) -> dict[str, list[dict[str, float]]]:
    """Trains the real model on the known pPCA with each objective, from random weights.

    Returns:
        objective to a row per component: encoder a, variance s and decoder w as trained, at the
        resting point (`_predicted`), at the one for the worst case of the attack, and of the
        data's own pPCA (`_exact`); and what part of the decoder lies outside the component.
    """
    rows, models = {}, {}
    for name, objective in OBJECTIVES.items():
        model = models[name] = TASK.model(name, seed)
        if objective.starts_from:
            copy_networks(models[objective.starts_from], model)
        TASK.train(model, steps, seed, [_telling(model, Stage(0, name, steps))])
        trained, outside = TASK.read_weights(model)
        # A decoder that was not trained is what the objective before left.
        frozen = None if DECODER in objective.trains else trained.decoder
        points = {
            "": trained,
            "_predicted": TASK.resting_point(name, frozen=frozen),
            "_worst_case": TASK.resting_point(name, frozen=frozen, random_start=False),
            "_exact": TASK.resting_point("vae"),
        }
        rows[name] = [
            {"signal_to_noise": ratio, "outside": float(outside[i])}
            | {
                key + suffix: float(getattr(point, key)[i])
                for suffix, point in points.items()
                for key in COMPARED
            }
            for i, ratio in enumerate(TASK.signal_to_noise)
        ]
    return rows


def _telling(model: "AVAE", stage: Stage) -> "keras.callbacks.Callback":
    """Says where a training is."""
    from training.session import Progress

    progress = Progress(stage)
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: progress.update(int(model.step.numpy()), model)
    )


COMPARED = ("encoder", "variance", "decoder")


# ---------------------------------------------------------------------- the chain x -> z -> x'

_CHAINS, _DRIFT_CHAINS, _CHAIN_STEPS = 20_000, 2000, 20
_LATE = 200  # steps after which only the largest eigenvalue is left


def chain(seed: int) -> dict[str, Any]:
    """What the exact encoder keeps, and what a perturbed one does, in closed form and simulated."""
    rng = np.random.default_rng(seed)
    model = PPCA(rng.normal(size=(6, 3)), 0.3, rng.normal(size=6))
    eye = tf.eye(3, dtype=tf.float64)
    kept_x = model.image_kernel.marginal(model.data_mean, model.covariance)[1]
    kept_z = model.latent_kernel.marginal(tf.zeros(3, tf.float64), eye)[1]
    pair = model.projection @ model.covariance
    start = model.sample(_CHAINS, tf.constant([seed, 0]))
    end = _walk(model.image_kernel, start, seed)[-1]
    return {
        "chains": _CHAINS,
        "drift_chains": _DRIFT_CHAINS,
        "steps": _CHAIN_STEPS,
        "kept_x": float(np.abs(kept_x - model.covariance).max()),
        "kept_z": float(np.abs(kept_z - eye).max()),
        "asymmetry": float(np.abs(pair - tf.transpose(pair)).max()),
        "simulated_worst_deviation": _worst_deviation(end.numpy(), model),
        "projection": _projection(rng),
        "drift": _drift(rng, seed),
        "plane": _plane(seed),
    }


def _walk(kernel: AffineGaussian, x: "tf.Tensor", seed: int) -> "list[tf.Tensor]":
    """x and what `_CHAIN_STEPS` steps of a kernel make of it."""
    path = [x]
    for step in range(_CHAIN_STEPS):
        path.append(kernel.sample(path[-1], tf.constant([seed, 1 + step])))
    return path


def _worst_deviation(samples: np.ndarray, model: PPCA) -> float:
    """The largest |sample moment - moment| over its standard error, means and covariances."""
    deviations = samples - model.data_mean.numpy()
    variance = model.covariance.numpy()
    count = len(samples)
    means = deviations.mean(0) / np.sqrt(np.diag(variance) / count)
    errors = np.sqrt((variance**2 + np.outer(np.diag(variance), np.diag(variance))) / count)
    return float(max(np.abs(means).max(), np.abs((np.cov(samples.T) - variance) / errors).max()))


def _projection(rng: np.random.Generator) -> list[dict[str, float]]:
    """As v -> 0: how far from span W a first step leaves, and how far a second one moves."""
    weights = rng.normal(size=(6, 3))
    x = rng.normal(size=6)
    flat = PPCA(weights, 0.0).projection.numpy() @ x
    rows = []
    for v in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 0.0):
        kernel = PPCA(weights, v).image_kernel
        first = kernel.mean(x)
        rows.append({
            "v": v,
            "first": float(np.linalg.norm(first - flat)),
            "second": float(np.linalg.norm(kernel.mean(first) - first)),
            "noise": float(np.sqrt(np.trace(kernel.covariance))),
        })  # fmt: skip
    return rows


def _drift(rng: np.random.Generator, seed: int) -> list[dict[str, Any]]:
    """Chains of perturbed encoders: the growth of their mean, against the spectrum."""
    model = PPCA(rng.normal(size=(6, 3)), 1e-4)
    # A Delta for which Delta W has the eigenvalues 1, 1/2 and 1/4.
    basis = rng.normal(size=(3, 3))
    inverse = np.linalg.pinv(model.weights)
    direction = basis @ np.diag([1.0, 0.5, 0.25]) @ np.linalg.inv(basis) @ inverse
    start = tf.constant(np.tile(rng.normal(size=6), (_DRIFT_CHAINS, 1)))
    rows = []
    for size in (-0.2, 0.0, 0.1, 0.2):
        spectrum = model.spectrum(size * direction).numpy()
        kernel = model.perturbed(size * direction).then(model.decoder)
        means = [np.linalg.norm(x.numpy().mean(0)) for x in _walk(kernel, start, seed)]
        exact, mean = [], start[0]
        for _ in range(_LATE):
            exact.append(float(np.linalg.norm(mean)))
            mean = kernel.mean(mean)
        rows.append({
            "size": size,
            "largest_eigenvalue": float(np.abs(spectrum).max()),
            "late_growth": exact[-1] / exact[-2],
            "simulated": [float(mean) for mean in means],
            "closed_form": exact[: len(means)],
        })  # fmt: skip
    return rows


def _plane(seed: int) -> dict[str, Any]:
    """Two pixels, one latent: samples of p(x), and a chain of each encoder from one start."""
    model = PPCA(np.array([[1.2], [0.7]]), 0.05)
    start = tf.constant([[-0.2, 2.4]], tf.float64)
    delta = tf.constant([[0.08, 0.05]], tf.float64)
    drifting = model.perturbed(delta).then(model.decoder)
    return {
        "samples": model.sample(400, tf.constant([seed, 0])).numpy().round(4).tolist(),
        "exact": np.concatenate(_walk(model.image_kernel, start, seed + 3)).round(4).tolist(),
        "perturbed": np.concatenate(_walk(drifting, start, seed + 3)).round(4).tolist(),
    }


# ---------------------------------------------------------------------- the page


def page_values(numbers: dict[str, Any]) -> dict[str, Any]:
    """What the page (ppca.md) fills in."""
    trained, chain_ = numbers["trained"], numbers["chain"]
    return {
        **numbers["settings"],
        **{key: chain_[key] for key in ("chains", "kept_x", "kept_z", "asymmetry")},
        "drift_chains": chain_["drift_chains"],
        "chain_steps": chain_["steps"],
        "worst_deviation": chain_["simulated_worst_deviation"],
        "second_at_0": chain_["projection"][-1]["second"],
        "bias_table": bias_table(numbers["bias"]),
        "sampled_mean_error": _sampled_mean_error(numbers["bias"]),
        "error_table": error_table(trained),
        "drift_table": drift_table(chain_["drift"]),
        "simulated_error": 100
        * max(
            abs(simulated / exact - 1.0)
            for row in chain_["drift"]
            for simulated, exact in zip(row["simulated"], row["closed_form"], strict=True)
        ),
        **{f"start_{name}": _start_gain(trained[name]) for name in ("se", "se_avae")},
    }


def bias_table(curves: list[dict[str, Any]]) -> str:
    """Markdown: the bias at the resting points, a column for each rho."""
    rows = [["objective", "attack moves by", "λ/v", *(f"ρ = {rho:g}" for rho in TABLE_RHO)]]
    for curve in curves:
        name = f"`{curve['objective']}`"
        name += ", sampled coupling" if curve["coupling"] == "sampled" else ""
        attack = ("√v" if curve["reach"] else "0") if OBJECTIVES[curve["objective"]].attack else ""
        cells = []
        for rho in TABLE_RHO:
            at = curve["rho"].index(rho)
            value, mark = curve["bias"][at], "" if curve["grows"][at] else " †"
            cells.append("collapsed" if value is None else f"{value:.4f}{mark}")
        rows.append([name, attack, f"{curve['signal_to_noise']:g}", *cells])
    return table(rows)


def _sampled_mean_error(curves: list[dict[str, Any]]) -> float:
    """How far a/a* is from 1 at most with the sampled coupling, l/v >= 16 and rho >= 0.9; %."""
    return 100 * max(
        abs(ratio - 1)
        for curve in curves
        if curve["coupling"] == "sampled" and curve["signal_to_noise"] >= 16
        for rho, ratio in zip(curve["rho"], curve["encoder_ratio"], strict=True)
        if rho >= 0.9
    )


def error_table(trained: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: the largest relative error of each objective against its resting point."""
    rows = [["objective", "encoder a", "variance s", "decoder w", "decoder outside its component"]]
    for name, components in trained.items():
        errors = [largest_error(components, key) for key in COMPARED]
        errors.append(max(row["outside"] for row in components))
        rows.append([f"`{name}`", *(f"{100 * e:.1f} %" for e in errors)])
    return table(rows)


def largest_error(rows: list[dict[str, float]], key: str) -> float:
    """The largest difference between a trained number and that of the resting point, relative to
    the exact posterior's."""
    return max(abs(row[key] - row[f"{key}_predicted"]) / row[f"{key}_exact"] for row in rows)


def drift_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what the spectrum says of a chain, and what the chain does."""
    growth = f"growth of the mean in step {_LATE - 1}"
    shown = [
        [f"{row['size']:g}", f"{row['largest_eigenvalue']:.4f}", f"{row['late_growth']:.4f}"]
        for row in rows
    ]
    return table([["size of Δ", "largest eigenvalue of P + WΔ", growth], *shown])


def _start_gain(rows: list[dict[str, float]]) -> float:
    """By how many percent at most a random start of PGD leaves the encoder's gain larger."""
    return 100 * max(row["encoder_predicted"] / row["encoder_worst_case"] - 1 for row in rows)
