"""Readouts over the state of an optimizer, wherever the state sits."""

from typing import Any

import jax
import jax.numpy as jnp

from parabolic_optax import _layout, _tree
from parabolic_optax._types import Anchored, Directional, Per, Readable


def metrics(state: Any, per: Per = "tensor") -> dict[str, jax.Array]:
    r"""What the parabolas say now, as a flat dictionary to log.

    Works on the state of any program that holds one of this package's optimizers: inside
    ``optax.chain``, ``masked``, ``partition``, ``MultiSteps``, ``inject_hyperparams`` or
    ``apply_if_finite``; also under ``jit``.

    Args:
      state: an optimizer state.
      per: the granularity that was given to the optimizer, where it was slices. Of several in a
        ``partition``, one that describes the slices of each; those with whole tensors, or with one
        parabola for all, are known from the state.

    Returns:
      Scalars ``step_size`` (geometric mean over the parabolas, without the multiplier
      ``learning_rate``), ``curvature`` (loss units
      per squared parameter unit), ``offset`` (signed distance to the extremum, parameter
      units) and ``signal`` (in [-1, 1], negative while the loss falls along the way the
      parameters came) of the displacement of all parameters together, ``count`` (steps
      taken) and ``skipped`` (steps with a gradient that was zero or not finite, or whose squares
      are in float32: of a norm below about 1e-19 or above 1e19), ``forgotten`` (steps at the start
      that no longer count, because the averaged parameters lagged behind); and the same four for
      every tensor, as ``step_size/dense/kernel``: a scalar, or one value per slice. With
      :func:`decay_outward` (not with ``weight_decay=0``) also ``weight_decay``, units of the base
      step. For
      ``partition`` into several optimizers of this package the scalars are means over them
      (``step_size`` a geometric one), and ``count``, ``skipped`` and ``forgotten`` the largest.

      For :func:`ogr` they are ``radius``, ``noise`` (relative asymmetry of the Hessian),
      ``doubt`` (share of noise in squared gradient changes), ``count``, ``skipped``,
      ``returned`` (steps taken back) and ``second_order`` (1 while such steps are made, 0
      while the doubt forbids them), and one value per direction of ``eigenvalues`` and
      ``extremum``, the distance to it along each eigenvector; and what is listed above of the
      steps that it makes where noise forbids its own. Of several :func:`ogr` in one
      ``partition``, the eigenvalues are those of the last. Optimizers of a ``partition`` that no
      parameter belongs to are left out. The published forms have
      ``noise``, ``count``, ``skipped``, ``eigenvalues`` and ``extremum``.

    Raises:
      ValueError: the state holds none of this package's links, was made with another `per`, or is
        of several runs at once, as ``jax.vmap`` makes it; `per` is impossible.

    Source:
      This package.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> optimizer = po.parabolic_sgd(initial_step=1e-3)
      >>> state = optimizer.init({"w": jnp.ones(3)})
      >>> print(po.metrics(state)["step_size/w"].round(6))
      0.001
    """
    combined: dict[str, list[jax.Array]] = {}
    details: dict[str, jax.Array] = {}
    for tensors, links in _models(state):
        for link in links:
            if isinstance(link, Directional):
                details |= link.direction_readings()
        readings = [reading for link in links for reading in link.readings().items()]
        if any(values.ndim > (name != "count") for name, values in readings):
            raise ValueError("the state is of several runs at once: use jax.vmap(metrics)(state).")
        layout = _layout_of(tensors, per, {values.size for _, values in readings if values.ndim})
        paths = _layout.leaf_paths(tensors)
        for name, values in readings:
            if values.ndim == 0:
                combined.setdefault(name, []).append(values)
                continue
            own, whole = _split_whole(values, layout.size)
            combined.setdefault(name, []).append(whole)
            for path, value in zip(paths, layout.split(own), strict=True):
                if path:
                    details[f"{name}/{path}"] = value
    return {name: _combine(name, jnp.stack(values)) for name, values in combined.items()} | details


def eval_params(state: Any, params: Any) -> Any:
    """Averaged parameters for evaluation: the mean over the last tenth of the run.

    The parameters themselves can always be used; their mean is nearly always better, since it
    does not carry the noise of the last steps. Where a program holds batch statistics or the
    like outside the parameters, recompute them for the averaged parameters.

    Args:
      state: an optimizer state, as in :func:`metrics`.
      params: the parameters the state belongs to.

    Returns:
      A tree like `params`, in its dtypes; before the first step, and the first one after
      :func:`reset`, the parameters themselves. Leaves of which no average is kept, because no
      optimizer of this package holds them, or one without averages does, are returned as they
      are. :func:`ogr` averages while noise keeps it from steps of its own.

    Raises:
      ValueError: no optimizer keeps an average (``tail_power=None``), the state holds none
        of this package's links, or it belongs to other parameters.

    Source:
      Polynomial-decay averages: Shamir and Zhang, ICML 2013.

    Example:
      >>> import jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = po.parabolic_adam()
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> state = optimizer.init(params)
      >>> print(po.eval_params(state, params)["w"])
      [ 1. -2.]
    """
    anchored = [link for link in _links(state, Readable) if isinstance(link, Anchored)]
    if anchored and all(link.tail is None for link in anchored):
        raise ValueError(
            "this optimizer keeps no averaged parameters (tail_power=None): use the"
            " parameters themselves, or construct it with tail_power=9."
        )
    for link in anchored:
        if link.tail is not None:
            params = _replace(params, link.tail, jnp.asarray(link.count) > 0)
    return params


def reset(state: Any) -> Any:
    """Forgets the statistics and averages, and keeps the step sizes and the base's state.

    For a break in the problem: new data, pruned or reloaded parameters, a new phase of
    continual training. The next step starts new averages from the parameters it is given, which
    :func:`decay_inward` leaves alone from then on.

    Args:
      state: an optimizer state, as in :func:`metrics`.

    Returns:
      A state of the same structure.

    Raises:
      ValueError: the state holds none of this package's links.

    Source:
      This package.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> optimizer = po.parabolic_adam()
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> state = optimizer.init(params)
      >>> _, state = optimizer.update(params, state, params)
      >>> print(po.metrics(po.reset(state))["count"])
      0
    """
    _links(state, Readable)
    restarted = jax.tree.map(
        lambda node: node.restart() if isinstance(node, Readable) else node,
        state,
        is_leaf=lambda node: isinstance(node, Readable),
    )
    # The arrays may sit in a framework's variables, which a restart takes them out of.
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(restarted))


def _links(state: Any, role: type) -> list[Any]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Readable))
    links = [node for node in nodes if isinstance(node, role)]
    if not links:
        raise ValueError(
            "this state holds no link of parabolic_optax; pass the state that"
            " optimizer.init or optimizer.update returned."
        )
    return links


def _models(state: Any) -> list[tuple[Any, list[Any]]]:
    """Groups the links into models: every tracker begins one, and holds its tensors."""
    models: list[tuple[Any, list[Any]]] = []
    for link in _links(state, Readable):
        # The trackers are what counts the steps.
        if "count" in link.readings() or not models:
            models.append((_tensors(link), [link]))
        else:
            models[-1][1].append(link)
    # Groups that no parameter belongs to have nothing to say, unless they are all there is.
    of_parameters = [model for model in models if model[0] is None or jax.tree.leaves(model[0])]
    return of_parameters or models


def _tensors(tracker: Any) -> Any:
    """The origin of a tracker's positions, which has the leaves that it follows, or None."""
    names = [name for name in ("anchor", "mean", "base") if hasattr(tracker, name)]
    return getattr(tracker, names[0]) if names else None


def _layout_of(tensors: Any, per: Per, sizes: set[int]) -> _layout.Layout:
    """Layout that has readings of these sizes: of `per`, or of whole tensors.

    Optimizers of a partition can have a `per` each, so one that is right for some of them may be
    wrong or impossible for others.
    """

    def fits(layout: _layout.Layout) -> bool:
        return sizes <= {layout.size, layout.size + 1}

    whole = [_layout.Layout.of(tensors, each) for each in ("tensor", "global")]
    fitting = next(filter(fits, whole), None)
    try:
        layout = _layout.Layout.of(tensors, per)
    except ValueError:
        if fitting is None or isinstance(per, str):
            raise
        return fitting
    if fits(layout):
        return layout
    if fitting is None:
        first = next(iter(_layout.leaf_paths(tensors)), "") or "the parameters"
        raise ValueError(
            f"the optimizer of {first} has {min(sizes)} parabolas, but per describes"
            f" {layout.size}: pass the per that was given to the optimizer."
        )
    return fitting


def _split_whole(values: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Values per parabola, and the value for the whole: its own, or a geometric mean."""
    if values.shape[0] > size:
        return values[:-1], values[-1]
    return values, jnp.exp(jnp.sum(jnp.log(values)) / max(1, size))


def _combine(name: str, values: jax.Array) -> jax.Array:
    if name in ("count", "skipped", "forgotten"):
        return jnp.max(values)
    return jnp.exp(jnp.mean(jnp.log(values))) if name == "step_size" else jnp.mean(values)


def _replace(params: Any, means: Any, begun: jax.Array) -> Any:
    """`params` with every leaf that has a mean replaced by it, once there is a step in it.

    Before, the mean holds what the state began with, or the past that a restart forgets.

    Leaves are found by where they sit, because frameworks wrap the parameters and the state
    in different containers.
    """
    left = dict(zip(_layout.leaf_keys(means), jax.tree.leaves(means), strict=True))
    names, leaves = _layout.leaf_paths(params), []
    for key, name, own in zip(
        _layout.leaf_keys(params), names, jax.tree.leaves(params), strict=True
    ):
        mean = left.pop(key, None)
        if mean is not None and mean.shape != own.shape:
            raise ValueError(
                f"the state holds an average of {name or 'the parameters'} of shape"
                f" {mean.shape}, the parameter has {own.shape}: pass the parameters that the"
                " state belongs to."
            )
        if mean is None:
            leaves.append(own)
            continue
        # Of several runs at once, each has a count of its own.
        counted = begun.reshape(begun.shape + (1,) * (own.ndim - begun.ndim))
        leaves.append(jnp.where(counted, _tree.as_like(mean, own), own))
    if left:
        raise ValueError(
            f"the state holds averages of {len(left)} leaves that are not among the"
            " parameters: pass the parameters that the state belongs to."
        )
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
