"""The gate of ogr: on for exact gradients, off under noise; and what optax asks of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import enable_x64, matrix_loss, matrix_params, train

import parabolic_optax as po

# Sample of the first probe.
PROBE = 8
CURVATURES = jnp.array([1.0, 5.0, 20.0, 0.3])
CENTRE = jnp.array([2.0, -1.0, 0.5, 3.0])
START = jnp.array([0.5, 1.0, -2.0, 1.0])


def bowl(p):
    return 0.5 * jnp.sum(CURVATURES * (p - CENTRE) ** 2)


def train_noisily(optimizer, noise, steps, read=lambda params, state: None, seed=0):
    def step(carry, key):
        params, state = carry
        grads = jax.grad(bowl)(params) + noise * jax.random.normal(key, (4,))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), read(params, state)

    keys = jax.random.split(jax.random.key(seed), steps)
    carry = (START, optimizer.init(START))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(carry)


def second_order(_, state):
    return po.metrics(state)["second_order"]


def test_gate_stays_open_on_exact_gradients_also_at_convergence():
    (params, state), on = train(po.ogr(4), bowl, START, 300, second_order)
    assert np.all(np.asarray(on) == 1.0)
    assert po.metrics(state)["doubt"] == 0.0
    assert bowl(params) < 1e-8 * bowl(START)


def test_one_early_step_is_a_probe_and_the_rest_is_the_chain_alone():
    # Two programs round differently, and in float32 the steps make much of that.
    with enable_x64(True):
        start = START.astype(jnp.float64)
        _, gated = train(po.ogr(2), bowl, start, 21, lambda params, _: params)
        _, alone = train(po.ogr(2, base=None), bowl, start, 20, lambda params, _: params)
    np.testing.assert_array_equal(gated[PROBE - 1], gated[PROBE - 2])
    np.testing.assert_allclose(np.delete(gated, PROBE - 1, 0), alone, rtol=1e-9, atol=1e-9)


def test_noise_closes_the_gate_and_the_base_carries_on():
    def run(optimizer, read, seed):
        (params, state), readings = train_noisily(optimizer, 5.0, 400, read, seed)
        return bowl(po.eval_params(state, params)), po.metrics(state), readings

    # Of single runs the losses differ by more than what is asked for.
    seeds = jnp.arange(64)
    ours, end, on = jax.vmap(lambda seed: run(po.ogr(4), second_order, seed))(seeds)
    theirs = jax.vmap(lambda seed: run(po.parabolic_adam(), lambda *_: None, seed)[0])(seeds)
    shut = np.argmin(on, axis=1)
    # Nothing is known before the probe, which waits for a step that is kept.
    assert np.all((shut >= PROBE) & (shut < 8 * PROBE))
    assert np.mean(on[0, shut[0] :]) == 0.0
    assert np.mean([np.mean(gate[at:]) for gate, at in zip(on, shut, strict=True)]) < 1e-3
    assert np.mean(ours) < 1.05 * np.mean(theirs)
    assert np.all(end["doubt"] > 0.04)
    assert np.mean(theirs) < 0.1 * bowl(START)


def test_little_noise_leaves_the_gate_open_until_it_is_all_that_is_left():
    _, on = train_noisily(po.ogr(4), 1e-3, 200, second_order)
    assert np.all(on[:5] == 1.0)
    assert on[-1] == 0.0


def test_averaged_parameters_are_the_parameters_while_the_gate_is_open():
    (params, state), _ = train(po.ogr(4), bowl, START, 10)
    np.testing.assert_array_equal(po.eval_params(state, params), params)


def test_a_skipped_step_is_counted_once_and_waits_for_a_finite_gradient():
    optimizer = po.ogr(3)
    (params, state), _ = train(optimizer, matrix_loss, matrix_params(), 6)
    grads = jax.tree.map(lambda g: g.at[0].set(jnp.nan), jax.grad(matrix_loss)(params))
    update = jax.jit(optimizer.update)
    for count in (1, 2):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert po.metrics(state)["skipped"] == count
    start = matrix_loss(params)
    for _ in range(10):
        updates, state = update(jax.grad(matrix_loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert matrix_loss(params) < start


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize(
    "dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)], ids=str
)
def test_one_trace_stable_types_and_donation(dtype):
    optimizer, traces = po.ogr(3), []

    def step(params, state):
        traces.append(None)
        updates, state = optimizer.update(jax.grad(matrix_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = matrix_params(dtype)
    state = optimizer.init(params)
    before, start = types((params, state)), matrix_loss(params)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(8):
        params, state = jitted(params, state)
    assert types((params, state)) == before
    assert len(traces) == 1
    assert matrix_loss(params) < 0.9 * start


@pytest.mark.slow
def test_many_problems_at_once():
    centres = jnp.asarray(np.random.default_rng(0).normal(size=(100, 4)), jnp.float32)
    optimizer = po.ogr(4)

    def solve(centre):
        def loss(p):
            return jnp.sum((1.0 + 0.1 * (p - centre) ** 2) * CURVATURES * (p - centre) ** 2)

        (params, _), _ = train(optimizer, loss, START, 60)
        return loss(params)

    assert jnp.all(jax.vmap(solve)(centres) < 1e-5)


@pytest.mark.parametrize(
    "optimizer", [po.ogr(3, base=None), po.ogr_published(3)], ids=["ogr", "published"]
)
def test_no_nan_or_infinity_arises_outside_of_jit(optimizer):
    params = {"zero": jnp.zeros(2), "still": jnp.ones(2), "moves": START}
    state = optimizer.init(params)
    with jax.debug_nans(True), jax.debug_infs(True):
        for size in (0.0, 1.0, 1.0, 0.0):
            grads = {name: 0.0 * p for name, p in params.items()}
            grads["moves"] = size * jax.grad(bowl)(params["moves"])
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        readings = po.metrics(state)
    assert np.all(np.isfinite(readings["extremum"]))


def test_empty_and_scalar_parameters():
    optimizer = po.ogr(2)
    params = {"a": jnp.array(3.0), "none": jnp.zeros((0, 2))}
    (end, _), _ = train(optimizer, lambda p: (p["a"] - 5.0) ** 2, params, 20)
    np.testing.assert_allclose(end["a"], 5.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: po.ogr(0), ValueError, "rank must be at least 1"),
        (lambda: po.ogr(2.0), TypeError, "rank must be an integer"),
        (lambda: po.ogr(initial_radius=0.0), ValueError, "initial_radius must be"),
        (lambda: po.ogr(damping=-1.0), ValueError, "damping must be"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_missing_params_are_named():
    optimizer = po.ogr(2)
    with pytest.raises(ValueError, match="params is needed"):
        optimizer.update(START, optimizer.init(START))
    fitted, rule = optax.chain(po.track_secants(2), po.estimate_secants(2)), po.step_trust_region()
    quadratic, _ = fitted.update(START, fitted.init(START), START)
    with pytest.raises(ValueError, match="params is needed"):
        rule.update(quadratic, rule.init(START))


def test_ranks_of_tracker_and_estimator_must_agree():
    chain = optax.chain(po.track_secants(3), po.estimate_secants(2))
    with pytest.raises(ValueError, match="give both the same rank"):
        chain.update(START, chain.init(START), START)
