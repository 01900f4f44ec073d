"""Deterministic problems: classical functions, learning, differential equations, suites."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


class Batch(NamedTuple):
    """Problems of one size that are solved together under ``vmap``.

    Attributes:
      labels: name of every problem.
      loss: function of a flat vector and of one problem's argument.
      starts: one vector per problem.
      arguments: pytree with a leading axis over the problems.
      budget: number of gradients.
    """

    labels: list[str]
    loss: Callable[[jax.Array, Any], jax.Array]
    starts: jax.Array
    arguments: Any
    budget: int


def single(label: str, loss: Callable, start: jax.Array, budget: int) -> Batch:
    return Batch([label], lambda x, _: loss(x), jnp.asarray(start)[None], jnp.zeros(1), budget)


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def beale(x):
    terms = [c - x[0] + x[0] * x[1] ** (i + 1) for i, c in enumerate((1.5, 2.25, 2.625))]
    return sum(term**2 for term in terms)


def himmelblau(x):
    return (x[0] ** 2 + x[1] - 11.0) ** 2 + (x[0] + x[1] ** 2 - 7.0) ** 2


def matyas(x):
    return 0.26 * (x[0] ** 2 + x[1] ** 2) - 0.48 * x[0] * x[1]


def goldstein_price(x):
    a, b = x
    first = 19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2
    second = 18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2
    return (1 + (a + b + 1) ** 2 * first) * (30 + (2 * a - 3 * b) ** 2 * second)


def three_hump_camel(x):
    return 2 * x[0] ** 2 - 1.05 * x[0] ** 4 + x[0] ** 6 / 6 + x[0] * x[1] + x[1] ** 2


def classical() -> list[Batch]:
    """Functions of textbooks, from their usual starts or from points off all symmetries."""
    planar = [
        (beale, (1.0, 0.8)),
        (himmelblau, (0.5, -0.3)),
        (matyas, (4.0, -7.0)),
        (goldstein_price, (-0.5, 0.25)),
        (three_hump_camel, (1.9, -1.3)),
    ]
    batches = [single(f.__name__, f, jnp.array(start), 300) for f, start in planar]
    for n, budget in ((2, 300), (10, 1000), (100, 2000)):
        start = jnp.tile(jnp.array([-1.2, 1.0]), n // 2)
        batches.append(single(f"rosenbrock_{n}", rosenbrock, start, budget))
    return batches


def network(sizes, seed):
    """Flat start and the tanh network as a function of (flat parameters, inputs)."""
    rng = np.random.default_rng(seed)
    layers = [
        (jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), jnp.float32), jnp.zeros(b))
        for a, b in itertools.pairwise(sizes)
    ]
    start, unravel = ravel_pytree(layers)

    def apply(flat, inputs):
        *hidden, (w, b) = unravel(flat)
        for weights, bias in hidden:
            inputs = jnp.tanh(inputs @ weights + bias)
        return inputs @ w + b

    return start, apply


def logistic_regression() -> Batch:
    """Softmax regression on the 1,797 digits of scikit-learn, slightly regularised."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = jnp.asarray(digits.data / 16.0, jnp.float32)
    targets = jax.nn.one_hot(digits.target, 10)

    def loss(flat):
        logits = inputs @ flat[:640].reshape(64, 10) + flat[640:]
        likelihood = jnp.sum(logits * targets, axis=1) - jax.nn.logsumexp(logits, axis=1)
        return -jnp.mean(likelihood) + 5e-5 * jnp.sum(flat**2)

    return single("logistic_regression", loss, jnp.zeros(650), 500)


def tanh_regression(seed: int) -> Batch:
    rng = np.random.default_rng(100 + seed)
    x = jnp.asarray(rng.uniform(-1, 1, size=(200, 2)), jnp.float32)
    y = jnp.sin(3 * x[:, :1]) * jnp.cos(2 * x[:, 1:]) + 0.5 * x[:, :1] * x[:, 1:]
    start, apply = network([2, 20, 20, 1], seed)
    label = f"tanh_regression_{seed}"
    return single(label, lambda p: jnp.mean((apply(p, x) - y) ** 2), start, 2000)


def poisson(seed: int) -> Batch:
    """u'' = -f on [0, 1] with u(0) = u(1) = 0, two frequencies in f."""
    start, apply = network([1, 20, 20, 1], seed)
    grid = jnp.linspace(0.0, 1.0, 64)
    source = np.pi**2 * jnp.sin(np.pi * grid) + 8.0 * np.pi**2 * jnp.sin(4.0 * np.pi * grid)

    def loss(flat):
        def u(x):
            return apply(flat, x[None])[0]

        bend = jax.vmap(jax.grad(jax.grad(u)))(grid)
        return jnp.mean((bend + source) ** 2) + 100.0 * (u(grid[0]) ** 2 + u(grid[-1]) ** 2)

    return single(f"pinn_poisson_{seed}", loss, start, 2000)


def burgers(seed: int) -> Batch:
    """u_t + u u_x = (0.01 / pi) u_xx from u = -sin(pi x), with a front at x = 0."""
    start, apply = network([2, 20, 20, 20, 1], seed)
    rng = np.random.default_rng(200 + seed)
    times, places = (jnp.asarray(v, jnp.float32) for v in rng.uniform(size=(2, 400)))
    places = 2.0 * places - 1.0
    line, early = jnp.linspace(-1.0, 1.0, 50), jnp.linspace(0.0, 1.0, 25)

    def loss(flat):
        def u(t, x):
            return apply(flat, jnp.stack([t, x]))[0]

        def residual(t, x):
            slope, bend = jax.grad(u, 1)(t, x), jax.grad(jax.grad(u, 1), 1)(t, x)
            return jax.grad(u, 0)(t, x) + u(t, x) * slope - 0.01 / np.pi * bend

        initial = jax.vmap(lambda x: u(0.0, x) + jnp.sin(np.pi * x))(line)
        sides = [jax.vmap(lambda t, x=x: u(t, x))(early) for x in (-1.0, 1.0)]
        inner = jax.vmap(residual)(times, places)
        return sum(jnp.mean(r**2) for r in (inner, initial, jnp.concatenate(sides)))

    return single(f"pinn_burgers_{seed}", loss, start, 2000)


def learning() -> list[Batch]:
    """Full-batch learning and physics-informed networks, in float32."""
    networks = [*map(poisson, range(4)), *map(burgers, range(3))]
    return [logistic_regression(), tanh_regression(0), *networks]


def bbob(dimensions: int, budget: int = 600) -> list[Batch]:
    """The 24 noiseless functions of BBOB, started in [-4, 4].

    One batch each: under ``vmap``, a switch would compute all of them for every one.
    """
    import bbobax

    suite = bbobax.bbob_suite(num_dims=dimensions)
    starts = jax.random.uniform(jax.random.key(7), (24, dimensions), minval=-4.0, maxval=4.0)

    def batch(index, name):
        problem, label = suite[name], f"bbob_{name}_{dimensions}"
        sampled = problem.sample(jax.random.key(1000 + index))
        # Value 0 at the optimum, with the penalty outside the box.
        return single(label, lambda x: sum(problem._value(x, sampled)), starts[index], budget)

    return [batch(*numbered) for numbered in enumerate(suite)]


CUTEST = (
    "BARD", "BEALE", "BIGGS6", "BOX3", "BOXBODLS", "BRKMCC", "BROWNBS", "BROWNDEN", "CLIFF",
    "CUBE", "DENSCHNA", "DENSCHNC", "DENSCHND", "DENSCHNF", "ENGVAL2", "EXPFIT", "GROWTHLS",
    "GULF", "HAIRY", "HATFLDD", "HATFLDE", "HELIX", "HIMMELBF", "HUMPS", "JENSMP", "KOWOSB",
    "LOGHAIRY", "MEYER3", "OSBORNEA", "OSBORNEB", "PALMER1C", "SINEVAL", "SISSER", "SNAIL",
    "VIBRBEAM", "WATSON", "YFITU", "ZANGWIL2",
)  # fmt: skip


def cutest(count: int = 30) -> list[Batch]:
    """Small unconstrained problems of CUTEst, the first that the package has."""
    import sif2jax

    known = {p.name: p for p in sif2jax.unconstrained_minimisation_problems}
    chosen = [known[name] for name in CUTEST if name in known][:count]

    def batch(problem):
        start, unravel = ravel_pytree(problem.y0)
        return single(
            problem.name, lambda x: problem.objective(unravel(x), problem.args), start, 1000
        )

    return [batch(problem) for problem in chosen]


# Name of a suite: (constructor, whether it is run in float64).
SUITES: dict[str, tuple[Callable[[], list[Batch]], bool]] = {
    "classical": (classical, True),
    "learning": (learning, False),
    "bbob10": (lambda: bbob(10), True),
    "bbob40": (lambda: bbob(40), True),
    "cutest": (cutest, True),
}
