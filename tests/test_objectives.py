"""The rows: what each bound is the sum of, what it trains, what it attacks."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import SMALL_CONV
from tf_avae import distributions as d
from tf_avae.config import Config
from tf_avae.objectives import COUPLINGS, OBJECTIVES, Hyperparameters, Objective, Passes
from tf_avae.runs.plan import build_model, copy_networks, resolve

SEED = tf.constant([0, 5])


def example(**changes):
    rng = np.random.default_rng(3)

    def normal(*shape):
        return tf.constant(rng.normal(size=shape))

    def posterior():
        return d.Posterior(normal(6, 4), tf.exp(normal(6, 4)))

    passes = Passes(
        x=normal(6, 2, 2, 3), z=normal(6, 4), g=normal(6, 2, 2, 3),
        q=posterior(), q_decoded=posterior(), q_adversarial=posterior(),
        g_adversarial=normal(6, 2, 2, 3),
    )  # fmt: skip
    values = {
        "observation_variance": 0.3, "rho": 0.9, "rho_se": 0.7,
        "coupling": COUPLINGS["analytic"], "reconstruction_weight": 0.5, "penalty_weight": 0.4,
    }  # fmt: skip
    return passes, Hyperparameters(**(values | changes))


def test_bounds_are_those_of_the_table():
    """Against the definitions in plain numpy, each written out from the paper."""
    p, h = example()
    v, rho, se = h.observation_variance, h.rho, h.rho_se
    m, s = (np.asarray(t) for t in p.q)
    m1, s1 = (np.asarray(t) for t in p.q_decoded)
    m2, s2 = (np.asarray(t) for t in p.q_adversarial)
    residual = (np.asarray(p.x) - np.asarray(p.g)).reshape(6, -1)
    log2pi = np.log(2 * np.pi)
    rec = (-0.5 * np.log(2 * np.pi * v) - residual**2 / (2 * v)).sum(1)
    kl = 0.5 * (s + m**2 - 1 - np.log(s)).sum(1)

    def couple(b, t, r):
        square = (t + r**2 * s + (b - r * m) ** 2) / (1 - r**2)
        return -0.5 * (log2pi + np.log(1 - r**2) + square).sum(1)

    def entropy(t):
        return 0.5 * (log2pi + 1 + np.log(t)).sum(1)

    gamma = rho / (1 - rho**2)
    psi = (np.sqrt(1 + 4 * gamma**2 * s * s2) - 1) / (2 * gamma)
    spread = s + s2 + m**2 + m2**2 - 2 * rho * (psi + m * m2)
    prior = (-log2pi - 0.5 * np.log(1 - rho**2) - spread / (2 * (1 - rho**2))).sum(1)
    joint = prior + (log2pi + 1 + 0.5 * np.log(s * s2 - psi**2)).sum(1)
    avae = rec - kl + couple(m1, s1, rho) + entropy(s1)
    attacked = (np.asarray(p.x) - np.asarray(p.g_adversarial)).reshape(6, -1)
    rec_adversarial = (-0.5 * np.log(2 * np.pi * v) - attacked**2 / (2 * v)).sum(1)
    kl_adversarial = 0.5 * (s2 + m2**2 - 1 - np.log(s2)).sum(1)
    farther = 0.5 * ((m2 - m) ** 2 / s + s2 / s - 1 - np.log(s2 / s)).sum(1)
    expected = {
        "vae": rec - kl,
        "avae": avae,
        "se": rec + joint,
        "se_avae": avae + couple(m2, s2, se) + entropy(s2),
        "avae_ss": -kl + couple(m1, s1, rho) + entropy(s1) + 0.5 * rec,
        "adversarial_elbo": 0.6 * (rec - kl) + 0.4 * (rec_adversarial - kl_adversarial),
        "certified_elbo": rec - kl - 0.4 * farther,
    }
    assert expected.keys() == OBJECTIVES.keys()
    for name, bound in expected.items():
        terms = OBJECTIVES[name].bound(p, h)
        assert tuple(terms) == OBJECTIVES[name].terms
        np.testing.assert_allclose(terms["bound"], bound, rtol=1e-10, err_msg=name)
        assert {value.shape for value in terms.values()} == {(6,)}


def test_se_avae_is_the_sum_of_its_parts():
    p, h = example()
    avae = OBJECTIVES["avae"].bound(p, h)["bound"]
    terms = OBJECTIVES["se_avae"].bound(p, h)
    np.testing.assert_allclose(
        terms["bound"], avae + terms["coupling_se"] + terms["entropy_se"], rtol=1e-12
    )
    parts = sum(value for name, value in terms.items() if name not in ("bound", "kl"))
    np.testing.assert_allclose(terms["bound"], parts - terms["kl"], rtol=1e-12)


@pytest.mark.parametrize("name", ["se", "se_avae"])
def test_attack_is_minus_what_depends_on_the_adversarial_image(name):
    """The bound changes with q(z|x^a) by exactly minus what the attack's value changes by."""
    row = OBJECTIVES[name]
    p, h = example()
    other = p._replace(q_adversarial=p.q_decoded)
    bound = row.bound(other, h)["bound"] - row.bound(p, h)["bound"]
    attack = row.attack(p.q, other.q_adversarial, h) - row.attack(p.q, p.q_adversarial, h)
    np.testing.assert_allclose(bound, -attack, rtol=1e-10)


def test_sampled_coupling_uses_the_z_that_was_decoded():
    p, h = example(coupling=COUPLINGS["sampled"])
    terms = OBJECTIVES["avae"].bound(p, h)
    np.testing.assert_allclose(
        terms["coupling"], d.couple_sampled(p.z, p.q_decoded, h.rho), rtol=1e-12
    )


@pytest.mark.parametrize(
    "change",
    [
        {"encodes": "nothing"},
        {"auxiliaries": ("decoded", "rotated")},
        {"trains": ("encoder", "head")},
        {"trains": ()},
        {"terms": ("reconstruction",)},
        {"auxiliaries": ("adversarial",)},
        {"attack": lambda q, other, h: q},
        {"encodes": "generated"},
    ],
)
def test_a_row_that_contradicts_itself_is_refused(change):
    with pytest.raises(ValueError, match="objective 'avae'"):
        dataclasses.replace(OBJECTIVES["avae"], **change)


# ---------------------------------------------------------------- in the model


def gradients(model, images, weights=None):
    """By variable path; None where the bound does not depend on it."""
    variables = model.encoder.trainable_variables + model.decoder.trainable_variables
    with tf.GradientTape() as tape:
        terms = model.terms(tf.constant(images), seed=SEED, training=True)
        loss = -tf.reduce_mean(terms["bound"])
    found = tape.gradient(loss, [v.value for v in variables])
    return dict(zip([v.path for v in variables], found, strict=True))


@pytest.mark.parametrize("algo", OBJECTIVES)
def test_each_objective_moves_exactly_the_networks_it_says(make_model, small_images, algo):
    model = make_model(algo, arch=SMALL_CONV)
    before = {w.path: w.numpy() for w in model.weights}
    model.fit(small_images, batch_size=16, epochs=1, verbose=0)
    moved = {path for path, value in before.items()
             if (value != {w.path: w.numpy() for w in model.weights}[path]).any()}  # fmt: skip
    for network in (model.encoder, model.decoder):
        paths = {w.path for w in network.weights}
        if network.name in model.objective.trains:
            assert paths <= moved  # moving statistics too
        else:
            assert not paths & moved  # to the bit
    assert int(model.step) == 4


def test_ss_uses_no_data(make_model, small_images):
    """Whatever images it is given, the encoder becomes the same."""
    one, other = make_model("avae_ss"), make_model("avae_ss")
    one.fit(small_images, batch_size=16, verbose=0)
    other.fit(1 - small_images[::-1], batch_size=16, verbose=0)
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_decoded_image_carries_no_gradient(make_model, small_images):
    """The decoder's gradient under avae is that of the reconstruction alone."""
    avae, vae = make_model("avae"), make_model("vae")
    a, b = gradients(avae, small_images), gradients(vae, small_images)
    for mine, theirs in zip(avae.decoder.weights, vae.decoder.weights, strict=True):
        np.testing.assert_allclose(a[mine.path], b[theirs.path], rtol=1e-5, atol=1e-6)
    encoder = avae.encoder.trainable_variables[0].path
    assert (a[encoder].numpy() != b[vae.encoder.trainable_variables[0].path].numpy()).any()


def normal_log_density(x, mean, variance):
    square = (x - mean) ** 2 / (2 * variance)
    return tf.reduce_sum(-0.5 * tf.math.log(2 * np.pi * variance) - square, -1)


def interval(model, x):
    """Interval bounds of the MLP's mean and variance, written out."""
    flat = tf.reshape(x, (len(x), -1))
    low, high = (tf.clip_by_value(flat + e, 0, 1) for e in (-model.epsilon, model.epsilon))
    dense = [layer for layer in model.encoder.layers if isinstance(layer, keras.layers.Dense)]

    def ends(layer):
        up, down = tf.nn.relu(layer.kernel), tf.nn.relu(-layer.kernel)
        return low @ up - high @ down + layer.bias, high @ up - low @ down + layer.bias

    for layer in dense[:-2]:
        low, high = map(tf.nn.relu, ends(layer))
    means, logs = ends(dense[-2]), ends(dense[-1])
    assert (dense[-2].name, dense[-1].name) == ("mean", "variance")
    return (means[0], tf.exp(logs[0])), (means[1], tf.exp(logs[1]))


@pytest.mark.parametrize(
    ("algo", "step", "share"),
    [
        *(("certified_elbo", *at) for at in ((0, 0.0), (1, 1 / 64), (4, 1 / 4), (8, 1), (20, 1))),
        ("adversarial_elbo", 4, 1 / 4),  # by PGD
    ],
)
def test_the_radius_grows_as_the_square_of_the_step(make_model, small_images, algo, step, share):
    x, seed = tf.constant(small_images[:8]), tf.constant([0, 5])
    model = make_model(algo, epsilon=1e-5, epsilon_warmup=8)
    model.step.assign(step)
    plain = make_model(algo, epsilon=1e-5 * share)
    plain.set_weights(model.get_weights())
    for training in (True, False):
        expected = plain.terms(x, seed=seed, training=training)
        for name, value in model.terms(x, seed=seed, training=training).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-4, err_msg=name)
    if share in (0.0, 1.0):
        penalty = model.terms(x, seed=seed, training=True).get("penalty", tf.constant([share]))
        assert (penalty.numpy() > 0).all() == bool(share)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"algo": "certified_elbo"}, 750),
        ({"algo": "se", "adversary": "interval"}, 750),
        ({"algo": "certified_elbo", "adversary": "pgd"}, 0),
        ({"algo": "adversarial_elbo"}, 0),
        ({"algo": "se", "epsilon_warmup": 20}, 20),
    ],
)
def test_before_bounds_the_radius_grows_over_three_quarters_of_the_steps(options, steps):
    config = resolve(Config(arch="linear", latent_dim=2, steps=1000, **options))
    assert build_model(config, (2, 2, 1)).epsilon_warmup == steps


@pytest.mark.parametrize("algo", OBJECTIVES)
def test_gradients_are_those_of_the_bound_with_the_auxiliary_images_held_fixed(
    make_model, small_images, algo
):
    """Written out again: x~ and x^a as plain numbers, the noise given, the table's formulas.

    A gradient that is cut where it should flow (through q(z|x~) or q(z|x^a)), or flows where it
    should be cut, shows in the encoder's or the decoder's weights.
    """
    model = make_model(algo, reconstruction_weight=0.5, rho=0.9, rho_se=0.8)
    found = gradients(model, small_images)
    x = tf.constant(small_images)
    q = model.encode(x)
    noise = ((q.sample(tf.constant([0, 15])) - q.mean) / q.stddev).numpy()
    decoded = model.decode(q.mean + noise * q.stddev).numpy()
    attacked = None
    if model.objective.attack is not None and model.adversary.name == "pgd":
        attacked = model.attack(x, seed=tf.constant([0, 17])).numpy()

    def couple(q, other, rho):
        spread = (other.variance + rho**2 * q.variance) / (2 * (1 - rho**2))
        kernel = normal_log_density(other.mean, rho * q.mean, 1 - rho**2 + 0 * q.mean)
        return kernel - tf.reduce_sum(spread, -1)

    def entropy(q):
        return 0.5 * tf.reduce_sum(tf.math.log(2 * np.pi * np.e * q.variance), -1)

    with tf.GradientTape() as tape:
        q = model.encode(x)
        flat = [tf.reshape(t, (len(x), -1)) for t in (x, model.decode(q.mean + noise * q.stddev))]
        rec = normal_log_density(*flat, 0.5 + 0 * flat[0])
        kl = 0.5 * tf.reduce_sum(q.variance + q.mean**2 - 1 - tf.math.log(q.variance), -1)
        near = model.encode(decoded)
        avae = couple(q, near, 0.9) + entropy(near) - kl
        if algo == "vae":
            bound = rec - kl
        elif algo == "avae":
            bound = rec + avae
        elif algo == "avae_ss":
            bound = 0.5 * rec + avae
        elif algo == "adversarial_elbo":
            far = model.encode(attacked)
            again = tf.reshape(model.decode(far.mean + noise * far.stddev), (len(x), -1))
            kl_far = tf.reduce_sum(far.variance + far.mean**2 - 1 - tf.math.log(far.variance), -1)
            rec_far = normal_log_density(flat[0], again, 0.5 + 0 * flat[0])
            bound = 0.5 * (rec - kl) + 0.5 * (rec_far - 0.5 * kl_far)
        elif algo == "certified_elbo":
            low, high = interval(model, x)
            means = [(end - q.mean) ** 2 / q.variance for end in (low[0], high[0])]
            ratios = [end / q.variance for end in (low[1], high[1])]
            spread = tf.maximum(*(r - 1 - tf.math.log(r) for r in ratios))
            bound = rec - kl - 2.0 * 0.5 * tf.reduce_sum(tf.maximum(*means) + spread, -1)
        elif algo == "se_avae":
            far = model.encode(attacked)
            bound = rec + avae + couple(q, far, 0.8) + entropy(far)
        else:
            far = model.encode(attacked)
            gamma = 0.9 / (1 - 0.9**2)
            product = q.variance * far.variance
            psi = (tf.sqrt(1 + 4 * gamma**2 * product) - 1) / (2 * gamma)
            square = q.variance + far.variance + q.mean**2 + far.mean**2
            square -= 2 * 0.9 * (psi + q.mean * far.mean)
            bound = rec + tf.reduce_sum(
                -square / (2 * (1 - 0.9**2)) + 0.5 * tf.math.log(product - psi**2), -1
            )
        loss = -tf.reduce_mean(bound)
    expected = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, expected, strict=True):
        scale = float(tf.reduce_max(tf.abs(gradient)))
        np.testing.assert_allclose(
            found[variable.path], gradient, rtol=1e-3, atol=1e-4 * scale, err_msg=variable.path
        )


@pytest.mark.parametrize("algo", ["se", "se_avae"])
def test_attack_stays_in_the_ball_and_raises_its_loss(make_model, small_images, algo):
    model = make_model(algo, arch=SMALL_CONV, epsilon=0.05, pgd_steps=5)
    statistics = [w.numpy() for w in model.weights]
    attacked = model.attack(tf.constant(small_images), seed=SEED).numpy()
    for before, now in zip(statistics, model.weights, strict=True):
        np.testing.assert_array_equal(before, now)
    assert np.abs(attacked - small_images).max() <= 0.05 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    q = model.encode(small_images)
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, small_images.shape)
    noisy = np.clip(small_images + noise, 0, 1).astype(np.float32)
    loss = lambda x: model.objective.attack(q, model.encode(x), model.hyperparameters)  # noqa: E731
    assert (loss(attacked).numpy() > loss(noisy).numpy()).all()


def test_without_a_radius_the_adversarial_image_is_the_image(make_model, small_images):
    model = make_model("se", epsilon=0.0)
    np.testing.assert_array_equal(model.attack(tf.constant(small_images), seed=SEED), small_images)
    q = model.encode(small_images)
    terms = model.terms(tf.constant(small_images), seed=SEED)
    joint = d.joint(q, q, 0.975)
    np.testing.assert_allclose(terms["joint_prior"], joint.log_prior, rtol=1e-5)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_attack_is_that_of_float32_whatever_the_precision(make_model, small_images, precision):
    mixed = make_model("se", precision=precision, seed=3)
    plain = make_model("se", seed=3)
    np.testing.assert_array_equal(
        mixed.attack(tf.constant(small_images), seed=SEED),
        plain.attack(tf.constant(small_images), seed=SEED),
    )


def active_units(model, images):
    """Latent dimensions whose mean varies with the image by more than 0.01 (Burda et al.)."""
    return int((model.encode(images).mean.numpy().var(0) > 0.01).sum())


@pytest.mark.long
def test_eq_34_taken_literally_collapses_the_encoder(make_model, small_images):
    """Without the reconstruction nothing ties z to the image; with it, z keeps to it."""
    options = {"latent_dim": 8, "observation_variance": 0.02}
    batches = tf.data.Dataset.from_tensor_slices(small_images).batch(32).repeat()

    def train(model):
        model.steps_per_execution = 100
        model.fit(batches, steps_per_epoch=1200, verbose=0, shuffle=False)

    vae = make_model("vae", **options)
    train(vae)
    trained = active_units(vae, small_images)
    left = {}
    for weight in (0.0, 1.0):
        model = make_model("avae_ss", reconstruction_weight=weight, **options)
        copy_networks(vae, model)
        train(model)
        left[weight] = active_units(model, model.generate(200, seed=SEED))
    assert trained >= 3
    assert left[0.0] == 0
    assert left[1.0] >= 2


def test_an_objective_is_one_row():
    assert isinstance(OBJECTIVES["vae"], Objective)
    assert list(OBJECTIVES) == [
        "vae", "avae", "se", "se_avae", "avae_ss", "adversarial_elbo", "certified_elbo",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [n for n, row in OBJECTIVES.items() if row.attack])
def test_nothing_in_a_box_is_worse_than_its_worst_corner(name):
    """Against a grid over the box: the attacks are convex in mean and variance of each latent."""
    rng = np.random.default_rng(5)
    _, h = example(rho=0.97, rho_se=0.97)
    attack = OBJECTIVES[name].attack
    q = d.Posterior(tf.constant(rng.normal(size=(6, 4))), tf.constant(rng.uniform(0.01, 2, (6, 4))))
    wide = [np.sort(rng.normal(size=(2, 6, 4)), 0), np.sort(np.exp(rng.normal(size=(2, 6, 4))), 0)]
    box = d.PosteriorBox(*((tf.constant(low), tf.constant(high)) for low, high in wide))
    worst = d.worst(lambda one, other: attack(one, other, h), q, box)
    largest = attack(q, worst, h).numpy()
    shares = np.linspace(0, 1, 21)
    # The grid lies along the batch: shares of the mean, shares of the variance, the six.
    ends = [a + shares.reshape(at) * (b - a) for (a, b), at in
            zip(wide, ((-1, 1, 1, 1), (1, -1, 1, 1)), strict=True)]  # fmt: skip
    grid = [np.broadcast_to(part, (21, 21, 6, 4)).reshape(-1, 4) for part in ends]
    q_of_grid = [np.tile(part, (21 * 21, 1)) for part in q]
    found = np.zeros((6, 4))
    for latent in range(4):
        one, other = (
            d.Posterior(*(tf.constant(part[:, latent : latent + 1]) for part in of))
            for of in (q_of_grid, grid)
        )
        found[:, latent] = attack(one, other, h).numpy().reshape(-1, 6).max(0)
    np.testing.assert_allclose(largest, found.sum(1), rtol=1e-9)
    for part, (a, b) in zip(worst, wide, strict=True):
        assert ((part.numpy() == a) | (part.numpy() == b)).all()
