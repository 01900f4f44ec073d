"""Problems that several test files share."""

import jax
import jax.experimental
import jax.numpy as jnp
import optax

import parabolic_optax as po

# jax 0.5 has it as a name of an experimental module only, which newer versions warn of.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64

OPTIMIZERS = {
    "adam": po.parabolic_adam,
    "adamw": po.parabolic_adamw,
    "sgd": po.parabolic_sgd,
    "muon": po.parabolic_muon,
}


def matrix_params(dtype=jnp.float32):
    return {
        "b": jnp.array([0.5, -0.25, 1.0], dtype),
        "w": jnp.array([[1.0, -2.0, 0.5], [0.25, 1.5, -1.0]], dtype),
    }


def matrix_loss(params):
    """Off the origin, asymmetric and moderately conditioned."""
    target = jnp.array([[3.0, 1.0, -2.0], [-1.0, 2.0, 0.5]])
    curvatures = jnp.array([[1.0, 3.0, 10.0], [0.5, 5.0, 2.0]])
    w, b = params["w"].astype(jnp.float32), params["b"].astype(jnp.float32)
    tilt = jnp.sum(jnp.array([1.0, 2.0, 0.5]) * (b - jnp.array([-1.0, 2.0, 0.3])) ** 2)
    return 0.5 * jnp.sum(curvatures * (w - target) ** 2) + tilt + 0.1 * jnp.sum(w[0] * b)


def train(optimizer, loss, params, steps, read=lambda params, state: None):
    """(params, state), outputs of `read` after each step; under jit."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), read(params, state)

    carry = (params, optimizer.init(params))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps))(carry)


def step_sizes(rule, params, norm, signals, settled=1.0, first=0.02):
    """Those of one parabola, past the search for the scale, that is told these signals."""
    signals, one = jnp.asarray(signals), jnp.ones(1)
    counts = jnp.arange(1, len(signals) + 1, dtype=jnp.int32)

    def step(state, seen):
        count, signal, settled = seen
        yes, norm_now = jnp.array(True), jnp.float32(norm)
        sample = po.Sample(params, one, one, count, count, jnp.float32(1.0), yes, norm_now)
        sample = sample._replace(settled=settled)
        parabola = po.Parabola(sample, one, -signal * one, signal * one, one)
        state = rule.update(parabola, state, params)[1]
        return state, jnp.exp(state.log_step[0])

    start = rule.init(params)
    start = start._replace(searching=jnp.array(False), log_step=jnp.log(first * one))
    seen = counts, signals, jnp.broadcast_to(jnp.asarray(settled), signals.shape)
    return jax.lax.scan(step, start, seen)[1]
