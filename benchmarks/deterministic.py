"""Steps to convergence with defaults on a narrow valley and a noisy ill-conditioned bowl.

``python -m benchmarks.deterministic`` prints, for Rosenbrock's function in two dimensions,
the steps until the loss is below 1e-4 from six starts, and for a quadratic of condition
1e4 with gradient noise the fraction of the initial loss that is left after 3,000 steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import parabolic_optax as po

STEPS = 3000
LONGEST = 6000
STARTS = ((-1.2, 1.0), (2.0, -1.0), (-1.0, -1.0), (0.5, 2.0), (3.0, 3.0), (0.001, 0.0))
OPTIMIZERS = {"parabolic_adam()": po.parabolic_adam(), "parabolic_sgd()": po.parabolic_sgd()}


def rosenbrock(params):
    return (1.0 - params["x"]) ** 2 + 100.0 * (params["y"] - params["x"] ** 2) ** 2


def steps_in_valley(optimizer, start) -> jax.Array:
    """First step with a loss below 1e-4, or LONGEST."""

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(rosenbrock)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    params = {"x": start[0], "y": start[1]}
    _, losses = jax.lax.scan(step, (params, optimizer.init(params)), None, LONGEST)
    reached = losses < 1e-4
    return jnp.where(jnp.any(reached), jnp.argmax(reached), LONGEST)


def left_in_bowl(optimizer, seed) -> tuple[jax.Array, jax.Array]:
    """Fraction of the initial loss left at the last step, and at the averaged parameters."""
    curvatures = jnp.logspace(-4, 0, 40)
    key = jax.random.key(seed)
    optimum = 3.0 * jax.random.normal(key, (40,))
    start = optimum + jax.random.normal(jax.random.fold_in(key, 1), (40,))

    def loss(params):
        return 0.5 * jnp.sum(curvatures * (params - optimum) ** 2)

    def step(carry, count):
        params, state = carry
        noise = 0.3 * jnp.sqrt(curvatures)
        noise *= jax.random.normal(jax.random.fold_in(key, count + 2), (40,))
        updates, state = optimizer.update(jax.grad(loss)(params) + noise, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(STEPS))
    return loss(params) / loss(start), loss(po.eval_params(state, params)) / loss(start)


def main() -> None:
    table = Table("optimizer", *map(str, STARTS), "bowl, last", "bowl, averaged", box=None)
    for name, optimizer in OPTIMIZERS.items():
        steps = jax.jit(jax.vmap(lambda s, o=optimizer: steps_in_valley(o, s)))(jnp.array(STARTS))
        left = jax.jit(jax.vmap(lambda s, o=optimizer: left_in_bowl(o, s)))(jnp.arange(5))
        last, average = (f"{np.median(values):.4f}" for values in left)
        valley = [str(n) if n < LONGEST else f"> {LONGEST}" for n in steps.tolist()]
        table.add_row(name, *valley, last, average)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
