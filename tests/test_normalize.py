"""Gradients in units of their tensor's own size, for a base that does not scale them itself."""

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
from parabolic_optax import _directions

positive = st.floats(2.0**-20, 1e6, width=32)
few = settings(max_examples=50, deadline=None, derandomize=True)


@few
@given(positive, st.just(0.0) | positive, st.floats(2.0**-10, 1.0, width=32))
def test_kernel_matches_its_twin(square, mean, weight):
    numbers = (square, mean, weight)
    got = _directions.gradient_size_kernel(*(jnp.float32(number) for number in numbers))
    np.testing.assert_allclose(got, reference.gradient_size(*numbers), rtol=1e-5)


def run(sequence, **arguments) -> Any:
    """What a base sees of one gradient after the other, and the mean squares after each."""
    tracker: Any = po.track_displacement(optax.identity(), normalize=True, **arguments)
    update, params = jax.jit(tracker.update), jax.tree.map(jnp.ones_like, sequence[0])
    state, seen, means = tracker.init(params), [], []
    for grads in sequence:
        sample, state = update(grads, state, params)
        seen.append(jax.tree.map(jnp.negative, sample.update))
        means.append(state.gradient_square)
    return seen, means


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.abs(x) ** 2)))


def test_every_tensor_has_the_same_size_at_once():
    grads = {"a": jnp.array([3e-7, -4e-7]), "b": jnp.array([[5e9], [2e9]]), "c": jnp.array(7.0)}
    [seen], _ = run([grads])
    for name, before in grads.items():
        assert rms(seen[name]) == pytest.approx(1.0)
        np.testing.assert_allclose(seen[name] / before, 1.0 / rms(before), rtol=1e-5)


def test_a_gradient_that_is_only_rounding_stays_small():
    grads = {"bias": jnp.array([3e-10, -4e-10]), "kernel": jnp.array([[5.0], [2.0]])}
    [seen], _ = run([grads])
    np.testing.assert_allclose(seen["bias"], [0.03, -0.04], rtol=1e-5)


def test_gradients_that_shrink_stay_shorter_for_a_memory():
    seen, _ = run([jnp.full(4, x) for x in [1.0] * 100 + [1e-3] * 10_000])
    sizes = [rms(x) for x in seen]
    np.testing.assert_allclose(sizes[:100], 1.0, rtol=1e-5)
    # 1 / sqrt(100 / 110) of a thousandth after ten steps, and all of it in the end.
    assert sizes[109] == pytest.approx(1.049e-3, rel=1e-3)
    assert sizes[-1] > 0.1


def test_an_outlier_is_no_long_step_and_moves_the_scale_little():
    seen, means = run([jnp.full(4, x) for x in [1.0] * 999 + [1e6, 1.0]])
    assert rms(seen[999]) == pytest.approx(1.0, rel=1e-5)
    assert float(means[999][0]) == pytest.approx(1.099, rel=1e-3)
    assert rms(seen[1000]) == pytest.approx(1.099**-0.5, rel=1e-3)


def test_gradients_that_grow_for_good_are_met():
    seen, means = run([jnp.full(4, x) for x in [1.0] * 999 + [1e3] * 3000 + [1.0]])
    assert max(rms(x) for x in seen) == pytest.approx(1.0, rel=1e-5)
    roots = [float(mean[0]) ** 0.5 for mean in means]
    assert roots[999 + 110] > 100.0
    assert 900.0 < roots[-1] < 1000.0
    assert rms(seen[-1]) < 1.2e-3


def test_a_tensor_whose_gradient_comes_late_takes_part():
    """As the first matrix of a low-rank adapter does, which starts with a gradient of zero."""
    late = [{"w": jnp.zeros(3), "v": jnp.ones(2)}] * 5 + [
        {"w": jnp.full(3, -1e-6), "v": jnp.ones(2)}
    ]
    seen, _ = run(late)
    assert not jnp.any(seen[4]["w"])
    np.testing.assert_allclose(seen[5]["w"], -1.0, rtol=1e-5)


def test_a_gradient_that_is_not_finite_leaves_the_scale_alone():
    for broken in (jnp.nan, jnp.inf, 1e30):
        ones = jnp.ones(4)
        seen, means = run([ones, ones.at[1].set(broken), ones])
        np.testing.assert_array_equal(means, [[1.0]] * 3)
        np.testing.assert_array_equal(seen, [ones, jnp.zeros(4), ones])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
def test_types_are_at_least_float32(dtype):
    """The inverse of the size is larger than the largest number of half precision."""
    [seen], _ = run([jnp.array([3e-6, -4e-6], dtype)])
    assert seen.dtype == jnp.promote_types(dtype, jnp.float32)
    np.testing.assert_allclose(rms(seen.astype(jnp.complex64)), 1.0, rtol=0.02)


def test_slices_are_like_separate_tensors():
    stack = jnp.array([[1.0, -2.0], [30.0, 40.0], [0.0, 0.0]])
    seen, _ = run([stack, 3.0 * stack], per=lambda path, leaf: 0)
    for row in range(2):
        apart, _ = run([stack[row], 3.0 * stack[row]])
        np.testing.assert_allclose([each[row] for each in seen], apart, rtol=1e-6)
    assert not jnp.any(seen[1][2])


def test_one_scale_for_all_keeps_the_direction():
    grads = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([[12.0]])}
    [seen], _ = run([grads], per="global")
    size = np.sqrt((9.0 + 16.0 + 144.0) / 3.0)
    for name, before in grads.items():
        np.testing.assert_allclose(seen[name], before / size, rtol=1e-6)


@pytest.mark.parametrize("per", ["tensor", "global", {"a": 0, "b": None}])
def test_leaves_without_entries(per):
    [seen], [means] = run([{"a": jnp.zeros((0, 3)), "b": jnp.full(2, 4.0)}], per=per)
    np.testing.assert_array_equal(seen["b"], jnp.ones(2))
    assert jnp.all(jnp.isfinite(means))


def test_reset_forgets_the_size():
    optimizer = po.parabolic_sgd()
    params = {"w": jnp.ones(3)}
    state = optimizer.init(params)
    for size in (1.0, 1.0, 1e-3):
        if size < 1.0:
            state = po.reset(state)
        _, state = optimizer.update({"w": jnp.full(3, size)}, state, params)
    np.testing.assert_allclose(state[0].gradient_square, 1e-6, rtol=1e-5)
