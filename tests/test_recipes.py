"""Recipes of `notebooks/README.md` at once, such as clipping, decay, accumulation and saving."""

import jax
import jax.numpy as jnp
import optax
import pytest

import parabolic_optax as po


def test_recipes_go_together():
    serialization = pytest.importorskip("flax.serialization")
    x = jax.random.normal(jax.random.key(0), (256, 3)) + 1.0
    y = x @ jnp.array([1.0, -2.0, 3.0]) + 4.0
    params = {"w": jnp.full(3, 0.5, jnp.bfloat16), "b": jnp.bfloat16(0.5)}
    decay = optax.linear_schedule(1.0, 0.0, transition_steps=50, transition_begin=150)
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0),
        po.parabolic_adamw(decay, weight_decay=1e-4, mask={"w": True, "b": False}),
    )
    optimizer = optax.MultiSteps(optimizer, every_k_schedule=4)
    state = optimizer.init(params)

    def loss_fn(params, rows):
        return jnp.mean((x[rows] @ params["w"] + params["b"] - y[rows]) ** 2)

    @jax.jit
    def train_step(params, state, step):
        rows = (64 * step + jnp.arange(64)) % len(x)
        updates, state = optimizer.update(jax.grad(loss_fn)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    for step in range(800):
        if step == 300:
            saved = serialization.to_bytes((params, state))
            params, state = serialization.from_bytes((params, optimizer.init(params)), saved)
        params, state = train_step(params, state, step)
    assert loss_fn(po.eval_params(state, params), jnp.arange(256)) < 0.05
