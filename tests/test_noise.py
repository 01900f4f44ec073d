"""Pure gradient noise has no curvature; what an estimator reads there is a phantom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import parabolic_optax
from parabolic_optax import _tree, track_displacement

STEPS, SEEDS, DIM = 60, 1000, 4


@functools.cache
def walks(tail_power=None):
    """Slopes, positions [seed, step] of the tracker, gradients and parameters [seed, step, dim]."""
    tracker = track_displacement(optax.identity(), tail_power=tail_power)

    def run(key):
        params = jnp.ones(DIM)

        def step(carry, key):
            params, state = carry
            grad = jax.random.normal(key, (DIM,))  # the true gradient is 0 everywhere
            sample, state = tracker.update(grad, state, params)
            out = (sample.slope[0], sample.position[0], grad, params)
            return (params + 0.01 * sample.update, state), out

        carry = (params, tracker.init(params))
        return jax.lax.scan(step, carry, jax.random.split(key, STEPS))[1]

    out = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(3), SEEDS))
    return [np.asarray(x, np.float64) for x in out]


def standard_errors(values):
    return np.mean(values) / (np.std(values) / np.sqrt(len(values)))


@pytest.mark.parametrize("tail_power", [None, 9.0])
@pytest.mark.parametrize("power", [0.0, 29.0])
def test_mean_slope_is_unbiased(power, tail_power):
    slopes, _, _, _ = walks(tail_power)
    means = np.zeros(SEEDS)
    for count in range(1, STEPS + 1):
        w = min(0.5, float(_tree.polynomial_weight(jnp.int32(count), power)))
        means += w * (slopes[:, count - 1] - means)
    assert abs(standard_errors(means)) < 4.0


def test_slopes_are_unit_noise():
    slopes, _, _, _ = walks()
    assert np.mean(slopes[:, 1:] ** 2) == pytest.approx(1.0, abs=0.02)


def test_uncentred_curvature_is_unbiased_and_centred_is_not():
    slopes, positions, grads, params = walks()
    # Positions depend on the past noise only, hence E[s] / E[x] with the mean over seeds.
    uncentred = np.mean(slopes[:, 1:], axis=1) / np.mean(positions[:, 1:])
    centred = [
        reference.centred_curvature(g[:, 0], p[:, 0]) for g, p in zip(grads, params, strict=True)
    ]
    assert abs(standard_errors(uncentred)) < 4.0
    assert standard_errors(np.array(centred)) > 20.0
    assert np.mean(centred) > 4.0 * abs(np.mean(uncentred))


@pytest.mark.parametrize("name", ["parabolic_adam", "parabolic_sgd"])
def test_outliers_do_not_bring_a_long_run_to_a_halt(name):
    """Heavy-tailed noise raises alarms for ever; the answers to them must not add up."""
    optimizer = getattr(parabolic_optax, name)()

    def step(carry, key):
        params, state = carry
        grads = 0.3 * (params - 3.0) + jax.random.t(key, 1.5, (8,))
        updates, state = optimizer.update(grads, state, params)
        return (params + updates, state), parabolic_optax.metrics(state)["step_size"]

    carry = (jnp.zeros(8), optimizer.init(jnp.zeros(8)))
    _, step_sizes = jax.lax.scan(step, carry, jax.random.split(jax.random.key(0), 10_000))
    assert step_sizes[-1] > 1e-3 * step_sizes[300]
