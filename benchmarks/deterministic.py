"""Steps to convergence with defaults on a narrow valley and a noisy ill-conditioned bowl.

And what weight decay does where there is no minimum.

``python -m benchmarks.deterministic`` prints, for Rosenbrock's function in two dimensions,
the steps until the loss is below 1e-4 from six starts, and for a quadratic of condition
1e4 with gradient noise the fraction of the initial loss that is left after 3,000 steps. A
second table is of logistic regression on separable data, whose loss falls for ever as the
weights grow: their norm along the run, without decay, with the one that is found (by default only
matrices have it, and these weights are a vector), and constant; and the largest norm.
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
DECAYS = {
    "parabolic_adam()": po.parabolic_adam(),
    "parabolic_adamw(mask=True)": po.parabolic_adamw(mask=True),
} | {
    f"parabolic_adamw(weight_decay={decay:g})": po.parabolic_adamw(weight_decay=decay)
    for decay in (0.01, 0.1, 0.2)
}
READ = (100, 200, 400, 500, 600, 700, 800)


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


def norms_on_separable_data(optimizer) -> jax.Array:
    """Norm of the weights after every step, in batches of 16 of 64 points with a margin."""
    normal = jnp.array([1.0, -2.0, 3.0]) / jnp.sqrt(14.0)
    drawn = jax.random.normal(jax.random.key(7), (64, 3)) + jnp.array([0.5, 0.0, -0.5])
    labels = jnp.sign(drawn @ normal)
    points = drawn + labels[:, None] * normal

    def loss(weights, rows):
        return jnp.mean(jax.nn.softplus(-labels[rows] * (points[rows] @ weights)))

    def step(carry, key):
        weights, state = carry
        grads = jax.grad(loss)(weights, jax.random.choice(key, 64, (16,)))
        updates, state = optimizer.update(grads, state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), jnp.linalg.norm(weights)

    start = jnp.array([0.3, -0.1, 0.2])
    keys = jax.random.split(jax.random.key(1), max(READ))
    return jax.jit(lambda c: jax.lax.scan(step, c, keys)[1])((start, optimizer.init(start)))


def main() -> None:
    table = Table("optimizer", *map(str, STARTS), "bowl, last", "bowl, averaged", box=None)
    for name, optimizer in OPTIMIZERS.items():
        steps = jax.jit(jax.vmap(lambda s, o=optimizer: steps_in_valley(o, s)))(jnp.array(STARTS))
        left = jax.jit(jax.vmap(lambda s, o=optimizer: left_in_bowl(o, s)))(jnp.arange(5))
        last, average = (f"{np.median(values):.4f}" for values in left)
        valley = [str(n) if n < LONGEST else f"> {LONGEST}" for n in steps.tolist()]
        table.add_row(name, *valley, last, average)
    Console(width=140).print(table)

    table = Table("norm of the weights, separable data", *map(str, READ), "largest", box=None)
    for name, optimizer in DECAYS.items():
        norms = norms_on_separable_data(optimizer)
        largest = f"{norms.max():.3g} at {norms.argmax() + 1}"
        table.add_row(name, *(f"{norms[count - 1]:.1f}" for count in READ), largest)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
