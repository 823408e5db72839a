"""The one Keras model, and the one train step that serves every objective."""

from __future__ import annotations

import contextlib
import functools
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tf_avae import config as options
from tf_avae.attacks import BALLS, STARTS, Ball, Start
from tf_avae.attacks.ascent import Ascent, ascend
from tf_avae.attacks.pgd import steps_uphill
from tf_avae.backend import keras, replicas, tf
from tf_avae.backend.float32 import Float32View, quantised_config
from tf_avae.backend.normalisation import Statistics, normalises, with_statistics
from tf_avae.backend.registered import register_above
from tf_avae.bounds import Bounds, ball
from tf_avae.distributions import Posterior, PosteriorBox, prior_sample, w2_squared
from tf_avae.errors import InputError
from tf_avae.inputs import MARGIN, image_array, images_of, refusals
from tf_avae.networks import ARCHITECTURES, Architecture, image_shape_of, policy_of, renamed
from tf_avae.objectives import (
    ADVERSARIAL,
    ADVERSARIES,
    COUPLINGS,
    DECODED,
    DECODER,
    ENCODER,
    GENERATED,
    OBJECTIVES,
    Adversary,
    Coupling,
    Found,
    Hyperparameters,
    Objective,
    Passes,
)
from tf_avae.registry import Registry
from tf_avae.types import OUTPUTS, Images, ImageShape, Latents, PerExample, Tensor, Terms

GAIN, ZERO_GRADIENTS = "attack_gain", "zero_gradients"
"""Terms beside an objective's own: what the adversary adds to its aim, in nats, and the share of
its gradients of images that were exactly 0, which no step by signs can follow."""

_POSTERIOR, _PRIOR, _ATTACK, _USES = 0, 1, 2, 3  # uses of random numbers within a step

_TRACED = 97  # images to trace a subclass' terms with: as long as no other axis is likely to be

_PLAIN = (list, dict, str, numbers.Number)
"""Arguments of `fit` that are neither arrays nor streams of batches."""


class Met(NamedTuple):
    """What an adversary met in a batch.

    Attributes:
        reference: what its aim is measured from, a constant.
        before: q(z|x), which it was to make worse.
        found: what it made of it.
    """

    reference: Posterior
    before: Posterior
    found: Found


class _Bits(np.ndarray):
    """The bits of float32 images, as uint32: Keras casts floats to its `floatx`, and leaves
    integers alone."""


def _seen(looks_like: dict[str, Any], margin: float, *batch: Any) -> Any:
    """A batch of a stream, whose images come first, checked."""
    images, *others = batch
    images = images_of(images, **looks_like, margin=margin)
    return (images, *others) if others else images


def _door(method: Callable, margin: float = 0.0) -> Callable:
    """A method of Keras' that takes images, and raises `InputError` for bad ones: for arrays before
    the first step, for a stream in the step that gets them.

    Where Keras would cast arrays it is given their bits instead; `_of_bits` takes them back."""

    @functools.wraps(method)
    def checked(self: AVAE, x: Any = None, *arguments: Any, **named: Any) -> Any:
        def seen(images: Any) -> Any:
            if isinstance(images, _Bits):  # `fit` evaluates
                return images
            if images is None or isinstance(images, _PLAIN) or hasattr(images, "__array__"):
                array = image_array(images, **self._looks_like, margin=margin)
                if keras.config.floatx() != "float32":
                    return np.ascontiguousarray(array).view(np.uint32).view(_Bits)
                if isinstance(images, _PLAIN):  # Keras takes no nested list
                    return array
            if self.jit_compile and isinstance(images, tf.data.Dataset):
                # XLA drops the check that is part of the step.
                return images.map(functools.partial(_seen, self._looks_like, margin))
            return images

        x = seen(x)
        held_out = named.get("validation_data")
        if isinstance(held_out, tuple | list):
            named["validation_data"] = (seen(held_out[0]), *held_out[1:])
        with refusals():
            return method(self, x, *arguments, **named)

    return checked


@keras.saving.register_keras_serializable("tf_avae")
class AVAE(keras.Model):
    """A variational autoencoder trained by a row of `OBJECTIVES`.

    `compile(optimizer=...)`, then `fit` on batches of images [B, H, W, C] float32 in [0, 1], or on
    pairs of which the images come first (labels are ignored). `fit` and `evaluate` report the
    mean over the examples of each term of the bound, in nats, and `loss`, minus the bound. Images
    that are none (`tf_avae.inputs`) are refused: arrays before anything is trained, those of a
    stream when their batch comes. The check of a batch is part of the step, and XLA drops such
    checks, so `compile` leaves `jit_compile` off unless it is asked for; then the batches of a
    `tf.data.Dataset` are checked before the step. XLA draws other noise from the same seeds.

    Calling the model, and `predict`, give what the served model gives, computed in float32:
    "embedding" (the posterior mean, [B, D]), "variance" ([B, D]) and "inconsistency" ([B]), the
    squared 2-Wasserstein distance between q(z|x) and q(z|g(mu(x))): how far an image is from what
    the model would encode if it had generated it.

    All randomness is a function of (seed, step, use, place in the global batch), so training that
    goes on from saved weights and the saved `step` goes on to the bit, and several replicas, built
    and compiled in the scope of a `tf.distribute` strategy, take the step that one would take. Each
    must be given as many examples.

    Which networks train is the objective's affair: `trainable = True` never thaws another one.

    A subclass may add arguments to `__init__` and `get_config`, and terms to `terms`: `compile`
    finds those by tracing it once, and they are reported as the others are. Layers of its own,
    built in `__init__`, train too.

    Args:
        objective: a row of `OBJECTIVES` or of one's own, or the name of one; so below. To be saved
            or copied, a row must be registered: `OBJECTIVES.register(row)`.
        architecture: a row of `ARCHITECTURES`.
        image_shape: (H, W, C), at least 1 each.
        latent_dim: D.
        observation_variance: v of p(x|z) = N(g(z), v I), above 0.
        rho: coupling, in [0, 1).
        rho_se: coupling of the adversarial pair in `se_avae`, in [0, 1).
        coupling: a row of `COUPLINGS`.
        reconstruction_weight: weight of log p(x|z) in `avae_ss`, at least 0.
        penalty_weight: in `adversarial_elbo`, in [0, 1], and `certified_elbo`, at least 0; the
            objective's unless given.
        adversary: a row of `ADVERSARIES`; the objective's unless given.
        epsilon: radius of the attack's ball, at least 0, in units of pixel values.
        epsilon_warmup: training steps over which the radius grows from 0, as their square. The
            adversary "interval" needs three quarters of the steps or so: bounds of random weights
            are so far apart that training at the full radius ends in numbers that are not finite.
        ball: a row of `BALLS`.
        pgd_start: a row of `STARTS`: the attack's first point.
        pgd_steps: iterations of the attack; the architecture's unless given.
        pgd_step_size: 2.5 * epsilon / pgd_steps unless given.
        batch_norm: what normalises encoder passes over x~ and x^a in training. "data": the moving
            statistics; "clean": those of the batch of x, bounds of the encoder too; "all": those
            of their own batch, which they update too. The attack never updates any.
        seed: of the initial weights and of all noise.
        networks: what a saved model's config has of networks that were quantised; for loading.
        dtype: "float32", "mixed_bfloat16" or "mixed_float16": what training computes in; Keras'
            default policy unless given, where it is one of them, and otherwise float32.

    Raises:
        InputError: a value out of range, an unknown name, or an architecture that does not fit the
            images.
    """

    rows: ClassVar[dict[str, Registry[Any]]] = {
        "objective": OBJECTIVES,
        "architecture": ARCHITECTURES,
        "coupling": COUPLINGS,
        "adversary": ADVERSARIES,
        "ball": BALLS,
        "pgd_start": STARTS,
    }
    """The registries whose rows its arguments may name."""

    def __init__(
        self,
        *,
        objective: Objective | str,
        architecture: Architecture | str,
        image_shape: ImageShape,
        latent_dim: int = 64,
        observation_variance: float = 0.5,
        rho: float = 0.975,
        rho_se: float = 0.975,
        coupling: Coupling | str = COUPLINGS["analytic"],
        reconstruction_weight: float = 1.0,
        penalty_weight: float | None = None,
        adversary: Adversary | str | None = None,
        epsilon: float = 0.1,
        epsilon_warmup: int = 0,
        ball: Ball | str = BALLS["linf"],
        pgd_start: Start | str = STARTS["ball"],
        pgd_steps: int | None = None,
        pgd_step_size: float | None = None,
        batch_norm: str = "data",
        seed: int = 0,
        networks: Mapping[str, Any] | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        # Inputs are not cast to the compute dtype: images and densities stay float32.
        super().__init__(**kwargs, dtype=policy_of(dtype), autocast=False)
        self.objective = self.rows["objective"].row(objective)
        self.architecture = self.rows["architecture"].row(architecture)
        self.ball = BALLS.row(ball)
        self.pgd_start = STARTS.row(pgd_start)
        self.pgd_start.check(self.ball, of_distance=True)
        self.image_shape = image_shape_of(image_shape)
        given = options.check(
            latent_dim=latent_dim,
            obs_var=observation_variance,
            rho=rho,
            rho_se=rho_se,
            reconstruction_weight=reconstruction_weight,
            penalty_weight=(
                self.objective.penalty_weight if penalty_weight is None else penalty_weight
            ),
            epsilon=epsilon,
            epsilon_warmup=epsilon_warmup,
            pgd_steps=self.architecture.pgd_steps if pgd_steps is None else pgd_steps,
            pgd_step_size=pgd_step_size,
            batch_norm=batch_norm,
            seed=seed,
        )
        self.latent_dim: int = given["latent_dim"]
        self.hyperparameters = Hyperparameters(
            given["obs_var"],
            given["rho"],
            given["rho_se"],
            COUPLINGS.row(coupling),
            given["reconstruction_weight"],
            given["penalty_weight"],
        )
        if given["penalty_weight"] > self.objective.largest_weight:
            raise InputError(
                f"penalty_weight is {given['penalty_weight']:g}; {self.objective.name} is a bound "
                f"on log p(x) up to {self.objective.largest_weight:g}: give at most that"
            )
        self.adversary = ADVERSARIES.row(adversary or self.objective.adversary)
        self.epsilon_warmup: int = given["epsilon_warmup"]
        self.epsilon: float = given["epsilon"]
        self.pgd_steps: int = given["pgd_steps"]
        self.pgd_step_size: float | None = given["pgd_step_size"]
        self.batch_norm: str = given["batch_norm"]
        self.seed: int = given["seed"]

        self._make_networks(networks)
        self._float32_encoder = Float32View(self.encoder)
        self._bounds = self._bounds_of_encoder()
        self._train_networks()
        self.step = self.add_weight(
            shape=(), dtype="int64", trainable=False, initializer="zeros", name="step",
            aggregation="only_first_replica",
        )  # fmt: skip
        self.loss_mean = _Mean(name="loss", dtype="float32")
        self.term_means: dict[str, keras.metrics.Mean] = {}
        self._report_on(self._term_names())
        # Where the pass over x in training is the one that an attack would make again.
        self._attack_shares_pass = self.dtype_policy.name == "float32" and (
            self.batch_norm == "clean" or not normalises(self.encoder)
        )
        self.built = True

    def _make_networks(self, saved: Mapping[str, Any] | None) -> None:
        """Makes encoder and decoder, with new weights.

        Args:
            saved: their configs, where the architecture does not describe them.
        """
        seeds = np.random.SeedSequence(self.seed).generate_state(2)
        self.encoder, self.decoder = (
            keras.saving.deserialize_keras_object(renamed(saved[name]))
            if saved
            else make(self.image_shape, self.latent_dim, policy=self.dtype_policy.name, seed=seed)
            for name, make, seed in zip(
                (ENCODER, DECODER),
                (self.architecture.encoder, self.architecture.decoder),
                seeds,
                strict=True,
            )
        )
        self._float32_decoder = Float32View(self.decoder)

    def _networks(self) -> dict[str, keras.Model]:
        """Its networks, by the names that an objective has for them."""
        return {ENCODER: self.encoder, DECODER: self.decoder}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> AVAE:
        """The model of `get_config`.

        Raises:
            InputError: a row that it names is not here; the error says which plugin had it.
        """
        config = dict(config)
        made_with = config.pop("plugins", ())
        for field, rows in cls.rows.items():
            if isinstance(config.get(field), str):  # a subclass may choose it itself
                rows.find(config[field], made_with)
        return super().from_config(config, custom_objects)

    def save(self, *arguments: Any, **named: Any) -> None:
        """As Keras' own. What cannot be written raises before a file is opened."""
        self.get_config()
        super().save(*arguments, **named)

    def _bounds_of_encoder(self) -> Bounds | None:
        """Bounds of the encoder, where the adversary needs them.

        Raises:
            InputError: there are none, of a layer or in the ball's norm.
        """
        if self.objective.attack is None or not self.adversary.bounds:
            return None
        if self.ball.name != "linf":
            raise InputError(
                f"the adversary {self.adversary.name!r} bounds the linf ball, and this is "
                f"{self.ball.name}; use linf, or the adversary pgd"
            )
        return Bounds(self.encoder)

    def twin(self) -> AVAE:
        """A model of the same weights, without an optimiser, and outside of any strategy."""
        made = type(self).from_config(self.get_config())
        made.set_weights(self.get_weights())
        return made

    @property
    def _looks_like(self) -> dict[str, Any]:
        """What images must be, as `tf_avae.inputs` takes it."""
        return {"image_shape": self.image_shape, "bounds": self.architecture.bounds}

    # ------------------------------------------------------------------ networks

    @keras.Model.trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Model.trainable.fset(self, value)
        self._train_networks()

    def _train_networks(self) -> None:
        """Thaws the networks that the objective trains, unless the model is frozen."""
        # A network that is not trained also keeps its moving statistics: Keras runs batch
        # normalisation in inference mode where trainable is False.
        for name, network in self._networks().items():
            network.trainable = self.trainable and name in self.objective.trains

    def encode(self, images: Images, *, training: bool = False, float32: bool = False) -> Posterior:
        """q(z|x): images [B, H, W, C] to means and variances [B, D].

        Args:
            images: [B, H, W, C].
            training: normalise by the batch where the architecture does.
            float32: in float32 whatever the precision, and in inference mode.
        """
        outputs = (
            self._float32_encoder(images) if float32 else self.encoder(images, training=training)
        )
        return Posterior(outputs["embedding"], outputs["variance"])

    def decode(self, latents: Latents, *, training: bool = False, float32: bool = False) -> Images:
        """g(z): latents [B, D] to images [B, H, W, C]; arguments as those of `encode`."""
        if float32:
            return self._float32_decoder(latents)
        return self.decoder(latents, training=training)

    def call(self, images: Images) -> dict[str, Tensor]:
        images = _of_bits(images)
        return self.outputs(images_of(images, **self._looks_like, margin=MARGIN, none=True))

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of what a call gives."""
        return OUTPUTS

    def outputs(self, images: Images) -> dict[str, Tensor]:
        """What a call gives, of images [B, H, W, C] that are not checked."""
        q = self.encode(images, float32=True)
        again = self.encode(self.decode(q.mean, float32=True), float32=True)
        inconsistency = w2_squared(q, again)
        return {"embedding": q.mean, "variance": q.variance, "inconsistency": inconsistency}

    def posterior_box(self, images: Images, epsilon: Tensor) -> PosteriorBox:
        """What holds q(z|x') for every x' in the L-infinity ball around each image, within the
        pixels' bounds: interval bounds of the encoder in inference mode and float32.

        Args:
            images: [B, H, W, C].
            epsilon: the radius, at least 0.
        """
        assert self._bounds
        found = self._bounds(ball(images, epsilon, bounds=self.architecture.bounds))
        return PosteriorBox(found["embedding"], found["variance"])

    def attack(
        self, images: Images, *, seed: Tensor, q: Posterior | None = None,
        epsilon: Tensor | None = None,
    ) -> Images:  # fmt: skip
        """x^a, the images that the objective's own attack finds, [B, H, W, C].

        Runs with the networks in inference mode and in float32 whatever the precision.

        Args:
            images: [B, H, W, C] in [0, 1].
            seed: an integer, or a stateless seed, an int32 tensor of shape [2].
            q: q(z|x) in inference mode and float32, where it is known already.
            epsilon: the radius; the model's unless given.

        Raises:
            InputError: the images are none.
            ValueError: the objective attacks nothing.
        """
        return self.ascent(images, seed=seed, q=q, epsilon=epsilon).images

    def ascent(
        self, images: Images, *, seed: Tensor, q: Posterior | None = None,
        epsilon: Tensor | None = None,
    ) -> Ascent:  # fmt: skip
        """As `attack`, and the share of the attack's gradients that were exactly 0, [B]."""
        loss = self.objective.attack
        if loss is None:
            raise ValueError(f"objective {self.objective.name!r} attacks nothing")
        images = images_of(images, **self._looks_like)
        encode = functools.partial(self.encode, float32=True)
        clean = (encode(images) if q is None else q).stop_gradient()
        epsilon = self.epsilon if epsilon is None else epsilon
        return ascend(
            lambda candidate: loss(clean, encode(candidate), self.hyperparameters),
            images,
            steps_uphill(epsilon, self.pgd_steps, self.pgd_step_size),
            epsilon=epsilon,
            ball=self.ball,
            steps=self.pgd_steps,
            restarts=1,
            start=self.pgd_start,
            seed=seed,
            bounds=self.architecture.bounds,
            count_zeros=True,
        )

    def generate(self, count: Tensor, *, seed: Tensor, float32: bool = False) -> Images:
        """Decoder means of `count` samples of the prior, [count, H, W, C]."""
        return self.decode(prior_sample(count, self.latent_dim, seed), float32=float32)

    # ------------------------------------------------------------------ the bound

    def terms(
        self, images: Images, *, seed: Tensor, training: bool = False, float32: bool = False
    ) -> Terms:
        """The objective's terms for these images, [B] each, in nats.

        One encoder pass over x, one decoder pass, and one encoder pass over each auxiliary image
        that the row asks for.

        Args:
            images: x, [B, H, W, C]; whatever their values are, they are encoded as they stand.
            seed: an int32 tensor of shape [2]: (seed, a number of its own for each step).
            training: normalise by the batch where the architecture does, and update statistics.
            float32: in float32 whatever the precision, and in inference mode.

        Raises:
            InputError: the images have another shape: Keras would give grey ones a channel axis,
                and the reconstruction's distance from them would be broadcast.
        """
        with refusals():
            images = tf.ensure_shape(tf.convert_to_tensor(images), [None, *self.image_shape])
        passes, met = self._passes(images, seed=seed, training=training, float32=float32)
        terms = self.objective.bound(passes, self.hyperparameters)
        if set(terms) != set(self.objective.terms):
            raise InputError(
                f"objective {self.objective.name!r} gives {', '.join(terms)}; its terms are said "
                f"to be {', '.join(self.objective.terms)}: name in `terms` what `bound` gives"
            )
        if met is None:
            return terms
        aim = functools.partial(self._aim, met.reference)
        terms = {**terms, GAIN: aim(met.found.posterior) - aim(met.before)}
        if self.adversary.gradients:
            terms[ZERO_GRADIENTS] = met.found.zero_gradients
        return terms

    def _aim(self, reference: Posterior, other: Posterior) -> PerExample:
        """What the adversary makes as large as it can, [B]."""
        assert self.objective.attack
        return self.objective.attack(reference, other.stop_gradient(), self.hyperparameters)

    def _passes(
        self, images: Images, *, seed: Tensor, training: bool, float32: bool
    ) -> tuple[Passes, Met | None]:
        """What the networks make of a batch, and what an adversary met, if there is one."""
        trained = self.objective.trains
        encode = functools.partial(self.encode, float32=float32)
        q, statistics = self._encode_clean(images, training=training, float32=float32)
        z = q.sample(_use(seed, _POSTERIOR))
        g = self.decode(z, training=training and DECODER in trained, float32=float32)

        def again(images: Images) -> Posterior:
            return encode(images, training=training and self.batch_norm == "all")

        decoded: Any = None
        met: Met | None = None
        g_adversarial: Any = None
        with keras.StatelessScope(statistics) if statistics else contextlib.nullcontext():
            if DECODED in self.objective.auxiliaries:
                decoded = again(tf.stop_gradient(g))
            if ADVERSARIAL in self.objective.auxiliaries:
                known = q if self._attack_shares_pass else self.encode(images, float32=True)
                known = known.stop_gradient()
                met = self._met(images, known, known, seed, again)
        adversarial: Any = met.found.posterior if met else None
        if self.objective.decodes_adversarial:
            g_adversarial = self.decode(
                adversarial.sample(_use(seed, _POSTERIOR)), float32=float32,
                training=training and DECODER in trained and self.batch_norm == "all",
            )  # fmt: skip
        return Passes(images, z, g, q, decoded, adversarial, g_adversarial), met

    def _met(
        self, images: Images, reference: Posterior, before: Posterior, seed: Tensor,
        encode: Callable[[Images], Posterior],
    ) -> Met:  # fmt: skip
        """What the adversary makes of a batch."""
        seed = _use(seed, _ATTACK)
        found = self.adversary.find(self, images, reference, self._epsilon(), seed, encode)
        return Met(reference, before, found)

    def _term_names(self) -> tuple[str, ...]:
        """What `terms` gives: the objective's, and how its adversary fares."""
        if not self.objective.attack:
            return self.objective.terms
        zeros = (ZERO_GRADIENTS,) if self.adversary.gradients else ()
        return (*self.objective.terms, GAIN, *zeros)

    def _encode_clean(
        self, images: Images, *, training: bool, float32: bool
    ) -> tuple[Posterior, Statistics]:
        """q(z|x), and the statistics that passes over auxiliary images are normalised by, where
        they are not what such passes use anyhow."""
        training = training and ENCODER in self.objective.trains
        encode = functools.partial(self.encode, images, training=training, float32=float32)
        if training and self.batch_norm == "clean" and normalises(self.encoder):
            return with_statistics(self.encoder, encode)
        return encode(), []

    def _epsilon(self) -> Tensor:
        """The radius in the terms: it grows from 0 over the first steps of training, slowly at
        first. In a straight line the penalty prunes latents before they say anything of the images.
        Held-out terms have it too: bounds of what is not trained for a radius may overflow."""
        if not self.epsilon_warmup:
            return self.epsilon
        share = tf.cast(self.step, tf.float32) / self.epsilon_warmup
        return self.epsilon * tf.minimum(share, 1.0) ** 2

    # ------------------------------------------------------------------ Keras

    def compile(self, *arguments: Any, jit_compile: bool | str = False, **named: Any) -> None:
        """As Keras' own, without XLA unless it is asked for. The optimizer's variables are made
        here: made in the first step, they would be lost where that step's images are refused.

        Raises:
            InputError: `terms` of a subclass gives no "bound", or what is not one number an image.
        """
        super().compile(*arguments, jit_compile=jit_compile, **named)
        if type(self).terms is not AVAE.terms:
            specs = tf.TensorSpec([_TRACED, *self.image_shape]), tf.TensorSpec([2], tf.int32)
            traced = tf.function(lambda x, seed: self._checked(x, seed=seed), autograph=False)
            self._report_on(traced.get_concrete_function(*specs).structured_outputs)
        self.optimizer.build(self.trainable_variables)

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles the step. Keras' own says no while operations must be deterministic,
        since there are some that XLA has then no form of; those of a step are not among them."""
        return self._jit_compile

    @jit_compile.setter
    def jit_compile(self, value: bool) -> None:
        self._jit_compile = value

    def _report_on(self, names: Iterable[str]) -> None:
        """Makes a mean of each of these terms, and of no other."""
        if list(names) == list(self.term_means):
            return
        make = functools.partial(_Mean, dtype="float32")
        self.term_means = {name: self.term_means.get(name) or make(name=name) for name in names}
        self._first_nonfinite = tf.Variable(
            [-1] * len(self.term_means), dtype=tf.int64, trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )  # fmt: skip

    def _checked(self, images: Images, **how: Any) -> Terms:
        """The terms; raises `InputError`, when this is traced, where they are not [B] each."""
        found, of = self.terms(images, **how), type(self).__name__
        if not isinstance(found, Mapping) or "bound" not in found or "loss" in found:
            given = ", ".join(found) if isinstance(found, Mapping) else f"a {type(found).__name__}"
            raise InputError(
                f"terms of {of} gives {given}; it must give a dict of terms, 'bound' among them "
                "and none called 'loss'"
            )
        for name, value in found.items():
            kind = tf.TensorSpec(images.shape[:1], tf.float32)
            if not kind.is_compatible_with(value := tf.convert_to_tensor(value)):
                raise InputError(
                    f"term {name!r} of {of} is {value.dtype.name} of shape {value.shape}; it must "
                    "be float32 [B], one number an image: reduce over the other axes alone"
                )
        return found

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Keras asks for this where `compile` is a model's own."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    fit, train_on_batch = _door(keras.Model.fit), _door(keras.Model.train_on_batch)
    evaluate, test_on_batch = _door(keras.Model.evaluate), _door(keras.Model.test_on_batch)
    predict = _door(keras.Model.predict, MARGIN)
    predict_on_batch = _door(keras.Model.predict_on_batch, MARGIN)

    def _images(self, data: Any) -> Images:
        """The images of a batch; labels are ignored."""
        images, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise InputError(
                "sample weights are given, and every example counts once; leave them out"
            )
        return images_of(_of_bits(images), **self._looks_like)

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """One optimiser step on one batch: the same for every objective."""
        images = self._images(data)
        seed = tf.stack([self.seed, tf.cast(self.step, tf.int32)])
        if self.objective.encodes == GENERATED:
            images = tf.stop_gradient(self.generate(tf.shape(images)[0], seed=_use(seed, _PRIOR)))
        with tf.GradientTape() as tape:
            terms = self._checked(images, seed=seed, training=True)
            loss = -tf.reduce_mean(terms["bound"])
            # Gradients are summed over replicas; the optimiser takes the scale off again.
            scaled = self.optimizer.scale_loss(loss / replicas.count())
        others = set(self._networks()).difference(self.objective.trains)  # also where thawed
        fixed = {id(v) for name in others for v in self._networks()[name].variables}
        variables = [v for v in self.trainable_variables if id(v) not in fixed]
        gradients = tape.gradient(scaled, variables)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = replicas.overflow_together(gradients)
        self.optimizer.apply(gradients, variables)
        terms = replicas.gather(terms)
        self._note_nonfinite(terms)
        with tf.control_dependencies([images]):  # not where they are refused
            self.step.assign_add(1)
        return self._report(terms)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """The same terms for held-out images, which `avae_ss` too encodes as they stand.

        Noise and attacks depend on the seed and on the position in the data, not on the training
        step, so two evaluations of one model agree. Computed in float32 whatever the precision.
        """
        # Negative numbers: a stream apart from that of training.
        seed = tf.stack([self.seed, -1 - tf.cast(self.loss_mean.count, tf.int32)])
        terms = self._checked(self._images(data), seed=seed, float32=True)
        return self._report(replicas.gather(terms))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_mean, *self.term_means.values()]

    def _report(self, terms: Terms) -> dict[str, Tensor]:
        """Adds the terms of the global batch to the means, and returns those."""
        for name, mean in self.term_means.items():
            mean.update_state(terms[name])
        self.loss_mean.update_state(-terms["bound"])
        results = {metric.name: metric.result() for metric in self.metrics}
        if replicas.count() == 1:
            return results
        # Keras averages over workers along an axis, which it expects to be there.
        return {name: value[tf.newaxis] for name, value in results.items()}

    def _note_nonfinite(self, terms: Terms) -> None:
        finite = [tf.reduce_all(tf.math.is_finite(terms[name])) for name in self.term_means]
        first, step = self._first_nonfinite, tf.convert_to_tensor(self.step)
        first.assign(tf.where(tf.stack(finite) | (first >= 0), first, step))

    def nonfinite(self) -> tuple[int, list[str]] | None:
        """The first training step (from 1) at which terms were not finite, and those terms."""
        steps = self._first_nonfinite.numpy()
        if (steps < 0).all():
            return None
        first = int(steps[steps >= 0].min())
        return first + 1, [n for n, s in zip(self.term_means, steps, strict=True) if s == first]

    def get_config(self) -> dict[str, Any]:
        h = self.hyperparameters
        rows: tuple[Any, ...] = (
            self.objective, self.architecture, h.coupling, self.adversary, self.ball,
            self.pgd_start,
        )  # fmt: skip
        made_with = [r.plugin(row.name) for r, row in zip(self.rows.values(), rows, strict=True)]
        return {
            **super().get_config(),
            **{of: r.name(row) for (of, r), row in zip(self.rows.items(), rows, strict=True)},
            "image_shape": self.image_shape,
            "latent_dim": self.latent_dim,
            "observation_variance": h.observation_variance,
            "rho": h.rho,
            "rho_se": h.rho_se,
            "reconstruction_weight": h.reconstruction_weight,
            "penalty_weight": h.penalty_weight,
            "epsilon": self.epsilon,
            "epsilon_warmup": self.epsilon_warmup,
            "pgd_steps": self.pgd_steps,
            "pgd_step_size": self.pgd_step_size,
            "batch_norm": self.batch_norm,
            "seed": self.seed,
            **({"plugins": sorted({*filter(None, made_with)})} if any(made_with) else {}),
            **quantised_config(self._networks()),
        }


class _Mean(keras.metrics.Mean):
    """A mean over all examples on every replica, so that Keras must not add up the replicas'."""

    def add_variable(self, *arguments: Any, **named: Any) -> keras.Variable:
        return super().add_variable(*arguments, **named, aggregation="only_first_replica")


def _of_bits(images: Any) -> Any:
    """Images from the bits that `_door` gave Keras; others as they are."""
    bits = keras.config.floatx() != "float32" and getattr(images, "dtype", None) == tf.uint32
    return tf.bitcast(images, tf.float32) if bits else images


def _use(seed: Tensor, use: int) -> Tensor:
    """The seed of one use of random numbers within a step, from the seed of the step."""
    return tf.stack([seed[0], seed[1] * _USES + use])


register_above("model")
