"""Tables: regression, classification, embeddings of categories, a Bayesian posterior."""

import jax
import jax.numpy as jnp

from benchmarks import data
from benchmarks.layers import Params, cross_entropy, mlp, mlp_init
from benchmarks.workloads.workload import Workload, squared_error, supervised


def network(name, dataset, hidden, outputs, activation, loss, *, steps) -> Workload:
    sizes = (dataset.train[0].shape[-1], *hidden, outputs)
    return supervised(
        name,
        dataset,
        lambda key: mlp_init(key, sizes),
        lambda params, x: mlp(params, x, activation),
        loss,
        batch=64,
        steps=steps,
    )


def regression(name, dataset, hidden, *, steps) -> Workload:
    return network(name, dataset, hidden, 1, jax.nn.gelu, squared_error, steps=steps)


def classification(name, dataset, hidden, *, steps) -> Workload:
    return network(name, dataset, hidden, dataset.classes, jax.nn.silu, cross_entropy, steps=steps)


def embeddings(name, dataset, width, *, steps) -> Workload:
    """A table of vectors per category, whose gradient is zero in all rows that are not drawn."""
    columns = dataset.train[0].shape[-1]
    sizes = [int(max(part[0][:, c].max() for part in dataset[:2])) + 1 for c in range(columns)]

    def init(key) -> Params:
        keys = jax.random.split(key, columns + 1)
        tables = {
            f"column{c}": 0.1 * jax.random.normal(keys[c], (size, width))
            for c, size in enumerate(sizes)
        }
        return {"tables": tables, "mlp": mlp_init(keys[-1], (columns * width, 32, 1))}

    def apply(params, x):
        parts = [params["tables"][f"column{c}"][x[:, c]] for c in range(columns)]
        return mlp(params["mlp"], jnp.concatenate(parts, -1))

    return supervised(name, dataset, init, apply, squared_error, batch=128, steps=steps)


def factors(name, dataset, width, *, steps) -> Workload:
    """Two tables of vectors whose inner product, with a bias each, is what pairs are given."""
    sizes = [int(max(part[0][:, c].max() for part in dataset[:2])) + 1 for c in range(2)]

    def init(key) -> Params:
        keys = jax.random.split(key, 2)
        return {
            f"side{c}": {
                "vectors": 0.1 * jax.random.normal(keys[c], (sizes[c], width)),
                "biases": jnp.zeros(sizes[c]),
            }
            for c in range(2)
        }

    def apply(params, x):
        first, second = (
            jax.tree.map(lambda leaf, c=c: leaf[x[:, c]], params[f"side{c}"]) for c in range(2)
        )
        product = jnp.sum(first["vectors"] * second["vectors"], -1)
        return product + first["biases"] + second["biases"]

    return supervised(name, dataset, init, apply, squared_error, batch=128, steps=steps)


def posterior(name, dataset, *, steps) -> Workload:
    """Variational inference: a mean-field normal for the weights of a logistic regression.

    The prior is standard normal. The loss is the negative evidence bound per row, with one
    sample of the weights per step; what is reported has many, on all rows.
    """
    rows, columns = dataset.train[0].shape

    def init(key) -> Params:
        mean = 0.1 * jax.random.normal(key, (columns + 1,))
        return {"mean": mean, "log_scale": jnp.full(columns + 1, -2.0)}

    def loss(params, batch, key, samples=1):
        mean, log_scale = params["mean"], params["log_scale"]
        weights = mean + jnp.exp(log_scale) * jax.random.normal(key, (samples, columns + 1))
        logits = batch[0] @ weights[:, 1:].T + weights[:, 0]
        fit = jnp.mean(jax.nn.softplus(logits) - batch[1][:, None] * logits)
        divergence = jnp.sum(0.5 * (mean**2 + jnp.exp(2.0 * log_scale) - 1.0) - log_scale)
        return fit + divergence / rows

    def evaluate(params, held_out):
        return loss(params, held_out, jax.random.key(0), samples=256)

    return Workload(
        name, init, loss, dataset.train, dataset.train, batch=64, steps=steps, evaluate=evaluate
    )


def _table(name, package, item, target, hidden, *, steps, classes=False, **options):
    def make() -> Workload:
        dataset = data.table(package, item, target, classes=classes, **options)
        return (classification if classes else regression)(name, dataset, hidden, steps=steps)

    return {name: make}


# Small tables, many with categories that few rows have.
_DEVELOPMENT_TABLES = (
    _table(
        "sacramento_mlp", "modeldata", "Sacramento", "price",
        (64, 64), steps=400, held_out=200, log=True,
    )
    | _table(
        "mileage_mlp", "openintro", "epa2021", "comb_mpg",
        (64, 64), steps=400, held_out=250, log=True, drop=("city_mpg", "hwy_mpg"),
    )
    | _table(
        "concrete_mlp", "modeldata", "concrete", "compressive_strength",
        (64, 64), steps=600, held_out=250, log=True,
    )
    | _table(
        "computers_mlp", "Ecdat", "Computers", "price",
        (64, 64), steps=600, held_out=1_000, log=True,
    )
    | _table(
        "hotel_mlp", "modeldata", "hotel_rates", "avg_price_per_room",
        (64, 64), steps=600, held_out=2_000, log=True, drop=("arrival_date", "arrival_date_num"),
    )
    | _table(
        "saratoga_mlp", "mosaicData", "SaratogaHouses", "price",
        (32, 32), steps=400, held_out=400, log=True,
    )
    | _table(
        "attrition_mlp", "modeldata", "attrition", "Attrition",
        (64, 64), steps=300, held_out=370, classes=True,
    )
    | _table(
        "leaves_mlp", "modeldata", "leaf_id_flavia", "species",
        (64, 64), steps=400, held_out=500, classes=True,
    )
    | _table(
        "credit_mlp", "modeldata", "credit_data", "Status",
        (32, 32), steps=400, held_out=1_000, classes=True,
    )
    | _table(
        "spam_mlp", "openintro", "email", "spam",
        (64, 64), steps=400, held_out=900, classes=True, drop=("time",),
    )
    | {
        "lectures_factors": lambda: factors(
            "lectures_factors",
            data.pairs("lme4", "InstEval", "s", "d", "y", held_out=8_000),
            8,
            steps=1500,
        ),
        "volcano_field": lambda: regression("volcano_field", data.volcano(), (64, 64), steps=1500),
    }
)  # fmt: skip
_AUDIT_TABLES = (
    _table(
        "deliveries_mlp", "modeldata", "deliveries", "time_to_delivery",
        (64, 64), steps=600, held_out=2_000, log=True,
    )
    | _table(
        "smokers_mlp", "causaldata", "nhefs_complete", "wt82_71",
        (64, 64), steps=400, held_out=400, drop=("seqn", "wt82"),
    )
    | _table(
        "food_mlp", "Ecdat", "BudgetFood", "wfood",
        (64, 64), steps=600, held_out=4_000,
    )
    | _table(
        "crime_mlp", "AER", "Guns", "violent",
        (64, 64), steps=400, held_out=250, log=True,
    )
    | _table(
        "telephone_mlp", "modeldata", "wa_churn", "churn",
        (32, 32), steps=400, held_out=1_500, classes=True,
    )
    | _table(
        "caravan_mlp", "ISLR", "Caravan", "Purchase",
        (32, 32), steps=400, held_out=1_200, classes=True,
    )
    | _table(
        "mortgages_mlp", "AER", "HMDA", "deny",
        (32, 32), steps=300, held_out=500, classes=True,
    )
    | _table(
        "tips_mlp", "modeldata", "taxi", "tip",
        (32, 32), steps=400, held_out=2_000, classes=True,
    )
    | {
        "verbs_factors": lambda: factors(
            "verbs_factors",
            data.pairs("lme4", "VerbAgg", "id", "item", "r2", held_out=1_000),
            8,
            steps=800,
        )
    }
)  # fmt: skip

MAKERS = (
    _DEVELOPMENT_TABLES
    | _AUDIT_TABLES
    | {
        # development
        "diamonds_price": lambda: regression(
            "diamonds_price", data.diamonds(), (64, 64), steps=2000
        ),
        "diamonds_cut": lambda: classification(
            "diamonds_cut", data.diamonds_cut(), (64, 64), steps=400
        ),
        # confirmation
        "wages_mlp": lambda: regression("wages_mlp", data.wages(), (64, 64), steps=1000),
        "churn_mlp": lambda: classification("churn_mlp", data.churn(), (32, 32), steps=400),
        "flights_embedding": lambda: embeddings("flights_embedding", data.flights(), 8, steps=1000),
        "tumours_posterior": lambda: posterior("tumours_posterior", data.tumours(), steps=600),
        # audit
        "houses_mlp": lambda: regression("houses_mlp", data.houses(), (64, 64), steps=400),
        "cells_mlp": lambda: classification("cells_mlp", data.cells(), (64, 64), steps=300),
        "loans_mlp": lambda: classification("loans_mlp", data.loans(), (32, 32), steps=600),
        "jobs_softmax": lambda: classification("jobs_softmax", data.jobs(), (), steps=600),
        "ratings_factors": lambda: factors("ratings_factors", data.ratings(), 8, steps=1500),
        # smoke
        "diabetes_linear": lambda: regression("diabetes_linear", data.diabetes(), (), steps=100),
    }
)
