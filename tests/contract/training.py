"""Small problems, training steps and comparisons that the rows share."""

import functools
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import parabolic_optax as po
from tests.contract.row import Make, NotApplicableError
from tests.problems import matrix_loss, matrix_params

Loss = Callable[[Any], jax.Array]

# Steps enough for ours to have moved far beyond the resolution of float32, and few enough for
# none to have come to the minimum, where all runs are the same.
SOME = 9


def step_with(optimizer: Any, loss: Loss = matrix_loss) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One training step. It passes all that any peer asks for, so that none fails for that."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grads, "value_fn": loss}
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def step_of(make: Make) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The compiled training step on the matrix problem."""
    return jax.jit(step_with(make()))


def train(step: Any, params: Any, state: Any, steps: int) -> tuple[Any, Any]:
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@functools.cache
def after(make: Make, steps: int = SOME) -> tuple[Any, Any]:
    """Parameters and state after a few steps on the matrix problem."""
    if steps == 0:
        return matrix_params(), make().init(matrix_params())
    return step_of(make)(*after(make, steps - 1))


def trained(optimizer: Any, steps: int = SOME, params: Any = None) -> tuple[Any, Any]:
    """The same for another optimizer, compiled anew."""
    params = matrix_params() if params is None else params
    return train(jax.jit(step_with(optimizer)), params, optimizer.init(params), steps)


def read_out(state: Any, params: Any) -> Any:
    """The parameters that the optimizer would have evaluated."""
    try:
        return po.eval_params(state, params)
    except ValueError:
        pass
    if isinstance(state, optax.contrib.ScheduleFreeState):
        return optax.contrib.schedule_free_eval_params(state, params)
    return params


def needs_readouts(make: Make) -> None:
    if make.func.__module__.partition(".")[0] != po.__name__:
        raise NotApplicableError("has no readouts")


def needs_step_sizes(state: Any) -> None:
    if "step_size" not in po.metrics(state):
        raise NotApplicableError("finds no step size for every tensor, and averages nothing")


def needs_average(state: Any) -> None:
    needs_step_sizes(state)
    if po.metrics(state).get("second_order") == 1.0:
        raise NotApplicableError("averages nothing while its gradients are without noise")


def needs_rate(make: Make) -> float:
    if "learning_rate" not in make.keywords:
        raise NotApplicableError("no learning_rate is given")
    return make.keywords["learning_rate"]


def raise_or_excuse(make: Make, error: Exception, why: str) -> NoReturn:
    """Raises the error, or says that the cause is code of optax that the optimizer builds on."""
    modules = [frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__)]
    culprit = [module for module in modules if not module.startswith("jax")][-1]
    if culprit.startswith("optax.") and not make.func.__module__.startswith("optax."):
        raise NotApplicableError(f"optax's part in it {why}") from error
    raise error


def types(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def assert_same_types(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b), "the structure changed"
    assert types(a) == types(b), "shapes or types changed"


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a: Any, b: Any, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            jnp.asarray(x, jnp.result_type(x, jnp.float32)),
            jnp.asarray(y, jnp.result_type(y, jnp.float32)),
            rtol,
            atol,
        ),
        a,
        b,
    )


def assert_same_run(got: Any, expected: Any, start: Any = None, tolerance: float = 0.05) -> None:
    """Whether two runs from the same start came to the same place, measured by their way."""
    start = matrix_params() if start is None else start
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for leaves in zip(*map(jax.tree.leaves, (got, expected, start)), strict=True):
        a, b, origin = (np.asarray(leaf, np.float64) for leaf in leaves)
        way, miss = np.max(np.abs(b - origin), initial=0.0), np.max(np.abs(a - b), initial=0.0)
        assert way > 0.0 or not a.size, "a leaf did not move"
        assert miss <= tolerance * way, f"{miss:.1e} apart after a way of {way:.1e}"


def assert_finite(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        assert not jnp.issubdtype(leaf.dtype, jnp.inexact) or np.all(np.isfinite(leaf)), (
            "a NaN or an infinity is left"
        )


def assert_moved(a: Any, b: Any) -> None:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    assert all(not np.array_equal(x, y) for x, y in pairs if x.size), "a leaf did not move"
