"""The problems, in disjoint sets.

*development* is what the method may be changed for. *confirmation* shares no data with it
and is only read for the report; both were fixed before anything was tuned. *audit* was defined
later, on data that neither has, and is run once per version. The robustness suites vary batch size,
scale of the loss and of the initial parameters on a few problems of either set; in the moving ones
the problem changes during the run, so that no schedule fits. The long ones last 20,000 steps and
more, those of fine-tuning start from networks that have been trained already. *accelerator* has
larger models on data of either set; like confirmation it is only read for the report.
"""

import functools

from benchmarks.workloads import finetuning, images, science, tables, texts
from benchmarks.workloads.workload import VARIATIONS, Workload

MAKERS = images.MAKERS | texts.MAKERS | tables.MAKERS | science.MAKERS | finetuning.MAKERS

_DEVELOPMENT = (
    "mnist1d_mlp",
    "mnist1d_tanh",
    "mnist1d_cnn",
    "diamonds_price",
    "diamonds_cut",
    "fashion_mlp",
    "fashion_cnn_bn",
    "fashion_autoencoder",
    "bible_transformer",
    "bible_gru",
    "oscillator_pinn",
)
# Short, and easily learned by heart, or with a minimum that has to be met exactly.
_DEVELOPMENT_SHORT = (
    "fashion_few",
    "fashion_few_cnn",
    "fashion_few_bad_init",
    "fashion_softmax",
    "helmholtz_pinn",
    "heat_pinn",
)
# Small tables that are fitted exactly, or whose categories are rare, and what is like them.
_DEVELOPMENT_TABLES = (
    "sacramento_mlp",
    "mileage_mlp",
    "concrete_mlp",
    "computers_mlp",
    "hotel_mlp",
    "saratoga_mlp",
    "attrition_mlp",
    "leaves_mlp",
    "credit_mlp",
    "spam_mlp",
    "lectures_factors",
    "volcano_field",
)
# Short runs, often of few rows, where the seed decides as much as the method.
SCATTERED = (
    "digits_mlp",
    "mnist_mlp",
    "mnist_softmax",
    "digits_cnn",
    "digits_resnet_bn",
    "digits_bad_init",
    "digits_deep_linear",
    "wages_mlp",
    "churn_mlp",
    "flights_embedding",
    "tumours_posterior",
    "poisson_pinn",
    "digits_vit",
)
_CONFIRMATION = (
    *SCATTERED,
    "mnist_resnet",
    "mnist_vae",
    *(f"austen_gru{horizon}" for horizon in ("", "@horizon=4", "@horizon=16")),
    *(f"austen_transformer{horizon}" for horizon in ("", "@horizon=4", "@horizon=16")),
)
# Chosen, and defined to the last number, before any method had been run on one of them.
_AUDIT = (
    "houses_mlp",
    "cells_mlp",
    "loans_mlp",
    "jobs_softmax",
    "ratings_factors",
    "photo_field",
    "photo_denoiser",
    "wave_pinn",
    "weather_gru",
    "code_transformer",
)
# Defined in the same way when the first ones had been read.
_AUDIT_TABLES = (
    "deliveries_mlp",
    "smokers_mlp",
    "food_mlp",
    "crime_mlp",
    "telephone_mlp",
    "caravan_mlp",
    "mortgages_mlp",
    "tips_mlp",
    "verbs_factors",
)
# Networks that have been trained already.
_DEVELOPMENT_FINETUNING = ("fashion_continued", "bible_continued", "bible_adapted")
_CONFIRMATION_FINETUNING = ("mnist_continued", "austen_continued", "austen_adapted")
# 20,000 to 100,000 steps of small models.
_DEVELOPMENT_LONG = (
    "bible_transformer@horizon=50",
    "bible_gru@horizon=100",
    "diamonds_price@horizon=50",
)
_CONFIRMATION_LONG = (
    "austen_transformer@horizon=80",
    "austen_gru@horizon=160",
    "flights_embedding@horizon=100",
)
_ACCELERATOR = ("austen_gpt2", "fashion_resnet")
_VARIATIONS = (
    "",
    *(f"@batch={size}" for size in (16, 256, 1024)),
    *(f"@loss={scale}" for scale in ("0.001", "1000")),
    *(f"@init={scale}" for scale in ("0.25", "4")),
)

SUITES = {
    "smoke": ("diabetes_linear", "mnist1d_tanh"),
    "development": _DEVELOPMENT,
    "development-short": _DEVELOPMENT_SHORT,
    "development-tables": _DEVELOPMENT_TABLES,
    "development-robustness": tuple(
        base + variation for base in ("mnist1d_mlp", "diamonds_cut") for variation in _VARIATIONS
    ),
    "development-finetuning": _DEVELOPMENT_FINETUNING,
    "development-long": _DEVELOPMENT_LONG,
    "development-moving": ("mnist1d_continual",),
    "confirmation": _CONFIRMATION,
    "confirmation-finetuning": _CONFIRMATION_FINETUNING,
    "confirmation-long": _CONFIRMATION_LONG,
    "confirmation-moving": ("digits_continual", "cart_pole"),
    "audit": _AUDIT,
    "audit-tables": _AUDIT_TABLES,
    "accelerator": _ACCELERATOR,
    "confirmation-robustness": tuple(
        base + variation
        for base in ("digits_mlp", "mnist_mlp", "wages_mlp")
        for variation in _VARIATIONS
    ),
}


@functools.cache
def load(name: str) -> Workload:
    """The problem called `name`, such as ``digits_mlp`` or ``digits_mlp@batch=256``.

    Raises:
      ValueError: there is none; the message lists what there is.
      MissingDataError: its data are not installed.
    """
    base, variations = parse(name)
    workload = MAKERS[base]()
    for what, factor in variations:
        workload = workload.vary(what, factor)
    return workload


def parse(name: str) -> tuple[str, list[tuple[str, float]]]:
    """Splits a name into the base and its variations; raises ValueError for unknown ones."""
    base, *variations = name.split("@")
    if base not in MAKERS:
        raise ValueError(f"unknown workload {base!r}; known are {', '.join(sorted(MAKERS))}")
    parsed = []
    for variation in variations:
        what, _, factor = variation.partition("=")
        if what not in VARIATIONS:
            raise ValueError(f"unknown variation {what!r}; known are {', '.join(VARIATIONS)}")
        parsed.append((what, float(factor)))
    return base, parsed
