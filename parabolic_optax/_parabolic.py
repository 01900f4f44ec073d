"""The flagship: any optax direction, with step sizes found by displacement parabolas."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from parabolic_optax import _cautious, _checks, _curvature, _decay, _directions, _saddle, _steps
from parabolic_optax._types import Per

# Growth of the steps that these directions bear: Adam's as it is, and those of which coordinates
# wait. Muon's go too far on small networks with more than 0.05.
_ADAM_RATE, _WAITING_RATE = 0.07, 0.1
# Largest early steps of scaled directions, in root mean squares of the parameters. With decay,
# physics-informed networks and softmax regression want steps as long as that.
_LIMIT = 1.0
# A multiplier that stays below this was meant to be a learning rate.
_SMALL_MULTIPLIER = 0.1
# Where a schedule is looked at; a warm-up may be long.
_PROBED = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def parabolic(
    base: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    per: Per = "tensor",
    pooling: float = 1.0,
    initial_step: float = 1e-6,
    max_rate: float = 0.05,
    tail_power: float | None = 9.0,
    window: float | None = None,
    decay: optax.GradientTransformation | None = None,
    mean_dtype: Any = None,
    normalize: bool = False,
    limit: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Finds the step size of any first-order direction; no learning rate, no schedule.

    The loss is modelled as a parabola along the displacement :math:`D_t` of the
    parameters, and of the average that is read out, from their running mean: one for every
    tensor and one for all together. Its slope
    :math:`s_t = \langle g_t, D_t \rangle / |D_t|` is unbiased under gradient noise,
    because :math:`D_t` was fixed before the noise of :math:`g_t` was drawn. A slope that
    stays negative says that the loss still falls away from that mean: the step size
    :math:`\eta` grows. A positive one says that the mean is the better place: it falls.

    .. math::
      \theta_{t+1} = \theta_t - \eta_t u_t, \quad
      \log \eta_{t+1} = \log \eta_t - \rho_t \phi_t, \quad
      \phi_t = E[s] / E|s|

    with :math:`u_t` the base direction. It is the chain of :func:`track_displacement`,
    :func:`estimate_uncentred`, :func:`flip_saddles` and :func:`step_multiplicative`, whose
    docstrings hold the details.

    Args:
      base: an optax direction that points like the gradient: ``optax.scale_by_adam()``,
        ``optax.trace(0.9)``, ``optax.scale_by_lion()``, or a chain of such, with
        ``optax.add_decayed_weights`` for decoupled decay.
      learning_rate: multiplier on the step size that the model finds, a float or an optax
        schedule of the number of updates, skipped ones included; 1 is right. The steps grow or
        shrink to make up for a constant one, but weight decay is weaker with a smaller and stronger
        with a larger one; one that stays below 0.1 is warned of. Where the length of the run is
        known, a decay to 0 at its end takes the noise out of the parameters themselves.
      per: one parabola per ``"tensor"``, one for all (``"global"``), or the axis along
        which every slice of a leaf has its own (None for the whole leaf), as a function
        ``per(path, leaf)`` or as a pytree of axes, which may be a prefix of the parameters.
      pooling: share of the signal of all parameters together in that of every parabola, in
        [0, 1]. At 1 all step sizes rise and fall together, which suits directions whose
        scale does not depend on the gradient's, such as Adam's, Muon's and those of normalized
        gradients. Raw ones differ in scale from tensor to tensor and want less, such as 0.75.
      initial_step: step size of the first step, before the search for the scale.
      max_rate: largest growth of the logarithm of the step size in a step. Adam's direction bears
        0.07, which :func:`parabolic_adam` takes, and :func:`cautious` ones 0.1, as in
        :func:`parabolic_adamw` and :func:`parabolic_sgd`.
      tail_power: power of the averaged parameters kept for :func:`eval_params`; 9 is the
        mean over the last tenth. None keeps none; the step size then suits the parameters
        themselves.
      window: number of updates after which the run counts as no longer, so that means look back as
        far as then, and step sizes can change as fast; some hundreds at least, as in
        :func:`track_displacement`. None finds it: where the loss says that the averaged parameters
        lag behind, as on problems that change, the start of the run is forgotten.
      decay: a link between tracker and estimator: :func:`decay_outward`, :func:`decay_inward` or
        a chain of both. The tracker takes two more inner products, which the first one needs.
      mean_dtype: type of both means: None for at least float32, ``jnp.bfloat16`` (or its name)
        for half of that, as in :func:`track_displacement`. The averaged parameters are then
        off by about half a percent each, at random.
      normalize: whether the base sees gradients in units of their tensor's own size (or slice's,
        or that of all, as `per` says), as in :func:`track_displacement`. Adam's, Muon's and
        Lion's directions need no such thing; momentum does.
      limit: largest norm of a step whose entries are all 1, in that of the parameters, as in
        :func:`step_multiplicative`, and less later, down to a tenth of it: 1 for directions whose
        entries are about 1 at most, as Adam's, Muon's and Lion's. Without it, steps may grow
        without end where data are memorized to the last bit. None is none, and 1 where gradients
        are normalized.

    Returns:
      A transformation that needs ``update(grads, state, params)``; extra arguments reach
      the base. Beside the base's, its state is one buffer like the parameters for the
      running mean, one for the averaged parameters, both of `mean_dtype`, and a few
      float32 scalars per tensor. A step with a gradient whose squared norm is zero or
      not finite in float32 changes nothing and is counted.

    Raises:
      TypeError: `base` or `decay` is not a gradient transformation; a constant is not a number;
        `mean_dtype` is no type; at init, `decay` takes updates and no sample, or a parameter is not
        of a floating type of at least 16 bits.
      ValueError: a constant is out of range; `mean_dtype` is another type; at init, the base points
        downhill, as complete optimizers do, or `per` is impossible; in the update, ``params`` is
        missing or does not match the gradients.

    Source:
      This package; the parabola from online gradient statistics is due to Duda,
      arXiv:1907.07063.

    Example:
      >>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
      >>> def loss(params):
      ...     return jnp.sum(jnp.array([1.0, 30.0]) * (params["w"] - jnp.array([2.0, -3.0])) ** 2)
      >>> optimizer = po.parabolic(optax.scale_by_adam())
      >>> def step(carry, _):
      ...     params, state = carry
      ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      ...     return (optax.apply_updates(params, updates), state), None
      >>> params = {"w": jnp.array([0.5, 1.0])}
      >>> (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 500)
      >>> print(params["w"].round(2))
      [ 2. -3.]
    """
    _checks.direction(base)
    if decay is not None:
        _checks.direction(decay, "decay", "po.decay_outward()")
        decay = _checks.of_samples(decay)
    return _chain(
        _checks.ascending(base),
        learning_rate,
        per=per,
        pooling=pooling,
        initial_step=initial_step,
        max_rate=max_rate,
        tail_power=tail_power,
        window=window,
        decay=decay,
        mean_dtype=mean_dtype,
        normalize=normalize,
        scaled=normalize,
        limit=limit,
    )


def parabolic_adam(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    per: Per = "tensor",
    initial_step: float = 1e-6,
    tail_power: float | None = 9.0,
    window: float | None = None,
    mean_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam without a learning rate: :func:`parabolic` over ``optax.scale_by_adam``.

    Where there are matrices, a step is at most as long as the parameters if all entries of the
    direction are 1, with :func:`parabolic_adamw` and the others as well; later at most a tenth of
    that, except where the parabola has seen longer ones to be too long (`limit` of
    :func:`step_multiplicative`).

    State: four buffers like the parameters (two of Adam, the running mean, the averaged
    parameters), 16 bytes per parameter, in half precision as well; 12 with ``tail_power=None`` or
    with ``mean_dtype=jnp.bfloat16``, 10 with both. A step reads gradients, parameters and state
    and writes the latter two: at least 44 bytes per parameter; 36 with either, 32 with both;
    ``optax.adamw`` keeps 8 and moves 28. The inner products must be known before anything is
    written, and read gradients, parameters and both means once more. From step 2,048 on the means
    are touched in one step of three, from step 8,192 on in one of nine
    (:func:`track_displacement`); the others move what ``optax.adamw`` does, and the gradients once
    more.

    Args:
      learning_rate: multiplier on the step size that the model finds; 1 is right.
      b1: decay of Adam's mean of gradients.
      b2: decay of Adam's mean of squared gradients.
      eps: added to the root of the latter, gradient units.
      per: granularity, as in :func:`parabolic`.
      initial_step: as in :func:`parabolic`.
      tail_power: as in :func:`parabolic`.
      window: as in :func:`parabolic`.
      mean_dtype: as in :func:`parabolic`.

    Returns:
      A transformation, as :func:`parabolic` returns.

    Raises:
      TypeError: as :func:`parabolic` does.
      ValueError: as :func:`parabolic` does; `b1` or `b2` is 1, or is injected in half precision.

    Source:
      Kingma and Ba, arXiv:1412.6980, for the direction; this package for its length.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> optimizer = po.parabolic_adam()
      >>> params = {"w": jnp.array([3.0, -1.0])}
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"w": jnp.array([2.0, -5.0])}, state, params)
      >>> print(jnp.sign(updates["w"]))
      [-1.  1.]
    """
    return _chain(
        _adam(b1, b2, eps),
        learning_rate,
        per=per,
        initial_step=initial_step,
        max_rate=_ADAM_RATE,
        tail_power=tail_power,
        window=window,
        mean_dtype=mean_dtype,
    )


def parabolic_adamw(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float | None = None,
    mask: Any | Callable[[Any], Any] | None = None,
    per: Per = "tensor",
    initial_step: float = 1e-6,
    tail_power: float | None = 9.0,
    window: float | None = None,
    mean_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with decoupled weight decay, without a learning rate: the one to take first.

    The step is :math:`-\eta u - \min(\eta \omega, 1/(t + 29))\,\theta`, with
    :math:`u = \hat m / (\sqrt{\hat v} + \epsilon)` where it agrees with the gradient, and 0 in the
    coordinates whose extremum lies behind (:func:`cautious`). The
    decay scales with the step size that the model finds, as it scales with the learning
    rate in ``optax.adamw``, but the weights shrink no faster than the run gets longer.
    By default :math:`\omega` is found as well, by
    :func:`decay_outward`: up to 0.25 for matrices while the loss drives them outward, and nothing
    where it has a minimum, or where a leaf has no gradient. Then :func:`decay_inward` also makes
    matrices forget what they were initialised with: mostly in the first few hundred steps,
    coordinates that a step brings nearer to zero decay as well (:func:`metrics` does not show that
    part). Loaded weights shrink like any others; 0 keeps them as they are, which pays where all of
    them are right already, or their numbers stand for something, and costs where a layer is new or
    rows are few.

    State and traffic are those of :func:`parabolic_adam`, and two inner products more where
    there is decay.

    Args:
      learning_rate: multiplier on the step size that the model finds; 1 is right.
      b1: decay of Adam's mean of gradients.
      b2: decay of Adam's mean of squared gradients.
      eps: added to the root of the latter, gradient units.
      weight_decay: :math:`\omega`, a constant, and no other decay; 0 is none. None lets it be
        found, and the start be forgotten.
      mask: which leaves decay, a tree of bools or a function of the parameters. By default all
        of them do by a given number, as in ``optax.adamw``, and matrices by one that is found.
      per: granularity, as in :func:`parabolic`.
      initial_step: as in :func:`parabolic`.
      tail_power: as in :func:`parabolic`.
      window: as in :func:`parabolic`.
      mean_dtype: as in :func:`parabolic`.

    Returns:
      A transformation, as :func:`parabolic` returns.

    Raises:
      TypeError: as :func:`parabolic` does.
      ValueError: as :func:`parabolic_adam` does; in the update, `mask` does not fit the parameters.

    Source:
      Loshchilov and Hutter, arXiv:1711.05101, and Liang et al., arXiv:2411.16085, for the
      direction; this package for its length.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> optimizer = po.parabolic_adamw(weight_decay=0.1, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array([3.0, -1.0]), "b": jnp.array(2.0)}
      >>> state = optimizer.init(params)
      >>> grads = {"w": jnp.zeros(2), "b": jnp.array(-5.0)}
      >>> updates, state = optimizer.update(grads, state, params)
      >>> print(jnp.sign(updates["w"]), jnp.sign(updates["b"]))
      [-1.  1.] 1.0
    """
    return _chain(
        _cautious.masked(_adam(b1, b2, eps)),
        learning_rate,
        per=per,
        initial_step=initial_step,
        max_rate=_WAITING_RATE,
        tail_power=tail_power,
        window=window,
        decay=_found_or_given(weight_decay, mask, per, outward=0.25, inward=3.0),
        mean_dtype=mean_dtype,
    )


def parabolic_sgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    *,
    weight_decay: float | None = None,
    mask: Any | Callable[[Any], Any] | None = None,
    per: Per = "tensor",
    initial_step: float = 1e-6,
    tail_power: float | None = 9.0,
    window: float | None = None,
    mean_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent with momentum and weight decay, without a learning rate.

    The momentum is the weighted mean :math:`m \leftarrow \beta m + (1-\beta) \hat g`, so that
    the step size has the same meaning for every :math:`\beta`, of gradients in units of
    their tensor's own size over the last 1,000 steps, or of their present one where that is larger
    (`normalize` of :func:`track_displacement`). So no tensor is left behind because its gradients
    are small, the unit of the loss does not matter (for norms of the gradient between about 1e-15
    and 1e19), and an outlier is no long step. Coordinates in which the momentum disagrees with the
    gradient wait, and weight decay is found or given, as in :func:`parabolic_adamw`. For plain
    momentum take ``parabolic(optax.chain(optax.trace(0.9), optax.scale(0.1)), normalize=True)``;
    for raw gradients ``pooling=0.75`` in place of ``normalize=True``.

    One buffer less than :func:`parabolic_adamw`, and two numbers per parameter less to move: 12
    bytes kept and at least 36 moved in float32; 8 and 28 with ``tail_power=None`` or with
    ``mean_dtype=jnp.bfloat16``.

    Args:
      learning_rate: multiplier on the step size that the model finds; 1 is right.
      momentum: :math:`\beta` in [0, 1); 0 is plain gradient descent.
      nesterov: whether to look ahead.
      weight_decay: decoupled decay, in units of the base step, and no other; 0 is none. None lets
        it be found, and the start be forgotten.
      mask: which leaves decay, as in :func:`parabolic_adamw`.
      per: granularity, as in :func:`parabolic`; also what is normalized together.
      initial_step: as in :func:`parabolic`.
      tail_power: as in :func:`parabolic`.
      window: as in :func:`parabolic`.
      mean_dtype: as in :func:`parabolic`.

    Returns:
      A transformation, as :func:`parabolic` returns.

    Raises:
      TypeError: as :func:`parabolic` does.
      ValueError: as :func:`parabolic` does; `momentum` is 1, or is injected in half precision; in
        the update, `mask` does not fit the parameters.

    Source:
      Sutskever et al., ICML 2013, for the momentum, and Liang et al., arXiv:2411.16085, for the
      coordinates that wait; this package for scale, decay and length.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> optimizer = po.parabolic_sgd(momentum=0.95, nesterov=True)
      >>> params = {"w": jnp.array([3.0, -1.0])}
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"w": jnp.array([2.0, -5.0])}, state, params)
      >>> print(jnp.sign(updates["w"]))
      [-1.  1.]
    """
    momentum = _memory("momentum", momentum)
    base = optax.chain(optax.trace(momentum, nesterov), optax.scale(1.0 - momentum))
    return _chain(
        _cautious.masked(base),
        learning_rate,
        per=per,
        initial_step=initial_step,
        max_rate=_WAITING_RATE,
        tail_power=tail_power,
        window=window,
        decay=_found_or_given(weight_decay, mask, per, outward=0.25, inward=3.0),
        mean_dtype=mean_dtype,
        normalize=True,
    )


def parabolic_muon(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    weight_decay: float | None = None,
    mask: Any | Callable[[Any], Any] | None = None,
    per: Per = "tensor",
    initial_step: float = 1e-6,
    tail_power: float | None = 9.0,
    window: float | None = None,
    mean_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for matrices and Adam for all else, without a learning rate.

    The directions are those of ``optax.contrib.muon`` at its defaults (stacked matrices, of three
    axes, get Adam's; for others give :func:`parabolic` the base
    ``optax.chain(optax.contrib.muon(1.0, ...), optax.scale(-1.0))``), and the weight decay is
    found as in :func:`parabolic_adamw`, both parts of it with a strength of 1 in place of 0.25 and
    3. State: three buffers for matrices and four for the rest; the products of matrices cost far
    more than their traffic.

    Args:
      learning_rate: multiplier on the step size that the model finds; 1 is right.
      weight_decay: decoupled decay, in units of the base step, and no other; None as in
        :func:`parabolic_adamw`.
      mask: which leaves decay, as in :func:`parabolic_adamw`.
      per: granularity, as in :func:`parabolic`.
      initial_step: as in :func:`parabolic`.
      tail_power: as in :func:`parabolic`.
      window: as in :func:`parabolic`.
      mean_dtype: as in :func:`parabolic`.

    Returns:
      A transformation, as :func:`parabolic` returns.

    Raises:
      TypeError: as :func:`parabolic` does.
      ValueError: as :func:`parabolic` does; in the update, `mask` does not fit the parameters.

    Source:
      Jordan et al., Muon, 2024, for the direction; this package for its length.

    Example:
      >>> import jax.numpy as jnp, parabolic_optax as po
      >>> optimizer = po.parabolic_muon()
      >>> params = {"w": jnp.array([[3.0, -1.0], [0.5, -2.0]])}
      >>> state = optimizer.init(params)
      >>> grads = {"w": jnp.array([[2.0, 0.0], [0.0, -5.0]])}
      >>> updates, state = optimizer.update(grads, state, params)
      >>> print(jnp.sign(jnp.diag(updates["w"])))
      [-1.  1.]
    """
    muon = optax.contrib.muon(1.0)
    base = optax.chain(
        # optax's Muon divides by the sides of a matrix, also where they are 0.
        optax.partition({"muon": muon, "empty": optax.identity()}, _empty_apart),
        # It is a complete optimizer; this turns its step back into a direction.
        optax.scale(-1.0),
    )
    return _chain(
        base,
        learning_rate,
        per=per,
        initial_step=initial_step,
        tail_power=tail_power,
        window=window,
        decay=_found_or_given(weight_decay, mask, per, outward=1.0, inward=1.0),
        mean_dtype=mean_dtype,
    )


def _chain(
    base: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    per: Per,
    initial_step: float,
    tail_power: float | None,
    window: float | None,
    mean_dtype: Any,
    pooling: float = 1.0,
    max_rate: float = 0.05,
    decay: optax.GradientTransformation | None = None,
    normalize: bool = False,
    scaled: bool = True,
    limit: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """:func:`parabolic` of a base that is known to point like the gradient."""
    _check_multiplier(learning_rate)
    if limit is None and scaled:
        limit = _LIMIT
    return optax.chain(
        _directions.track_displacement(
            base,
            tail_power=tail_power,
            window=window,
            per=per,
            mean_dtype=mean_dtype,
            radial=decay is not None,
            normalize=normalize,
        ),
        *([] if decay is None else [decay]),
        _curvature.estimate_uncentred(pooling=pooling, per=per),
        _saddle.flip_saddles(),
        _steps.step_multiplicative(
            initial_step=initial_step,
            max_rate=max_rate,
            limit=limit,
            per=per,
        ),
        _multiply(learning_rate),
    )


def _multiply(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Updates times a factor, in their types: ``optax.scale`` takes those of the factor."""
    if callable(learning_rate):
        scale = optax.scale_by_schedule(learning_rate)

        def init(params: Any) -> Any:
            _warn_of_small(_largest(learning_rate), "stays at or below ", stacklevel=2)
            return scale.init(params)

        return optax.GradientTransformation(init, scale.update)

    def scaled(update: Any, _: Any) -> Any:
        return (_real(learning_rate) * update).astype(update.dtype)

    return optax.stateless_with_tree_map(scaled)


def _found_or_given(
    weight_decay: Any, mask: Any, per: Per, *, outward: float, inward: float
) -> optax.GradientTransformation | None:
    """The decay that is found, of matrices, or one that is given, of all leaves; None is none."""
    if weight_decay is None:
        return optax.chain(
            _decay.decay_outward(outward, mask, per=per),
            _decay.decay_inward(inward, mask, per=per),
        )
    _checks.in_range("weight_decay", weight_decay, 0.0)
    if _checks.is_number(weight_decay) and weight_decay == 0.0:
        return None
    mask = True if mask is None else mask
    return _decay.decay_outward(weight_decay, mask, always=True, per=per)


def _empty_apart(params: Any) -> Any:
    return jax.tree.map(lambda p: "muon" if p.size > 0 else "empty", params)


def _adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    _checks.in_range("eps", eps, 0.0)
    return optax.scale_by_adam(b1=_memory("b1", b1), b2=_memory("b2", b2), eps=_real(eps))


def _memory(name: str, value: Any) -> Any:
    _checks.in_range(name, value, 0.0, 1.0)
    if _checks.is_number(value) and value == 1.0:
        raise ValueError(f"{name} must be below 1: at 1 no gradient is ever taken in.")
    if hasattr(value, "dtype") and jnp.dtype(value.dtype).itemsize < 4:
        raise ValueError(
            f"{name} is {value.dtype}, in which 0.999 may be 1: give optax.inject_hyperparams"
            " hyperparam_dtype=jnp.float32."
        )
    return _real(value)


def _real(value: Any) -> Any:
    """A constant that is injected has the type of the gradients; real means stay real."""
    return jnp.real(value) if jnp.iscomplexobj(value) else value


def _check_multiplier(learning_rate: Any) -> None:
    if callable(learning_rate):
        return
    _checks.in_range("learning_rate", learning_rate, 0.0)
    # An array on a device may be injected, as the present value of a schedule.
    if isinstance(learning_rate, float | np.floating | np.ndarray) and np.ndim(learning_rate) == 0:
        # The caller of the function that called _chain.
        _warn_of_small(float(learning_rate), "is ", stacklevel=5)


def _warn_of_small(multiplier: float, how: str, stacklevel: int) -> None:
    """Warns of a multiplier that looks like the rate of another optimizer."""
    if 0.0 < multiplier < _SMALL_MULTIPLIER:
        warnings.warn(
            f"learning_rate {how}{multiplier:g}, but it is a multiplier on the step size that is"
            " found. The steps grow to make up for it, weight decay becomes weaker: leave it at 1.",
            stacklevel=stacklevel,
        )


def _largest(schedule: Callable[[Any], Any]) -> float:
    """Largest value of a schedule at a few counts, nan where unknown."""
    try:
        with jax.ensure_compile_time_eval():
            return max(float(schedule(jnp.int32(count))) for count in _PROBED)
    except Exception:
        # One of traced values, or one that works in its own place alone, is taken on trust.
        return math.nan
