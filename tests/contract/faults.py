"""What goes wrong in a run: it goes on, ends where it would have ended, and has counted.

One noisy regression, whose every step can be disturbed: the gradient of a leaf multiplied,
the parameters moved, a leaf held. Each row disturbs it in its own way and compares the
held-out loss at the end with that of the undisturbed run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import parabolic_optax as po
from tests.contract.row import Make, Rows
from tests.contract.training import (
    after,
    assert_close,
    assert_finite,
    assert_same,
    needs_average,
    needs_readouts,
    read_out,
    step_of,
    step_with,
)
from tests.problems import matrix_loss, matrix_params

ROWS = Rows()

STEPS, BATCH = 800, 32
# One noisy run ends several per cent above or below the next, disturbed or not.
RUNS = 4
LEAVES = ("w1", "b1", "w2")


def start() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2.0, jnp.float32)  # noqa: E731
    return {"w1": draw(4, 8), "b1": draw(8), "w2": draw(8, 1)}


def squares(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ params["w1"] + params["b1"])
    return jnp.mean((hidden @ params["w2"] - y) ** 2)


def samples(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    noise, inputs = jax.random.split(key)
    x = jax.random.normal(inputs, (n, 4)) + 0.5
    y = jnp.sin(x[:, :1]) + 0.5 * x[:, 1:2] - 0.3 * x[:, 2:3] * x[:, 3:]
    return x, y + 0.5 * jax.random.normal(noise, (n, 1))


def undisturbed() -> dict[str, np.ndarray]:
    return {
        "factor": np.ones((STEPS, len(LEAVES)), np.float32),
        "kick": np.zeros(STEPS, np.float32),
        "held": np.zeros((STEPS, len(LEAVES)), bool),
    }


@functools.cache
def runner(make: Make) -> Any:
    optimizer = optax.with_extra_args_support(make())

    def step(carry, inputs):
        params, state = carry
        key, disturbance = inputs
        x, y = samples(key, BATCH)

        def loss(params):
            return squares(params, x, y)

        per_leaf = {name: i for i, name in enumerate(LEAVES)}
        value, grads = jax.value_and_grad(loss)(params)
        grads = jax.tree.map(lambda g, i: g * disturbance["factor"][i], grads, per_leaf)
        extra = {"value": value, "grad": grads, "value_fn": loss}
        updates, state = optimizer.update(grads, state, params, **extra)
        held = jax.tree.map(lambda i: disturbance["held"][i], per_leaf)
        new = optax.apply_updates(params, updates)
        new = jax.tree.map(lambda n, p, h: jnp.where(h, p, n), new, params, held)
        return (jax.tree.map(lambda n: n * (1.0 + disturbance["kick"]), new), state), None

    def run(key, disturbances):
        carry = (start(), optimizer.init(start()))
        return jax.lax.scan(step, carry, (jax.random.split(key, STEPS), disturbances))[0]

    runs = jax.jit(jax.vmap(run, in_axes=(0, None)))
    return functools.partial(runs, jax.random.split(jax.random.key(1), RUNS))


def result(make: Make, disturbances: dict[str, np.ndarray]) -> tuple[float, Any]:
    """Held-out loss at the end, mean over the runs, and the state of the first run."""
    ends = runner(make)(disturbances)
    assert_finite(ends)
    held_out = samples(jax.random.key(2), 4096)
    losses = []
    for number in range(RUNS):
        params, state = jax.tree.map(lambda leaf, n=number: leaf[n], ends)
        losses.append(float(squares(read_out(state, params), *held_out)))
    return float(np.mean(losses)), jax.tree.map(lambda leaf: leaf[0], ends[1])


@functools.cache
def undisturbed_result(make: Make) -> float:
    return result(make, undisturbed())[0]


def assert_recovers(make: Make, disturbances: dict[str, np.ndarray], skipped: int = 0) -> None:
    loss, state = result(make, disturbances)
    usual = undisturbed_result(make)
    assert loss <= 1.05 * usual, f"ends at {loss / usual:.3f} of the undisturbed run"
    try:
        readings = po.metrics(state)
    except ValueError:
        return
    assert readings["skipped"] == skipped, f"{readings['skipped']} of {skipped} counted"
    assert readings["count"] == STEPS - skipped, f"{readings['count']} samples"


def times(value: float, steps: Any, leaves: Any = slice(None)) -> dict[str, np.ndarray]:
    """Gradients multiplied by `value` in some steps and leaves."""
    disturbances = undisturbed()
    disturbances["factor"][steps, leaves] = value
    return disturbances


BURST = slice(400, 420)


@ROWS()
def one_nan(make: Make) -> None:
    """one NaN gradient in one leaf"""
    assert_recovers(make, times(np.nan, 400, 1), skipped=1)


@ROWS()
def nan_at_the_start(make: Make) -> None:
    """NaN gradients in the first three steps"""
    assert_recovers(make, times(np.nan, slice(0, 3)), skipped=3)


@ROWS()
def nan_burst(make: Make) -> None:
    """twenty NaN gradients in a row"""
    assert_recovers(make, times(np.nan, BURST), skipped=20)


@ROWS()
def infinities(make: Make) -> None:
    """infinite gradients, of both signs"""
    disturbances = times(np.inf, slice(100, 700, 50), 0)
    disturbances["factor"][100:700:100, 0] = -np.inf
    assert_recovers(make, disturbances, skipped=12)


@ROWS()
def huge_burst(make: Make) -> None:
    """gradients of 1e30 for a while: too large to be squared"""
    assert_recovers(make, times(1e30, BURST), skipped=20)


@ROWS()
def tiny_burst(make: Make) -> None:
    """gradients of 1e-30 for a while"""
    assert_recovers(make, times(1e-30, BURST), skipped=20)


@ROWS()
def subnormal_burst(make: Make) -> None:
    """subnormal gradients for a while"""
    assert_recovers(make, times(1e-41, BURST), skipped=20)


@ROWS()
def zeros_for_long(make: Make) -> None:
    """zero gradients for an eighth of the run"""
    assert_recovers(make, times(0.0, slice(400, 500)), skipped=100)


@ROWS()
def zeros_at_the_start(make: Make) -> None:
    """zero gradients in the first fifty steps"""
    assert_recovers(make, times(0.0, slice(0, 50)), skipped=50)


@ROWS()
def loss_jumps(make: Make) -> None:
    """a loss ten times as large for a while"""
    assert_recovers(make, times(10.0, BURST))


@ROWS()
def kicked(make: Make) -> None:
    """parameters changed from outside by a tenth"""
    disturbances = undisturbed()
    disturbances["kick"][400] = 0.1
    assert_recovers(make, disturbances)


@ROWS()
def held_half_way(make: Make) -> None:
    """a leaf held from outside in the second half"""
    disturbances = undisturbed()
    disturbances["held"][STEPS // 2 :, 1] = True
    assert_recovers(make, disturbances)


@ROWS()
def held_from_the_start(make: Make) -> None:
    """a leaf that never moves, although its gradient is not 0"""
    params, state = runner(make)(
        undisturbed() | {"held": np.tile([[False, True, False]], (STEPS, 1))}
    )
    assert_finite((params, state))
    assert_same(params["b1"], jnp.stack([start()["b1"]] * RUNS))


@ROWS()
def skipped_step(make: Make) -> None:
    """a step that is skipped leaves all but the counter of skips as it was"""
    needs_readouts(make)
    params, state = after(make)
    grads = jax.grad(matrix_loss)(params)
    update = jax.jit(make().update)
    for bad in (np.nan, -np.inf, 1e25):
        for leaf in ("w", "b"):
            index = (0,) * grads[leaf].ndim
            updates, new = update(grads | {leaf: grads[leaf].at[index].set(bad)}, state, params)
            assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
            assert po.metrics(new)["skipped"] == 1
            assert po.metrics(new)["count"] == po.metrics(state)["count"]
            assert_same(update(grads, new, params)[0], update(grads, state, params)[0])
            assert_same(po.eval_params(new, params), po.eval_params(state, params))


@ROWS()
def last_count(make: Make) -> None:
    """a counter at its end stays there"""
    params, state = after(make)
    last = np.iinfo(np.int32).max
    state = with_count(state, last)
    for _ in range(3):
        params, state = step_of(make)(params, state)
    assert_finite((params, state))
    counts = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
    assert last in counts
    assert all(count >= 0 for count in counts), "a counter has overflown"


def with_count(state: Any, count: int) -> Any:
    """The state with every field named count set, as of a run in which the averages follow.

    What a few steps say of that would weigh like half of so many.
    """

    def change(path, leaf):
        names = [getattr(key, "name", "") for key in path]
        if names[-1] == "count":
            return jnp.full_like(leaf, count)
        return jnp.zeros_like(leaf) if "lag" in names else leaf

    return jax.tree_util.tree_map_with_path(change, state)


MILLION = 1_000_000


@ROWS()
def averages_after_a_million_steps(make: Make) -> None:
    """the averages of a run of a million steps still follow small changes"""
    needs_readouts(make)
    _, state = after(make)
    needs_average(state)
    state = with_count(state, MILLION)
    params = jax.tree.map(lambda p: 1.001 * p, po.eval_params(state, matrix_params()))
    update = make().update

    @jax.jit
    def run(state):
        return jax.lax.fori_loop(
            0, MILLION // 10, lambda _, state: update(params, state, params)[1], state
        )

    moved = jax.tree.map(
        lambda new, old, goal: (new - old) / (goal - old),
        po.eval_params(run(state), params),
        po.eval_params(state, params),
        params,
    )
    # The mean with weights 10 / (t + 9) keeps (1 / 1.1)^10 of what it was.
    assert_close(moved, jax.tree.map(lambda p: jnp.full_like(p, 1.0 - 1.1**-10), params), 0.02)


@ROWS(slow=True)
def million_steps(make: Make) -> None:
    """a million noisy steps end at the minimum, with nothing lost"""
    step = step_with(make())

    @jax.jit
    def run(carry):
        return jax.lax.fori_loop(0, MILLION, lambda _, carry: step(*carry), carry)

    params, state = run(after(make, 0))
    assert_finite((params, state))
    floor = matrix_loss(jax.jit(newton)(matrix_params()))
    assert matrix_loss(read_out(state, params)) - floor < 1e-3 * (
        matrix_loss(matrix_params()) - floor
    )


def newton(params: Any) -> Any:
    """The minimum of the matrix problem, which is quadratic."""
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    loss = lambda flat: matrix_loss(unflatten(flat))  # noqa: E731
    return unflatten(flat - jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat)))
