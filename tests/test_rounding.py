"""Means in bfloat16: right on average, and a run with them is like one without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
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
    tree = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(()), "c": jnp.zeros((2, 2, 2))}
    thrown = _rounding.dice(tree, jnp.int32(7))
    for number, name in enumerate(tree):
        assert thrown[name].shape == tree[name].shape
        expected = reference.dice(thrown[name].size, 7, number)
        np.testing.assert_array_equal(thrown[name].ravel(), expected)


def test_dice_are_fair_and_independent():
    counts = jnp.arange(1, 65)
    thrown = jax.vmap(lambda count: _rounding.dice([jnp.zeros((32, 33))] * 2, count))(counts)
    thrown = np.stack(thrown, 1).reshape(64, 2, -1)
    bits = (thrown[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    tosses = thrown.size
    assert np.all(np.abs(bits.mean((0, 1, 2)) - 0.5) < 5 * 0.5 / np.sqrt(tosses))
    # Between samples, leaves, places, and the halves for both means.
    low, high = ((half - 32767.5) / 18918.6 for half in (thrown & 0xFFFF, thrown >> 16))
    for a, b in [
        (high[1:], high[:-1]),
        (high[:, 0], high[:, 1]),
        (high[..., 1:], high[..., :-1]),
        (high[..., 33:], high[..., :-33]),
        (low[1:], low[:-1]),
        (low, high),
    ]:
        assert abs(np.mean(a * b)) < 5 / np.sqrt(a.size)


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


def test_mean_is_unbiased():
    # Many means of the same parameters, which differ in their dice alone.
    tracker = po.track_displacement(optax.identity(), mean_dtype=jnp.bfloat16)
    exact = po.track_displacement(optax.identity())
    points = 1.0 + 0.02 * np.random.default_rng(0).normal(size=(200, 1)).cumsum(0)
    points = jnp.asarray(np.repeat(points, 20_000, 1), jnp.float32)

    def last(tracker):
        def step(state, point):
            return tracker.update(point, state, point)[1], None

        return jax.lax.scan(step, tracker.init(points[0]), points)[0]

    for name in ("anchor", "tail"):
        rounded = np.asarray(getattr(jax.jit(lambda: last(tracker))(), name), np.float64)
        expected = np.float64(getattr(jax.jit(lambda: last(exact))(), name)[0])
        error = np.std(rounded) / np.sqrt(rounded.size)
        assert error < 1e-4
        assert abs(np.mean(rounded) - expected) < 5 * error


def network(width=64):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (128, width))
    y = jnp.tanh(x @ jax.random.normal(keys[1], (width, width)) / 8.0)
    params = {"u": jax.random.normal(keys[2], (width, width)) / 8.0}
    params["v"] = jax.random.normal(keys[3], (width, width)) / 8.0
    return params, lambda p: jnp.mean((jnp.tanh(x @ p["u"]) @ p["v"] - y) ** 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
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


@pytest.mark.parametrize("tail_power", [9.0, None])
def test_position_is_unbiased_while_nothing_moves(tail_power):
    tracker = po.track_displacement(optax.identity(), tail_power=tail_power, mean_dtype="bfloat16")
    params = jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)
    state = tracker.init(params)
    squares, rounding = [], float(jnp.sum(jnp.prod(jnp.stack(_rounding.distances(params)), 0)))
    for _ in range(12):
        sample, state = tracker.update(params, state, params)
        squares.append(float(sample.position[0]) ** 2)
    assert max(squares) < 0.03 * rounding


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_types_and_bytes(dtype):
    params = {"w": jnp.ones((8, 4), dtype), "b": jnp.ones(8, dtype)}
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")
    state = optimizer.init(params)
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    updates, new = jax.jit(optimizer.update)(grads, state, params)
    types = [(x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    assert types == [(x.dtype, x.weak_type) for x in jax.tree.leaves(new)]
    means = jax.tree.leaves((new[0].anchor, new[0].tail))
    assert sum(mean.nbytes for mean in means) == 2 * 2 * 40
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, po.eval_params(new, params)))} == {
        jnp.dtype(dtype)
    }


def test_parameters_in_float64():
    with enable_x64(True):
        params = jnp.linspace(-1.0, 1.0, 5)
        optimizer = po.parabolic_adam(mean_dtype="bfloat16")
        _, state = optimizer.update(params, optimizer.init(params), params)
        assert state[0].anchor.dtype == jnp.bfloat16
        assert po.eval_params(state, params).dtype == jnp.float64


def test_complex_means_stay_wide():
    params = {"z": jnp.array([1.0 + 2.0j, 0.5j]), "x": jnp.array([0.3, 0.7])}
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update(params, state, params)
        assert state[0].tail["z"].dtype == jnp.complex64
        assert state[0].tail["x"].dtype == jnp.bfloat16
    np.testing.assert_allclose(state[0].tail["z"], params["z"])


def test_loop_scan_and_compiled_step_agree():
    params, loss = network(8)
    optimizer = po.parabolic_adam(mean_dtype="bfloat16")

    def step(carry, _=None):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (scanned, _), compiled, plain = train(optimizer, loss, params, 6), start, start
    for _ in range(6):
        compiled, plain = jax.jit(step)(compiled)[0], step(plain)[0]
    for other in (compiled, plain):
        for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(other), strict=True):
            # A sum in another order may turn a die over: one unit in the last of 8 bits.
            np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=2.0**-7, atol=1e-6)
