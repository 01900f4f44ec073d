"""Whole training runs on real data, from the benchmark's own code."""

import numpy as np
import pytest

from benchmarks import optimizers, workloads
from benchmarks.training import Trainer

SEEDS = range(1000, 1003)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parabolic_adam", "parabolic_sgd"])
def test_no_initial_step_diverges_or_loses_to_a_default_adam(name):
    trainer = Trainer(workloads.load("digits_mlp"))
    cosine = optimizers.find("adam_cosine")
    adam = [trainer.run(cosine, {**cosine.setting, "rate": 1e-3}, seed).last[-1] for seed in SEEDS]
    for initial_step in ("1e-8", "1e-6", "1e-4", "1e-2"):
        ours = optimizers.find(f"{name}@initial_step={initial_step}")
        losses = [trainer.run(ours, {}, seed).readout[-1] for seed in SEEDS]
        assert np.all(np.isfinite(losses)), initial_step
        assert np.median(losses) < np.median(adam), initial_step
