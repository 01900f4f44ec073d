"""Weight decay of coordinates that the step brings nearer to zero, which forgets the start."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import parabolic_optax as po


def sample_of(update, count, **decays):
    shape = jnp.zeros(1)
    sample = po.Sample(
        update=jnp.asarray(update),
        slope=shape,
        position=shape,
        count=jnp.int32(count),
        age=jnp.int32(count),
        stride=jnp.float32(1.0),
        usable=jnp.array(True),
        norm=jnp.float32(1.0),
        **{name: jnp.array([decay]) for name, decay in decays.items()},
    )
    return po.Parabola(sample, *(shape for _ in range(4)))


def stepped(parabola, params, initial_step=0.1):
    rule: Any = po.step_multiplicative(initial_step=initial_step)
    updates, _ = rule.update(parabola, rule.init(params), params)
    return updates


@pytest.mark.parametrize("count", [1, 20, 300, 10_000])
@pytest.mark.parametrize("strength", [0.0, 0.01, 3.0])
def test_rule_matches_its_twin(count, strength):
    params = jnp.array([2.0, -4.0, 3.0, -1.0, 0.0, 5.0])
    uphill = [1.0, 1.0, -2.0, -0.5, 1.0, 0.0]
    parabola = sample_of([-u for u in uphill], count, inward_decay=strength)
    want = reference.inward_step(uphill, params.tolist(), 0.1, strength, count)
    np.testing.assert_allclose(stepped(parabola, params), want, rtol=1e-5, atol=1e-7)


def test_the_larger_of_both_decays_counts():
    params, uphill = jnp.array([2.0, -2.0]), jnp.array([1.0, 1.0])
    both = stepped(sample_of(-uphill, 1, decay=0.1, inward_decay=0.2), params)
    np.testing.assert_allclose(both, [-0.1 - 0.02 / (1 + 1 / 300) * 2.0, -0.1 + 0.01 * 2.0])
    stronger = stepped(sample_of(-uphill, 1, decay=0.2, inward_decay=0.1), params)
    alone = stepped(sample_of(-uphill, 1, decay=0.2), params)
    np.testing.assert_array_equal(stronger, alone)


def test_small_numbers_keep_their_sign():
    params = jnp.array([1e-30, -1e-30])
    got = stepped(sample_of([-1e-30, -1e-30], 1, inward_decay=0.3), params, 0.1)
    assert got[0] < got[1] < 0.0


def test_complex_weights_shrink_where_the_step_goes_inward():
    params = jnp.array([1.0 + 1.0j, 1.0 - 1.0j])
    got = stepped(sample_of(jnp.array([-1.0j, -1.0j]), 1, inward_decay=0.1), params)
    share = 0.01 / (1 + 1 / 300)
    np.testing.assert_allclose(got, [-0.1j - share * (1.0 + 1.0j), -0.1j], rtol=1e-5)


def test_a_weight_keeps_a_part_of_itself():
    """If every step of a run of any length went inward."""
    params = jnp.array([1.0])

    def shrinkage(count):
        return -stepped(sample_of([-1e-20], count, inward_decay=1e9), params)[0]

    counts = np.arange(1, 100_001)
    shares = np.asarray(jax.jit(jax.vmap(shrinkage))(counts), np.float64)
    kept = np.cumprod((1.0 - shares)[::-1])[::-1]
    np.testing.assert_allclose(kept[[0, 299, 2999]], [0.0756, 0.515, 0.91], atol=5e-3)


def test_matrices_alone_by_default():
    params = {"b": jnp.array([5.0]), "w": jnp.array([[2.0, -1.0]])}
    for mask, decays in (
        (None, [0.0, 0.5]),
        (True, [0.5, 0.5]),
        ({"b": True, "w": False}, [0.5, 0]),
    ):
        tracker = po.track_displacement(optax.identity(), radial=True)
        chain: Any = optax.chain(tracker, po.decay_inward(0.5, mask))
        sample, _ = chain.update(params, chain.init(params), params)
        np.testing.assert_allclose(sample.inward_decay, decays)


def test_of_all_minima_a_small_one_is_reached():
    """The sum of two weights is given, with noise; their difference is left over of the start."""

    def final(optimizer):
        def step(carry, key):
            params, state = carry
            error = jnp.sum(params) - 1.0 + 0.1 * jax.random.normal(key)
            updates, state = optimizer.update(jnp.full((1, 2), error), state, params)
            return (optax.apply_updates(params, updates), state), None

        # Where it were right already, forgetting would only lead uphill, and be cut back.
        params = jnp.array([[3.0, -1.0]])
        keys = jax.random.split(jax.random.key(0), 400)
        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return po.eval_params(state, params)

    base = optax.scale_by_adam()
    free = final(po.parabolic(base))
    held = final(po.parabolic(base, decay=po.decay_inward()))
    np.testing.assert_allclose(jnp.sum(free), 1.0, atol=0.1)
    np.testing.assert_allclose(jnp.sum(held), 1.0, atol=0.1)
    left, kept = (abs(params[0, 0] - params[0, 1]) / 4.0 for params in (held, free))
    assert kept > 0.99
    assert left < 0.85


def test_an_exact_minimum_is_moved_far_less_than_by_a_constant_decay():
    inputs = jax.random.normal(jax.random.key(0), (64, 3))
    target = jnp.array([[1.0], [-2.0], [0.5]])

    def final(decay, seed):
        optimizer = po.parabolic(optax.scale_by_adam(), decay=decay)

        def step(carry, key):
            params, state = carry
            rows = inputs[jax.random.randint(key, (8,), 0, 64)]
            grads = rows.T @ (rows @ (params - target)) / 8.0
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.array([[0.5], [0.5], [0.5]])
        keys = jax.random.split(jax.random.key(seed), 2000)
        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return jnp.linalg.norm(po.eval_params(state, params) - target)

    # Single runs scatter by a factor of three; the ratio is about 0.2.
    inward, constant = (
        jnp.exp(jnp.mean(jnp.log(jax.vmap(functools.partial(final, decay))(jnp.arange(1, 65)))))
        for decay in (po.decay_inward(), po.decay_outward(3.0, always=True))
    )
    assert inward < 1e-3
    assert inward < 0.5 * constant


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    optimizer = po.parabolic_adamw(initial_step=0.1)
    params = jnp.array([[2.0, -1.0]])
    _, state = optimizer.update(jnp.array([[1.0, 0.5]]), optimizer.init(params), params)
    updates, _ = optimizer.update(jnp.array([[bad, 0.5]]), state, params)
    np.testing.assert_array_equal(updates, jnp.zeros((1, 2)))


def test_nothing_is_forgotten_after_a_reset():
    params = {"w": jnp.array([[2.0, -1.0]])}
    grads = {"w": jnp.array([[1.0, 1.0]])}
    tracker = po.track_displacement(optax.identity(), radial=True)
    chain: Any = optax.chain(tracker, po.decay_inward())
    state = chain.init(params)
    for restarted, decay in ((state, 3.0), (po.reset(state), 0.0)):
        sample, _ = chain.update(grads, restarted, params)
        np.testing.assert_array_equal(sample.inward_decay, [decay])


@pytest.mark.parametrize("per", ["global", {"w": 0, "v": None}])
def test_other_granularities(per):
    params = {"w": jnp.full((3, 2, 2), 2.0), "v": jnp.full((2, 2), 2.0)}
    grads = {"w": jnp.ones((3, 2, 2)), "v": -jnp.ones((2, 2))}

    def updates(decay):
        optimizer = po.parabolic(optax.identity(), decay=decay, per=per, initial_step=1e-3)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    got, plain = updates(po.decay_inward(per=per)), updates(None)
    share = 3e-3 / (1.0 + 1.0 / 300.0)
    np.testing.assert_allclose(got["w"] - plain["w"], -share * params["w"], rtol=1e-4)
    np.testing.assert_array_equal(got["v"], plain["v"])


def test_it_acts_between_samples():
    """From step 2,048 on only one of three steps is a sample."""
    optimizer = po.parabolic(optax.identity(), decay=po.decay_inward(1e6))
    params = jnp.array([[1.0, -1.0]])

    def step(state, _):
        updates, state = optimizer.update(jnp.ones((1, 2)), state, params)
        return state, updates[0, 1] - updates[0, 0]

    _, extra = jax.lax.scan(step, optimizer.init(params), None, 2060)
    assert jnp.all(extra[2048:] > 0.5 / (2089.0 * 7.9))


def test_a_given_decay_comes_alone():
    params = {"w": jnp.array([[2.0, -1.0]])}
    grads = {"w": jnp.array([[1.0, 1.0]])}
    for make in (po.parabolic_adamw, po.parabolic_sgd, po.parabolic_muon):
        found, none = (make(weight_decay=d, initial_step=0.1) for d in (None, 0.0))
        with_decay, _ = found.update(grads, found.init(params), params)
        without, _ = none.update(grads, none.init(params), params)
        assert with_decay["w"][0, 0] < without["w"][0, 0]
        assert with_decay["w"][0, 1] == without["w"][0, 1]


def test_another_granularity_is_named():
    tracker = po.track_displacement(optax.identity(), radial=True)
    chain: Any = optax.chain(tracker, po.decay_inward(per="global"))
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="same per"):
        chain.update(params, chain.init(params), params)


@pytest.mark.parametrize("strength", [-0.1, float("nan")])
def test_impossible_strength(strength):
    with pytest.raises(ValueError, match="strength"):
        po.decay_inward(strength)
