"""Steps do not run away once there is nothing left to learn."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import step_sizes

import parabolic_optax as po
from benchmarks import memorized


@pytest.mark.parametrize(
    "name",
    [
        "parabolic_sgd()",
        pytest.param("parabolic_adam()", marks=pytest.mark.slow),
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
    def largest(limit, norm, params, steps=99):
        rule = po.step_multiplicative(limit=limit)
        # The loss falls away from the mean of the past, for certain.
        return float(step_sizes(rule, params, norm, jnp.full(steps, -1.0), settled=0.0)[-1])

    params = jnp.array([[0.3, -0.4, 0.0, 0.0]])
    near, far = 0.1, 5.0
    assert largest(None, near, params) > 1.0
    # At least what they start with, 0.5, over the root of four entries.
    np.testing.assert_allclose(largest(0.2, near, params), 0.2 * 0.5 / 2.0, rtol=1e-5)
    np.testing.assert_allclose(largest(0.2, far, params), 0.2 * 5.0 / 2.0, rtol=1e-5)
    assert largest(0.2, near, params[0]) > 1.0
    # Less the longer the run, and no less than a tenth.
    for steps, share in ((99, 1.0), (200, 0.5), (400, 0.25), (2000, 0.1)):
        np.testing.assert_allclose(largest(0.2, far, params, steps), share * 0.5, rtol=1e-2)


def test_steps_that_were_too_long_once_stay_open():
    params, rule = jnp.array([[3.0, -4.0, 0.0, 0.0]]), po.step_multiplicative(limit=1.0)
    most, counts = 5.0 / 2.0, jnp.arange(1, 4001)

    def sizes(signals, settled=1.0):
        return step_sizes(rule, params, 5.0, signals, settled, first=0.4 * most) / most

    never = jnp.full(4000, -1.0)
    np.testing.assert_allclose(sizes(never)[-1], 0.1, rtol=1e-3)
    # Found too long at 0.3 of the limit or so, for a while: they may grow by half from there, and
    # what is open then falls like 1/t again.
    seen = jnp.where((counts > 300) & (counts <= 320), 1.0, -1.0)
    before = sizes(seen)[299]
    assert 0.3 < before < 0.34
    after = sizes(seen)[320:]
    assert 1.3 * before < after.max() < 1.5 * before
    np.testing.assert_allclose(after[500], after.max() * 320 / 820, rtol=0.1)
    # Nowhere near a minimum, that a step was too long says nothing; what was open is closed.
    np.testing.assert_allclose(sizes(seen, 0.5)[600], 100 / 600, rtol=0.01)
    left = sizes(seen, jnp.where(counts <= 400, 1.0, 0.5))
    assert left[399] > 1.2 * 100 / 400
    np.testing.assert_allclose(left[400], 100 / 401, rtol=0.01)
