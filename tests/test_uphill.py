"""Weight decay that is found, where it leads uphill from the first step on, or has no cause."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parabolic_optax as po
from parabolic_optax import _decay

FOUND = (po.parabolic_adamw, po.parabolic_sgd, po.parabolic_muon)


def trained(optimizer, params, grads_of, steps):
    """Averaged parameters and state after so many steps; `grads_of` takes parameters and a key."""

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(grads_of(params, key), state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    carry = params, optimizer.init(params)
    (params, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(carry)
    return po.eval_params(state, params), state


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
@pytest.mark.parametrize("make", FOUND)
def test_values_far_from_zero_are_not_pulled_there(make, noise):
    """As pixels, centres or prices may start: near the right ones. Here, 0.9 from them."""
    target = 10.0 + jax.random.normal(jax.random.key(0), (16, 16))

    def grads_of(params, key):
        return params - target + noise * jax.random.normal(key, params.shape)

    found, _ = trained(make(), jnp.full((16, 16), 10.0), grads_of, 1500)
    assert jnp.mean((found - target) ** 2) < 3e-3


@pytest.mark.parametrize("make", FOUND)
def test_a_network_loses_nothing_of_its_decay(make):
    inputs = jax.random.normal(jax.random.key(0), (256, 8))
    labels = jnp.sign(inputs[:, 0] * inputs[:, 1])
    shapes = {"in": (8, 32), "out": (32, 1)}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(2)), strict=True))
    params = {n: jax.random.normal(keys[n], s) / s[0] ** 0.5 for n, s in shapes.items()}

    def loss(params, key):
        rows = jax.random.randint(key, (32,), 0, 256)
        margins = labels[rows] * (jnp.tanh(inputs[rows] @ params["in"]) @ params["out"])[:, 0]
        return jnp.mean(jax.nn.softplus(-margins))

    _, state = trained(make(), params, jax.grad(loss), 300)
    verdicts = [node for node in jax.tree.leaves(state, is_leaf=_is_verdict) if _is_verdict(node)]
    assert len(verdicts) == 2
    for verdict in verdicts:
        assert verdict.change < 0.0
        assert verdict.log_left == 0.0


def _is_verdict(node):
    return isinstance(node, _decay.Verdict)


@pytest.mark.parametrize("make", FOUND)
def test_what_has_no_gradient_keeps_its_length(make):
    """A network behind `jax.lax.stop_gradient`, and separable data that drive the head outward."""
    inputs = jax.random.normal(jax.random.key(0), (64, 4))
    params = {"body": jnp.eye(4), "head": jnp.zeros((4, 1))}

    def loss(params, _):
        hidden = inputs @ jax.lax.stop_gradient(params["body"])
        margins = jnp.sign(inputs[:, :1]) * (hidden @ params["head"])
        return jnp.mean(jax.nn.softplus(-margins))

    found, state = trained(make(), params, jax.grad(loss), 300)
    assert po.metrics(state)["weight_decay"] > 0.0
    np.testing.assert_array_equal(found["body"], params["body"])
    given, _ = trained(make(weight_decay=0.1), params, jax.grad(loss), 300)
    assert jnp.linalg.norm(given["body"]) < jnp.linalg.norm(params["body"])


@pytest.mark.parametrize(
    ("slope", "size", "rise", "expected"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 1.0, 2.0, 1.0),
        (2.0, 2.0, 1.4, 0.5),
        (0.7, 1.0, 3.0, 0.5),
        (0.4, 1.0, 1.0, 0.0),
        (1.0, 1.0, -1.0, 0.0),
        (-1.0, 1.0, 1.0, 0.0),
    ],
)
def test_uphill_kernel(slope, size, rise, expected):
    got: Any = _decay.uphill_kernel(*map(jnp.float32, (slope, size, rise)))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_only_early_samples_are_judged():
    decay: Any = po.decay_inward(1.0)
    params, one, yes = jnp.ones((1, 2)), jnp.ones(1), jnp.array(True)
    rises = po.Radial(jnp.stack([-one, -one, one]), one, jnp.ones(1, bool), jnp.float32(1.0))

    def step(state, count):
        sample = po.Sample(
            params, one, one, count, count, jnp.float32(1.0), yes, jnp.float32(1.0), radial=rises
        )
        sample, state = decay.update(sample, state, params)
        return state, sample.inward_decay[0]

    counts = jnp.arange(1, 300, dtype=jnp.int32)
    _, left = jax.lax.scan(step, decay.init(params), counts)
    counted = np.cumsum(np.clip(2.0 - np.arange(1, 300) / 100.0, 0.0, 1.0))
    np.testing.assert_allclose(left, np.exp(-0.1 * counted), rtol=1e-3)
