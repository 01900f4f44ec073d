"""The published OGR forms and their links: exactness, twins, symmetries, phantom curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_published
from problems import enable_x64, matrix_loss, matrix_params, train

import parabolic_optax as po

FORMS = {
    "momentum": po.ogr_momentum,
    "published": lambda *args, **kwargs: po.ogr_published(3, *args, **kwargs),
    "diagonal": po.ogr_diagonal,
    "sigma": lambda *args, **kwargs: po.ogr_diagonal(*args, perfect_correlation=True, **kwargs),
}


def indefinite(n, rng):
    turn, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (turn * np.linspace(-1.5, 4.0, n)) @ turn.T


def fit(tracker, estimator, gradient, points):
    """The quadratic after gradients at the points."""
    chain = optax.chain(tracker, estimator)
    state = chain.init(points[0])
    for point in points:
        quadratic, state = jax.jit(chain.update)(gradient(point), state, point)
    return quadratic


def in_space(quadratic):
    axes = quadratic.eigenvectors.T @ quadratic.sample.directions
    return axes.T @ jnp.diag(quadratic.eigenvalues) @ axes


@pytest.mark.parametrize(
    ("estimator", "extra"), [(po.estimate_centred, 1), (po.estimate_instrument, 2)]
)
@pytest.mark.parametrize(("n", "tolerance"), [(1, 1e-5), (3, 1e-4), (5, 2e-3)])
def test_hessian_is_exact_on_a_quadratic(estimator, extra, n, tolerance):
    # The instrument of the first two samples is 0, so the instrument form needs one gradient more.
    rng = np.random.default_rng(n)
    true, centre = indefinite(n, rng), rng.normal(size=n)
    points = jnp.asarray(rng.normal(size=(n + extra, n)), jnp.float32)
    quadratic = fit(
        po.track_fixed(jnp.eye(n), decay=1.0),
        estimator(n),
        lambda p: jnp.asarray(true @ (p - centre), jnp.float32),
        points,
    )
    size = np.linalg.norm(true)
    np.testing.assert_allclose(in_space(quadratic), true, atol=tolerance * size)
    slope = quadratic.sample.directions.T @ quadratic.eigenvectors @ quadratic.slopes
    np.testing.assert_allclose(
        slope, true @ (np.asarray(points[-1]) - centre), atol=3.0 * tolerance * size
    )


def test_hessian_stays_exact_while_the_directions_turn():
    rng = np.random.default_rng(4)
    true = indefinite(2, rng)
    # Enough to forget the samples for which the directions did not hold all motion yet.
    points = jnp.asarray(rng.normal(size=(40, 2)), jnp.float32)
    quadratic = fit(
        po.track_averages((0.5, 0.9), decay=0.7),
        po.estimate_centred(2),
        lambda p: jnp.asarray(true @ (p - 1.0), jnp.float32),
        points,
    )
    assert abs(quadratic.sample.transport[0, 1]) > 0.05  # they do turn
    np.testing.assert_allclose(in_space(quadratic), true, atol=1e-3)


@pytest.mark.slow
def test_oracle_is_the_exact_hessian_along_the_directions():
    params = matrix_params()
    rows = jax.tree.map(lambda p: jnp.stack([p, jnp.ones_like(p)]), params)
    tracker, estimator = po.track_fixed(rows), po.estimate_exact(jax.grad(matrix_loss), 2)
    gradient = jax.grad(matrix_loss)(params)
    span, _ = tracker.update(gradient, tracker.init(params), params)
    quadratic, _ = estimator.update(span, estimator.init(params), params)
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    v = jnp.stack(
        [
            jax.flatten_util.ravel_pytree(jax.tree.map(lambda r, i=i: r[i], span.directions))[0]
            for i in range(2)
        ]
    )
    hessian = jax.hessian(lambda x: matrix_loss(unflatten(x)))(flat)
    expected = np.linalg.eigvalsh(np.asarray(v @ hessian @ v.T, float))
    np.testing.assert_allclose(quadratic.eigenvalues, expected, rtol=1e-5)


def test_one_direction_is_the_published_regression_of_four_averages():
    rng = np.random.default_rng(5)
    unit, decay = np.array([0.6, -0.8]), 0.7
    points, gradients = rng.normal(size=(2, 9, 2))
    quadratic = fit(
        po.track_fixed(jnp.asarray(unit[None], jnp.float32), decay=decay),
        po.estimate_centred(1),
        recorded(points, gradients),
        jnp.asarray(points, jnp.float32),
    )
    x, s = points @ unit, gradients @ unit
    averages = [reference_published.Mean(decay) for _ in range(4)]
    for a, b in zip(x, s, strict=True):
        for average, sample in zip(averages, (b, a, b * a, a * a), strict=True):
            average.add(sample)
    g, theta, product, square = (average.value for average in averages)
    curvature = (product - g * theta) / (square - theta**2)
    np.testing.assert_allclose(quadratic.eigenvalues, [curvature], rtol=1e-4)
    extremum = theta - g / curvature
    found = x[-1] - np.abs(quadratic.slopes / quadratic.eigenvalues) * np.sign(x[-1] - extremum)
    np.testing.assert_allclose(found, [extremum], rtol=1e-3)


def recorded(points, gradients):
    """The gradient that belongs to a point of a list."""
    known = jnp.asarray(points, jnp.float32), jnp.asarray(gradients, jnp.float32)
    return lambda p: known[1][jnp.argmin(jnp.sum((known[0] - p) ** 2, axis=1))]


def bumpy(p):
    """Neither quadratic nor symmetric, with negative curvature at the start."""
    scale = jnp.asarray(np.linspace(0.5, 3.0, p.size), p.dtype)
    return jnp.sum(scale * (p - 1.5) ** 2) + 2.0 * jnp.sum(jnp.cos(1.7 * p + 0.3) * p[::-1])


def bumpy_gradient(p):
    return np.asarray(jax.grad(bumpy)(jnp.asarray(p)))


SETTINGS = {"learning_rate": 0.02, "share": 0.4}


def trace(optimizer, start, steps, loss=bumpy):
    return train(optimizer, loss, jnp.asarray(start), steps, lambda p, _: p)[1]


@pytest.mark.parametrize(
    ("optimizer", "propose"),
    [
        (po.ogr_momentum(**SETTINGS), reference_published.Momentum(0.9)),
        (po.ogr_published(2, **SETTINGS), reference_published.Oja(2, 0.1)),
        (po.ogr_published(5, **SETTINGS), reference_published.Oja(5, 0.1)),
    ],
    ids=["momentum", "two", "all"],
)
def test_golden_trace(optimizer, propose):
    start = np.random.default_rng(1).normal(size=5)
    with enable_x64(True):
        expected = reference_published.run(propose, bumpy_gradient, start, 15, **SETTINGS)
        np.testing.assert_allclose(trace(optimizer, start, 15), expected, rtol=1e-6, atol=1e-6)
        assert bumpy(jnp.asarray(expected[-1])) < bumpy(jnp.asarray(start)) - 0.1


@pytest.mark.parametrize("sigma", [False, True])
def test_golden_trace_of_the_diagonal(sigma):
    start = np.random.default_rng(2).normal(size=5)
    with enable_x64(True):
        expected = reference_published.diagonal(bumpy_gradient, start, 15, sigma=sigma, **SETTINGS)
        got = trace(po.ogr_diagonal(perfect_correlation=sigma, **SETTINGS), start, 15)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_translation_changes_nothing(name):
    start = jnp.asarray(np.random.default_rng(3).normal(size=6), jnp.float32)
    plain = trace(FORMS[name](0.01), start, 10)
    moved = trace(FORMS[name](0.01), start + 4.0, 10, lambda p: bumpy(p - 4.0))
    np.testing.assert_allclose(moved - 4.0, plain, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", ["momentum", "published"])
def test_rotation_changes_nothing(name):
    rng = np.random.default_rng(6)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(6, 6)))[0], jnp.float32)
    start = jnp.asarray(rng.normal(size=6), jnp.float32)
    plain = trace(FORMS[name](0.01), start, 10)
    turned = trace(FORMS[name](0.01), turn @ start, 10, lambda p: bumpy(turn.T @ p))
    np.testing.assert_allclose(turned @ turn, plain, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", FORMS)
def test_scaling_the_loss_is_scaling_the_learning_rate(name):
    start = jnp.asarray(np.random.default_rng(7).normal(size=6), jnp.float32)
    plain = trace(FORMS[name](0.01), start, 12)
    scaled = trace(FORMS[name](0.01 / 64.0), start, 12, lambda p: 64.0 * bumpy(p))
    np.testing.assert_allclose(scaled, plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["diagonal", "sigma"])
def test_scaling_a_coordinate_changes_nothing_else_in_the_diagonal(name):
    # The scale enters the step of gradient descent alone, so that one is left out.
    scale = jnp.array([1.0, 8.0, 0.25])

    def follow(unit):
        optimizer, state, out = FORMS[name](), None, []
        for p in jnp.asarray(np.random.default_rng(8).normal(size=(6, 3)), jnp.float32):
            state = optimizer.init(unit * p) if state is None else state
            updates, state = optimizer.update(jnp.cos(p) / unit, state, unit * p)
            out.append(updates / unit)
        return jnp.stack(out[1:])

    np.testing.assert_allclose(follow(scale), follow(jnp.ones(3)), rtol=1e-5)


def read(estimator, curvature, rate, decay, samples=4000, seeds=16):
    """Readings after gradient descent at a fixed rate, from gradients of unit noise."""
    chain = optax.chain(po.track_fixed(jnp.eye(1), decay=decay), estimator)

    def run(key):
        def step(carry, key):
            p, state = carry
            gradient = curvature * (p - 2.0) + jax.random.normal(key, (1,))
            quadratic, state = chain.update(gradient, state, p)
            return (p - rate * gradient, state), quadratic.eigenvalues[0]

        p = jnp.array([2.5])
        keys = jax.random.split(key, samples)
        return jax.lax.scan(step, (p, chain.init(p)), keys)[1][samples // 2 :]

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds)))


@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_centred_form_reads_phantom_curvature(curvature):
    # At a fast fading 1 - beta = 0.02 and a small rate the phantom is 0.02 / 0.01 = 2.
    readings = read(po.estimate_centred(), curvature, 0.01, 0.98)
    assert curvature + 1.0 < np.median(readings) < curvature + 4.0


@pytest.mark.parametrize("curvature", [1.0, 3.0])
def test_instrument_form_reads_none_and_the_oracle_is_exact(curvature):
    rate = 0.5 / curvature
    readings = read(po.estimate_instrument(), curvature, rate, 1.0)[:, -1]
    error = np.std(readings) / np.sqrt(readings.size)
    assert error < 0.05 * curvature
    assert abs(np.mean(readings) - curvature) < 4.0 * error
    oracle = po.estimate_exact(lambda p: curvature * (p - 2.0))
    np.testing.assert_allclose(read(oracle, curvature, rate, 1.0, 20, 1), curvature, rtol=1e-6)


def saddle(p):
    return 0.5 * (jnp.sum(p[1:] ** 2) - p[0] ** 2) + 0.25 * p[0] ** 4


@pytest.mark.parametrize(
    ("make", "start"),
    [(po.ogr_momentum, [0.05]), (lambda **k: po.ogr_published(2, **k), [0.05, 1.0])],
    ids=["momentum", "published"],
)
@pytest.mark.parametrize("repel", [True, False])
def test_the_flip_leaves_a_saddle_and_plain_newton_stays(make, start, repel):
    (end, _), _ = train(make(learning_rate=0.02, repel=repel), saddle, jnp.array(start), 300)
    np.testing.assert_allclose(abs(end[0]), 1.0 if repel else 0.0, atol=1e-2)


@pytest.mark.parametrize("of_updates", [True, False])
def test_directions_follow_gradients_or_updates(of_updates):
    points = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    for make in (po.track_averages, lambda **k: po.track_components(1, **k)):
        tracker = make(of_updates=of_updates)
        state = tracker.init(points[0])
        for point in points:
            span, state = tracker.update(jnp.array([0.0, -2.0]), state, point)
        expected = [[1.0, 0.0]] if of_updates else [[0.0, 1.0]]
        np.testing.assert_allclose(np.abs(span.directions), expected, atol=1e-6)


def test_an_average_that_forgets_nothing_is_the_mean():
    gradients = np.random.default_rng(3).normal(size=(30, 4))
    tracker, params = po.track_averages((1.0,)), jnp.zeros(4)
    state = tracker.init(params)
    for gradient in jnp.asarray(gradients, jnp.float32):
        _, state = jax.jit(tracker.update)(gradient, state, params)
    np.testing.assert_allclose(state.memory[0], gradients.mean(0), 1e-4, 1e-6)


def test_components_are_the_principal_ones():
    rng = np.random.default_rng(9)
    axes, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    gradients = rng.normal(size=(600, 8)) * np.array([5.0, 3.0, *[0.3] * 6]) @ axes.T
    tracker = po.track_components(2, rate=0.02)
    params = jnp.zeros(8)

    def step(state, gradient):
        span, state = tracker.update(gradient, state, params)
        return state, span.directions

    _, rows = jax.lax.scan(step, tracker.init(params), jnp.asarray(gradients, jnp.float32))
    np.testing.assert_allclose(rows[-1] @ rows[-1].T, np.eye(2), atol=1e-5)
    assert np.linalg.norm(rows[-1] @ axes[:, :2]) > 0.98 * np.sqrt(2.0)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("factor", [jnp.nan, 0.0])
def test_a_gradient_that_says_nothing_changes_nothing_and_is_counted(name, factor):
    optimizer = FORMS[name](0.01)
    (params, state), _ = train(optimizer, matrix_loss, matrix_params(), 5)
    bad = jax.tree.map(lambda g: factor * g, jax.grad(matrix_loss)(params))
    updates, after = jax.jit(optimizer.update)(bad, state, params)
    assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
    assert po.metrics(after)["skipped"] == 1
    assert po.metrics(after)["count"] == po.metrics(state)["count"] == 5
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert before.dtype == jnp.int32 or np.array_equal(before, now)


@pytest.mark.parametrize("name", ["momentum", pytest.param("published", marks=pytest.mark.slow)])
def test_readouts(name):
    (params, state), _ = train(FORMS[name](0.01), matrix_loss, matrix_params(), 9)
    readings = po.metrics(state)
    rank = 1 if name == "momentum" else 3
    assert readings["eigenvalues"].shape == readings["extremum"].shape == (rank,)
    assert readings["count"] == 9
    assert po.metrics(po.reset(state))["count"] == 0
    updates, _ = FORMS[name](0.01).update(jax.grad(matrix_loss)(params), po.reset(state), params)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: po.ogr_published(0), ValueError, "rank must be at least 1"),
        (lambda: po.ogr_momentum(momentum=1.5), ValueError, "scales must be"),
        (lambda: po.ogr_momentum(share=-1.0), ValueError, "share must be"),
        (lambda: po.ogr_diagonal(decay=2.0), ValueError, "decay must be"),
        (lambda: po.ogr_diagonal(reach=-2.0), ValueError, "reach must be"),
        (lambda: po.track_averages(()), ValueError, "rank must be at least 1"),
        (lambda: po.track_components(rate=-0.1), ValueError, "rate must be"),
        (lambda: po.track_fixed(jnp.float32(1.0)), ValueError, "the same leading axis"),
        (
            lambda: po.track_fixed({"a": jnp.ones((2, 3)), "b": jnp.ones((1, 3))}),
            ValueError,
            "the same leading axis",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "estimator", [po.estimate_centred(3), po.estimate_instrument(3), po.estimate_exact(jnp.cos, 3)]
)
def test_ranks_of_tracker_and_estimator_must_agree(estimator):
    params = jnp.ones(4)
    chain = optax.chain(po.track_components(2), estimator)
    with pytest.raises(ValueError, match="give both the same rank"):
        chain.update(params, chain.init(params), params)
