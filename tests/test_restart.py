"""The first step of a state, and of one that has forgotten its past."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parabolic_optax as po

FAR = {"w": jnp.full((2, 2), 1e8), "b": jnp.full(2, -1e8)}
NEAR = {"w": jnp.array([[0.123, 0.5], [-3.0, 2.0]]), "b": jnp.array([0.25, -1.0])}


def stepped(optimizer, state, params, steps=1):
    update = jax.jit(optimizer.update)
    for step in range(steps):
        grads = jax.tree.map(lambda p, sign=(-1.0) ** step: sign * p, params)
        _, state = update(grads, state, params)
    return state


@pytest.mark.parametrize(
    ("mean_dtype", "rounding"),
    [(None, 0.0), pytest.param("bfloat16", 2.0**-7, marks=pytest.mark.slow)],
)
def test_averages_start_anew_after_a_reset(mean_dtype, rounding):
    """Small leaves keep wide means, hence one of 1,600 numbers."""
    far, near = ({"w": jnp.tile(tree["w"], (20, 20)), "b": tree["b"]} for tree in (FAR, NEAR))
    optimizer = po.parabolic_adamw(mean_dtype=mean_dtype)
    state = po.reset(stepped(optimizer, optimizer.init(far), far))
    assert state[0].tail["w"].dtype == (mean_dtype or jnp.float32)
    np.testing.assert_array_equal(po.eval_params(state, near)["w"], near["w"])
    averaged = po.eval_params(stepped(optimizer, state, near), near)
    np.testing.assert_allclose(averaged["w"], near["w"], rounding)
    np.testing.assert_array_equal(averaged["b"], near["b"])


def test_averages_of_several_runs_at_once():
    """One of them has been restarted; the leaf is as long as there are runs."""
    optimizer = po.parabolic_adam()
    params = {"w": jnp.arange(9.0).reshape(3, 3), "b": jnp.ones((3, 2, 2))}
    state = jax.vmap(optimizer.init)(params)
    state = state[0]._replace(count=jnp.array([1, 0, 1], jnp.int32)), *state[1:]
    moved = jax.tree.map(lambda p: p + 1.0, params)
    together = po.eval_params(state, moved)
    apart = jax.vmap(po.eval_params)(state, moved)
    for name in params:
        np.testing.assert_array_equal(together[name], apart[name])
        np.testing.assert_array_equal(together[name][1], moved[name][1])
        np.testing.assert_array_equal(together[name][2], params[name][2])


def test_decay_is_found_anew_after_a_reset():
    optimizer = po.parabolic_adamw()
    opposite = jax.tree.map(lambda p: -1000.0 * p, NEAR)
    old = po.reset(stepped(optimizer, optimizer.init(opposite), opposite))
    for steps in range(1, 6):
        again, first = (
            po.metrics(stepped(optimizer, state, NEAR, steps))["weight_decay"]
            for state in (old, optimizer.init(NEAR))
        )
        np.testing.assert_allclose(again, first, 1e-5)


@pytest.mark.parametrize(
    "held", [optax.scale(0.0), optax.keep_params_nonnegative()], ids=["frozen", "nonnegative"]
)
def test_what_is_evaluated_is_a_point_of_the_run(held):
    """Also where a later link changes the updates of `ogr`, whose fallback waits behind them."""
    optimizer = optax.chain(po.ogr(2), held)
    params = {"w": jnp.array([3.0, 0.5])}
    updates, state = optimizer.update({"w": jnp.array([0.1, 9.0])}, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(po.eval_params(state, params)["w"], params["w"])


def test_means_of_the_shortest_memory_are_the_newest_sample():
    tracker = po.track_displacement(optax.identity(), tail_power=5000.0)
    rows = 1.0 + 0.1 * jax.random.normal(jax.random.key(0), (2300, 2))
    state, _ = jax.lax.scan(
        lambda state, row: (tracker.update(row, state, row)[1], None), tracker.init(rows[0]), rows
    )
    # From step 2,048 on one of three is a sample.
    assert any(np.array_equal(state.tail, row) for row in rows[-6:])


def test_a_group_without_parameters_has_nothing_to_say():
    params = {"a": jnp.ones((3, 3)), "b": jnp.ones(3)}
    both = {"m": po.parabolic_adamw(), "n": po.parabolic_sgd()}
    optimizer = optax.partition(both, {"a": "m", "b": "m"})
    readings = po.metrics(stepped(optimizer, optimizer.init(params), params, 3))
    alone = po.parabolic_adamw()
    expected = po.metrics(stepped(alone, alone.init(params), params, 3))
    assert readings.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(readings[name], value, 1e-5)


def test_a_state_of_many_problems_keeps_its_shapes():
    optimizer, params = po.ogr(3), {"a": jnp.ones((5, 3, 4)), "b": jnp.ones((5, 4))}
    state = jax.vmap(optimizer.init)(params)
    assert jax.tree.map(jnp.shape, po.reset(state)) == jax.tree.map(jnp.shape, state)
