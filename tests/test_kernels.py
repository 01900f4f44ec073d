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
from parabolic_optax import _curvature, _directions, _layout, _saddle, _steps, _tree

# XLA flushes subnormal numbers to 0, NumPy does not.
finite = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
positive = st.floats(2.0**-10, 1e3, width=32)
few = settings(max_examples=50, deadline=None, derandomize=True)
SMALLEST = np.finfo(np.float32).tiny


def f32(*values):
    return [jnp.float32(value) for value in values]


def test_displacement_kernel_matches_its_twin():
    rng = np.random.default_rng(0)
    for _ in range(20):
        g, p, a = rng.normal(size=(3, 7))
        expected = reference.displacement(g, p, a)
        got = _directions.displacement_kernel(*f32(g @ (p - a), (p - a) @ (p - a)))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_displacement_kernel_is_zero_where_nothing_moved():
    slope, length = _directions.displacement_kernel(*f32(5.0, 0.0))
    assert slope == 0.0
    assert length == 0.0


@few
@given(finite, positive, positive)
def test_uncentred_kernel_matches_its_twin(slope, square, position):
    got = _curvature.uncentred_kernel(*f32(slope, square, position))
    expected = reference.uncentred(slope, square, position)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=SMALLEST)


def test_uncentred_kernel_is_zero_before_anything_moved():
    np.testing.assert_array_equal(_curvature.uncentred_kernel(*f32(0.0, 0.0, 0.0)), [0, 0, 0])


def test_whole_matches_its_twin():
    rng = np.random.default_rng(1)
    slopes, positions = rng.normal(size=5), rng.uniform(0.1, 2.0, size=5)
    s, x = _curvature._with_whole(jnp.asarray(slopes), jnp.asarray(positions))
    expected = reference.whole(slopes, positions)
    np.testing.assert_allclose((s[-1], x[-1]), expected, rtol=1e-5)
    np.testing.assert_allclose(s[:-1], slopes, rtol=1e-6)


@few
@given(finite, finite)
def test_flip_kernel_matches_its_twin(curvature, offset):
    got = _saddle.flip_kernel(*f32(curvature, offset))
    np.testing.assert_array_equal(got, np.float32(reference.flip(curvature, offset)))


def test_flip_kernel_turns_only_where_the_loss_bends_down():
    assert _saddle.flip_kernel(*f32(2.0, -3.0)) == -3.0
    assert _saddle.flip_kernel(*f32(-2.0, -3.0)) == 3.0


@few
@given(
    st.floats(-1, 1.5, width=32, allow_subnormal=False),
    st.floats(-50, 50, width=32, allow_subnormal=False),
    st.floats(0, 1, width=32, allow_subnormal=False),
    st.sampled_from([1.0, 3.0, 9.0]),
)
def test_multiplicative_kernel_matches_its_twin(drive, surprise, owed, stride):
    arguments = drive, surprise, owed, stride, 0.1, 0.03, 0.15, 0.2
    got = _steps.multiplicative_kernel(*f32(*arguments))
    np.testing.assert_allclose(got, reference.multiplicative(*arguments), rtol=1e-5, atol=1e-6)
    assert 0.0 <= got[1] <= 1.0


def test_brake_is_bounded_and_given_back():
    def after(drive, surprise, owed, brake=0.1):
        arguments = drive, surprise, owed, 1.0, 0.05, 0.05, 0.1, brake
        return _steps.multiplicative_kernel(*f32(*arguments))

    assert after(0.0, 1e30, 0.0) == pytest.approx((-0.5, 0.5))
    assert after(0.0, 1e30, 0.8) == pytest.approx((-0.2, 1.0))
    assert after(0.0, 1e30, 0.0, 0.0) == pytest.approx((0.0, 0.0))
    # Twice as fast as steps grow that owe nothing, and no further than they were.
    assert after(1.0, 0.0, 0.0) == pytest.approx((0.05, 0.0))
    assert after(1.0, 0.0, 0.5) == pytest.approx((0.1, 0.45))
    assert after(1.0, 0.0, 0.01) == pytest.approx((0.06, 0.0), abs=1e-7)
    assert after(-1.0, 0.0, 0.5) == pytest.approx((-0.05, 0.5))


@few
@given(
    st.floats(0.125, 1.0, width=32),
    st.floats(0.0, 1.0, width=32, allow_subnormal=False),
    st.sampled_from([-0.5, 0.0, 0.5]),
    st.sampled_from([-1.0, 0.5, 0.7, 1.0]),
    st.sampled_from([1.0, 99.0, 150.0, 3000.0]),
    st.sampled_from([1.0, 9.0]),
)
def test_open_kernel_matches_its_twin(share, used, drive, settled, count, stride):
    arguments = share, used, drive, settled, count, stride
    got = _steps.open_kernel(*f32(*arguments))
    np.testing.assert_allclose(got, reference.open_share(*arguments), rtol=1e-5)


@few
@given(
    st.floats(-20.0, 0.0, width=32, allow_subnormal=False),
    st.floats(-20.0, 0.0, width=32, allow_subnormal=False),
    st.floats(0.0, 10.0, width=32, allow_subnormal=False),
    st.floats(0.0, 10.0, width=32, allow_subnormal=False),
    st.floats(-20.0, 0.0, width=32, allow_subnormal=False),
)
def test_search_kernel_matches_its_twin(log_step, before, travelled, travelled_before, blind):
    arguments = log_step, before, travelled, travelled_before, blind
    got = _steps.search_kernel(*f32(*arguments))
    expected = reference.search(*arguments)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [0, 1, 2, 9])
def test_polynomial_weights_grow_like_a_power_of_the_sample_number(power):
    # The exact weight of sample i is the rising factorial i (i+1) ... (i+power-1), ~ i^power.
    n = 40
    values = np.random.default_rng(power).normal(size=n)
    shares = np.array([np.prod([i + k for k in range(power)]) for i in range(1, n + 1)], float)
    mean = 0.0
    for count, value in enumerate(values, 1):
        w = float(_tree.polynomial_weight(jnp.int32(count), power))
        mean += w * (value - mean)
    assert mean == pytest.approx(np.sum(shares * values) / np.sum(shares), rel=1e-4, abs=1e-5)
    assert mean == pytest.approx(reference.polynomial_average(values, power), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 9.0, 29.0])
def test_first_sample_has_weight_one(power):
    assert _tree.polynomial_weight(jnp.int32(1), power) == 1.0


def test_layout_inner_products_and_spread_agree_with_loops():
    rng = np.random.default_rng(2)
    a = {"k": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "v": jnp.ones(2)}
    layout = _layout.Layout.of(a, {"k": -1, "v": None})
    assert layout.size == 5
    inner = layout.inner(a, a)
    columns = [sum(float(a["k"][i, j]) ** 2 for i in range(3)) for j in range(4)]
    np.testing.assert_allclose(inner, [*columns, 2.0], rtol=1e-5)
    spread = layout.spread(inner, a)
    assert spread["k"].shape == (1, 4)
    np.testing.assert_allclose(spread["k"][0], columns, rtol=1e-5)
    assert [part.shape for part in layout.split(inner)] == [(4,), ()]


def test_inner_product_of_complex_numbers_is_real():
    z = [jnp.array([1.0 + 2.0j])]
    assert _layout.Layout.of(z, "tensor").inner(z, z)[0] == 5.0


@pytest.mark.parametrize(
    "shape", [(), (0,), (5,), (3, 0), (7, 9), (3, 70_000), (70_000, 3), (2, 40, 5), (3, 40_000)]
)
def test_inner_products_of_any_shape(shape):
    """Whether they are summed by rows, all pairs in one loop, or one after the other."""
    a, b, c = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3))
    got = _layout.Layout.of(a, "tensor").inners((a, b), (c, c), (b, c))
    for value, (x, y) in zip(got, ((a, b), (c, c), (b, c)), strict=True):
        expected = np.vdot(np.asarray(x, np.float64), np.asarray(y, np.float64))
        np.testing.assert_allclose(value, [expected], atol=1e-5 * max(1, a.size))


@pytest.mark.parametrize("shape", [(100, 60_000), (32_000, 500), (50_257, 256)])
def test_many_equal_terms_are_not_lost(shape):
    a = jnp.full(shape, 0.1)
    got = _layout.Layout.of(a, "tensor").inners((a, a), (a, -a))
    np.testing.assert_allclose(got[:, 0] / a.size, [0.01, -0.01], rtol=1e-4)


def test_inner_products_are_differentiable():
    def squares(a):
        with_itself, _ = _layout.Layout.of(a, "tensor").inners((a, a), (jnp.ones(3), jnp.ones(3)))
        return with_itself[0]

    np.testing.assert_allclose(jax.grad(squares)(jnp.arange(3.0)), [0.0, 2.0, 4.0])
    np.testing.assert_allclose(jax.jvp(squares, (jnp.arange(3.0),), (jnp.ones(3),))[1], 6.0)


def test_the_norm_of_a_sample_that_says_nothing_is_differentiable():
    tracker: Any = po.track_displacement(optax.identity())
    params, zero = jnp.ones(3), jnp.zeros(3)

    def norm(params):
        return tracker.update(zero, tracker.init(params), params)[0].norm

    assert jax.jvp(norm, (params,), (params,)) == (0.0, 0.0)
