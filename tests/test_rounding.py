"""Means in bfloat16: right on average, and a run with them is like one without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import serialization
from problems import OPTIMIZERS, enable_x64, train

import parabolic_optax as po
from parabolic_optax import _rounding

ALL_DICE = jnp.arange(2**16, dtype=jnp.uint32)
NUMBERS = [1.0, -1.0, 0.1, -0.1, 3.1415927, -1e-30, 1e30, 255.9, -2.0 + 2.0**-20, 1e-38, 0.0]


@pytest.mark.parametrize("number", NUMBERS)
def test_all_dice_together_give_the_number(number):
    below, above, share = reference.bfloat16_neighbours(number)
    thrown = jax.vmap(_rounding.stochastic_kernel, in_axes=(None, 0))(jnp.float32(number), ALL_DICE)
    thrown = np.asarray(thrown, np.float64)
    assert set(thrown) <= {below, above}
    # The neighbours differ in one of 2^16 dice at least, so this is exact.
    assert np.mean(thrown == above) == (share if above != below else 1.0)
    assert np.mean(thrown) == np.float32(number)


@pytest.mark.parametrize("number", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("dice", [0, 1, 2**16 - 1])
def test_what_is_not_finite_stays_so(number, dice):
    rounded = _rounding.stochastic_kernel(jnp.float32(number), jnp.uint32(dice))
    np.testing.assert_array_equal(np.float32(rounded), np.float32(number))


@pytest.mark.parametrize("number", [n for n in NUMBERS if abs(n) > 1e-37])
def test_variance_is_that_of_all_dice(number):
    thrown = jax.vmap(_rounding.stochastic_kernel, in_axes=(None, 0))(jnp.float32(number), ALL_DICE)
    below, above = _rounding.variance_kernel(jnp.float32(number))
    expected = np.var(np.asarray(thrown, np.float64))
    np.testing.assert_allclose(np.float64(below) * np.float64(above), expected, rtol=1e-5)


def test_dice_match_their_twin():
    shapes = [(3, 2), (), (2, 2, 2)]
    for mean in (0, 1):
        seeds = _rounding.seeds(len(shapes), mean)
        for number, shape in enumerate(shapes):
            thrown = _rounding.dice(shape, seeds[number], jnp.int32(7))
            assert thrown.shape == shape
            expected = reference.dice(thrown.size, number, mean, 7)
            np.testing.assert_array_equal(thrown.ravel(), expected)


def test_dice_of_places_leaves_and_means_are_fair_and_independent():
    seeds = jnp.stack([_rounding.seeds(32, mean) for mean in (0, 1)])
    of_seeds = jax.vmap(jax.vmap(lambda seed: _rounding.dice((32, 33), seed, jnp.int32(1))))
    thrown = np.asarray(of_seeds(seeds)).reshape(2, 32, -1)
    assert thrown.max() < 2**16
    bits = (thrown[..., None] >> np.arange(16, dtype=np.uint32)) & 1
    assert np.all(np.abs(bits.mean((0, 1, 2)) - 0.5) < 5 * 0.5 / np.sqrt(thrown.size))
    unit = (thrown - 32767.5) / 18918.6
    for a, b in [
        (unit[0], unit[1]),
        (unit[:, 1:], unit[:, :-1]),
        (unit[..., 1:], unit[..., :-1]),
        (unit[..., 33:], unit[..., :-33]),
    ]:
        assert abs(np.mean(a * b)) < 5 / np.sqrt(a.size)


def test_dice_cover_their_range_evenly_in_time():
    counts = jnp.arange(1, 1001)
    thrown = jax.vmap(lambda count: _rounding.dice((), jnp.uint32(5), count))(counts)
    bounds = np.sort(np.asarray(thrown)) / 2**16
    assert np.max(np.abs(bounds - (np.arange(1000) + 0.5) / 1000)) < 0.004


def long_run(mean_dtype, cast=lambda mean: mean):
    """Share of the way that the tail follows to a goal nearby, late in a long run."""
    tracker = po.track_displacement(optax.identity(), mean_dtype=mean_dtype)
    start = jnp.linspace(0.5, 2.0, 4096).astype(jnp.bfloat16).astype(jnp.float32)
    goal = start * (1.0 + jnp.linspace(-0.01, 0.013, 4096))
    state = tracker.init(start)._replace(count=jnp.int32(100_000))

    def step(_, state):
        state = tracker.update(goal, state, goal)[1]
        return state._replace(tail=cast(state.tail))

    state = jax.jit(lambda s: jax.lax.fori_loop(0, 10_000, step, s))(state)
    moved = np.asarray(state.tail, np.float64) - start
    return float(np.sum(moved * (goal - start)) / np.sum((goal - start) ** 2))


def test_mean_follows_where_rounding_to_nearest_stands_still():
    def nearest(mean):
        return jax.lax.reduce_precision(mean, exponent_bits=8, mantissa_bits=7)

    assert long_run(None, nearest) < 0.05
    assert long_run("bfloat16") == pytest.approx(1.0 - 1.1**-10, rel=0.03)


def test_mean_is_right_on_average_and_does_not_stray():
    # Many means of the same parameters, which differ in their dice alone.
    tracker = po.track_displacement(optax.identity(), mean_dtype=jnp.bfloat16)
    exact = po.track_displacement(optax.identity())
    points = 1.5 + 0.005 * np.random.default_rng(0).normal(size=(2000, 1)).cumsum(0)
    points = jnp.asarray(np.repeat(points, 5000, 1), jnp.float32)

    def last(tracker):
        def step(state, point):
            return tracker.update(point, state, point)[1], None

        return jax.lax.scan(step, tracker.init(points[0]), points)[0]

    states = [jax.jit(lambda tracker=tracker: last(tracker))() for tracker in (tracker, exact)]
    for name in ("anchor", "tail"):
        rounded, expected = (np.asarray(getattr(state, name), np.float64) for state in states)
        errors = (rounded - expected) / 2.0**-7
        assert abs(np.mean(errors)) < 0.3
        # Independent dice, which would make a random walk, spread them over three units.
        assert np.std(errors) < 1.5


def network(width=64):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (128, width))
    y = jnp.tanh(x @ jax.random.normal(keys[1], (width, width)) / 8.0)
    params = {"u": jax.random.normal(keys[2], (width, width)) / 8.0}
    params["v"] = jax.random.normal(keys[3], (width, width)) / 8.0
    return params, lambda p: jnp.mean((jnp.tanh(x @ p["u"]) @ p["v"] - y) ** 2)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n != "adamw" else ()) for n in OPTIMIZERS],
)
def test_run_is_like_one_with_wide_means(name):
    params, loss = network()
    ends = []
    for mean_dtype in (None, jnp.bfloat16):
        (end, state), readings = train(
            OPTIMIZERS[name](mean_dtype=mean_dtype),
            loss,
            params,
            400,
            lambda params, state: po.metrics(state),
        )
        ends.append((loss(po.eval_params(state, end)), readings["step_size"][20]))
    (wide_loss, wide_step), (narrow_loss, narrow_step) = ends
    # Without the correction of the positions the search ends at once, far too early.
    assert 0.5 < narrow_step / wide_step < 2.0
    # What is left of the loss at the end is of the size that rounded parameters add to it.
    first = loss(params)
    assert wide_loss < 0.01 * first
    assert narrow_loss < wide_loss + 1e-3 * first


@pytest.mark.parametrize("tail_power", [9.0, pytest.param(None, marks=pytest.mark.slow)])
def test_position_is_unbiased_while_nothing_moves(tail_power):
    tracker = po.track_displacement(optax.identity(), tail_power=tail_power, mean_dtype="bfloat16")
    params = jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)
    state = tracker.init(params)
    below, above = _rounding.distances(params, state.anchor)
    squares, rounding = [], float(jnp.sum(below * above))
    for _ in range(12):
        sample, state = tracker.update(params, state, params)
        squares.append(float(sample.position[0]) ** 2)
    assert max(squares) < 0.03 * rounding


def large_and_small(dtype=jnp.float32):
    """Large enough to be narrow, too small, and complex."""
    numbers = np.random.default_rng(0).normal(size=(32, 32)) + 0.5
    return {
        "large": jnp.asarray(numbers, dtype),
        "small": jnp.asarray(numbers[:31], dtype),
        "complex": jnp.asarray(numbers + 1j * numbers.T, jnp.complex64),
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_types_and_bytes(dtype):
    params = large_and_small(dtype)
    optimizer = po.parabolic_adam(mean_dtype=jnp.bfloat16)
    state = optimizer.init(params)
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    updates, new = jax.jit(optimizer.update)(grads, state, params)
    types = [(x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    assert types == [(x.dtype, x.weak_type) for x in jax.tree.leaves(new)]
    for mean in (new[0].anchor, new[0].tail):
        assert {name: leaf.nbytes // leaf.size for name, leaf in mean.items()} == {
            "large": 2,
            "small": 4,
            "complex": 8,
        }
    for tree in (updates, po.eval_params(new, params), po.eval_params(po.reset(new), params)):
        assert {name: leaf.dtype for name, leaf in tree.items()} == {
            "large": dtype,
            "small": dtype,
            "complex": jnp.complex64,
        }


@pytest.mark.slow
def test_parameters_in_float64():
    with enable_x64(True):
        params = jnp.linspace(-1.0, 1.0, 1024)
        optimizer = po.parabolic_adam(mean_dtype="bfloat16")
        _, state = optimizer.update(params, optimizer.init(params), params)
        assert state[0].anchor.dtype == jnp.bfloat16
        assert po.eval_params(state, params).dtype == jnp.float64


@pytest.mark.parametrize("params", [{}, {"nothing": None, "void": jnp.ones((0, 4))}])
def test_empty_trees(params):
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_types_are_never_promoted_silently():
    # optax's Adam promotes.
    with jax.numpy_dtype_promotion("strict"):
        params, _ = network(32)
        optimizer = po.parabolic_sgd(mean_dtype="bfloat16")
        jax.jit(optimizer.update).trace(params, optimizer.init(params), params)


def test_setting_by_name_under_injected_hyperparameters():
    params, _ = network(32)
    optimizer = optax.inject_hyperparams(po.parabolic_adam)(mean_dtype="bfloat16")
    state = optimizer.init(params)
    _, state = jax.jit(optimizer.update)(params, state, params)
    assert state.inner_state[0].tail["u"].dtype == jnp.bfloat16


def steps_of(optimizer, loss):
    @jax.jit
    def step(carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


def test_resumed_run_is_the_same_to_the_bit():
    params, loss = network(32)
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")
    step = steps_of(optimizer, loss)
    carry = (params, optimizer.init(params))
    for _ in range(5):
        carry = step(carry)
    saved = serialization.to_bytes(carry)
    resumed = serialization.from_bytes((params, optimizer.init(params)), saved)
    for _ in range(5):
        carry, resumed = step(carry), step(resumed)
    assert resumed[1][0].tail["u"].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, resumed, carry)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        # A sum in another order may turn a die over: one unit in the last of 8 bits.
        np.testing.assert_allclose(np.float32(x), np.float32(y), rtol=2.0**-6, atol=1e-5)


@pytest.mark.slow
def test_loop_scan_and_plain_steps_agree():
    params, loss = network(32)
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")
    step = steps_of(optimizer, loss)
    (scanned, _), compiled = train(optimizer, loss, params, 6), (params, optimizer.init(params))
    plain = compiled
    for _ in range(6):
        compiled = step(compiled)
        with jax.disable_jit():
            plain = step(plain)
    assert_close(scanned, compiled)
    assert_close(scanned, plain)


@pytest.mark.slow
def test_runs_side_by_side():
    params, loss = network(32)
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")
    two = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), params)
    batched = jax.vmap(lambda p: train(optimizer, loss, p, 6)[0])(two)
    assert batched[1][0].anchor["u"].dtype == jnp.bfloat16
    for i in range(2):
        alone = train(optimizer, loss, jax.tree.map(lambda p, i=i: p[i], two), 6)[0]
        assert_close(jax.tree.map(lambda x, i=i: x[i], batched), alone)
