"""Gradients in units of their tensor's own size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import parabolic_optax as po
from parabolic_optax import _block_rms

positive = st.floats(2.0**-20, 1e6, width=32)
few = settings(max_examples=50, deadline=None, derandomize=True)


@few
@given(positive, st.just(0.0) | positive, st.floats(2.0**-10, 1.0, width=32))
def test_kernel_matches_its_twin(square, mean_square, weight):
    numbers = (square, mean_square, weight)
    got = _block_rms.block_rms_kernel(*(jnp.float32(number) for number in numbers))
    np.testing.assert_allclose(got, reference.block_rms(*numbers), rtol=1e-5)


def test_kernel_is_zero_where_nothing_was_seen():
    got = _block_rms.block_rms_kernel(*(jnp.float32(x) for x in (0.0, 0.0, 1.0)))
    np.testing.assert_array_equal(got, [0.0, 0.0])


def scaled(sequence, **arguments):
    """What becomes of one gradient after the other."""
    link = po.scale_by_block_rms(**arguments)
    update, state, results = jax.jit(link.update), link.init(sequence[0]), []
    for grads in sequence:
        result, state = update(grads, state)
        results.append(result)
    return results


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.abs(x) ** 2)))


def test_every_tensor_has_the_same_size_at_once():
    grads = {"a": jnp.array([3e-9, -4e-9]), "b": jnp.array([[5e9], [2e9]]), "c": jnp.array(7.0)}
    [result] = scaled([grads])
    for name, before in grads.items():
        assert rms(result[name]) == pytest.approx(1.0)
        np.testing.assert_allclose(result[name] / before, 1.0 / rms(before), rtol=1e-5)


def test_gradients_that_shrink_stay_shorter_for_a_memory():
    sizes = [rms(x) for x in scaled([jnp.full(4, x) for x in [1.0] * 100 + [1e-3] * 10])]
    np.testing.assert_allclose(sizes[:100], 1.0, rtol=1e-5)
    # The mean has fallen by a tenth at most.
    assert all(1e-3 <= size < 1.06e-3 for size in sizes[100:])


def test_an_outlier_is_no_long_step_and_moves_the_scale_little():
    sizes = [rms(x) for x in scaled([jnp.full(4, x) for x in [1.0] * 999 + [1e6, 1.0]])]
    assert sizes[999] == pytest.approx(1.0, rel=1e-5)
    assert 0.95 < sizes[1000] < 0.96


def test_gradients_that_grow_for_good_are_met():
    ones, thousands = jnp.ones(4), jnp.full(4, 1e3)
    sizes = [rms(x) for x in scaled([ones] * 999 + [thousands] * 3000)]
    assert sizes[999] == pytest.approx(1.0, rel=1e-5)
    assert all(size <= 1.0 + 1e-5 for size in sizes)
    assert sizes[-1] == pytest.approx(1.0, abs=0.05)


def test_a_tensor_whose_gradient_comes_late_takes_part():
    """As the first matrix of a low-rank adapter does, which starts with a gradient of zero."""
    sequence = [{"w": jnp.zeros(3), "v": jnp.ones(2)}] * 5 + [{"w": jnp.full(3, -1e-6)}]
    sequence[-1]["v"] = jnp.ones(2)
    results = scaled(sequence)
    assert not jnp.any(results[4]["w"])
    np.testing.assert_allclose(results[5]["w"], -1.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
def test_types_are_kept(dtype):
    """Also where the factor is larger than the largest number of half precision."""
    [result] = scaled([jnp.array([3e-7, -4e-7], dtype)])
    assert result.dtype == dtype
    np.testing.assert_allclose(rms(result.astype(jnp.complex64)), 1.0, rtol=0.02)


def test_slices_are_like_separate_tensors():
    stack = jnp.array([[1.0, -2.0], [30.0, 40.0], [0.0, 0.0]])
    results = scaled([stack, 3.0 * stack], per=lambda path, leaf: 0)
    for row in range(3):
        apart = scaled([stack[row], 3.0 * stack[row]])
        np.testing.assert_allclose([result[row] for result in results], apart, rtol=1e-6)


def test_one_scale_for_all_keeps_the_direction():
    grads = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([[12.0]])}
    [result] = scaled([grads], per="global")
    size = np.sqrt((9.0 + 16.0 + 144.0) / 3.0)
    for name, before in grads.items():
        np.testing.assert_allclose(result[name], before / size, rtol=1e-6)


@pytest.mark.parametrize("per", ["tensor", "global", {"a": 0}])
def test_leaves_without_entries(per):
    [result] = scaled([{"a": jnp.zeros((0, 3))}], per=per)
    assert result["a"].shape == (0, 3)
    assert scaled([{}], per="global") == [{}]


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_impossible_decay(decay):
    with pytest.raises(ValueError, match="decay"):
        po.scale_by_block_rms(decay)


def test_impossible_per():
    with pytest.raises(ValueError, match="not known"):
        po.scale_by_block_rms(per="layer").init(jnp.ones(3))
