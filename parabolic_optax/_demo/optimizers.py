"""What the demo compares: this package's optimizers, and Adam at constant rates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import parabolic_optax as po

OURS: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
    "parabolic_adamw": po.parabolic_adamw,
    "parabolic_sgd": po.parabolic_sgd,
    "parabolic_adam": po.parabolic_adam,
    "parabolic_muon": po.parabolic_muon,
}
ADAM_DEFAULT_RATE = 1e-3
ADAM_GRID = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2")
DEFAULT = ("parabolic_adamw", "parabolic_sgd", *(f"adam@{rate}" for rate in ADAM_GRID))
KNOWN = (*OURS, "adam", *(f"adam@{rate}" for rate in ADAM_GRID))


class TailState(NamedTuple):
    """State of `inner`, the mean of the parameters, and the number of steps."""

    inner: Any
    mean: Any
    count: jax.Array


def with_tail_mean(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Keeps the mean of the parameters over the last tenth of the run, as ours does."""
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return TailState(inner.init(params), params, jnp.zeros((), jnp.int32))

    def update(updates, state, params: Any = None, **extra_args):
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        weight = 10.0 / (state.count + 10.0)
        moved: Any = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, p: m + weight * (p - m), state.mean, moved)
        return updates, TailState(inner_state, mean, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


# One object for every rate: the rate is part of the state, so that all of them share one
# compiled program.
_ADAM = with_tail_mean(optax.inject_hyperparams(optax.adam)(learning_rate=ADAM_DEFAULT_RATE))


class Contender(NamedTuple):
    """An optimizer under the name that the user asked for; `rate` is None for ours."""

    name: str
    transformation: Any
    rate: float | None

    def init(self, params: Any) -> Any:
        state = self.transformation.init(params)
        if self.rate is not None:
            state.inner.hyperparams["learning_rate"] = jnp.asarray(self.rate, jnp.float32)
        return state

    def averaged(self, state: Any, params: Any) -> Any:
        """Mean of the parameters over the last tenth of the run, by which all are judged."""
        return po.eval_params(state, params) if self.rate is None else state.mean


def find(name: str) -> Contender:
    """The optimizer called `name`; raises ValueError that lists the known names."""
    if name in OURS:
        return Contender(name, OURS[name](), rate=None)
    if name == "adam":
        return Contender(name, _ADAM, ADAM_DEFAULT_RATE)
    base, _, rate = name.partition("@")
    try:
        if base == "adam" and 0.0 < float(rate) < float("inf"):
            return Contender(name, _ADAM, float(rate))
    except ValueError:
        pass  # Not a number: the message below says what is known.
    raise ValueError(
        f"unknown optimizer {name!r}; known are {', '.join(KNOWN)}, and adam@RATE for any rate"
    )
