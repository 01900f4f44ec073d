"""Directions without the coordinates whose extremum lies behind."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import parabolic_optax as po

numbers = hnp.arrays(np.float32, 5, elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False))
few = settings(max_examples=50, deadline=None, derandomize=True)


def given_direction(direction):
    """A base that returns the same direction for every gradient."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda grads, state, params=None: (direction, state)
    )


@few
@given(numbers, numbers)
def test_matches_its_twin(direction, grads):
    link = po.cautious(given_direction(jnp.asarray(direction)))
    got, _ = link.update(jnp.asarray(grads), link.init(jnp.asarray(grads)))
    np.testing.assert_array_equal(got, reference.agreeing(direction, grads))


@few
@given(numbers, numbers)
def test_never_points_against_the_gradient(direction, grads):
    link = po.cautious(given_direction(jnp.asarray(direction)))
    got, _ = link.update(jnp.asarray(grads), link.init(jnp.asarray(grads)))
    assert np.all(np.asarray(got) * np.sign(grads) >= 0.0)


def test_does_not_depend_on_the_scale_of_the_gradient():
    """Although the product of gradient and direction is below the smallest float32."""
    direction, grads = jnp.array([1.0, -1.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 0.0, -3.0])
    expected = jnp.array([1.0, 0.0, 1.0, 0.0])
    for scale in (1.0, 2.0**-100):
        link = po.cautious(given_direction(scale * direction))
        got, _ = link.update(scale * grads, link.init(grads))
        np.testing.assert_array_equal(got, scale * expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
def test_types_of_the_direction_are_kept(dtype):
    link = po.cautious(optax.trace(0.9))
    grads = jnp.array([1.0, -2.0], dtype)
    got, _ = link.update(grads, link.init(grads))
    assert got.dtype == dtype


def test_complex_coordinates_turn_with_the_gradient():
    link = po.cautious(given_direction(jnp.array([1.0 + 1.0j, 1.0 + 1.0j])))
    grads = jnp.array([2.0j - 1.0, -3.0j])
    got, _ = link.update(grads, link.init(grads))
    np.testing.assert_array_equal(got, jnp.array([1.0 + 1.0j, 0.0]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_what_is_not_finite_stays_visible_and_nothing_else_is_made_so(dtype):
    def directed(direction):
        link = po.cautious(given_direction(jnp.asarray(direction, dtype)))
        return link.update(jnp.array([1.0, 1.0, -1.0, 0.0], dtype), optax.EmptyState())[0]

    got = directed([jnp.nan, jnp.inf, -jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(np.isnan(got) | np.isinf(got), True)
    with jax.debug_nans(True), jax.debug_infs(True):
        np.testing.assert_array_equal(directed([1.0, -1.0, 1.0, 2.0]), [1.0, 0.0, 0.0, 2.0])


def test_the_base_keeps_its_statistics_of_all_coordinates():
    plain, careful = optax.scale_by_adam(), po.cautious(optax.scale_by_adam())
    params = jnp.array([2.0, -1.0])
    states = [plain.init(params), careful.init(params)]
    for grads in (jnp.array([4.0, 1.0]), jnp.array([-1.0, 3.0]), jnp.array([0.5, -2.0])):
        states = [
            link.update(grads, s, params)[1]
            for link, s in zip((plain, careful), states, strict=True)
        ]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_reaches_an_asymmetric_minimum_off_the_origin():
    minimum = jnp.array([2.0, -3.0])
    optimizer = po.parabolic(po.cautious(optax.scale_by_adam()))

    def step(carry, _):
        params, state = carry
        grads = jnp.array([1.0, 30.0]) * (params - minimum)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.array([0.5, 1.0])
    (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 500)
    np.testing.assert_allclose(po.eval_params(state, params), minimum, atol=0.02)


@pytest.mark.parametrize("base", [None, 0.1, optax.scale_by_adam])
def test_a_base_that_is_no_transformation(base):
    with pytest.raises(TypeError, match="must be an optax gradient transformation"):
        po.cautious(base)
