"""The OGR forms of the literature, on the links of the package: references, with repairs."""

import optax

from parabolic_optax import _newton, _quadratic, _regression, _spans


def _flip(repel: bool) -> list[optax.GradientTransformationExtraArgs]:
    return [_quadratic.flip_spectrum(0.0)] if repel else []


def ogr_momentum(
    learning_rate: float = 1e-3,
    *,
    momentum: float = 0.9,
    decay: float = 0.9,
    share: float = 0.5,
    reach: float = 1.0,
    repel: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""One parabola along the momentum, gradient descent elsewhere, as published.

    .. math::
      \lambda = \mathrm{cov}(s, x) / \mathrm{var}(x), \quad p = \bar x - \bar s / \lambda,
      \quad \theta \leftarrow \theta + \alpha\,\mathrm{sign}(\lambda)(p - x)\,\hat v
        - \eta\,(g - \langle g, \hat v\rangle \hat v)

    with :math:`\hat v` the direction of the averaged gradient, x and s position and slope
    along it. It is the chain of :func:`track_averages`, :func:`estimate_centred`,
    :func:`flip_spectrum` and :func:`step_newton`.

    Use it to compare with the literature, or to see what one direction can do without noise.
    Do not train with it: under noise it reads phantom curvature (:func:`estimate_centred`), and
    the step outside needs a learning rate. Take :func:`parabolic_adam` where there is noise, and
    :func:`ogr` where there is none.

    Repaired: means start at the first sample and not at 0. Positions are measured from the
    running mean of the parameters as vectors, so they stay right when :math:`\hat v` turns;
    in the published averages of scalars a turn is taken for a motion. The step is limited on
    both sides, by the distance from that mean.

    Args:
      learning_rate: :math:`\eta`, outside the direction, parameter per gradient units.
      momentum: decay of the averaged gradient.
      decay: of the running means and moments.
      share: :math:`\alpha`, of the way to the extremum.
      reach: longest step along the direction, in multiples of the distance of the parameters
        from their mean.
      repel: whether a maximum repels. Without it the step is plain Newton's and is drawn to
        saddles.

    Returns:
      A transformation that needs ``update(grads, state, params)``. State: 6 buffers like the
      parameters, in at least float32. A gradient that is zero or not finite is counted and
      changes nothing.

    Raises:
      ValueError: a constant is out of range; in the update, ``params`` is missing or does not
        match the gradients.
      TypeError: a constant is not a number; at init, a parameter is not of a floating type of at
        least 16 bits.

    Source:
      Duda, arXiv:1907.07063. The constants: this package.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = po.ogr_momentum(learning_rate=0.1)
      >>> def step(carry, _):
      ...     p, state = carry
      ...     grads = jnp.array([1.0, 4.0]) * (p - jnp.array([2.0, -3.0]))
      ...     updates, state = optimizer.update(grads, state, p)
      ...     return (p + updates, state), None
      >>> p = jnp.array([0.5, 1.0])
      >>> (p, _), _ = jax.lax.scan(step, (p, optimizer.init(p)), None, 200)
      >>> print(jnp.max(jnp.abs(p - jnp.array([2.0, -3.0]))) < 1e-3)
      True
    """
    return optax.chain(
        _spans.track_averages((momentum,), decay=decay),
        _regression.estimate_centred(1),
        *_flip(repel),
        _newton.step_newton(learning_rate, share=share, reach=reach),
    )


def ogr_published(
    rank: int = 10,
    learning_rate: float = 1e-3,
    *,
    rate: float = 0.1,
    decay: float = 0.9,
    share: float = 0.5,
    reach: float = 1.0,
    repel: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Newton steps along the principal components of the gradients, as published.

    The directions V are found by online PCA, the Hessian along them by centred regression of
    :math:`Vg` on :math:`V\theta`, and the step is :math:`-\alpha |H|^{-1}` times the model's
    slope, with gradient descent outside. It is the chain of :func:`track_components`,
    :func:`estimate_centred`, :func:`flip_spectrum` and :func:`step_newton`.

    Use it to compare with the literature. Do not train with it: under noise it carries
    phantom curvature (:func:`estimate_centred`), and the leading directions of raw gradients
    are where second-order steps help least. Without noise :func:`ogr` needs no learning rate
    and far fewer gradients.

    Repaired: means start at the first sample and not at 0; moments are turned with V;
    gradients enter the online PCA at unit length, because otherwise a large one makes all
    rows collapse into it; steps are limited on both sides, because with a limit on one side
    directions of negative curvature ascend. The rotation of V towards the eigenvectors of H
    is left out: the eigenvectors are computed from the k x k matrix at every step.

    Args:
      rank: k, number of directions, static.
      learning_rate: :math:`\eta`, outside the directions, parameter per gradient units.
      rate: of the online PCA.
      decay: of the running means and moments.
      share: :math:`\alpha`, of the way to the extremum.
      reach: as in :func:`ogr_momentum`, along every eigenvector.
      repel: as in :func:`ogr_momentum`.

    Returns:
      A transformation that needs ``update(grads, state, params)``. State: 2k + 4 buffers like
      the parameters, in at least float32; O(k^2 D) work a step.

    Raises:
      ValueError: a constant is out of range; in the update, ``params`` is missing or does not
        match the gradients.
      TypeError: `rank` is not an integer, or another constant not a number; at init, a parameter is
        not of a floating type of at least 16 bits.

    Source:
      Duda, arXiv:1901.11457. The constants: this package.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> optimizer = po.ogr_published(rank=2, learning_rate=0.1)
      >>> def step(carry, _):
      ...     p, state = carry
      ...     grads = jnp.array([1.0, 4.0]) * (p - jnp.array([2.0, -3.0]))
      ...     updates, state = optimizer.update(grads, state, p)
      ...     return (p + updates, state), None
      >>> p = jnp.array([0.5, 1.0])
      >>> (_, state), _ = jax.lax.scan(step, (p, optimizer.init(p)), None, 50)
      >>> print(po.metrics(state)["eigenvalues"].round())
      [1. 4.]
    """
    return optax.chain(
        _spans.track_components(rank, rate=rate, decay=decay),
        _regression.estimate_centred(rank),
        *_flip(repel),
        _newton.step_newton(learning_rate, share=share, reach=reach),
    )
