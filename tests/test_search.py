"""The search for the scale of the steps, where something keeps the parameters from moving."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parabolic_optax as po


def grads_of(params):
    return 2.0 * (params - 3.0)


def run(optimizer, steps, params=(1.0, 2.0), state=None, grads_of=grads_of):
    params = jnp.asarray(params)
    state = optimizer.init(params) if state is None else state

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(grads_of(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda *carry: jax.lax.scan(step, carry, None, steps)[0])(params, state)


@pytest.mark.parametrize("delay", [1, 6, 8, 60])
def test_steps_do_not_grow_while_a_multiplier_of_zero_holds_them_back(delay):
    optimizer = po.parabolic_adam(lambda count: jnp.where(count < delay, 0.0, 1.0))
    _, state = run(optimizer, delay)
    # Directions of unit entries move parameters of norm sqrt(5) by 3/1000 in one step, times count.
    assert po.metrics(state)["step_size"] <= 3.1e-3 * np.sqrt(5 / 2) * delay
    params, _ = run(optimizer, delay + 300)
    np.testing.assert_allclose(params, 3.0, atol=1e-3)


def test_steps_do_not_grow_while_a_later_link_freezes_the_parameters():
    frozen = optax.chain(po.parabolic_adam(), optax.set_to_zero())
    _, state = run(frozen, 200)
    assert po.metrics(state)["step_size"] < 2.0
    # Frozen after a few steps of the search.
    optimizer = po.parabolic_adam()
    params, state = run(optimizer, 3)
    before = po.metrics(state)["step_size"]
    _, state = run(frozen, 5, params, (state, optax.EmptyState()))
    assert po.metrics(state)["step_size"] <= 256.0 * before


def test_updates_that_are_summed_and_passed_on_seldom_do_not_diverge():
    params, _ = run(optax.chain(po.parabolic_adam(), optax.apply_every(8)), 1500)
    assert np.all(np.abs(params - 3.0) < 1.0)


@pytest.mark.parametrize("steps", [0, 2, 4])
def test_a_reset_before_its_end_does_not_end_the_search(steps):
    optimizer = po.parabolic_adam()
    params, state = run(optimizer, steps)
    _, plain = run(optimizer, 60, params, state)
    _, again = run(optimizer, 60, params, po.reset(state))
    ratio = po.metrics(again)["step_size"] / po.metrics(plain)["step_size"]
    assert 0.2 < ratio < 5.0


def test_a_reset_after_its_end_keeps_the_step_size():
    optimizer = po.parabolic_adam()
    params, state = run(optimizer, 60)
    _, again = run(optimizer, 6, params, po.reset(state))
    # A search would go 16-fold in some of these; found step sizes change by 7 % a step.
    assert po.metrics(again)["step_size"] < 1.5 * po.metrics(state)["step_size"]


def test_a_gradient_that_is_not_finite_does_not_end_the_search():
    optimizer = po.parabolic_adam()
    params, state = run(optimizer, 2)
    _, plain = run(optimizer, 60, params, state)
    params, state = run(optimizer, 1, params, state, lambda p: jnp.full_like(p, jnp.nan))
    _, struck = run(optimizer, 60, params, state)
    ratio = po.metrics(struck)["step_size"] / po.metrics(plain)["step_size"]
    assert ratio == pytest.approx(1.0, rel=1e-3)


def test_raw_gradients_that_are_tiny_are_found_a_step_size_for():
    optimizer = po.parabolic(optax.chain(optax.scale(1e-7), optax.trace(0.9)))
    params, _ = run(optimizer, 600)
    np.testing.assert_allclose(params, 3.0, atol=1e-2)


def test_a_start_at_zero_far_from_its_own_unit_is_made_up_for():
    """Where the values are a millionth, the search oversteps first."""
    wanted = 1e-6 * jnp.array([1.0, -2.0, 3.0])
    params, _ = run(
        po.parabolic_adam(), 300, (0.0, 0.0, 0.0), grads_of=lambda params: params - wanted
    )
    np.testing.assert_allclose(params, wanted, atol=1e-8)


@pytest.mark.parametrize(
    "make", [po.parabolic_adam, pytest.param(po.parabolic_sgd, marks=pytest.mark.slow)]
)
def test_a_bias_in_another_unit_sets_no_scale(make):
    """It may have been set to the mean of the targets, as is good practice."""

    def step_size(bias):
        params = {"w": jnp.full((4, 4), 0.5), "b": jnp.full(4, bias)}
        grads = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
        optimizer = make()
        update, state = jax.jit(optimizer.update), optimizer.init(params)
        for _ in range(30):
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return po.metrics(state)["step_size"]

    np.testing.assert_allclose(step_size(1e4), step_size(0.0), rtol=0.1)
