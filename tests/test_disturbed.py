"""Steps outlive alarms, and stay in proportion to the parameters."""

import jax
import numpy as np
import pytest

from benchmarks import disturbed


@pytest.mark.parametrize("name", ["parabolic_adamw()", "parabolic_sgd()"])
def test_rare_rows_do_not_take_the_steps_to_zero(name):
    """One row of a thousand raises an alarm in one step of 16, for ever."""
    problem = disturbed.rare(weighted=False)
    _, _, sizes = disturbed.over_seeds(problem, disturbed.OPTIMIZERS[name], 1)
    assert sizes[0, -1] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parabolic_adamw()", "parabolic_sgd()", "parabolic_adam()"])
def test_new_labels_do_not_take_the_steps_to_zero(name):
    problem = disturbed.permuted("labels")
    _, _, sizes = disturbed.over_seeds(problem, disturbed.OPTIMIZERS[name], 1)
    assert sizes[0, -1] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parabolic_adamw()", "parabolic_sgd()"])
def test_a_transformer_that_has_solved_its_task_keeps_what_it_learned(name):
    _, read_out, _ = disturbed.over_seeds(disturbed.copies(), disturbed.OPTIMIZERS[name], 4)
    assert np.median(read_out) < 0.01
    assert np.sum(read_out > 0.5) <= 1


@pytest.mark.parametrize("name", disturbed.PROBLEMS)
def test_problems_can_be_run(name):
    problem = disturbed.PROBLEMS[name]()._replace(steps=6)
    params = problem.init(jax.random.key(0))
    values, grads = jax.value_and_grad(problem.loss)(params, jax.random.key(1), 3)
    assert np.isfinite(values)
    assert any(np.any(leaf != 0.0) for leaf in jax.tree.leaves(grads))
    if problem.held_out:
        assert np.isfinite(problem.held_out(params))
