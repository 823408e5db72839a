"""How much of the latent space an encoder uses: a constant encoder is perfectly "robust"."""

from typing import Any

import numpy as np

ACTIVE = 0.01
"""A latent is active if the variance of its mean over images is above this (Burda et al., 2016)."""


def latent_usage(means: np.ndarray, variances: np.ndarray | None = None) -> dict[str, Any]:
    """How much of the latent space is used.

    Args:
        means: posterior means, or any embeddings, of N images, [N, D].
        variances: posterior variances, [N, D], where there are any.

    Returns:
        "latents": D. "effective_dimension": (sum l)^2 / sum l^2 over the eigenvalues l of the
        covariance of the means, from 1 to D; 0 where they do not vary. With variances also
        "active_units", the number of latents whose mean varies by more than 0.01 (of a prior
        variance of 1), and "kl": KL to N(0, I) by latent, in nats, means over the images, largest
        first.
    """
    means = np.asarray(means, np.float64)
    spread = means.var(0)
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(means, rowvar=False, bias=True)))
    # Of a constant float32 encoder only rounding is left.
    varies = spread.max() > 1e-10 * max(np.square(means).max(), 1e-30)
    usage: dict[str, Any] = {
        "latents": means.shape[1],
        "effective_dimension": float(values.sum() ** 2 / np.square(values).sum())
        if varies
        else 0.0,
    }
    if variances is not None:
        variances = np.asarray(variances, np.float64)
        kl = 0.5 * (variances + means**2 - 1.0 - np.log(variances)).mean(0)
        usage["active_units"] = int((spread > ACTIVE).sum())
        usage["kl"] = np.sort(kl)[::-1].tolist()
    return usage
