"""Optax optimizers that find their own step size, from parabolas fitted to gradients.

Start with :func:`parabolic_adam`: put it where ``optax.adam(rate)`` stands, and read the
averaged parameters with :func:`eval_params`. :func:`parabolic` does the same for any other
direction. :func:`metrics` shows step size and curvature, :func:`reset` forgets them.

The optimizers are chains of four links, which are public so that new methods can be built
of them: a direction tracker (:func:`track_displacement`), a curvature estimator
(:func:`estimate_uncentred`), the saddle sign-flip (:func:`flip_saddles`) and a step-size
rule (:func:`step_multiplicative`). They pass :class:`Sample` and :class:`Parabola`.

:func:`ogr` makes Newton steps in a few directions, for gradients without noise.
:func:`ogr_momentum`, :func:`ogr_published` and :func:`ogr_diagonal` are the forms of the
literature, for comparison. Their links pass :class:`Secants` or :class:`Span`, and
:class:`Quadratic`.
"""

from parabolic_optax._curvature import estimate_uncentred
from parabolic_optax._directions import track_displacement
from parabolic_optax._metrics import eval_params, metrics, reset
from parabolic_optax._newton import step_newton
from parabolic_optax._ogr import ogr
from parabolic_optax._parabolic import (
    parabolic,
    parabolic_adam,
    parabolic_adamw,
    parabolic_muon,
    parabolic_sgd,
)
from parabolic_optax._published import ogr_diagonal, ogr_momentum, ogr_published
from parabolic_optax._quadratic import estimate_secants, flip_spectrum
from parabolic_optax._regression import estimate_centred, estimate_exact, estimate_instrument
from parabolic_optax._saddle import flip_saddles
from parabolic_optax._secants import track_secants
from parabolic_optax._spans import track_averages, track_components, track_fixed
from parabolic_optax._steps import step_multiplicative
from parabolic_optax._trust import step_trust_region
from parabolic_optax._types import Parabola, Quadratic, Sample, Secants, Span

__version__ = "0.1.0"

__all__ = [
    "Parabola",
    "Quadratic",
    "Sample",
    "Secants",
    "Span",
    "estimate_centred",
    "estimate_exact",
    "estimate_instrument",
    "estimate_secants",
    "estimate_uncentred",
    "eval_params",
    "flip_saddles",
    "flip_spectrum",
    "metrics",
    "ogr",
    "ogr_diagonal",
    "ogr_momentum",
    "ogr_published",
    "parabolic",
    "parabolic_adam",
    "parabolic_adamw",
    "parabolic_muon",
    "parabolic_sgd",
    "reset",
    "step_multiplicative",
    "step_newton",
    "step_trust_region",
    "track_averages",
    "track_components",
    "track_displacement",
    "track_fixed",
    "track_secants",
]
