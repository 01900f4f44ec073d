import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_ogr
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import enable_x64, matrix_loss, matrix_params, train

import parabolic_optax as po
from parabolic_optax import _quadratic, _secants, _trust

few = settings(max_examples=25, deadline=None, derandomize=True)


def exact(rank=10):
    """The second-order chain alone, without probes."""
    return po.ogr(rank, base=None)


def hessian_in_space(secants):
    """The fitted Hessian in the coordinates of a flat parameter vector."""
    symmetric = _quadratic.symmetric_by_age(secants.matrix, secants.frame)
    return secants.directions.T @ symmetric @ secants.directions


def indefinite(n, rng):
    turn, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (turn * np.linspace(-1.5, 4.0, n)) @ turn.T


def follow(rank, gradient, points):
    tracker = po.track_secants(rank)
    state = tracker.init(points[0])
    for point in points:
        secants, state = jax.jit(tracker.update)(gradient(point), state, point)
    return secants


@pytest.mark.parametrize(("n", "tolerance"), [(1, 1e-6), (3, 1e-5), (5, 1e-4)])
@pytest.mark.parametrize("seed", range(3))
def test_hessian_is_exact_after_one_gradient_more_than_dimensions(n, tolerance, seed):
    rng = np.random.default_rng(seed)
    true = indefinite(n, rng)
    centre, points = rng.normal(size=n), jnp.asarray(rng.normal(size=(n + 1, n)), jnp.float32)
    secants = follow(n, lambda p: jnp.asarray(true @ (p - centre), jnp.float32), points)
    size = np.linalg.norm(true)
    np.testing.assert_allclose(hessian_in_space(secants), true, atol=tolerance * size)
    _, _, asymmetry = _quadratic.spectrum_kernel(secants.matrix, secants.frame)
    assert np.linalg.norm(asymmetry) < 30.0 * tolerance


def test_directions_stay_orthonormal_and_images_true_when_the_oldest_goes():
    rng = np.random.default_rng(0)
    true = indefinite(12, rng)
    points = jnp.asarray(np.cumsum(rng.normal(size=(40, 12)), axis=0), jnp.float32)
    secants = follow(4, lambda p: jnp.asarray(true @ (p - 1.0), jnp.float32), points)
    q = np.asarray(secants.directions)
    np.testing.assert_allclose(q @ q.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(secants.images, q @ true, atol=1e-4)
    np.testing.assert_allclose(secants.matrix, q @ true @ q.T, atol=1e-4)
    np.testing.assert_allclose(secants.frame @ secants.frame.T, np.eye(4), atol=1e-5)


def test_span_is_that_of_the_newest_displacements():
    rng = np.random.default_rng(1)
    # Straight downhill for a linear loss, so that every point becomes the base point.
    points = np.cumsum(np.abs(rng.normal(size=(9, 6))), axis=0)
    secants = follow(3, lambda p: -jnp.ones(6), jnp.asarray(points, jnp.float32))
    newest = np.diff(points, axis=0)[::-1][:3]
    q = np.asarray(secants.directions)
    np.testing.assert_allclose(newest @ q.T @ q, newest, atol=1e-4)
    aged = np.asarray(secants.frame) @ q
    for i in range(3):
        basis = np.linalg.qr(newest[: i + 1].T)[0]
        np.testing.assert_allclose(basis @ (basis.T @ aged[i]), aged[i], atol=1e-4)


def test_newest_secant_holds_where_the_hessian_changes():
    rng = np.random.default_rng(2)
    points = jnp.asarray(np.cumsum(0.5 * rng.normal(size=(12, 3)), axis=0), jnp.float32)
    scale = jnp.array([1.0, 3.0, 0.5])

    def gradient(p):
        return scale * (p - 0.7) ** 3 + jnp.sin(p[::-1])

    tracker = po.track_secants(3)
    state = tracker.init(points[0])
    for point in points:
        base, before = state.base, state.gradient
        secants, state = tracker.update(gradient(point), state, point)
    displacement, change = points[-1] - base, gradient(points[-1]) - before
    np.testing.assert_allclose(
        hessian_in_space(secants) @ displacement, change, rtol=1e-3, atol=1e-4
    )


def test_one_direction_is_the_slope_regressed_on_the_position():
    curvature, centre = np.array([2.0, 8.0]), np.array([1.0, -1.0])
    points = [np.array([3.0, 0.5]), np.array([2.0, 0.25])]
    slopes = [curvature * (p - centre) for p in points]
    optimizer = exact(1)
    state = optimizer.init(jnp.asarray(points[0], jnp.float32))
    for slope, point in zip(slopes, points, strict=True):
        _, state = optimizer.update(*(jnp.asarray(x, jnp.float32) for x in (slope,)), state,
                                    jnp.asarray(point, jnp.float32))  # fmt: skip
    unit = (points[1] - points[0]) / np.linalg.norm(points[1] - points[0])
    positions = [p @ unit for p in points]
    along = [g @ unit for g in slopes]
    expected = np.polyfit(positions, along, 1)
    readings = po.metrics(state)
    np.testing.assert_allclose(readings["eigenvalues"], expected[:1], rtol=1e-5)
    extremum = -expected[1] / expected[0] - positions[1]
    np.testing.assert_allclose(np.abs(readings["extremum"]), [abs(extremum)], rtol=1e-5)


def bumpy(p):
    """Neither quadratic nor symmetric, with negative curvature at the start."""
    scale = jnp.asarray(np.linspace(0.5, 3.0, p.size), p.dtype)
    return jnp.sum(scale * (p - 1.5) ** 2) + 2.0 * jnp.sum(jnp.cos(1.7 * p + 0.3) * p[::-1])


@pytest.mark.parametrize(
    ("dimensions", "rank"), [(7, 3), (5, 1), pytest.param(20, 6, marks=pytest.mark.slow)]
)
def test_golden_trace(dimensions, rank):
    start = np.random.default_rng(dimensions + 1).normal(size=dimensions)
    gradient = jax.jit(jax.grad(bumpy))
    twin, point, expected = reference_ogr.Ogr(rank), start, []
    for _ in range(15):
        point = twin(np.asarray(gradient(jnp.asarray(point, jnp.float32)), float), point)
        expected.append(point)
    _, got = train(exact(rank), bumpy, jnp.asarray(start, jnp.float32), 15, lambda p, _: p)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)
    assert bumpy(got[-1]) < bumpy(jnp.asarray(start, jnp.float32)) - 1.0


@few
@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_bounded_newton_matches_its_twin(seed, log_radius):
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=6)
    curvatures = 10.0 ** rng.uniform(-3, 3, size=6) * rng.choice([-1.0, 1.0], size=6)
    radius = 10.0**log_radius
    got = _trust.bounded_newton(*(jnp.asarray(x, jnp.float32) for x in (slopes, curvatures)),
                                jnp.float32(radius))  # fmt: skip
    expected = reference_ogr.bounded_newton(slopes, curvatures, radius)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.linalg.norm(expected))
    assert np.linalg.norm(got) <= radius * 1.001


@few
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_age_frame_is_gram_schmidt(seed, n):
    rng = np.random.default_rng(seed)
    frame, _ = np.linalg.qr(rng.normal(size=(n, n)))
    newest = rng.normal(size=n)
    got = _secants.age_frame(jnp.asarray(frame, jnp.float32), jnp.asarray(newest, jnp.float32))
    np.testing.assert_allclose(got @ got.T, np.eye(n), atol=1e-4)
    for i, row in enumerate(np.asarray(got)):
        older = np.linalg.qr(np.vstack([newest[None], frame[:i]]).T)[0]
        np.testing.assert_allclose(older @ (older.T @ row), row, atol=2e-3)


@pytest.mark.parametrize(("size", "typical"), [(3.0, 3.0), (0.0, 1.0)])
def test_first_step_is_as_long_as_typical_parameters(size, typical):
    params = {"w": jnp.full((4, 5), size), "b": jnp.full(5, -size), "none": jnp.zeros((0, 2))}
    grads = jax.tree.map(jnp.ones_like, params)
    optimizer = po.ogr(1, base=None, initial_radius=0.7)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.7 * typical, rtol=1e-6)


def test_rotation_changes_nothing():
    rng = np.random.default_rng(3)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(8, 8)))[0], jnp.float32)
    start = jnp.asarray(rng.normal(size=8), jnp.float32)
    _, plain = train(exact(3), bumpy, start, 15, lambda p, _: p)
    _, turned = train(exact(3), lambda p: bumpy(turn.T @ p), turn @ start, 15, lambda p, _: p)
    np.testing.assert_allclose(turned @ turn, plain, rtol=1e-3, atol=1e-3)


def test_translation_changes_nothing():
    rng = np.random.default_rng(7)
    here, offset = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)
    there = -here  # of equal length, because the initial radius is relative to it

    def run(start):
        return train(exact(3), lambda p: bumpy(p - start + offset), start, 10, lambda p, _: p)[1]

    np.testing.assert_allclose(run(here) - here, run(there) - there, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    "k", [-20, pytest.param(-3, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)]
)
def test_scaling_the_loss_changes_nothing(k):
    start = jnp.asarray(np.random.default_rng(4).normal(size=9), jnp.float32)
    _, plain = train(exact(4), bumpy, start, 15, lambda p, _: p)
    _, scaled = train(exact(4), lambda p: 2.0**k * bumpy(p), start, 15, lambda p, _: p)
    # Not bit for bit: the eigenvalue routine has thresholds of its own.
    np.testing.assert_allclose(scaled, plain, rtol=2e-3, atol=2e-3)


def test_scaling_the_parameters_scales_the_run():
    start = np.random.default_rng(5).normal(size=9)
    # Not to the bit: with jax 0.5 the compiler's roots and quotients round in the last place, and
    # every third step here makes ten of a rounding; in float32 they would part in 20 steps.
    with enable_x64(True):
        _, plain = train(exact(4), bumpy, jnp.asarray(start), 60, lambda p, _: p)
        _, scaled = train(
            exact(4), lambda p: bumpy(p / 64.0), jnp.asarray(64.0 * start), 60, lambda p, _: p
        )
        np.testing.assert_allclose(scaled, 64.0 * plain, rtol=1e-6)


def test_quadratic_converges_in_about_as_many_steps_as_dimensions():
    rng = np.random.default_rng(6)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    hessian = jnp.asarray((turn * np.logspace(-2, 1, 6)) @ turn.T, jnp.float32)
    centre = jnp.asarray(rng.normal(size=6), jnp.float32)

    def loss(p):
        return 0.5 * (p - centre) @ hessian @ (p - centre)

    start = centre + jnp.asarray(rng.normal(size=6), jnp.float32)
    (end, _), _ = train(exact(), loss, start, 25)
    assert loss(end) < 1e-8 * loss(start)


def saddle(p):
    return 0.5 * (p["x"] ** 2 - p["y"] ** 2) + 0.25 * p["y"] ** 4


def plain_newton(rank):
    """The chain of ogr without its flip."""
    return optax.chain(po.track_secants(rank), po.estimate_secants(rank), po.step_trust_region())


@pytest.mark.parametrize(("optimizer", "leaves"), [(exact(), True), (plain_newton(10), False)])
def test_the_flip_leaves_a_saddle_and_plain_newton_stays(optimizer, leaves):
    start = {"x": jnp.array(1.0), "y": jnp.array(1e-4)}
    (end, _), _ = train(optimizer, saddle, start, 40)
    if leaves:
        np.testing.assert_allclose(abs(end["y"]), 1.0, atol=1e-3)
    else:
        assert abs(end["y"]) < 0.01


@pytest.mark.parametrize("bad", [jnp.nan, pytest.param(jnp.inf, marks=pytest.mark.slow)])
def test_the_second_gradient_in_a_row_that_is_not_finite_takes_the_step_back(bad):
    optimizer = exact(3)
    (params, state), _ = train(optimizer, matrix_loss, matrix_params(), 7)
    grads = jax.grad(matrix_loss)(params)
    grads["w"] = grads["w"].at[0, 1].set(bad)
    update = jax.jit(optimizer.update)
    updates, once = update(grads, state, params)
    assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
    assert po.metrics(once)["radius"] == po.metrics(state)["radius"]
    updates, twice = update(grads, once, params)
    back = optax.apply_updates(params, updates)
    jax.tree.map(lambda x, b: np.testing.assert_allclose(x, b, rtol=1e-6), back, state[0].base)
    assert po.metrics(twice)["skipped"] == 2
    forgiven = twice[0]._replace(skipped=state[0].skipped, lost=state[0].lost)
    jax.tree.map(np.testing.assert_array_equal, forgiven, state[0])
    assert 0.0 < po.metrics(twice)["radius"] < po.metrics(state)["radius"]
    # Back at the base point there is no step left to blame.
    _, thrice = update(grads, twice, back)
    assert po.metrics(thrice)["radius"] == po.metrics(twice)["radius"]


def test_a_gradient_of_zero_is_left_out():
    optimizer = exact(3)
    (params, state), _ = train(optimizer, matrix_loss, matrix_params(), 7)
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, after = jax.jit(optimizer.update)(nothing, state, params)
    assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
    forgiven = after[0]._replace(skipped=state[0].skipped)
    jax.tree.map(np.testing.assert_array_equal, (forgiven, *after[1:]), state)


def test_a_wall_where_the_loss_is_not_finite_is_stepped_back_from():
    def loss(p):
        return jnp.sum(jnp.array([1.0, 4.0]) * p + 1.0 / jnp.sqrt(p))

    (end, state), _ = train(exact(2), loss, jnp.array([50.0, 30.0]), 150)
    np.testing.assert_allclose(end, [0.5 ** (2 / 3), 0.25], rtol=1e-3)
    assert po.metrics(state)["skipped"] > 0


def test_a_plateau_below_a_cliff_is_crossed():
    def loss(p):
        return 1e4 * jnp.minimum(p[0], 0.0) ** 2 + 1e-3 * (p[1] - 3.0) ** 2

    # One step down the cliff, whose curvature would make all later ones shorter than rounding.
    (end, _), _ = train(exact(2), loss, jnp.array([-0.05, 1.0]), 60)
    assert end[0] >= 0.0
    np.testing.assert_allclose(end[1], 3.0, rtol=1e-3)


def test_the_curvature_of_a_cliff_is_not_taken_for_that_in_front_of_it():
    def loss(p):
        return jnp.sum(jnp.exp(300.0 * (p - 2.0)) - p)

    (end, state), _ = train(exact(1), loss, jnp.array([1.0]), 60)
    np.testing.assert_allclose(end, [2.0 - np.log(300.0) / 300.0], rtol=1e-3)
    assert po.metrics(state)["returned"] > 0


def test_readouts():
    optimizer = exact(4)
    (params, state), _ = train(optimizer, matrix_loss, matrix_params(), 9)
    readings = po.metrics(state)
    assert readings["eigenvalues"].shape == readings["extremum"].shape == (4,)
    assert readings["count"] == 9
    assert readings["radius"] > 0.0
    assert 0.0 <= readings["noise"] < 1e-2  # a quadratic
    assert po.metrics(po.reset(state))["count"] == 0
    jax.tree.map(np.testing.assert_array_equal, po.eval_params(state, params), params)


@pytest.mark.slow
@pytest.mark.parametrize("probes", [True, False])
def test_a_reset_forgets_the_noise_and_keeps_whether_it_is_measured(probes):
    optimizer = po.ogr() if probes else exact(4)
    (_, state), _ = train(optimizer, matrix_loss, matrix_params(), 8)
    elsewhere = jax.tree.map(lambda p: 3.0 * p, matrix_params())
    state, still = po.reset(state), []
    params = elsewhere
    for _ in range(9):
        updates, state = optimizer.update(jax.grad(matrix_loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        still.append(all(bool(jnp.all(u == 0.0)) for u in jax.tree.leaves(updates)))
    assert still == [probes and number == 7 for number in range(9)]
    assert po.metrics(state)["doubt"] < 1e-3


def test_a_restarted_state_goes_on():
    optimizer = exact(4)
    (params, state), _ = train(optimizer, matrix_loss, matrix_params(), 9)
    before = matrix_loss(params)
    state = po.reset(state)
    for _ in range(30):
        updates, state = jax.jit(optimizer.update)(jax.grad(matrix_loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert matrix_loss(params) <= before
