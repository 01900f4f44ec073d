"""Checks of what a user passes: constants, bases, trees, and links that belong together."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parabolic_optax import _layout


def is_number(value: Any) -> bool:
    """Whether a constant can be checked now, without a transfer from a device."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def in_range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value <= high; an array is taken on trust."""
    if is_number(value) and not (low <= value <= high and math.isfinite(value)):
        bounds = f"finite and at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be {bounds}, got {value}.")
    if not (is_number(value) or hasattr(value, "dtype")):
        raise TypeError(f"{name} must be a number, got {value!r}.")


def direction(base: Any, name: str = "base", such_as: str = "optax.scale_by_adam()") -> None:
    """Raises TypeError for a base, or another argument, that is not a gradient transformation."""
    if not (callable(getattr(base, "init", None)) and callable(getattr(base, "update", None))):
        raise TypeError(
            f"{name} must be an optax gradient transformation, such as {such_as}; got {base!r}."
        )


def ascending(base: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The base, with a ValueError at its first init if it points downhill."""
    return _checked_at_init(base, _ascent)


def of_samples(decay: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The decay, with a TypeError at its first init if it takes bare updates."""
    return _checked_at_init(decay, _of_bare_updates)


def _checked_at_init(
    inner: optax.GradientTransformation, check: Callable[[optax.GradientTransformation], None]
) -> optax.GradientTransformationExtraArgs:
    """At init, because a program may make its optimizer before it says which devices there are."""
    once = functools.cache(functools.partial(check, inner))

    def init(params: Any) -> Any:
        once()
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init, optax.with_extra_args_support(inner).update)


def _ascent(base: optax.GradientTransformation) -> None:
    """Raises ValueError for a base whose first step on a probe that is not 0 points downhill."""
    along = 0.0
    try:
        with jax.ensure_compile_time_eval():
            probe = jnp.array([[1.0, -0.5], [0.25, 2.0]], jnp.float32)
            state: Any = base.init(jnp.zeros_like(probe))
            # The first step of a warm-up is zero.
            for _ in range(2):
                step: Any
                step, state = base.update(probe, state, jnp.zeros_like(probe))
                along = along or float(jnp.sum(step * probe))
    except Exception:
        # A base made for its own tree, or with traced constants, is taken on trust.
        return
    if along < 0.0:
        raise ValueError(
            "base points downhill, as complete optimizers do. Pass a direction, such as"
            " optax.scale_by_adam() in place of optax.adam(rate), or turn it round with"
            " optax.chain(base, optax.scale(-1.0))."
        )


def _of_bare_updates(decay: optax.GradientTransformation) -> None:
    """Raises TypeError for a decay that works on a probe without a sample, and changes it."""
    try:
        with jax.ensure_compile_time_eval():
            probe = jnp.ones((2, 2), jnp.float32)
            changed, _ = decay.update(probe, decay.init(probe), probe)
            unlike = not jnp.array_equal(jnp.asarray(changed), probe)
    except Exception:
        # A link looks for what a sample holds.
        return
    if unlike:
        raise TypeError(
            "decay must take and return a Sample, as po.decay_outward() does. A decay of optax's"
            " own kind is part of the base: optax.chain(optax.scale_by_adam(),"
            " optax.add_decayed_weights(0.1))."
        )


def floating(params: Any) -> None:
    """Raises TypeError for a parameter that is not of a floating type of at least 16 bits."""
    for name, leaf in zip(_layout.leaf_paths(params), jax.tree.leaves(params), strict=True):
        name, dtype = name or "(root)", getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float | complex):
            raise TypeError(
                f"parameter {name} is a Python {type(leaf).__name__}; parabolas need arrays. Wrap"
                " it in jnp.asarray."
            )
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"parameter {name} is {dtype or type(leaf).__name__}; parabolas need"
                " floating-point arrays. Leave other leaves out with optax.partition, or with"
                " optax.masked where nothing has a gradient for them."
            )
        if jnp.finfo(dtype).bits < 16:
            raise TypeError(
                f"parameter {name} is {dtype}, in which most steps round to nothing. Keep it in"
                " jnp.bfloat16 or a wider type, and let the loss cast it."
            )


def match(updates: Any, params: Any) -> None:
    """Raises ValueError unless the gradients have the structure and shapes of the parameters."""
    if params is None:
        raise ValueError(
            "params is needed: positions are read from it. Call update(grads, state, params)."
        )
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(
            "the gradients and the parameters are different trees:"
            f" {jax.tree.structure(updates)} and {jax.tree.structure(params)}."
        )
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    for number, (g, p) in enumerate(pairs):
        if jnp.shape(g) != jnp.shape(p):
            name = _layout.leaf_paths(params)[number] or "(root)"
            raise ValueError(
                f"the gradient of {name} has shape {jnp.shape(g)}, the parameter {jnp.shape(p)}."
            )


def same_layout(sampled: int, own: int, link: str) -> None:
    """Raises ValueError unless the tracker samples as many parabolas as another link has."""
    if sampled != own:
        raise ValueError(
            f"the tracker samples {sampled} parabolas, the {link} knows of {own}: give both the"
            " same per."
        )


def same_rank(followed: int, rank: int) -> None:
    """Raises ValueError unless tracker and estimator were made for as many directions."""
    if followed != rank:
        raise ValueError(
            f"the tracker follows {followed} directions, this estimator was made for {rank}: give"
            " both the same rank."
        )


def rank(rank: Any) -> None:
    """Raises unless the rank, which sets shapes, is a positive Python integer."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"rank must be an integer, got {rank!r}.")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
