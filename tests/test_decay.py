"""Weight decay where the loss drives the weights outward, and nowhere else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import parabolic_optax as po
from parabolic_optax import _decay

NORMAL = jnp.array([1.0, -2.0, 3.0]) / jnp.sqrt(14.0)

mean = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
few = settings(max_examples=50, deadline=None, derandomize=True)


@few
@given(mean, st.floats(2.0**-10, 1e3, width=32), st.floats(0.0, 2.0, width=32))
def test_kernel_matches_its_twin(slope, size, strength):
    got = _decay.outward_kernel(jnp.float32(slope), jnp.float32(size), strength)
    np.testing.assert_allclose(got, reference.outward(slope, size, strength), rtol=2e-5, atol=1e-6)


def test_kernel_is_zero_before_anything_was_seen():
    assert _decay.outward_kernel(jnp.float32(0.0), jnp.float32(0.0), 0.2) == 0.0


def train(optimizer, gradient, params: Any, steps=800) -> Any:
    """Parameters, state, and the decay of every step, under noise of unit variance or data."""

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(gradient(params, key), state, params)
        log = po.metrics(state)
        decay = log.get("weight_decay", jnp.zeros([]))
        return (optax.apply_updates(params, updates), state), decay

    keys = jax.random.split(jax.random.key(1), steps)
    (params, state), decays = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params, state, decays


def separable(params, key):
    """Gradient of a logistic regression on data with a margin: it is best at infinity."""
    drawn = jax.random.normal(jax.random.key(7), (64, 3)) + jnp.array([0.5, 0.0, -0.5])
    side = jnp.sign(drawn @ NORMAL)
    x = (drawn + side[:, None] * NORMAL)[jax.random.choice(key, 64, (16,))]
    y = jnp.sign(x @ NORMAL)
    return jax.grad(lambda w: jnp.mean(jax.nn.softplus(-y * (x @ w))))(params)


def bowl(params, key):
    """Gradient of a quadratic with its minimum off the origin, under noise."""
    noise = jax.random.normal(key, params.shape)
    return jnp.array([1.0, 5.0, 0.5]) * (params - jnp.array([2.0, -1.0, 4.0])) + noise


def test_weights_that_grow_without_end_are_held_the_more_the_stronger():
    start = jnp.array([0.3, -0.1, 0.2])
    norm = float("inf")
    for strength in (0.0, 0.25, 1.0):
        optimizer = po.parabolic(optax.scale_by_adam(), decay=po.decay_outward(strength, mask=True))
        held, state, decays = train(optimizer, separable, start)
        assert jnp.linalg.norm(held) < 0.96 * norm
        norm = jnp.linalg.norm(held)
        assert po.metrics(state)["weight_decay"] >= 0.3 * strength
        assert jnp.all((decays >= 0.0) & (decays <= strength))


def test_a_minimum_is_not_moved():
    start = jnp.array([0.3, -0.1, 0.2])
    free, free_state, _ = train(po.parabolic_adam(), bowl, start)
    held, state, decays = train(po.parabolic_adamw(mask=True), bowl, start)
    constant, constant_state, _ = train(po.parabolic_adamw(weight_decay=0.25), bowl, start)
    minimum = jnp.array([2.0, -1.0, 4.0])

    def miss(state, params):
        return jnp.linalg.norm(po.eval_params(state, params) - minimum)

    assert jnp.mean(decays[400:]) < 0.02
    assert miss(state, held) < 0.5 * miss(constant_state, constant)
    assert miss(state, held) < miss(free_state, free) + 0.1


def links(**arguments) -> Any:
    tracker = po.track_displacement(optax.identity(), per=arguments.get("per", "tensor"))
    return optax.chain(tracker, po.decay_outward(**arguments))


def test_only_masked_leaves_decay_and_count():
    params = {"b": jnp.array([5.0]), "w": jnp.array([2.0, -1.0])}
    grads = {"b": jnp.array([30.0]), "w": jnp.array([-1.0, 0.5])}
    for mask in ({"b": False, "w": True}, lambda tree: {"b": False, "w": True}):
        chain = links(mask=mask)
        sample, _ = chain.update(grads, chain.init(params), params)
        np.testing.assert_allclose(sample.decay, [0.0, 0.25])


def test_matrices_decay_and_count_by_default():
    params = {"b": jnp.array([5.0]), "w": jnp.array([[2.0, -1.0]])}
    grads = {"b": jnp.array([30.0]), "w": jnp.array([[-1.0, 0.5]])}
    chain = links()
    sample, _ = chain.update(grads, chain.init(params), params)
    np.testing.assert_allclose(sample.decay, [0.0, 0.25])


def test_slices_of_a_stack_are_matrices_by_their_own_axes():
    params = {"b": jnp.array([[5.0], [6.0]]), "w": jnp.array([[[2.0, -1.0]], [[1.0, 3.0]]])}
    chain = links(per={"b": 0, "w": 0})
    sample, _ = chain.update(jax.tree.map(jnp.negative, params), chain.init(params), params)
    np.testing.assert_allclose(sample.decay, [0.0, 0.0, 0.25, 0.25])


@pytest.mark.parametrize(("count", "limited"), [(2, 1.0), (40, 0.1)])
def test_the_step_that_decay_goes_by_is_limited(count, limited):
    params = jnp.array([2.0, -4.0])
    sample = po.Sample(
        update=jnp.zeros(2),
        slope=jnp.zeros(1),
        position=jnp.zeros(1),
        radial_slope=jnp.zeros(1),
        count=jnp.int32(count),
        stride=jnp.float32(1.0),
        usable=jnp.array(True),
        decay=jnp.array([0.15]),
    )
    parabola = po.Parabola(sample, *(jnp.zeros(1) for _ in range(4)))
    rule: Any = po.step_multiplicative(initial_step=1.0)
    updates, _ = rule.update(parabola, rule.init(params), params)
    np.testing.assert_allclose(updates, -0.15 * limited * params, rtol=1e-6)


def test_the_slope_is_taken_along_the_averaged_parameters():
    """Not along the parameters, which noise throws about."""
    tracker: Any = po.track_displacement(optax.identity())
    first, far = jnp.array([2.0, -1.0]), jnp.array([50.0, 60.0])
    _, state = tracker.update(jnp.array([1.0, 1.0]), tracker.init(first), first)
    sample, _ = tracker.update(jnp.array([-1.0, 3.0]), state, far)
    np.testing.assert_allclose(sample.radial_slope, [-5.0])
    tracker = po.track_displacement(optax.identity(), tail_power=None)
    _, state = tracker.update(jnp.array([1.0, 1.0]), tracker.init(first), first)
    sample, _ = tracker.update(jnp.array([-1.0, 3.0]), state, far)
    np.testing.assert_allclose(sample.radial_slope, [130.0])


def test_mask_with_one_parabola_for_all():
    with pytest.raises(ValueError, match="leave out the mask"):
        po.decay_outward(mask={"w": True}, per="global")


def test_one_parabola_for_all_counts_every_leaf():
    params = {"w": jnp.array([2.0, -1.0]), "b": jnp.array([5.0])}
    grads = {"w": jnp.array([-1.0, 0.5]), "b": jnp.array([-3.0])}
    chain = links(per="global")
    sample, _ = chain.update(grads, chain.init(params), params)
    np.testing.assert_allclose(sample.decay, [0.25])


def test_a_gradient_that_is_not_finite_changes_nothing():
    params = jnp.array([2.0, -1.0])
    chain = links(mask=True)
    _, state = chain.update(jnp.array([-1.0, 0.5]), chain.init(params), params)
    sample, after = chain.update(jnp.array([jnp.nan, 0.5]), state, params)
    np.testing.assert_array_equal(sample.decay, [0.0])
    assert after[1] == state[1]


def test_reset_forgets():
    _, state, _ = train(po.parabolic_adamw(mask=True), separable, jnp.array([0.3, -0.1, 0.2]), 100)
    assert po.metrics(state)["weight_decay"] > 0.0
    assert po.metrics(po.reset(state))["weight_decay"] == 0.0


@pytest.mark.parametrize("strength", [-0.1, float("nan")])
def test_impossible_strength(strength):
    with pytest.raises(ValueError, match="strength"):
        po.decay_outward(strength)
