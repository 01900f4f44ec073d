"""Whole training runs on real data, from the benchmark's own code."""

import numpy as np
import pytest

import parabolic_optax as po
from benchmarks.digits_mnist import INITIAL_STEPS, adam_cosine, final_losses, ours


@pytest.mark.slow
@pytest.mark.parametrize("make", [po.parabolic_adam, po.parabolic_sgd])
def test_no_initial_step_diverges_or_loses_to_a_default_adam(make):
    _, averaged = final_losses("digits", ours(make), INITIAL_STEPS, seeds=3)
    adam, _ = final_losses("digits", adam_cosine, (1e-3,), seeds=3)
    assert np.all(np.isfinite(averaged))
    assert np.all(np.median(averaged, axis=1) < np.median(adam))
