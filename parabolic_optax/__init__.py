"""Step sizes from parabolas: optax optimizers that need no learning rate."""

from parabolic_optax._curvature import estimate_uncentred
from parabolic_optax._directions import track_displacement
from parabolic_optax._metrics import eval_params, metrics, reset
from parabolic_optax._parabolic import (
    parabolic,
    parabolic_adam,
    parabolic_adamw,
    parabolic_muon,
    parabolic_sgd,
)
from parabolic_optax._saddle import flip_saddles
from parabolic_optax._steps import step_multiplicative
