"""Raw gradients in units of their own size, one for every tensor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parabolic_optax import _tree
from parabolic_optax._types import Per

# A sample counts in the mean square with at most this many times the root of it. So one outlier
# moves the scale by a twentieth, and where gradients have grown a thousandfold for good, it comes
# within a factor of ten of them in 150 steps.
_OUTLIER = 10.0


class ScaleByBlockRmsState(NamedTuple):
    """State of :func:`scale_by_block_rms`.

    Attributes:
      mean_square: running mean of the mean square of the entries of each block, squared gradient
        units; 0 until the first one that is not zero; float32 of shape [n].
      count: number of steps, int32 scalar.
    """

    mean_square: jax.Array
    count: jax.Array


def block_rms_kernel(
    square: jax.Array, mean_square: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Factor of a block's gradient, and its running mean square, one block.

    Args:
      square: mean square of the entries of the gradient, scalar.
      mean_square: running mean of it before, 0 where nothing was seen yet; scalar.
      weight: of this sample in the mean, scalar.

    Returns:
      1 / sqrt(max(v, square)) and v, the mean with min(square, 100 mean_square) taken in, or the
      square alone where it is the first. The factor is 0 where all is 0.
    """
    counted = jnp.minimum(square, _OUTLIER**2 * mean_square)
    seen = mean_square > 0.0
    fitted = jnp.where(seen, mean_square + weight * (counted - mean_square), square)
    size = _tree.root(jnp.maximum(fitted, square))
    return _tree.ratio(jnp.ones_like(size), size), fitted


def scale_by_block_rms(
    decay: float = 0.999, *, per: Per = "tensor"
) -> optax.GradientTransformation:
    r"""Gradients over the root mean square that those of their tensor have had of late.

    Raw gradients differ in size from tensor to tensor, by orders of magnitude where a network is
    badly initialised, and from step to step, where an outlier is drawn or a steep wall is met.
    With :math:`q_t` the mean square of the entries of one tensor's gradient,

    .. math::
      v_t = v_{t-1} + w_t \left( \min(q_t, 100\,v_{t-1}) - v_{t-1} \right), \qquad
      u_t = \frac{g_t}{\sqrt{\max(v_t, q_t)}}

    with :math:`w_t = \max(1 - \beta, 1/t)`. So entries of the result have a size of about 1, as
    those of Adam's directions have, and never more, in the root mean square of the tensor; the
    direction within a tensor is that of the gradient, and the loss may have any unit. The
    memory is long, so that gradients that vanish at a minimum still shorten the steps: with a
    short one they keep their length and jump across. That of LARS and NovoGrad is a few steps.

    Args:
      decay: :math:`\beta` in [0, 1): memory of the mean square, about 1,000 steps.
      per: what is scaled together, as the parabolas are in :func:`parabolic`: every tensor, all
        of them, or slices.

    Returns:
      A direction to give to :func:`parabolic`, alone or in front of ``optax.trace``. Its state
      is one float32 number per block and a count; it reads gradients twice and writes them once.

    Raises:
      ValueError: a constant is out of range.
      TypeError: a constant is not a number.

    Source:
      One scale per layer: You et al., arXiv:1708.03888, and Ginsburg et al., arXiv:1905.11286.
      The long memory, and that outliers are held, are this package's.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> direction = po.scale_by_block_rms()
      >>> grads = {"first": jnp.array([3e-4, -4e-4]), "last": jnp.array([[30.0, 40.0]])}
      >>> scaled, _ = direction.update(grads, direction.init(grads))
      >>> print(scaled["first"].round(2), scaled["last"].round(2))
      [ 0.85 -1.13] [[0.85 1.13]]
    """
    _tree.check_range("decay", decay, 0.0, 1.0)
    if _tree.concrete(decay) and decay == 1.0:
        raise ValueError("decay must be below 1: at 1 no gradient is ever taken in.")

    def init(params: Any) -> ScaleByBlockRmsState:
        blocks = _tree.Layout.of(params, per).size
        return ScaleByBlockRmsState(jnp.zeros(blocks, jnp.float32), jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ScaleByBlockRmsState]:
        del params
        layout = _tree.Layout.of(updates, per)
        count = jnp.asarray(optax.safe_increment(state.count))
        square = layout.inner(updates, updates) / layout.entries(updates)
        factor, mean_square = jax.vmap(block_rms_kernel, in_axes=(0, 0, None))(
            square, state.mean_square, _tree.recent_weight(count, decay, jnp.float32)
        )
        # A factor may be beyond the range of half precision where its product is not.
        scaled = jax.tree.map(
            lambda g, f: (f * g).astype(g.dtype), updates, layout.spread(factor, updates)
        )
        return scaled, ScaleByBlockRmsState(mean_square, count)

    return optax.GradientTransformation(init, update)
