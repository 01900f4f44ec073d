"""Steps do not run away once there is nothing left to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parabolic_optax as po
from benchmarks import memorized


@pytest.mark.parametrize(
    "name",
    [
        "parabolic_adam()",
        "parabolic_sgd()",
        pytest.param("parabolic_adamw()", marks=pytest.mark.slow),
        pytest.param("parabolic_adamw(weight_decay=0)", marks=pytest.mark.slow),
        pytest.param("parabolic_muon()", marks=pytest.mark.slow),
        pytest.param("parabolic_muon(weight_decay=0)", marks=pytest.mark.slow),
    ],
)
def test_what_is_memorized_stays_so(name):
    losses, sizes, accuracies = memorized.runs(memorized.OPTIMIZERS[name](), 1500, 3)
    assert losses[:, 150:].max() < 1.0
    assert sizes[:, 300:].max() < 0.25
    assert accuracies.min() > 0.95


@pytest.mark.parametrize(
    "name",
    [
        "parabolic_adamw()",
        pytest.param("parabolic_adamw(weight_decay=1e-4)", marks=pytest.mark.slow),
        pytest.param("parabolic_sgd()", marks=pytest.mark.slow),
        pytest.param("parabolic_muon()", marks=pytest.mark.slow),
    ],
)
def test_nothing_runs_away_where_nothing_is_left_of_the_loss(name):
    losses, sizes, accuracies = memorized.runs(memorized.OPTIMIZERS[name](), 4000, 1, "points")
    assert losses[:, 300:].max() < 0.1
    assert sizes.max() < 1.0
    assert accuracies.min() == 1.0


@pytest.mark.slow
def test_a_base_of_ones_own_is_limited_when_asked():
    """As `notebooks/README.md` puts :func:`parabolic_adamw` together."""

    def own(limit):
        decay = optax.chain(po.decay_outward(0.25), po.decay_inward(3.0))
        base = po.cautious(optax.scale_by_adam())
        optimizer = po.parabolic(base, max_rate=0.1, limit=limit, decay=decay)
        return memorized.runs(optimizer, 1000, 1, "points")[1]

    whole = memorized.runs(po.parabolic_adamw(), 1000, 1, "points")[1]
    np.testing.assert_allclose(own(1.0), whole, rtol=1e-3)
    assert own(None).max() > 2.0 * whole.max()


def test_a_step_of_full_length_is_limited_by_the_norm_of_the_parameters():
    def largest(limit, norm, params, steps=200):
        rule = po.step_multiplicative(initial_step=0.02, limit=limit)

        def step(state, count):
            one, yes = jnp.ones(1), jnp.array(True)
            sample = po.Sample(params, one, one, count, count, jnp.float32(1.0), yes, norm)
            # The loss falls away from the mean of the past, for certain.
            parabola = po.Parabola(sample, -one, one, -one, one)
            return rule.update(parabola, state, params)[1], None

        start = rule.init(params)._replace(searching=jnp.array(False))
        state, _ = jax.lax.scan(step, start, jnp.arange(1, steps, dtype=jnp.int32))
        return float(po.metrics(state)["step_size"])

    params = jnp.array([[0.3, -0.4, 0.0, 0.0]])
    near, far = jnp.float32(0.1), jnp.float32(5.0)
    assert largest(None, near, params) > 10.0
    # At least what they start with, 0.5, over the root of four entries.
    np.testing.assert_allclose(largest(0.2, near, params), 0.2 * 0.5 / 2.0, rtol=1e-5)
    np.testing.assert_allclose(largest(0.2, far, params), 0.2 * 5.0 / 2.0, rtol=1e-5)
    assert largest(0.2, near, params[0]) > 10.0
    # Less the longer the run, and no less than a tenth.
    for steps, share in ((100, 1.0), (201, 0.5), (401, 0.25), (2000, 0.1)):
        np.testing.assert_allclose(largest(1.0, far, params, steps), share * 2.5, rtol=1e-2)
    np.testing.assert_allclose(largest(0.05, far, params, 2000), 0.05 * 2.5, rtol=1e-5)
