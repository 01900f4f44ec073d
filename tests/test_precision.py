"""Parameters narrower than float32: what is kept is wide, and updates have their types."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import enable_x64

import parabolic_optax as po

MAKERS = {
    "parabolic_adam": po.parabolic_adam,
    "parabolic_adamw": po.parabolic_adamw,
    "parabolic_sgd": po.parabolic_sgd,
    "parabolic_muon": po.parabolic_muon,
    "ogr": po.ogr,
    "identity": lambda: po.parabolic(optax.identity()),
}
OGR = {
    "ogr": partial(po.ogr, 2),
    "exact": partial(po.ogr, 2, None),
    "ogr_momentum": po.ogr_momentum,
    "ogr_published": partial(po.ogr_published, 2),
    "ogr_diagonal": po.ogr_diagonal,
}


def constants_of(name):
    constants = {"initial_radius": 0.5, "damping": 0.5}
    if name not in ("ogr", "exact"):
        constants = {"learning_rate": 0.05, "share": 0.4, "reach": 2.0, "decay": 0.8}
    return constants | ({"rate": 0.2} if name == "ogr_published" else {})


def followed(optimizer, params, steps=6):
    """Parameters after steps on a quadratic, by a loop that refuses a state that changes types."""

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda p: (3.0 * (p - 2.0)).astype(p.dtype), params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, steps)[0][0]


@pytest.mark.parametrize(
    "gradient", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [
        n if n in ("parabolic_adamw", "ogr_diagonal") else pytest.param(n, marks=pytest.mark.slow)
        for n in MAKERS
    ],
)
def test_updates_have_the_parameters_types_and_the_state_keeps_its_own(name, gradient):
    optimizer = MAKERS[name]()
    types = (jnp.bfloat16, jnp.float16, jnp.float32)
    params = [jnp.ones((2, 3), dtype) for dtype in types]

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda p: (p - 3.0).astype(gradient), params)
        updates, state = optimizer.update(grads, state, params)
        # The loop itself refuses a state that changes its types.
        return (jax.tree.map(jnp.add, params, updates), state), updates

    (after, _), updates = jax.lax.scan(step, (params, optimizer.init(params)), None, 3)
    for tree in (after, updates):
        assert [leaf.dtype for leaf in tree] == [jnp.dtype(dtype) for dtype in types]
        assert np.all(np.isfinite(np.asarray([leaf.astype(jnp.float32) for leaf in tree])))


@pytest.mark.parametrize("rate", [0.5, np.float32(0.5), np.float64(0.5), jnp.float32(0.5)])
def test_a_multiplier_of_any_type_leaves_the_updates_theirs(rate):
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3)}
    for optimizer in (
        po.parabolic_adam(rate),
        po.parabolic_adam(lambda count: rate),
        optax.inject_hyperparams(po.parabolic_adam)(rate),
    ):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, params)


@pytest.mark.parametrize(
    "name", [n if n == "ogr_diagonal" else pytest.param(n, marks=pytest.mark.slow) for n in OGR]
)
def test_constants_that_are_injected_for_complex_parameters_are_real(name):
    params = {"real": jnp.array([1.0, -3.0]), "complex": jnp.array([0.5 + 1.0j, -2.0j])}
    makers = OGR[name], optax.inject_hyperparams(OGR[name])
    plain, ours = (followed(make(**constants_of(name)), params) for make in makers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, ours)


@pytest.mark.parametrize("make", [po.parabolic_adam, po.parabolic_adamw, po.parabolic_sgd])
def test_constants_that_are_injected_for_complex_parameters_leave_means_their_types(make):
    params = {"real": jnp.array([1.0, -3.0]), "complex": jnp.array([0.5 + 1.0j, -2.0j])}
    optimizer = optax.inject_hyperparams(make)()
    state = optimizer.init(params)
    _, after = optimizer.update(params, state, params)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)


def test_constants_that_are_injected_in_half_precision_are_refused():
    """0.999 is 1 in bfloat16, and Adam would divide zero by zero."""
    params = jnp.ones(3, jnp.bfloat16)
    optimizer = optax.inject_hyperparams(po.parabolic_adamw)()
    with pytest.raises(ValueError, match=r"hyperparam_dtype=jnp\.float32"):
        optimizer.update(params, optimizer.init(params), params)
    optimizer = optax.inject_hyperparams(po.parabolic_adamw, hyperparam_dtype=jnp.float32)()
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert np.all(np.asarray(updates.astype(jnp.float32)) < 0.0)


def test_adams_statistics_of_narrow_parameters_do_not_stand_still():
    """In bfloat16 a mean that keeps 0.999 of itself rounds to itself."""
    optimizer = po.parabolic_adam()
    params = jnp.ones(4, jnp.bfloat16)

    def step(state, size):
        _, state = optimizer.update(jnp.full(4, size, jnp.bfloat16), state, params)
        return state, state[0].base.nu[0]

    sizes = jnp.concatenate([jnp.ones(50), jnp.full(250, 1e-3)])
    _, squares = jax.lax.scan(step, optimizer.init(params), sizes)
    np.testing.assert_allclose(squares[-1], squares[49] * 0.999**250, 1e-3)


def test_gradients_whose_squares_vanish_in_half_precision():
    optimizer = po.parabolic_adam(initial_step=0.25)
    params = jnp.ones(3, jnp.float16)
    grads = jnp.array([1.0, 0.0, 1e-4], jnp.float16)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-0.25, 0.0, -0.25], 1e-2)


def test_constants_of_64_bits_do_not_widen_the_state():
    with enable_x64(True):
        params = jnp.ones(3, jnp.float32)
        optimizer = po.parabolic(optax.scale_by_adam(), np.float64(0.5), pooling=np.float64(0.75))

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(2.0 * params, state, params)
            return (params + updates, state), None

        (after, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 3)
        assert after.dtype == jnp.float32


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "ogr" else ()) for n in OGR]
)
def test_constants_of_64_bits_do_not_widen_the_state_of_the_ogr_forms(name):
    constants = {key: np.float64(value) for key, value in constants_of(name).items()}
    with enable_x64(True):
        assert followed(OGR[name](**constants), jnp.ones(3, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize("name", ["parabolic_adam", pytest.param("ogr", marks=pytest.mark.slow)])
def test_arrays_and_numbers_that_are_not_jaxs_are_taken_as_they_are(name):
    # NumPy's are of float64, which is no type of JAX here; a warning would be an error.
    optimizer = MAKERS[name]()
    params = {"w": np.full((3, 2), 2.0), "b": np.full(3, -1.0)}
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, po.eval_params(state, params)))} == {
        jnp.dtype(jnp.float32)
    }
    params = {"s": jnp.float32(1.5)}
    updates, _ = optimizer.update({"s": 2.0}, optimizer.init(params), params)
    assert updates["s"] < 0.0


def test_a_share_that_is_injected_for_complex_parameters_is_real():
    tracker = optax.inject_hyperparams(po.track_displacement)(optax.identity(), tail_share=0.7)
    params = jnp.ones(3, jnp.complex64)
    sample, _ = tracker.update(params, tracker.init(params), params)
    assert sample.slope.dtype == jnp.float32
