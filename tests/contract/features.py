"""``python -m tests.contract.features``: what each optimizer asks for and gives, as Markdown.

The table of `parabolic_optax/README.md`. All entries are measured, but for the first row, which is
what the signature and the documentation of the optimizer ask a user to choose.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

import parabolic_optax as po
from tests.contract.row import Make
from tests.contract.subjects import OURS, PEERS

SUBJECTS: dict[str, Make] = {
    **{name: make for name, make in OURS.items() if name != "parabolic_adam"},
    **PEERS,
}
TO_CHOOSE = {
    "adamw": "rate, schedule",
    "schedule_free_adamw": "rate, warm-up",
    "prodigy": "schedule",
    "momo_adam": "largest rate",
    "muon": "rate, schedule",
}


def params() -> dict[str, jax.Array]:
    """Matrices large enough for the state's scalars not to count beside them."""
    key = jax.random.key(0)
    return {name: jax.random.normal(key, (64, 64)) + 0.5 for name in ("encoder", "decoder")}


def loss(params: Any) -> jax.Array:
    return jnp.mean((params["encoder"] - 1.0) ** 2) + jnp.mean(params["decoder"] ** 4)


def extras(make: Make) -> list[str]:
    """Names of what the update wants beside gradients, state and parameters."""
    optimizer, start = optax.with_extra_args_support(make()), params()

    def update(names):
        value, grads = jax.value_and_grad(loss)(start)
        known = {"value": value, "grad": grads, "value_fn": loss}
        passed = {name: known[name] for name in names}
        return optimizer.update(grads, optimizer.init(start), start, **passed)

    for names in ([], ["value"], ["value", "grad", "value_fn"]):
        try:
            jax.eval_shape(lambda names=names: update(names))
        except TypeError:
            continue
        return names
    raise AssertionError(f"{make} wants something else")


@functools.cache
def step_of(make: Make) -> Any:
    """A compiled training step, with the gradients multiplied by a factor."""
    optimizer = optax.with_extra_args_support(make())

    @jax.jit
    def step(now, state, factor):
        value, grads = jax.value_and_grad(loss)(now)
        grads = optax.tree.scale(factor, grads)
        extra = {"value": value, "grad": grads, "value_fn": loss}
        updates, state = optimizer.update(grads, state, now, **extra)
        return optax.apply_updates(now, updates), state

    return step


def survives(make: Make, first: float) -> bool:
    """Whether the parameters are finite after a gradient times this factor, and two usual ones."""
    now = params()
    state = make().init(now)
    for factor in (first, 1.0, 1.0):
        now, state = step_of(make)(now, state, factor)
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(now))


def buffers(make: Make) -> int:
    state = jax.eval_shape(make().init, params())
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    return round(size / sum(leaf.size for leaf in jax.tree.leaves(params())))


def readings(make: Make) -> str:
    if make.func.__module__.partition(".")[0] != po.__name__:
        return "no"
    state = make().init(params())
    return ", ".join(name for name in po.metrics(state) if name in ("step_size", "eigenvalues"))


ROWS = {
    "to choose": lambda name, make: TO_CHOOSE.get(name, "nothing"),
    "wanted beside gradients, state and parameters": lambda name, make: (
        ", ".join(f"`{extra}`" for extra in extras(make)) or "nothing"
    ),
    "buffers like the parameters": lambda name, make: str(buffers(make)),
    "goes on after a gradient of zero": lambda name, make: yes(survives(make, 0.0)),
    "goes on after a gradient that is not finite": lambda name, make: yes(
        survives(make, float("nan"))
    ),
    "can be read out": lambda name, make: readings(make),
}


def yes(fact: bool) -> str:
    return "yes" if fact else "no"


def table() -> str:
    lines = ["| | " + " | ".join(f"`{name}`" for name in SUBJECTS) + " |"]
    lines.append("|---|" + "---|" * len(SUBJECTS))
    for label, entry in ROWS.items():
        cells = [entry(name, make) for name, make in SUBJECTS.items()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
