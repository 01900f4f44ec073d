"""Optax optimizers that find their own step size, from parabolas fitted to gradients.

A tour. The help of every name below has its mathematics, its errors and an example.

**Train.** :func:`parabolic_adamw` stands where ``optax.adamw(rate)`` stood. The update needs
the parameters, and nothing else:

>>> import jax, jax.numpy as jnp, optax, parabolic_optax as po
>>> optimizer = po.parabolic_adamw()
>>> params = {"w": jnp.array([4.0, -1.0])}
>>> state = optimizer.init(params)
>>> @jax.jit
... def step(params, state):
...     grads = jax.grad(lambda p: jnp.sum((p["w"] - jnp.array([1.0, 2.0])) ** 2))(params)
...     updates, state = optimizer.update(grads, state, params)
...     return optax.apply_updates(params, updates), state
>>> for _ in range(150):
...     params, state = step(params, state)
>>> print(params["w"].round(1))
[1. 2.]

**Choose.** :func:`parabolic_adam` decays no weights, :func:`parabolic_sgd` saves memory,
:func:`parabolic_muon` is for large matrices, and :func:`parabolic` finds the step size of any
other optax direction. :func:`ogr` makes Newton steps in a few directions, where gradients carry
no noise: curve fitting, physics-informed networks, full batches. :func:`ogr_momentum`,
:func:`ogr_published` and :func:`ogr_diagonal` are the forms of the literature, for comparison.

**Read.** :func:`eval_params` returns averaged parameters for evaluation, :func:`metrics` what
to log (step size, curvature, signal), and :func:`reset` forgets the past when the problem
changes.

>>> print(int(po.metrics(state)["count"]))
150

**Build.** The optimizers are chains of public links: a direction tracker, a curvature estimator,
the saddle sign-flip and a step-size rule; those that take a multiplier ``learning_rate`` end with
it. :func:`ogr` goes over from one such chain to another where noise is found, and
:func:`ogr_diagonal` is a single link. Three families fit together, by the records that they pass:

- one parabola at a time (:class:`Sample`, :class:`Parabola`): :func:`track_displacement`,
  :func:`decay_outward`, which reads :class:`Radial`, and :func:`decay_inward` where wanted,
  :func:`estimate_uncentred`, :func:`flip_saddles`, :func:`step_multiplicative`; its base
  direction can be made :func:`cautious`;
- the newest displacements (:class:`Secants`, :class:`Quadratic`): :func:`track_secants`,
  :func:`estimate_secants`, :func:`flip_spectrum`, :func:`step_trust_region`;
- any span (:class:`Span`, :class:`Quadratic`): :func:`track_averages`, :func:`track_components`
  or :func:`track_fixed`; :func:`estimate_centred`, :func:`estimate_instrument` or
  :func:`estimate_exact`; :func:`flip_spectrum`; :func:`step_newton`.
"""

from parabolic_optax._cautious import cautious
from parabolic_optax._coordinates import ogr_diagonal
from parabolic_optax._curvature import estimate_uncentred
from parabolic_optax._decay import decay_inward, decay_outward
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
from parabolic_optax._published import ogr_momentum, ogr_published
from parabolic_optax._quadratic import estimate_secants, flip_spectrum
from parabolic_optax._regression import estimate_centred, estimate_exact, estimate_instrument
from parabolic_optax._saddle import flip_saddles
from parabolic_optax._secants import track_secants
from parabolic_optax._spans import track_averages, track_components, track_fixed
from parabolic_optax._steps import step_multiplicative
from parabolic_optax._trust import step_trust_region
from parabolic_optax._types import Parabola, Quadratic, Radial, Sample, Secants, Span

__version__ = "0.1.0"

__all__ = [
    "Parabola",
    "Quadratic",
    "Radial",
    "Sample",
    "Secants",
    "Span",
    "cautious",
    "decay_inward",
    "decay_outward",
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
