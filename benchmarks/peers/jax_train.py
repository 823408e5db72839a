"""Training steps of this project's MLP under `vae` and `avae`, in jitted JAX."""

import itertools
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Layers = list[tuple[jax.Array, jax.Array]]


def _network(key: jax.Array, sizes: list[int]) -> Layers:
    """Kernels of variance 1/fan-in and biases of 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.truncated_normal(k, -2, 2, (a, b)) / (0.8796 * a**0.5), jnp.zeros(b))
        for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]


def _apply(layers: Layers, x: jax.Array) -> jax.Array:
    for number, (kernel, bias) in enumerate(layers):
        x = (jax.nn.relu(x) if number else x) @ kernel + bias
    return x


def _encode(parameters: dict[str, Layers], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_variance = jnp.split(_apply(parameters["encoder"], x), 2, axis=1)
    return mean, jnp.exp(log_variance)


def _bound(
    parameters: dict[str, Layers], x: jax.Array, key: jax.Array, algo: str, v: float, rho: float
) -> jax.Array:
    """The mean bound of a batch, in nats: the terms of docs/objectives.md."""
    mean, variance = _encode(parameters, x)
    z = mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape)
    g = jax.nn.sigmoid(_apply(parameters["decoder"], z))
    rec = -0.5 * jnp.sum((x - g) ** 2 / v + jnp.log(2 * jnp.pi * v), axis=1)
    bound = rec - 0.5 * jnp.sum(mean**2 + variance - 1 - jnp.log(variance), axis=1)
    if algo == "avae":
        other, spread = _encode(parameters, jax.lax.stop_gradient(g))
        noise = 1 - rho**2
        square = (other - rho * mean) ** 2 + spread + rho**2 * variance
        bound += -0.5 * jnp.sum(square / noise + jnp.log(2 * jnp.pi * noise), axis=1)
        bound += 0.5 * jnp.sum(jnp.log(2 * jnp.pi * jnp.e * spread), axis=1)
    return bound.mean()


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """The cases "vae" and "avae", each a compiled step whose state is updated in place."""
    batches = jnp.asarray(np.load(settings["batches"]))
    batches = batches.reshape(*batches.shape[:2], -1)
    units, latents, pixels = settings["units"], settings["latent_dim"], batches.shape[2]
    # The mean and the log variance are the halves of one layer.
    sizes = {"encoder": [pixels, *units, 2 * latents], "decoder": [latents, *units, pixels]}
    return {
        algo: _case(algo, settings, list(batches), sizes) for algo in ("vae", "avae")
    }  # fmt: skip


def _case(
    algo: str, settings: dict[str, Any], batches: list[jax.Array], sizes: dict[str, list[int]]
) -> Callable[[int], np.ndarray]:
    adam = optax.adam(settings["learning_rate"])
    bound = partial(_bound, algo=algo, v=settings["obs_var"], rho=settings["rho"])

    @partial(jax.jit, donate_argnums=0)
    def step(state: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        parameters, moments, key = state
        key, use = jax.random.split(key)
        loss, gradients = jax.value_and_grad(lambda p: -bound(p, x, use))(parameters)
        updates, moments = adam.update(gradients, moments)
        return (optax.apply_updates(parameters, updates), moments, key), -loss

    keys = jax.random.split(jax.random.key(0), 3)
    parameters = {name: _network(k, sizes[name]) for name, k in zip(sizes, keys, strict=False)}
    state = (parameters, adam.init(parameters), keys[2])
    stream = itertools.cycle(batches)

    def run(steps: int) -> np.ndarray:
        nonlocal state
        bounds = []
        for _ in range(steps):
            state, value = step(state, next(stream))
            bounds.append(value)
        return np.array([float(value) for value in bounds])

    return run


def about() -> str:
    """Versions, threads and device."""
    device = jax.devices()[0]
    return (
        f"jax {jax.__version__}, optax {optax.__version__}, "
        f"{len(os.sched_getaffinity(0))} threads, {device.device_kind}"
    )
