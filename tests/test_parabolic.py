import os
import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import reference
from problems import OPTIMIZERS, matrix_loss, matrix_params, train

import parabolic_optax as po
from parabolic_optax import _age

CURVATURES = [np.array([1.0, 40.0, 300.0]), np.array([[0.1, 5.0], [20.0, 0.5]])]
CENTRES = [np.array([3.0, -1.0, 0.5]), np.array([[-2.0, 4.0], [1.0, 7.0]])]
START = [np.array([1.0, 0.5, -2.0]), np.array([[0.3, -1.0], [2.0, 0.1]])]


def as_jax(arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def quadratic(params, centres=CENTRES, factor=1.0):
    return factor * sum(
        0.5 * jnp.sum(jnp.asarray(c, jnp.float32) * (p - jnp.asarray(m, jnp.float32)) ** 2)
        for p, c, m in zip(params, CURVATURES, centres, strict=True)
    )


def links(base, *, per="tensor", pooling=0.5):
    return optax.chain(
        po.track_displacement(base, per=per),
        po.estimate_uncentred(per=per, pooling=pooling),
        po.flip_saddles(),
        po.step_multiplicative(per=per),
    )


# With 10, every sample until step 19, then every third, and from step 40 on every fifth; within a
# window of 30 every third until the end. Nothing is forgotten of the first 300 steps, with 25 of
# the first 25 only.
@pytest.mark.parametrize(
    ("dense", "window", "least"),
    [(1024, None, 300), (10, None, 300), (1024, 20, 300), (10, 30, 300), (10, None, 25)],
)
def test_golden_trace(monkeypatch, dense, window, least):
    monkeypatch.setattr(_age, "_DENSE", dense)
    monkeypatch.setattr(_age, "_LEAST", least)
    steps = 60

    def grad(params):
        return [c * (p - m) for p, c, m in zip(params, CURVATURES, CENTRES, strict=True)]

    # From 1e-6, float32 would round a tenth of the first displacement away.
    constants = {"dense": dense, "window": window, "least": least}
    rows = reference.trace(grad, START, steps, initial_step=1e-4, max_rate=0.07, **constants)
    _, (params, readings, tail) = train(
        po.parabolic_adam(initial_step=1e-4, window=window),
        quadratic,
        as_jax(START),
        steps,
        lambda params, state: (params, po.metrics(state), po.eval_params(state, params)),
    )
    assert 1 < rows[-1]["search_end"] < steps - 30  # both phases are in the trace
    for t, row in enumerate(rows):
        for i in range(2):
            where = f"step {t}, tensor {i}"
            # The first displacement is known to a thousandth, and so is the step size.
            np.testing.assert_allclose(params[i][t], row["params"][i], 1e-3, 3e-4, err_msg=where)
            np.testing.assert_allclose(tail[i][t], row["tail"][i], 1e-3, 3e-4, err_msg=where)
            np.testing.assert_allclose(
                readings[f"step_size/{i}"][t], row["step_size"][i], 2e-3, err_msg=where
            )
            np.testing.assert_allclose(
                readings[f"signal/{i}"][t], row["signal"][i], 1e-2, 1e-2, err_msg=where
            )
        np.testing.assert_allclose(readings["signal"][t], row["signal"][-1], 1e-2, 1e-2)
        np.testing.assert_allclose(readings["forgotten"][t], row["forgotten"], 1e-2, 1e-2)
    assert (row["forgotten"] > 0.0) == (least < 300)


def test_golden_trace_where_steps_come_to_their_limit():
    """The loss falls for ever and the gradients vanish, so the signal stays at -1."""
    start, constants = START[1], {"initial_step": 1e-4, "max_rate": 0.07}
    rows = reference.trace(lambda params: [-np.exp(-params[0])], [start], 400, **constants)
    _, (params, step_size) = train(
        po.parabolic_adam(initial_step=1e-4),
        lambda p: jnp.sum(jnp.exp(-p)),
        jnp.asarray(start, jnp.float32),
        400,
        lambda params, state: (params, po.metrics(state)["step_size"]),
    )
    np.testing.assert_allclose(step_size, [row["step_size"][0] for row in rows], 2e-3)
    np.testing.assert_allclose(params, [row["params"][0] for row in rows], 1e-3, 3e-4)
    # 100 / (t + 1) of the limit; a step whose four entries are 1 is 2 long.
    norm = np.linalg.norm(rows[-2]["tail"][0])
    np.testing.assert_allclose(step_size[-1], 100 / 401 * norm / 2.0, rtol=1e-2)


def test_translation_changes_nothing():
    def run(start, centre):
        curvatures = jnp.array([1.0, 20.0])
        return train(
            po.parabolic_adam(),
            lambda p: 0.5 * jnp.sum(curvatures * (p - centre) ** 2),
            start,
            200,
            lambda params, state: (params - start, po.metrics(state)),
        )[1]

    # Of equal norm, because the search for the scale measures by the norm.
    here, there = jnp.array([3.0, 4.0]), jnp.array([-4.0, 3.0])
    offset = jnp.array([1.0, -2.0])
    moved, readings = run(here, here + offset)
    moved_2, readings_2 = run(there, there + offset)
    np.testing.assert_allclose(moved, moved_2, rtol=2e-3, atol=2e-3)
    n = 40  # the statistics depend on rounding, later chaotically
    for name in ("signal", "step_size"):
        np.testing.assert_allclose(readings[name][:n], readings_2[name][:n], 2e-2, 1e-6)


@pytest.mark.parametrize(
    "k",
    [-20, pytest.param(-3, marks=pytest.mark.slow), 7, pytest.param(20, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("make", [partial(po.parabolic_adam, eps=0.0), po.parabolic_sgd])
def test_scaling_the_loss_changes_nothing(make, k):
    optimizer = make()
    (plain, _), _ = train(optimizer, quadratic, as_jax(START), 100)
    (scaled, _), _ = train(optimizer, lambda p: quadratic(p, factor=2.0**k), as_jax(START), 100)
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_array_equal(a, b)


def test_turning_the_slopes_round_turns_the_signal_round():
    estimator = po.estimate_uncentred()
    params = [jnp.ones(3), jnp.ones(2)]
    rng = np.random.default_rng(0)
    slopes, positions = rng.normal(size=(10, 2)), rng.uniform(1.0, 2.0, size=(10, 2))

    def run(sign):
        state = estimator.init(params)
        for t in range(10):
            sample = po.Sample(
                update=params,
                slope=jnp.asarray(sign * slopes[t], jnp.float32),
                position=jnp.asarray(positions[t], jnp.float32),
                count=jnp.int32(t + 1),
                age=jnp.int32(t + 1),
                stride=jnp.float32(1.0),
                usable=jnp.array(True),
                norm=jnp.float32(1.0),
            )
            parabola, state = estimator.update(sample, state)
        return parabola

    one, other = run(1.0), run(-1.0)
    np.testing.assert_allclose(one.signal, -other.signal, rtol=1e-6)
    np.testing.assert_allclose(one.curvature, -other.curvature, rtol=1e-6)
    np.testing.assert_array_equal(one.offset, other.offset)
    assert np.all(np.abs(one.signal) > 0.0)


def test_steps_fall_more_slowly_in_a_long_run():
    rule, params = po.step_multiplicative(), jnp.ones(4)

    def step(state, count):
        one = jnp.ones(1)
        sample = po.Sample(
            params, one, one, count, count, jnp.float32(1.0), jnp.array(True), jnp.float32(2.0)
        )
        # The mean of the past is the better place, for certain.
        parabola = po.Parabola(sample, one, -one, one, one)
        _, state = rule.update(parabola, state, params)
        return state, po.metrics(state)["step_size"]

    _, sizes = jax.lax.scan(step, rule.init(params), jnp.arange(1, 64_001))
    power = np.diff(np.log(sizes[jnp.array([500, 1_000, 32_000, 64_000]) - 1])) / np.log(2.0)
    np.testing.assert_allclose(power[0], -1.0, atol=0.01)
    np.testing.assert_allclose(power[2], -0.5, atol=0.02)


def test_one_tensor_is_the_whole():
    def loss(p):
        return jnp.sum(jnp.array([1.0, 30.0, 4.0]) * (p - jnp.array([2.0, -3.0, 1.0])) ** 2)

    start = jnp.array([0.5, 1.0, -1.0])
    (one, _), _ = train(po.parabolic_adam(per="tensor"), loss, start, 150)
    (other, _), _ = train(po.parabolic_adam(per="global"), loss, start, 150)
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("pooling", [0.0, 0.5])
@pytest.mark.parametrize("as_function", [True, False], ids=["function", "pytree"])
def test_slices_are_like_separate_tensors(pooling, as_function):
    curvatures = jnp.array([[1.0, 9.0], [30.0, 2.0], [4.0, 0.5]])
    target = jnp.array([[2.0, -1.0], [1.0, 3.0], [-2.0, 4.0]])
    start = jnp.array([[0.5, 1.0], [-1.0, 0.2], [1.0, 1.0]])

    def loss(rows):
        return jnp.sum(curvatures * (rows - target) ** 2)

    per = (lambda path, leaf: 0) if as_function else {"w": 0}
    (sliced, _), readings = train(
        links(optax.scale_by_adam(), per=per, pooling=pooling),
        lambda p: loss(p["w"]),
        {"w": start},
        80,
        lambda _, state: po.metrics(state, per),
    )
    (separate, _), separate_readings = train(
        links(optax.scale_by_adam(), pooling=pooling),
        lambda p: loss(jnp.stack(p)),
        list(start),
        80,
        lambda _, state: po.metrics(state),
    )
    np.testing.assert_allclose(sliced["w"], jnp.stack(separate), rtol=1e-3, atol=1e-4)
    for i in range(3):
        np.testing.assert_allclose(
            readings["step_size/w"][:, i], separate_readings[f"step_size/{i}"], rtol=1e-3
        )


def test_a_prefix_of_axes_covers_whole_subtrees():
    params = {"block": [jnp.ones((2, 3)), jnp.ones((2, 4))], "head": jnp.ones((5, 2))}
    per = {"block": 0, "head": None}
    readings = po.metrics(po.parabolic_adam(per=per).init(params), per)
    shapes = [readings[f"step_size/{k}"].shape for k in ("block/0", "block/1", "head")]
    assert shapes == [(2,), (2,), ()]


# Up to optax 0.2.5 Muon takes every matrix as one, later it must be told so.
MATRICES = (
    {"weight_dimension_numbers": dict.fromkeys("bw", optax.contrib.MuonDimensionNumbers())}
    if hasattr(optax.contrib, "MuonDimensionNumbers")
    else {}
)
BASES = {
    "sgd": optax.identity(),
    "momentum": optax.trace(0.9),
    "nesterov": optax.trace(0.9, nesterov=True),
    "adagrad": optax.scale_by_rss(),
    "adadelta": optax.scale_by_adadelta(),
    "rms": optax.scale_by_rms(),
    "adam": optax.scale_by_adam(),
    "adamax": optax.scale_by_adamax(),
    "nadam": optax.scale_by_adam(nesterov=True),
    "amsgrad": optax.scale_by_amsgrad(),
    "adabelief": optax.scale_by_belief(),
    "lion": optax.scale_by_lion(),
    "muon": optax.contrib.scale_by_muon(**MATRICES),
}


@pytest.mark.parametrize("name", BASES)
def test_every_base_descends(name):
    def loss(params):
        return matrix_loss({"w": params["w"], "b": params["b"][0]})

    params = matrix_params()
    params["b"] = params["b"][None]  # Muon takes matrices only
    (end, state), losses = train(
        po.parabolic(BASES[name]), loss, params, 600, lambda params, _: loss(params)
    )
    _, best = train(optax.adam(0.05), loss, params, 2000, lambda params, _: loss(params))
    floor = min(float(losses.min()), float(best[-1]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(end))
    first = loss(params) - floor
    assert loss(end) - floor < 0.2 * first
    assert loss(po.eval_params(state, end)) - floor < 0.2 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name):
    params = matrix_params()
    (end, state), _ = train(OPTIMIZERS[name](), matrix_loss, params, 600)
    assert matrix_loss(end) < 0.2 * matrix_loss(params)
    assert matrix_loss(po.eval_params(state, end)) < 0.2 * matrix_loss(params)


def test_rosenbrock():
    def loss(p):
        return (1.0 - p[0]) ** 2 + 100.0 * (p[1] - p[0] ** 2) ** 2

    (end, _), _ = train(po.parabolic_adam(), loss, jnp.array([-1.2, 1.0]), 3000)
    assert loss(end) < 1e-3


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_wall_behind_flat_ground_is_no_end(name):
    """A monkey saddle, whose gradients are tiny until the walls are met."""

    def loss(p):
        return p[0] ** 3 - 3.0 * p[0] * p[1] ** 2 + 0.1 * jnp.sum(p**2) ** 2

    (end, _), _ = train(OPTIMIZERS[name](), loss, jnp.array([0.05, 0.02]), 1000)
    # The minima lie on a circle of radius 7.5.
    assert loss(end) < 0.99 * -105.46875


@pytest.mark.parametrize("seed", range(3))
def test_noisy_ill_conditioned_quadratic(seed):
    curvatures = jnp.logspace(-4, 0, 20)
    centre = jnp.asarray(np.random.default_rng(seed).normal(size=20), jnp.float32)

    def loss(p):
        return 0.5 * jnp.sum(curvatures * (p - centre) ** 2)

    optimizer = po.parabolic_adam()
    start = centre + 1.0 + jnp.arange(20) / 10.0

    def step(carry, key):
        params, state = carry
        noise = 0.1 * jnp.sqrt(curvatures) * jax.random.normal(key, (20,))
        updates, state = optimizer.update(jax.grad(loss)(params) + noise, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(seed), 3000)
    carry = (start, optimizer.init(start))
    (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))(carry)
    assert loss(po.eval_params(state, params)) < 0.01 * loss(start)


def test_initial_step_hardly_matters():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 5)) + 0.5, jnp.float32)
    y = x @ jnp.array([1.0, -2.0, 3.0, 0.5, 4.0]) + 1.0
    y = y + jnp.asarray(rng.normal(size=64), jnp.float32)

    def loss(p):
        return jnp.mean((x @ p["w"] + p["b"] - y) ** 2)

    params = {"w": jnp.full(5, 0.3), "b": jnp.array(0.1)}
    ends = []
    for initial_step in (1e-8, 1e-6, 1e-4, 1e-2):
        (end, state), _ = train(po.parabolic_adam(initial_step=initial_step), loss, params, 600)
        ends.append(float(loss(po.eval_params(state, end))))
    assert max(ends) < 1.5 * min(ends)
    assert max(ends) < 0.1 * float(loss(params))


def test_extra_arguments_reach_the_base():
    seen = {}

    def update(updates, state, params=None, **extra_args):
        seen.update(extra_args)
        return updates, state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    optimizer = po.parabolic(base)
    params = matrix_params()
    optimizer.update(params, optimizer.init(params), params, value=3.0)
    assert seen == {"value": 3.0}


def test_schedule_counts_steps():
    optimizer = po.parabolic_sgd(lambda count: jnp.where(count < 2, 1.0, 0.0))
    _, moves = train(optimizer, matrix_loss, matrix_params(), 4, lambda p, _: p["w"])
    assert not np.array_equal(moves[0], moves[1])
    np.testing.assert_array_equal(moves[1], moves[3])


def test_parameters_that_start_at_zero_learn():
    def loss(p):
        return jnp.sum((p - jnp.array([1.0, -2.0])) ** 2)

    (end, _), _ = train(po.parabolic_adam(), loss, jnp.zeros(2), 200)
    assert loss(end) < 1e-3 * loss(jnp.zeros(2))


@pytest.mark.parametrize(("size", "shape"), [(0.0, (4, 6)), (1e-4, (4, 6)), (0.0, (6,))])
def test_what_starts_near_zero_has_the_scale_of_usual_matrices(size, shape):
    rng = np.random.default_rng(0)
    target = rng.normal(size=shape) + 0.5
    start = size * rng.normal(size=shape)
    rows = reference.trace(lambda params: [params[0] - target], [start], 40, max_rate=0.07)
    _, steps = train(
        po.parabolic_adam(),
        lambda p: 0.5 * jnp.sum((p["w"] - target) ** 2),
        {"w": jnp.asarray(start, jnp.float32)},
        40,
        lambda _, state: po.metrics(state)["step_size"],
    )
    expected = [row["step_size"][0] for row in rows]
    np.testing.assert_allclose(steps, expected, 2e-2)
    # 3/1000 of a tenth of the norm of orthonormal rows, or of one column, in a few steps of equal
    # entries.
    reach = 3e-4 * np.sqrt(shape[0] if len(shape) > 1 else 1)
    assert 0.2 * reach < steps[8] * np.sqrt(target.size) < 3 * reach


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (3, 3, 8, 16), (7,), ()])
def test_usual_starts_keep_their_own_scale(shape):
    inputs, outputs = int(np.prod(shape[:-1])), (*shape, 1)[-1]
    # Of Glorot, LeCun, PyTorch's layers, and GPT's matrices.
    for variance in (2 / (inputs + outputs), 1 / inputs, 1 / (3 * inputs), 0.02**2):
        params = jnp.full(shape, variance**0.5)
        state = po.step_multiplicative().init(params)
        np.testing.assert_allclose(state.scale, jnp.linalg.norm(params.ravel()), 1e-5)


@pytest.mark.parametrize(
    ("params", "scale"),
    [
        ({"w": jnp.zeros(5), "b": jnp.zeros(()), "empty": jnp.zeros(0)}, 0.1 * 2**0.5),
        # What is in small units has a scale, which is not that of others.
        ({"w": jnp.full(4, 1e-6), "b": jnp.zeros(())}, 2e-6),
        ({"w": jnp.zeros(4), "kernel": jnp.zeros((9, 5))}, 0.1 * 5**0.5),
    ],
)
def test_vectors_count_as_matrices_where_they_are_all_there_is_and_zero(params, scale):
    np.testing.assert_allclose(po.step_multiplicative().init(params).scale, scale, 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_means_are_wide(dtype):
    state = po.parabolic_adam().init(matrix_params(dtype))
    means = jax.tree.leaves((state[0].anchor, state[0].tail))
    assert {leaf.dtype for leaf in means} == {jnp.dtype("float32")}


@pytest.mark.parametrize("per", ["tensor", "global"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"w": jnp.ones(3), "nothing": None, "out": optax.MaskedNode(), "void": jnp.ones((0, 4))},
        jnp.array(2.0, jnp.float32),
    ],
    ids=["empty", "odd", "scalar"],
)
def test_odd_trees_at_every_granularity(params, per):
    optimizer = po.parabolic_adam(per=per, initial_step=1e-3)
    state = optimizer.init(params)
    grads = jax.tree.map(lambda p: p - 5.0, params)
    updates, state = optimizer.update(grads, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    readings = po.metrics(state, per)
    assert readings["count"] == (1 if jax.tree.leaves(params) else 0)
    assert jax.tree.structure(po.eval_params(state, params)) == jax.tree.structure(params)


def test_a_long_run_is_sampled_ever_more_rarely():
    optimizer = po.parabolic_adamw(mask=True)
    params = {"w": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)

    def step(state, _):
        updates, after = optimizer.update({"w": jnp.array([-0.5, 1.0])}, state, params)
        tracker, others = after[0], (after[0].anchor, after[0].tail, after[1:])
        kept = jax.tree.map(jnp.array_equal, others, (state[0].anchor, state[0].tail, state[1:]))
        still = jnp.all(jnp.array(jax.tree.leaves(kept)))
        return after, (tracker.count, still, jnp.linalg.norm(updates["w"]))

    state = (state[0]._replace(count=jnp.int32(9_000)), *state[1:])
    _, (counts, still, moved) = jax.lax.scan(step, state, None, 1_000)
    assert counts[-1] == 10_000
    assert jnp.all(moved > 0.0)
    # One in nine from 8 times 1,024 on; the steps between leave all statistics alone.
    sampled = counts[~still]
    assert 110 <= len(sampled) <= 112
    np.testing.assert_array_equal(np.diff(sampled // 9), 1)
    # Each of nine minibatches in a fixed order has its turn.
    turns = np.bincount(sampled % 9)
    assert turns.min() >= 11
    assert turns.max() <= 14


def test_averages_follow_in_a_long_run():
    # The weight of one sample among 100,000 is below the resolution of float32.
    optimizer = po.parabolic_sgd()
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    tracker = state[0]._replace(count=jnp.int32(100_000))
    goal = 1.001 * params

    def step(_, state):
        return optimizer.update(goal, state, goal)[1]

    state = jax.lax.fori_loop(0, 10_000, step, (tracker, *state[1:]))
    moved = (po.eval_params(state, params) - params) / (goal - params)
    np.testing.assert_allclose(moved, 1.0 - 1.1**-10, rtol=0.02)


@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf, 1e30])
def test_parameters_without_a_finite_distance_are_skipped(broken):
    optimizer = po.parabolic_adam()
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    grads = {"w": jnp.array([0.5, 1.0]), "b": jnp.array([-1.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    wrong = {**params, "b": jnp.array([broken])}
    updates, skipped = optimizer.update(grads, state, wrong)
    assert all(not jnp.any(update) for update in updates.values())
    assert po.metrics(skipped)["skipped"] == 1
    # Once the parameters are right again, it is as if nothing had been.
    expected, _ = optimizer.update(grads, state, params)
    goes_on, _ = optimizer.update(grads, skipped, params)
    assert all(jnp.array_equal(goes_on[name], expected[name]) for name in expected)


def test_gpus_do_not_branch_around_the_direction(monkeypatch):
    optimizer = po.parabolic_adamw()
    params = {"w": jnp.array([[1.0, 0.5], [-2.0, 3.0]])}

    def run(backend):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)

        def step(carry, t):
            params, state = carry
            grads = jax.tree.map(lambda p: p - jnp.where(t == 7, jnp.nan, 0.3), params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        state = optimizer.init(params)
        state = (state[0]._replace(count=jnp.int32(2_040)), *state[1:])
        one = str(jax.make_jaxpr(step)((params, state), 0))
        return one.count("cond["), jax.lax.scan(step, (params, state), jnp.arange(30))[0]

    (branches, one), (branches_of_gpus, other) = run("cpu"), run("gpu")
    assert branches == 2
    assert branches_of_gpus == 1
    assert po.metrics(one[1])["skipped"] == 1
    # What has come down from 0.5 to 0.02 still has the rounding of 0.5.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-7), one, other)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(po.parabolic_adam, marks=pytest.mark.slow),
        po.parabolic_adamw,
        pytest.param(po.parabolic_sgd, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_differentiable(make):
    """By a number that the loss depends on, against differences."""
    optimizer: Any = make()

    def trained(scale):
        params = {"w": jnp.full((2, 3), 0.3), "b": jnp.zeros(3)}

        def loss(p):
            return jnp.sum((scale * p["w"].sum(0) + p["b"] - jnp.arange(3.0)) ** 2)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 20)
        return jnp.sum(params["w"] ** 2)

    by_hand = (trained(1.001) - trained(0.999)) / 0.002
    np.testing.assert_allclose(jax.grad(trained)(1.0), by_hand, rtol=0.05, atol=1e-3)


class Pair(NamedTuple):
    w: Any
    b: Any


@pytest.mark.parametrize(
    ("params", "per", "sizes"),
    [
        ((jnp.ones((3, 2)), jnp.ones(2)), (0, None), [3, 1]),
        (Pair(jnp.ones((3, 2)), jnp.ones(2)), Pair(0, None), [3, 1]),
        pytest.param(
            {"l": (jnp.ones((3, 2)), jnp.ones(2)), "e": ()},
            {"l": 0, "e": None},
            [3, 2],
            marks=pytest.mark.slow,
        ),
        ({"l": (jnp.ones((3, 2)), jnp.ones(2))}, {"l": None}, [1, 1]),
    ],
)
def test_axes_are_given_as_a_prefix_of_any_tree(params, per, sizes):
    optimizer = po.parabolic_adam(per=per)
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    named = {k: v for k, v in po.metrics(state, per).items() if k.startswith("step_size/")}
    assert [value.size for value in named.values()] == sizes


def test_axes_of_masked_parameters():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    inner = po.parabolic_adam(per={"w": 0, "b": None})
    optimizer = optax.masked(inner, {"w": True, "b": False})
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    assert updates["w"].shape == (3, 2)


def test_metrics_know_parabolas_that_are_shared():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = po.parabolic_adam(per="global").init(params)
    assert po.metrics(state) == po.metrics(state, "global")
    assert "step_size/w" in po.metrics(state)
    # A model that is one array has no name to add.
    assert all("/" not in name for name in po.metrics(po.parabolic_adam().init(params["w"])))


@pytest.mark.parametrize("make", [po.ogr, po.ogr_published, po.ogr_diagonal])
@pytest.mark.parametrize("place", ["a", "z"], ids=["before", "behind"])
def test_groups_without_parameters_have_no_say_in_readings(make, place):
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    adam = po.parabolic_adam(initial_step=1e-3)
    for kept, empty in ((make(), adam), (adam, make())):
        alone = po.metrics(kept.init(params))
        groups = optax.partition({"m": kept, place: empty}, {"w": "m", "b": "m"})
        beside = po.metrics(groups.init(params))
        assert beside.keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(beside[name], values)


def rows(path, leaf):
    return 0 if leaf.ndim else None


@pytest.mark.parametrize(
    ("pers", "per"),
    [
        (("global", "tensor"), "tensor"),
        (("global", "tensor"), "global"),
        (("global", rows), rows),
        (("tensor", rows), rows),
        (("tensor", rows), {"a": None, "b": None, "c": 0, "d": None}),
        (("tensor", rows), {"a": 7, "b": 0, "c": 0, "d": None}),
    ],
)
def test_readings_of_groups_with_a_granularity_each(pers, per):
    params = {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones((4, 2)), "d": jnp.ones(())}
    groups = [
        po.parabolic_adam(per=own, initial_step=step)
        for own, step in zip(pers, (0.25, 0.5), strict=True)
    ]
    labels = {"a": 0, "b": 0, "c": 1, "d": 1}
    readings = po.metrics(optax.partition(dict(enumerate(groups)), labels).init(params), per)
    assert readings["step_size"] == pytest.approx(0.125**0.5)
    for name, steps in {"a": 0.25, "b": 0.25, "c": 0.5, "d": 0.5}.items():
        shape = (4,) if name == "c" and pers[1] == rows else ()
        np.testing.assert_allclose(readings[f"step_size/{name}"], jnp.full(shape, steps), 1e-6)
        assert readings[f"signal/{name}"].shape == shape


def test_a_tensor_called_value_keeps_its_name():
    equinox = pytest.importorskip("equinox")

    class Attention(equinox.Module):
        query: jax.Array
        value: jax.Array

    params = {"attention": Attention(jnp.ones(2), jnp.full(2, 2.0))}
    state = po.parabolic_adam().init(params)
    assert {"step_size/attention/query", "step_size/attention/value"} <= set(po.metrics(state))
    jax.tree.map(np.testing.assert_array_equal, po.eval_params(state, params), params)


def test_a_variable_of_several_arrays_has_a_name_for_each():
    nnx = pytest.importorskip("flax.nnx")
    params = {
        "p": nnx.Param({"a": jnp.ones(2), "b": jnp.full(2, 2.0)}),
        "q": nnx.Param(jnp.ones(3)),
    }
    state = po.parabolic_adam().init(params)
    named = {name for name in po.metrics(state) if name.startswith("step_size/")}
    assert named == {"step_size/p/a", "step_size/p/b", "step_size/q"}
    jax.tree.map(np.testing.assert_array_equal, po.eval_params(state, params), params)


def test_parameters_of_numpy_in_float64_are_those_of_jax_in_float32():
    state = po.parabolic_adam().init({"w": np.ones(3)})
    assert {leaf.dtype for leaf in jax.tree.leaves(po.eval_params(state, {"w": jnp.ones(3)}))} == {
        jnp.dtype("float32")
    }


@pytest.mark.parametrize(
    "make",
    [
        po.parabolic_adamw,
        pytest.param(po.parabolic_adam, marks=pytest.mark.slow),
        pytest.param(po.parabolic_sgd, marks=pytest.mark.slow),
        pytest.param(po.parabolic_muon, marks=pytest.mark.slow),
    ],
)
def test_a_tensor_without_gradients_keeps_up_with_the_whole(make):
    """Such as an auxiliary head, or an expert, that is trained from later on."""
    optimizer, late = make(), 1_000
    targets = {
        name: 3.0 * jax.random.normal(jax.random.key(number), (4, 4))
        for number, name in enumerate(("always", "late"))
    }
    params = jax.tree.map(jnp.ones_like, targets)

    def step(carry, t):
        params, state = carry
        grads = jax.tree.map(jnp.subtract, params, targets)
        grads["late"] = jnp.where(t < late, 0.0, grads["late"])
        updates, state = optimizer.update(grads, state, params)
        metrics = po.metrics(state)
        ratio = metrics["step_size/late"] / metrics["step_size/always"]
        return (optax.apply_updates(params, updates), state), ratio

    carry = (params, optimizer.init(params))
    (params, _), ratios = jax.lax.scan(step, carry, jnp.arange(late + 1_000))
    # Its own brake may come later; before there was a gradient it had nothing to brake for.
    assert ratios[late - 1] > 0.5
    distance = jnp.linalg.norm(params["late"] - targets["late"])
    # Muon's steps have full length to the end.
    assert distance < 0.1 * jnp.linalg.norm(targets["late"] - 1.0)


SHARDED = """
import jax, jax.numpy as jnp, optax, parabolic_optax as po
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

jax.set_mesh(jax.make_mesh((4,), ("x",), (AxisType.Explicit,)))
start = {"b": jnp.ones(3), "w": jnp.arange(96.0).reshape(8, 4, 3) / 48}
cut = start | {"w": jax.device_put(start["w"], P("x"))}
optimizer = po.parabolic_adamw(per={"b": None, "w": 0})

def step(carry, _):
    params, state = carry
    updates, state = optimizer.update(jax.tree.map(lambda p: p - 1.0, params), state, params)
    return (optax.apply_updates(params, updates), state), None

run = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, 30)[0][0])
assert jax.typeof(run(cut)["w"]).sharding.spec == P("x", None, None)
print(max(float(jnp.abs(a - b).max()) for a, b in zip(run(cut).values(), run(start).values())))
"""


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="an older JAX")
def test_slices_of_an_axis_that_explicit_sharding_cuts():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", SHARDED]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout) < 1e-5
