"""What becomes of parameters that stand for something: ``python -m benchmarks.levels``.

Pixels, cluster centres or prices start near the right values, far from zero. Here, a matrix of 16
by 16 starts at a level, 0.9 in mean square from its targets, which are normal about that level; the
loss is half the squared distance, its gradient exact or with noise of deviation 1/2. Printed is the
mean squared distance after 1,500 steps, of the averaged parameters, median of three seeds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

import parabolic_optax as po
from parabolic_optax._demo.optimizers import with_tail_mean

STEPS, SEEDS = 1500, 3
LEVELS = (0.0, 3.0, 10.0, 30.0, 100.0)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
OPTIMIZERS = {
    "parabolic_adamw()": po.parabolic_adamw(),
    "parabolic_sgd()": po.parabolic_sgd(),
    "parabolic_muon()": po.parabolic_muon(),
    "parabolic_adamw(weight_decay=0)": po.parabolic_adamw(weight_decay=0),
    "parabolic_adam()": po.parabolic_adam(),
}


CASES = tuple((level, noise) for noise in (0.0, 0.5) for level in LEVELS)


def left(optimizer: optax.GradientTransformation, read: Any = po.eval_params) -> np.ndarray:
    """Mean squared distance at the end, median over the seeds; one for each of the cases."""

    def run(level: jax.Array, noise: jax.Array, key: jax.Array) -> jax.Array:
        key, own = jax.random.split(key)
        target = level + jax.random.normal(own, (16, 16))
        params = jnp.full_like(target, level)

        def step(carry, key):
            params, state = carry
            grads = params - target + noise * jax.random.normal(key, target.shape)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key, STEPS)
        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return jnp.mean((read(state, params) - target) ** 2)

    level, noise = jnp.array(CASES).T
    keys = jax.random.split(jax.random.key(0), SEEDS)
    over_seeds = jax.vmap(run, in_axes=(None, None, 0))
    return np.median(jax.jit(jax.vmap(over_seeds, in_axes=(0, 0, None)))(level, noise, keys), 1)


def main() -> None:
    table = Table("optimizer", title="mean squared distance left")
    for level, noise in CASES:
        table.add_column(f"{level:g}, {'noisy' if noise else 'exact'}", justify="right")
    rows = {n: left(optimizer) for n, optimizer in track(OPTIMIZERS.items(), description="ours")}
    adam = [with_tail_mean(optax.adam(rate)) for rate in RATES]
    all_rates = [left(each, lambda state, _: state.mean) for each in track(adam, "Adam")]
    rows["Adam, averaged, best of 6 rates"] = np.min(all_rates, axis=0)
    for name, row in rows.items():
        table.add_row(name, *(f"{each:.2g}" for each in row))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
