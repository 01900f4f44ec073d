"""What flows between the links, and what the links have to look like.

A parabolic optimizer is a plain :func:`optax.chain` of four roles::

    gradients -> direction tracker -> curvature estimator -> saddle flip -> step rule -> updates
                      Sample               Parabola            Parabola

The links before the last one return a record instead of bare updates. optax hands
whatever pytree a link returns to the next link; under ``jit`` the records exist only
while tracing and cost nothing. In several directions at once the records are
:class:`Secants` or :class:`Span`, and :class:`Quadratic`, instead.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import optax

Axis = int | None
Per = Literal["tensor", "global"] | Callable[[str, jax.Array], Axis] | Any
"""Granularity: one parabola per tensor, one for all, or an axis (or None) per leaf."""


class Radial(NamedTuple):
    """Inner products with the mean that is read out, or the parameters where none is kept.

    With m the number of parabolas, and that of leaves where all share one. All but `driven` are 0
    between samples, and all of them where the sample is not usable.

    Attributes:
      products: float32 of shape [3, m]: of the gradient (derivative of the loss by the logarithm of
        the scale of that point, to second order, loss units), of the displacement, and of that
        point itself (squared parameter units).
      length: of the displacement as it is kept, parameter units; the position leaves out what
        rounding the means has added to it; float32 of shape [n].
      driven: whether the gradient is not zero, between samples as well; bool of shape [m].
      along: inner product of gradient and displacement, of all parameters together, loss units;
        float32 scalar.
    """

    products: jax.Array
    length: jax.Array
    driven: jax.Array
    along: jax.Array


class Sample(NamedTuple):
    """One observation of the loss along one direction per parabola.

    Attributes:
      update: the base step at unit step size, pointing downhill; like the parameters.
      slope: directional derivative of the loss along the unit direction, loss units
        per parameter unit; float32 of shape [n], n the number of parabolas. A decay leaves out
        what belongs to the scale of the weights.
      position: signed coordinate of the parameters along that direction, measured from
        the point the tracker is anchored at, parameter units; float32 of shape [n].
      count: number of the step, 1 for the first; those left out do not count; int32 scalar.
      age: the same without what is forgotten of the run, or at most the `window` of the tracker:
        what means and rates go by; int32 scalar.
      stride: number of steps that the sample stands for; 0 between samples and where it is not
        usable. Then `slope`, `position`, `norm`, and all of `radial` but `driven`, are 0 as well,
        and the links keep their state; float32 scalar.
      usable: whether the squared norm of the gradient is a number other than zero, and all inner
        products are numbers. Where not, the step is zero; bool scalar.
      norm: of the matrices among the parameters, or of all where there are none, at their mean that
        is read out where one is kept, parameter units; 0 between samples; float32 scalar.
      radial: inner products with that point, or None where they are not wanted.
      decay: decoupled weight decay, in units of the base step; float32 of shape [m], or None
        where there is none; m as in :class:`Radial`.
      inward_decay: the same, of those coordinates alone that the step brings nearer to zero.
      settled: mean slope on the way from the mean that is read out to the parameters, over its mean
        size, in [-1, 1]: near 1 where they go round a minimum, low where that mean lags behind;
        float32 scalar, or None where it is not known.
    """

    update: Any
    slope: jax.Array
    position: jax.Array
    count: jax.Array
    age: jax.Array
    stride: jax.Array
    usable: jax.Array
    norm: jax.Array
    radial: Radial | None = None
    decay: jax.Array | None = None
    inward_decay: jax.Array | None = None
    settled: jax.Array | None = None


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


class Secants(NamedTuple):
    """What the newest k displacements of a run say about the loss around the base point.

    Attributes:
      directions: k orthonormal rows Q, zero where not yet filled; like the parameters, with
        a leading axis of length k.
      images: the rows W of gradient change per unit of displacement along Q, on a quadratic
        the Hessian's products with Q, loss units per squared parameter unit; like
        `directions`.
      matrix: Q W^T, of entries Q_i . W_j, float of shape [k, k]; symmetric on a quadratic.
      frame: orthonormal coefficients over the rows of Q, newest displacement first; row i
        lies in the span of the newest i + 1 displacements; float of shape [k, k].
      stretch: curvature of the newest secant, |y|^2 / |s.y| or at most 1.5 |y| / |s|, which
        stands for the curvature outside the span; scalar.
      gradient: gradient at the base point; like the parameters.
      recoil: base point minus parameters, zero unless the last step is taken back.
      moved: length of the last step, parameter units; 0 if it was not the model's, or if
        its gradient says nothing about it; scalar.
      change: change of the loss over it by the trapezoidal rule, from the two gradients
        alone, loss units; scalar.
      scale: length of the parameters, parameter units; scalar.
      probing: whether the step must be zero, to measure the noise; bool scalar.
      usable: whether the squared norm of the gradient is a number other than zero. Where it
        is not, the links keep their state and the step is `recoil`; bool scalar.
    """

    directions: Any
    images: Any
    matrix: jax.Array
    frame: jax.Array
    stretch: jax.Array
    gradient: Any
    recoil: Any
    moved: jax.Array
    change: jax.Array
    scale: jax.Array
    probing: jax.Array
    usable: jax.Array


class Span(NamedTuple):
    """One observation of the loss along k orthonormal directions that turn slowly.

    The running means are of all samples; the newest one has the weight `weight`.

    Attributes:
      directions: k orthonormal rows V, zero where not yet filled, fixed before the gradient
        of the previous sample was drawn; like the parameters, with a leading axis of k.
      transport: coefficients of the directions over those of the previous sample, V V'^T,
        which carry moments over; [k, k].
      gradient: gradient at the parameters; like the parameters.
      distance: length of the parameters minus their mean before this sample, parameter
        units; scalar.
      position: the same difference along the directions, parameter units; float of shape [k].
      mean_slope: mean gradient along the directions, this sample included, loss units per
        parameter unit; [k].
      centred_slope: gradient minus its mean before this sample, along the directions; [k].
      step: parameters minus those of the previous sample, along the directions; [k].
      slope_change: gradient minus that of the previous sample, along the directions; [k].
      weight: of this sample in every running mean, 1 for the first; scalar.
      usable: as in :class:`Sample`; bool scalar.
    """

    directions: Any
    transport: jax.Array
    gradient: Any
    distance: jax.Array
    position: jax.Array
    mean_slope: jax.Array
    centred_slope: jax.Array
    step: jax.Array
    slope_change: jax.Array
    weight: jax.Array
    usable: jax.Array


class Quadratic(NamedTuple):
    """The loss modelled in the span of a few directions.

    Attributes:
      sample: what the model was fitted to, :class:`Secants` or :class:`Span`.
      eigenvalues: of the Hessian in the span, loss units per squared parameter unit; float
        of shape [k], 0 for directions not yet filled.
      eigenvectors: their coefficients over the directions, one per column; [k, k].
      slopes: gradient along each eigenvector, at the base point of secants, at the
        parameters of a span, loss units per parameter unit; float of shape [k].
      asymmetry: of the measured Hessian along each eigenvector, relative to the
        eigenvalues; it vanishes on a quadratic and measures noise and change of the
        Hessian; float of shape [k].
    """

    sample: Any
    eigenvalues: jax.Array
    eigenvectors: jax.Array
    slopes: jax.Array
    asymmetry: jax.Array


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
    count: jax.Array


@runtime_checkable
class Directional(Readable, Protocol):
    """State of a link that models several directions at once; `readings` are scalars."""

    def direction_readings(self) -> dict[str, jax.Array]:
        """Arrays with one value per direction."""
        ...


def stateless(params: Any) -> optax.EmptyState:
    """The `init` of a link that keeps nothing."""
    del params
    return optax.EmptyState()


def link(
    init: Callable[..., Any], update: Callable[..., Any]
) -> optax.GradientTransformationExtraArgs:
    """A link as optax knows it; optax's own types foresee bare updates, not records.

    On parameters that are only described, as ``jax.ShapeDtypeStruct``, `init` describes the
    state.
    """

    def init_or_describe(params: Any) -> Any:
        described = any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params))
        return jax.eval_shape(init, params) if described else _varying_as(params, init(params))

    return optax.GradientTransformationExtraArgs(init_or_describe, update)


def _varying_as(params: Any, state: Any) -> Any:
    """The state, each device's own where parameters are so inside of ``jax.shard_map``.

    A loop would else start with numbers that all devices share, and go on with others.
    """
    if hasattr(jax.lax, "pcast"):
        vary: Any = functools.partial(jax.lax.pcast, to="varying")
    else:
        # Older versions have another name for it, or nothing of the kind.
        vary = getattr(jax.lax, "pvary", None)
    if vary is None:
        return state

    def axes(leaf: Any) -> frozenset[str]:
        kind = jax.typeof(leaf)
        # Named `vma` in older versions.
        manual = getattr(kind, "manual_axis_type", None)
        return manual.varying if manual else getattr(kind, "vma", frozenset())

    varying = frozenset().union(*map(axes, jax.tree.leaves(params)))

    def cast(leaf: Any) -> Any:
        missing = tuple(varying - axes(leaf))
        return vary(leaf, missing) if missing else leaf

    return jax.tree.map(cast, state) if varying else state
