"""Steps outlive alarms, and stay in proportion to the parameters."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parabolic_optax as po
from benchmarks import disturbed
from parabolic_optax._demo.optimizers import with_tail_mean


@pytest.mark.parametrize(
    "name", ["parabolic_adamw()", pytest.param("parabolic_sgd()", marks=pytest.mark.slow)]
)
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
@pytest.mark.parametrize("what", ["labels", "columns"])
@pytest.mark.parametrize("make", [po.parabolic_adamw, po.parabolic_sgd])
def test_new_labels_and_columns_make_it_forget(make, what):
    problem = disturbed.permuted(what)
    ends = [
        [np.median(each) for each in disturbed.over_seeds(problem, chosen, 2)[:2]]
        for chosen in (make, functools.partial(make, window=1e9))
    ]
    (loss, averaged), (kept, averaged_kept) = ends
    assert loss < 0.8 * kept
    assert averaged < 0.6 * averaged_kept


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parabolic_adamw()", "parabolic_sgd()"])
def test_a_transformer_that_has_solved_its_task_keeps_what_it_learned(name):
    _, read_out, _ = disturbed.over_seeds(disturbed.copies(), disturbed.OPTIMIZERS[name], 4)
    assert np.median(read_out) < 0.01
    assert np.sum(read_out > 0.5) <= 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name != "drift" else ())
        for name in disturbed.PROBLEMS
    ],
)
def test_problems_can_be_run(name):
    problem = disturbed.PROBLEMS[name]()._replace(steps=6)
    adam = functools.partial(with_tail_mean, optax.adam(0.01))
    values, read_out, sizes = disturbed.over_seeds(problem, adam, 2)
    assert np.isfinite(values).all()
    assert np.isfinite(read_out).all()
    assert not np.array_equal(values, read_out)
    assert sizes.shape == (2, 6)


def alarms(surprises, signals, window=None, stride=1.0, reset=()):
    """Logarithms of the step size of one parabola that is told these."""
    rule = po.step_multiplicative(initial_step=1.0, max_rate=0.05)
    params, one = jnp.ones((1, 2)), jnp.ones(1)
    state = rule.init(params)._replace(searching=jnp.array(False))
    logs = []
    for step, (surprise, signal) in enumerate(zip(surprises, signals, strict=True)):
        if step in reset:
            state = po.reset((state,))[0]._replace(searching=jnp.array(False))
        count = jnp.int32(2000 + step)
        age = count if window is None else jnp.minimum(count, window)
        norm = jnp.float32(1.0)
        sample = po.Sample(params, one, one, count, age, jnp.float32(stride), one[0] > 0, norm)
        offset, surprise = jnp.full(1, -np.sign(signal)), jnp.full(1, surprise)
        parabola = po.Parabola(sample, one, offset, jnp.full(1, float(signal)), surprise)
        _, state = rule.update(parabola, state, params)
        logs.append(float(state.log_step[0]))
    return np.array(logs)


LOUD = [50.0] * 100 + [0.0] * 100, [0.0] * 100 + [-1.0] * 100


@pytest.mark.parametrize("window", [None, 300])
def test_alarms_take_a_factor_of_e_and_give_it_back(window):
    """Within a window as well, where debts are forgotten no faster."""
    logs = alarms(*LOUD, window)
    assert -1.06 < logs[99] < -1.0
    # 1 at 0.05 a step; growth by 6/t would have made it 0.06.
    assert abs(logs[120]) < 0.01


def test_alarms_of_rare_samples_count_as_often_and_take_no_more():
    logs = alarms(*LOUD, stride=9.0)
    assert logs[0] == -1.0
    # What is forgotten meanwhile, 900 steps of 2,000, may be taken again.
    assert -1.0 - np.log(2900 / 2000) - 0.1 < logs[99] < -1.3
    assert logs[103] > logs[99] + 0.95


def test_nothing_is_owed_after_a_reset():
    assert alarms(*LOUD, reset={100})[120] < -0.9
