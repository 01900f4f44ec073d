"""The optimizers of the table, each at the setting a user would start from."""

from functools import partial

import optax
import optax.contrib

import parabolic_optax as po

OURS = {
    "parabolic_adam": partial(po.parabolic_adam, learning_rate=1.0),
    "parabolic_adamw": partial(po.parabolic_adamw, learning_rate=1.0),
    "parabolic_sgd": partial(po.parabolic_sgd, learning_rate=1.0),
    "parabolic_muon": partial(po.parabolic_muon, learning_rate=1.0),
    "ogr": partial(po.ogr),
}

# Kept for comparison with the literature: in the table on request.
REFERENCES = {
    "ogr_momentum": partial(po.ogr_momentum),
    "ogr_published": partial(po.ogr_published),
    "ogr_diagonal": partial(po.ogr_diagonal),
}

PEERS = {
    "adamw": partial(optax.adamw, learning_rate=1e-2),
    "prodigy": partial(optax.contrib.prodigy, learning_rate=1.0),
    "schedule_free_adamw": partial(optax.contrib.schedule_free_adamw, learning_rate=1e-2),
    "momo_adam": partial(optax.contrib.momo_adam, learning_rate=1e-2),
    "muon": partial(optax.contrib.muon, learning_rate=1e-2),
    "lbfgs": partial(optax.lbfgs),
}

SUBJECTS = OURS | REFERENCES | PEERS


def name_of(make: partial) -> str:
    """The name of a subject, for a command line; a factory may have been pickled meanwhile."""
    return next(name for name, known in SUBJECTS.items() if known.func is make.func)
