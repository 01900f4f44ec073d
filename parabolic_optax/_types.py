"""What flows between the links, and what the links have to look like.

A parabolic optimizer is a plain :func:`optax.chain` of four roles::

    gradients -> direction tracker -> curvature estimator -> saddle flip -> step rule -> updates
                      Sample               Parabola            Parabola

The links before the last one return a record instead of bare updates. optax hands
whatever pytree a link returns to the next link; under ``jit`` the records exist only
while tracing and cost nothing.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import optax

Axis = int | None
Per = Literal["tensor", "global"] | Callable[[str, jax.Array], Axis] | Any
"""Granularity: one parabola per tensor, one for all, or an axis (or None) per leaf."""


class Sample(NamedTuple):
    """One observation of the loss along one direction per parabola.

    Attributes:
      update: the base step at unit step size, pointing downhill; like the parameters.
      slope: directional derivative of the loss along the unit direction, loss units
        per parameter unit; float32 of shape [n], n the number of parabolas.
      position: signed coordinate of the parameters along that direction, measured from
        the point the tracker is anchored at, parameter units; float32 of shape [n].
      count: number of the sample, 1 for the first; int32 scalar.
      usable: whether the squared norm of the gradient is a number other than zero. Where it
        is not, the links keep their state and the step is zero; bool scalar.
    """

    update: Any
    slope: jax.Array
    position: jax.Array
    count: jax.Array
    usable: jax.Array


class Parabola(NamedTuple):
    """The loss modelled along the direction of a sample.

    Attributes:
      sample: the sample the model was last fitted to.
      curvature: second derivative along the direction, loss units per squared parameter
        unit; negative where the loss bends down; float32 of shape [n].
      offset: signed distance along the direction from the parameters to the point the
        step should aim at, parameter units; float32 of shape [n].
      signal: how reliable the mean slope is, mean over mean size, in [-1, 1]:
        negative while the loss still falls along the direction; float32 of shape [n].
      surprise: the last slope in units of its mean size before; large where the
        loss suddenly rises along the direction; float32 of shape [n].
    """

    sample: Sample
    curvature: jax.Array
    offset: jax.Array
    signal: jax.Array
    surprise: jax.Array


@runtime_checkable
class Readable(Protocol):
    """State of a link that the readouts of the package can show and restart."""

    def readings(self) -> dict[str, jax.Array]:
        """Scalars, or float32 of shape [n] or [n + 1], the last entry for the whole."""
        ...

    def restart(self) -> Any:
        """The same state with its statistics forgotten."""
        ...


@runtime_checkable
class Anchored(Readable, Protocol):
    """State of a direction tracker with an origin and, where kept, averaged parameters."""

    anchor: Any
    tail: Any


def link(
    init: Callable[..., Any], update: Callable[..., Any]
) -> optax.GradientTransformationExtraArgs:
    """A link as optax knows it; optax's own types foresee bare updates, not records.

    On parameters that are only described, as ``jax.ShapeDtypeStruct``, `init` describes the
    state.
    """

    def init_or_describe(params: Any) -> Any:
        described = any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params))
        return jax.eval_shape(init, params) if described else init(params)

    return optax.GradientTransformationExtraArgs(init_or_describe, update)
