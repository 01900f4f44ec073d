"""What optax promises of a transformation, and what the package promises beyond."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import OPTIMIZERS, matrix_loss, matrix_params, train

import parabolic_optax as po

each = pytest.mark.parametrize("name", OPTIMIZERS)


@functools.cache
def optimizer_of(name):
    return OPTIMIZERS[name]()


@functools.cache
def step_of(name):
    """The compiled training step; `traces` counts how often it was traced."""
    optimizer = optimizer_of(name)

    def step(params, state):
        step.traces += 1
        updates, state = optimizer.update(jax.grad(matrix_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    step.traces = 0
    return step, jax.jit(step)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@functools.cache
def after(name, steps=5):
    params, state = matrix_params(), optimizer_of(name).init(matrix_params())
    for _ in range(steps):
        params, state = step_of(name)[1](params, state)
    return params, state


@each
def test_one_trace_for_all_steps(name):
    after(name)
    assert step_of(name)[0].traces == 1


@each
def test_state_keeps_structure_and_types(name):
    initial = optimizer_of(name).init(matrix_params())
    params, state = after(name)
    assert types(initial) == types(state)
    assert types(params) == types(matrix_params())
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((initial, state)))


@each
def test_jit_changes_nothing(name):
    params, state = matrix_params(), optimizer_of(name).init(matrix_params())
    for _ in range(3):
        grads = jax.grad(matrix_loss)(params)
        updates, state = optimizer_of(name).update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(params, after(name, 3)[0], 1e-6)
    assert_close(po.metrics(state), po.metrics(after(name, 3)[1]), 1e-2, 1e-4)


@each
def test_scan_is_the_loop(name):
    (params, state), _ = train(optimizer_of(name), matrix_loss, matrix_params(), 5)
    assert_close(params, after(name)[0], 1e-6)
    assert po.metrics(state)["count"] == 5


@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float16], ids=str)
def test_updates_have_the_type_of_the_parameters(name, dtype):
    params = matrix_params(dtype)
    optimizer = optimizer_of(name)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(2):
        updates, new = update(jax.tree.map(lambda p: 0.1 * p, params), state, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        assert types(new) == types(state)
        state = new
    averaged = po.eval_params(state, params)
    assert types(averaged) == types(params)
    anchor = state[0].anchor
    assert {leaf.dtype for leaf in jax.tree.leaves(anchor)} == {jnp.dtype("float32")}


@each
def test_donation(name):
    optimizer = optimizer_of(name)
    params = matrix_params()
    state = optimizer.init(params)
    step = jax.jit(_plain(name), donate_argnums=(0, 1))
    for _ in range(3):
        before = jax.tree.leaves((params, state))
        params, state = step(params, state)
    assert all(leaf.is_deleted() for leaf in before if leaf.size)
    assert_close(params, after(name, 3)[0], 1e-6)


def _plain(name):
    def step(params, state):
        updates, state = optimizer_of(name).update(jax.grad(matrix_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


@each
def test_fresh_state_does_not_alias_the_parameters(name):
    params = matrix_params()
    state = optimizer_of(name).init(params)
    step = jax.jit(_plain(name), donate_argnums=(0, 1))
    step(params, state)  # would raise if a buffer were donated twice


@each
def test_vmap_over_ensembles(name):
    optimizer = optimizer_of(name)
    members = jax.tree.map(lambda p: jnp.stack([p, 2.0 * p, -p]), matrix_params())
    states = jax.vmap(optimizer.init)(members)
    step = jax.jit(jax.vmap(_plain(name)))
    params = members
    for _ in range(3):
        params, states = step(params, states)
    assert_close(jax.tree.map(lambda p: p[0], params), after(name, 3)[0], 1e-5)
    assert jax.vmap(po.metrics)(states)["step_size"].shape == (3,)


@each
def test_extra_arguments_are_tolerated(name):
    params = matrix_params()
    optimizer = optimizer_of(name)
    plain, _ = optimizer.update(params, optimizer.init(params), params)
    extra, _ = optimizer.update(params, optimizer.init(params), params, value=1.0, foo="bar")
    assert_same(plain, extra)


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


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("leaf", ["w", "b"])
def test_gradients_that_are_not_finite_change_nothing(name, bad, leaf):
    params, state = after(name)
    grads = matrix_params()
    grads[leaf] = grads[leaf].at[(0,) * grads[leaf].ndim].set(bad)
    updates, new = _update(name)(grads, state, params)
    assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
    assert_same(optax.apply_updates(params, updates), params)
    tracker, new_tracker = state[0], new[0]
    assert new_tracker.skipped == tracker.skipped + 1
    assert_same(new_tracker._replace(skipped=tracker.skipped), tracker)
    assert_same(new[1:], state[1:])
    assert po.metrics(new)["skipped"] == 1
    assert po.metrics(new)["count"] == 5
    assert_same(po.eval_params(new, params), po.eval_params(state, params))


@functools.cache
def _update(name):
    return jax.jit(optimizer_of(name).update)


@each
def test_a_run_survives_bad_gradients(name):
    params, state = after(name)
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    _, new = _update(name)(bad, state, params)
    grads = jax.grad(matrix_loss)(params)
    one, _ = _update(name)(grads, state, params)
    other, _ = _update(name)(grads, new, params)
    assert_same(one, other)


def mask(params):
    return {"w": True, "b": False}


WRAPPERS = {
    "masked": lambda make: optax.masked(make(), mask),
    "partition": lambda make: optax.partition(
        {"ours": make(), "frozen": optax.set_to_zero()}, {"w": "ours", "b": "frozen"}
    ),
    "two": lambda make: optax.partition({"a": make(), "b": make()}, {"w": "a", "b": "b"}),
    "multi_steps": lambda make: optax.MultiSteps(make(), 2).gradient_transformation(),
    "inject": lambda make: optax.inject_hyperparams(lambda learning_rate: make(learning_rate))(
        learning_rate=1.0
    ),
    "finite": lambda make: optax.apply_if_finite(make(), 3),
    "clip": lambda make: optax.chain(optax.clip_by_global_norm(1.0), make()),
}


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_readouts_see_through_wrappers(name, wrapper):
    optimizer = WRAPPERS[wrapper](OPTIMIZERS[name])
    params = matrix_params()
    initial = optimizer.init(params)
    steps = 6
    (end, state), _ = train(optimizer, matrix_loss, params, steps)
    readings = jax.jit(po.metrics)(state)
    assert readings["count"] == (steps // 2 if wrapper == "multi_steps" else steps)
    assert readings["step_size"] > 0.0
    assert readings["step_size/w"].shape == ()
    held = {"masked": {"w"}, "partition": {"w"}}.get(wrapper, {"w", "b"})
    assert {key.split("/")[1] for key in readings if key.startswith("signal/")} == held

    averaged = jax.jit(po.eval_params)(state, end)
    assert types(averaged) == types(end)
    assert not np.array_equal(averaged["w"], end["w"])
    if wrapper in ("masked", "partition"):
        np.testing.assert_array_equal(averaged["b"], end["b"])

    again = jax.jit(po.reset)(state)
    assert types(again) == types(state)
    assert jax.tree.structure(again) == jax.tree.structure(initial)
    assert po.metrics(again)["count"] == 0
    assert po.metrics(again)["signal"] == 0.0
    assert po.metrics(again)["step_size"] == readings["step_size"]
    updates, _ = optimizer.update(jax.grad(matrix_loss)(end), again, end)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


def test_constants_can_be_injected():
    optimizer = optax.inject_hyperparams(
        lambda learning_rate, initial_step: po.parabolic_adam(
            learning_rate, initial_step=initial_step
        )
    )(learning_rate=1.0, initial_step=1e-4)
    (end, state), _ = train(optimizer, matrix_loss, matrix_params(), 5)
    (plain, _), _ = train(po.parabolic_adam(initial_step=1e-4), matrix_loss, matrix_params(), 5)
    assert_close(end, plain, 1e-5)
    assert po.metrics(state)["count"] == 5


@each
def test_reset_starts_the_averages_anew(name):
    params, state = after(name)
    elsewhere = jax.tree.map(lambda p: p + 100.0, params)
    _, state = _update(name)(matrix_params(), po.reset(state), elsewhere)
    assert_close(po.eval_params(state, params), elsewhere, 1e-6)
    assert po.metrics(state)["count"] == 1
    assert po.metrics(state)["signal"] == 0.0


@each
def test_reset_keeps_the_step_size_from_a_new_search(name):
    params, state = after(name, 5)
    before = po.metrics(state)["step_size"]
    state = po.reset(state)
    for _ in range(5):
        params, state = step_of(name)[1](params, state)
    assert po.metrics(state)["step_size"] < 2.0 * before


@each
def test_learning_rate_multiplies(name):
    params, state = after(name)
    grads = jax.grad(matrix_loss)(params)
    half = OPTIMIZERS[name](learning_rate=0.5)
    one, _ = optimizer_of(name).update(grads, state, params)
    other, _ = half.update(grads, state, params)
    assert_close(jax.tree.map(lambda u: 0.5 * u, one), other, 1e-6, 0.0)
    assert any(np.any(u != 0.0) for u in jax.tree.leaves(one))


@each
def test_constant_schedule_is_a_constant(name):
    (one, _), _ = train(OPTIMIZERS[name](0.5), matrix_loss, matrix_params(), 30)
    schedule = OPTIMIZERS[name](lambda count: 0.5)
    (other, _), _ = train(schedule, matrix_loss, matrix_params(), 30)
    assert_close(one, other, 1e-5)


def test_schedule_counts_steps():
    optimizer = po.parabolic_sgd(lambda count: jnp.where(count < 2, 1.0, 0.0))
    _, moves = train(optimizer, matrix_loss, matrix_params(), 4, lambda p, _: p["w"])
    assert not np.array_equal(moves[0], moves[1])
    np.testing.assert_array_equal(moves[1], moves[3])


TREES = {
    "empty": {},
    "empty_tuple": (),
    "none": {"w": jnp.ones(3), "nothing": None},
    "scalar": jnp.array(2.0, jnp.float32),
    "weak": {"a": jnp.array(2.0), "b": 0.0 * jnp.array(1.0)},
    "scalars": {"a": jnp.array(2.0, jnp.float32), "b": jnp.array(-1.0, jnp.float32)},
    "size_0": {"w": jnp.ones(3), "void": jnp.ones((0, 4))},
    "masked_node": {"w": jnp.ones(3), "out": optax.MaskedNode()},
    "zeros": {"w": jnp.zeros(3)},
}


@pytest.mark.parametrize("per", ["tensor", "global"])
@pytest.mark.parametrize("name", ["adam", "sgd", "adamw"])
@pytest.mark.parametrize("tree", TREES)
def test_unusual_trees(name, tree, per):
    params = TREES[tree]
    optimizer = OPTIMIZERS[name](per=per, initial_step=1e-3)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        grads = jax.tree.map(lambda p: p - 5.0, params)
        updates, new = update(grads, state, params)
        assert types(new) == types(state)
        params, state = optax.apply_updates(params, updates), new
    for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(TREES[tree]), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert jax.tree.structure(po.eval_params(state, params)) == jax.tree.structure(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((params, state)))
    readings = po.metrics(state, per)
    assert readings["count"] == 3
    if jax.tree.leaves(params):
        assert np.isfinite(readings["step_size"])


def test_parameters_that_start_at_zero_learn():
    def loss(p):
        return jnp.sum((p - jnp.array([1.0, -2.0])) ** 2)

    (end, _), _ = train(po.parabolic_adam(), loss, jnp.zeros(2), 1000)
    assert loss(end) < 0.1 * loss(jnp.zeros(2))


@each
def test_map_params(name):
    optimizer = optimizer_of(name)
    state = optimizer.init(matrix_params())
    doubled = optax.tree.map_params(optimizer, lambda x: x + 1.0, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
    np.testing.assert_allclose(doubled[0].anchor["w"], state[0].anchor["w"] + 1.0)
    np.testing.assert_array_equal(doubled[0].count, state[0].count)


@each
def test_zero_gradients_are_harmless(name):
    params, state = after(name)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(5):
        updates, state = _update(name)(zeros, state, params)
        params = optax.apply_updates(params, updates)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((params, state)))
