"""Problems that change: what is forgotten of a run, and a window beyond which it is no longer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parabolic_optax as po
from parabolic_optax import _age

SLOW = (po.parabolic_sgd, po.parabolic_adam, po.parabolic_muon)
OPTIMIZERS = [po.parabolic_adamw, *(pytest.param(make, marks=pytest.mark.slow) for make in SLOW)]


def follow(optimizer, steps, speed):
    """Squared distances of what is read out to a target that turns about zero, seen with noise."""
    ends = jax.random.normal(jax.random.key(0), (2, 4, 6))

    def step(carry, drawn):
        params, state = carry
        time, key = drawn
        target = jnp.cos(speed * time) * ends[0] + jnp.sin(speed * time) * ends[1]
        left = jnp.sum((po.eval_params(state, params) - target) ** 2)
        grads = params - target + 0.3 * jax.random.normal(key, params.shape)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), left

    drawn = jnp.arange(steps), jax.random.split(jax.random.key(1), steps)
    carry = ends[0], optimizer.init(ends[0])
    return jax.lax.scan(step, carry, drawn)


@pytest.mark.slow
@pytest.mark.parametrize("make", [po.parabolic_adamw, *SLOW])
def test_what_is_read_out_follows_a_drift(make):
    run = jax.jit(lambda window: follow(make(window=window), 4000, 0.003)[1])
    windowed, whole = (run(window)[2000:].mean() for window in (300.0, 1e30))
    assert windowed < 0.1 * whole


def jump(optimizer, every, steps=3000):
    """The same with a target that jumps now and then; and the number of steps forgotten."""
    ends = jax.random.normal(jax.random.key(0), (steps // every + 1, 4, 6))

    def step(carry, drawn):
        params, state = carry
        time, key = drawn
        target = ends[time // every]
        left = jnp.sum((po.eval_params(state, params) - target) ** 2)
        grads = params - target + 0.3 * jax.random.normal(key, params.shape)
        updates, state = optimizer.update(grads, state, params)
        moved = optax.apply_updates(params, updates), state
        return moved, (left, po.metrics(state)["forgotten"])

    drawn = jnp.arange(steps), jax.random.split(jax.random.key(1), steps)
    carry = -ends[0], optimizer.init(-ends[0])
    return jax.lax.scan(step, carry, drawn)[1]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_jumps_make_it_forget(make):
    left, forgotten = jax.jit(lambda: jump(make(), every=250))()
    whole, none = jax.jit(lambda: jump(make(window=1e9), every=250))()
    assert left[1500:].mean() < 0.6 * whole[1500:].mean()
    assert 0.5 * 3000 < forgotten[-1] <= 3000 - 300
    assert jnp.all(jnp.diff(forgotten) >= 0.0)
    assert not none.any()


@pytest.mark.slow
@pytest.mark.parametrize("make", [po.parabolic_adamw, *SLOW])
def test_little_is_forgotten_where_nothing_changes(make):
    left, forgotten = jax.jit(lambda: jump(make(), every=2000, steps=2000))()
    whole, _ = jax.jit(lambda: jump(make(window=1e9), every=2000, steps=2000))()
    assert forgotten[-1] < 50
    np.testing.assert_allclose(left[-200:].mean(), whole[-200:].mean(), rtol=0.1)


def test_without_averaged_parameters_nothing_is_forgotten():
    params, lag = jnp.ones((2, 3)), _age.Lag(jnp.array([-1.0, 1.0]), jnp.array(0.0))
    for tail_power, forgotten in ((9.0, True), (None, False)):
        tracker = po.track_displacement(optax.identity(), tail_power=tail_power)
        state = tracker.init(params)._replace(lag=lag, count=jnp.array(999))
        _, state = tracker.update(params, state, params)
        assert (state.lag.forgotten > 0.0) == forgotten


def test_a_restart_forgets_what_was_forgotten():
    tracker, *others = po.parabolic_adam().init(jnp.ones((2, 3)))
    lag = _age.Lag(jnp.array([-1.0, 2.0]), jnp.array(700.0))
    state = po.reset((tracker._replace(lag=lag, count=jnp.array(1000)), *others))
    jax.tree.map(np.testing.assert_array_equal, state[0].lag, _age.Lag.none())


@pytest.mark.parametrize(("count", "forgotten"), [(1000, 700), (2**31 - 1, 2**31 - 301)])
def test_the_age_is_what_is_left(count, forgotten):
    """At the end of a counter as well, where float32 does not know single steps."""
    params, lag = jnp.ones((2, 3)), _age.Lag(jnp.array([-1.0, 1.0]), jnp.float32(forgotten))
    tracker = po.track_displacement(optax.identity())
    state = tracker.init(params)._replace(lag=lag, count=jnp.array(count - 1, jnp.int32))
    sample, state = tracker.update(params, state, 1.5 * params)
    assert sample.count == count
    assert abs(sample.age - 300) < (1 if count == 1000 else 128)
    assert 0 < state.count - state.lag.forgotten.astype(jnp.int32) <= 301


def test_skipped_gradients_say_nothing():
    params, lag = jnp.ones((2, 3)), _age.Lag(jnp.array([-1.0, 1.0]), jnp.array(100.0))
    optimizer = po.parabolic_adam()
    tracker, *others = optimizer.init(params)
    state = (tracker._replace(lag=lag, count=jnp.array(999)), *others)
    for gradient in (jnp.nan, 0.0):
        _, after = optimizer.update(jnp.full((2, 3), gradient), state, params)
        jax.tree.map(np.testing.assert_array_equal, after[0].lag, lag)


def test_kernel():
    slopes, sizes = jnp.array([[1.0, 0.2, 0.0, -3.0, 0.0], [1.0, 2.0, 1.0, 3.0, 0.0]])
    forgotten = jax.vmap(_age.lag_kernel)(slopes, sizes)
    np.testing.assert_allclose(forgotten, [0.0, 0.2, 1.0, 9.0, 0.0], atol=1e-6)


def test_nothing_changes_before_its_end():
    def end(window):
        (params, (tracker, *others)), left = follow(po.parabolic_adamw(window=window), 200, 0.003)
        return params, tracker._replace(lag=None), others, left

    both = [jax.jit(lambda window=window: end(window))() for window in (None, 200)]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_all_samples_count_within_a_short_window():
    """Without, one step of nine moves the means late in a run; here every one, or one of three."""
    for window, stride in ((2000, 1), (3000, 3), (None, 9)):
        tracker = po.track_displacement(optax.identity(), window=window)
        params = jnp.ones(2)
        state = tracker.init(params)._replace(count=jnp.array(19_997, jnp.int32))

        def step(state, _, tracker=tracker, params=params):
            sample, state = tracker.update(params, state, params)
            return state, (sample.stride, sample.age)

        state, (strides, ages) = jax.lax.scan(step, state, None, 9 * 27)
        assert jnp.sum(strides > 0.0) == 9 * 27 / stride
        assert jnp.max(strides) == stride
        assert state.count == 19_997 + 9 * 27
        assert window is None or jnp.all(ages == window)


def test_what_is_about_the_start_of_a_run_goes_by_its_length():
    """A weight that always moves inward keeps as much within a window, and more late in a run."""
    decay = po.decay_inward(1e9)
    tracker = po.track_displacement(optax.identity(), radial=True, window=10)
    params = jnp.ones((2, 2))
    link = optax.chain(tracker, decay, po.estimate_uncentred(), po.step_multiplicative())
    state = link.init(params)
    for count in (10, 3000):
        seen = state[0]._replace(count=jnp.array(count - 1, jnp.int32))
        rule = state[3]._replace(searching=jnp.array(False))
        updates, _ = link.update(params, (seen, *state[1:3], rule), params)
        shrunk = 1.0 / (count + 29.0) / (1.0 + count / 300.0)
        np.testing.assert_allclose(-updates, 1e-6 + shrunk, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16, jnp.complex64])
def test_it_may_be_injected(dtype):
    start = jnp.array([[1.0, -2.0], [0.5, 3.0]], dtype)

    def mean(make, **window):
        tracker = make(optax.identity(), **window)

        def step(state, time):
            params = (start * (1 + time)).astype(dtype)
            return tracker.update(start, state, params)[1], None

        state, _ = jax.lax.scan(step, tracker.init(start), jnp.arange(60.0))
        return getattr(state, "inner_state", state).anchor

    injected = mean(optax.inject_hyperparams(po.track_displacement), window=8)
    given, none = mean(po.track_displacement, window=8), mean(po.track_displacement)
    np.testing.assert_allclose(injected, given, 1e-2)
    assert not np.allclose(given, none, 0.2)
