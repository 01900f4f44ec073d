"""The flagship: any optax direction with a step size found by displacement parabolas."""

from collections.abc import Callable
from typing import Any

import optax
import optax.contrib

from parabolic_optax import _curvature, _directions, _saddle, _steps
from parabolic_optax._types import Per


def parabolic(
    base: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    per: Per = "tensor",
    initial_step: float = 1e-6,
    tail_power: float | None = 9.0,
) -> optax.GradientTransformationExtraArgs:
    return optax.chain(
        _directions.track_displacement(base, tail_power=tail_power, per=per),
        _curvature.estimate_uncentred(per=per),
        _saddle.flip_saddles(),
        _steps.step_multiplicative(initial_step=initial_step, per=per),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
    )


def parabolic_adam(learning_rate: optax.ScalarOrSchedule = 1.0, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, **options: Any) -> optax.GradientTransformationExtraArgs:
    return parabolic(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), learning_rate, **options)


def parabolic_adamw(learning_rate: optax.ScalarOrSchedule = 1.0, weight_decay: float = 1e-4, mask: Any | Callable[[Any], Any] | None = None, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, **options: Any) -> optax.GradientTransformationExtraArgs:
    base = optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps), optax.add_decayed_weights(weight_decay, mask)
    )
    return parabolic(base, learning_rate, **options)


def parabolic_sgd(learning_rate: optax.ScalarOrSchedule = 1.0, momentum: float = 0.9, nesterov: bool = False, **options: Any) -> optax.GradientTransformationExtraArgs:
    base = optax.chain(optax.trace(momentum, nesterov), optax.scale(1.0 - momentum))
    return parabolic(base, learning_rate, **options)


def parabolic_muon(learning_rate: optax.ScalarOrSchedule = 1.0, weight_decay: float = 0.0, **options: Any) -> optax.GradientTransformationExtraArgs:
    # optax's Muon is a complete optimizer; the minus sign turns its unit step back into a direction.
    base = optax.chain(optax.contrib.muon(1.0, weight_decay=weight_decay, adam_weight_decay=weight_decay), optax.scale(-1.0))
    return parabolic(base, learning_rate, **options)
