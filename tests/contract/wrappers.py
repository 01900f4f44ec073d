"""Whatever optax wraps around an optimizer."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import parabolic_optax as po
from tests.contract.row import Make, NotApplicableError, Rows
from tests.contract.training import (
    SOME,
    after,
    assert_close,
    assert_finite,
    assert_moved,
    assert_same,
    assert_same_run,
    assert_same_types,
    needs_average,
    needs_rate,
    needs_readouts,
    needs_step_sizes,
    step_of,
    step_with,
    train,
    trained,
)
from tests.problems import matrix_loss, matrix_params

ROWS = Rows()


@ROWS()
def chain(make: Make) -> None:
    """in a `chain`, nested, behind clipping and before a scale"""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1e6), optax.chain(make()), optax.scale(1.0), optax.identity()
    )
    assert_same_run(trained(optimizer)[0], after(make)[0])


@ROWS()
def inject_hyperparams(make: Make) -> None:
    """`inject_hyperparams`: every float argument may be a tracer; counts are static"""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(make.func).parameters.items()
    }
    floats = {name: value for name, value in defaults.items() if isinstance(value, float)}
    counts = [name for name, value in defaults.items() if type(value) is int]
    keywords = floats | make.keywords
    if not keywords:
        raise NotApplicableError("has no float argument")
    optimizer = optax.inject_hyperparams(make.func, static_args=counts)(**keywords)
    params, state = trained(optimizer)
    assert set(state.hyperparams) == set(keywords)
    assert_same_run(params, after(make)[0])


@ROWS()
def inject_schedule(make: Make) -> None:
    """`inject_hyperparams` with a schedule"""
    rate = needs_rate(make)

    def schedule(count):
        return jnp.where(count < 3, rate, 0.5 * rate)

    injected = optax.inject_hyperparams(make.func)(learning_rate=schedule)
    params, state = trained(injected)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 0.5 * rate)
    assert_finite(params)
    assert_same_run(trained(injected, 3)[0], after(make, 3)[0])


@ROWS()
def schedule_equals_constant(make: Make) -> None:
    """a constant schedule is a constant"""
    rate = needs_rate(make)
    params, _ = trained(make(learning_rate=lambda count: rate))
    assert_same_run(params, after(make)[0])


@ROWS()
def multi_steps_bf16(make: Make) -> None:
    """`MultiSteps` in bfloat16: one step with the mean gradient, stable types"""
    params = matrix_params(jnp.bfloat16)
    optimizer = optax.MultiSteps(make(), 2).gradient_transformation()
    initial = optimizer.init(params)
    step = jax.jit(step_with(optimizer))
    halfway, state = step(params, initial)
    assert_same(halfway, params)
    assert_same_types(initial, state)
    end, state = train(step, halfway, state, 2 * SOME + 3)
    assert_same_types(params, end)
    assert_same_run(end, trained(make(), SOME + 2, params)[0], params)


@ROWS()
def apply_if_finite(make: Make) -> None:
    """`apply_if_finite`"""
    optimizer = optax.with_extra_args_support(optax.apply_if_finite(make(), 3))
    params, state = trained(optimizer)
    assert_same_run(params, after(make)[0])
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    value = jnp.float32(1.0)
    updates, state = optimizer.update(
        bad, state, params, value=value, grad=bad, value_fn=matrix_loss
    )
    assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))
    assert state.total_notfinite == 1


@ROWS()
def masks(make: Make) -> None:
    """`masked`, nested, and with a function"""
    inner = optax.masked(make(), {"w": True, "b": False})
    nested = optax.masked(inner, {"w": True, "b": True})
    by_function = optax.masked(make(), lambda params: {"w": True, "b": False})
    (one, _), (other, state) = trained(nested), trained(by_function)
    assert_same_run(one["w"], other["w"], matrix_params()["w"])
    # The gradient of what is masked out passes through, as optax defines.
    grads = jax.grad(matrix_loss)(other)
    updates, _ = optax.with_extra_args_support(by_function).update(
        grads, state, other, value=matrix_loss(other), grad=grads, value_fn=matrix_loss
    )
    assert_same(updates["b"], grads["b"])
    assert not np.array_equal(updates["w"], grads["w"])


@ROWS()
def partition(make: Make) -> None:
    """`partition` into two of its kind"""
    optimizer = optax.partition({"a": make(), "b": make()}, {"w": "a", "b": "b"})
    params, _ = trained(optimizer, 20)
    assert_finite(params)
    assert_moved(params, matrix_params())


@ROWS()
def frozen(make: Make) -> None:
    """frozen leaves stay, whether frozen around it or behind it"""
    around = optax.selective_transform(make(), freeze_mask={"w": False, "b": True})
    behind = optax.chain(make(), optax.freeze({"w": False, "b": True}))
    for optimizer in (around, behind):
        params, state = trained(optimizer)
        assert_same(params["b"], matrix_params()["b"])
        assert_moved(params["w"], matrix_params()["w"])
        assert_finite((params, state))


TREES = {
    "odd": {
        "none": None,
        "masked": optax.MaskedNode(),
        "void": jnp.ones((0, 4)),
        "scalar": jnp.array(-1.0, jnp.float32),
        "weak": jnp.array(2.0),
        "nested": [(jnp.ones(3), [jnp.ones((1, 1))]), ()],
    },
    "scalar": jnp.array(2.0, jnp.float32),
    "zero": {"w": jnp.zeros((2, 3))},
}


@ROWS()
def unusual_leaves(make: Make) -> None:
    """leaves that are None, masked, of size 0, scalar, weakly typed or zero"""

    def loss(params):
        return 0.5 * sum(jnp.sum((p - 5.0) ** 2) for p in jax.tree.leaves(params))

    optimizer = make()
    step = jax.jit(step_with(optimizer, loss))
    for name, params in TREES.items():
        state = optimizer.init(params)
        new, after_one = step(params, state)
        assert_same_types(state, after_one)
        new, _ = step(new, after_one)
        assert jax.tree.structure(new) == jax.tree.structure(params), name
        before = [(p.shape, p.dtype) for p in jax.tree.leaves(params)]
        assert [(p.shape, p.dtype) for p in jax.tree.leaves(new)] == before, name
        assert_finite((new, after_one))


@ROWS()
def empty_trees(make: Make) -> None:
    """trees without leaves"""
    for params in ({}, (), {"nothing": None}):
        step = step_with(make(), lambda params: jnp.float32(1.0))
        new, _ = step(*step(params, make().init(params)))
        assert jax.tree.structure(new) == jax.tree.structure(params)


class Callable(eqx.Module):
    """A model that is its own pytree of parameters and can be called."""

    w: jax.Array
    b: jax.Array

    def __call__(self, x):
        return self.w @ x + self.b


@ROWS()
def callable_trees(make: Make) -> None:
    """parameters that can be called, also as mask and labels"""
    params = Callable(jnp.array([[1.0, -2.0, 0.5]]), jnp.array([0.3]))
    x = jnp.array([1.0, 2.0, 3.0])

    def loss(model):
        return jnp.sum((model(x) - 4.0) ** 2)

    for optimizer in (
        make(),
        optax.masked(make(), lambda _: Callable(True, False)),
        optax.partition({"a": make()}, lambda _: Callable("a", "a")),
    ):
        new, _ = train(step_with(optimizer, loss), params, optimizer.init(params), 2)
        assert isinstance(new, Callable)
        assert_finite(new)
        assert_moved(new.w, params.w)


@ROWS()
def map_params(make: Make) -> None:
    """`optax.tree.map_params` finds what is like the parameters, and nothing else"""
    optimizer = make()
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(5)}
    state = optimizer.init(params)
    marked = optax.tree.map_params(
        optimizer, lambda x: "like", state, transform_non_params=lambda x: "other"
    )
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    shapes = {p.shape for p in jax.tree.leaves(params)}
    for mark, leaf in zip(jax.tree.leaves(marked), jax.tree.leaves(state), strict=True):
        # A buffer of several parameter trees, as of L-BFGS, has one more axis.
        like = leaf.shape in shapes or leaf.shape[1:] in shapes
        assert mark == ("like" if like else "other")


@ROWS()
def lookahead(make: Make) -> None:
    """`lookahead`"""
    optimizer = optax.lookahead(make(), sync_period=3, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(matrix_params())
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(matrix_loss)(params.fast)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, _ = train(step, params, state, 3)
    assert_close(params.fast, params.slow, 1e-6)
    assert_moved(params.slow, matrix_params())
    assert_finite(params)


@ROWS()
def monitor_and_snapshot(make: Make) -> None:
    """`monitor` and `snapshot` see the updates"""
    optimizer = optax.chain(
        make(),
        optax.monitor({"norm": optax.tree.norm}),
        optax.snapshot("last", lambda updates: updates),
    )
    params, state = trained(optimizer)
    assert_same_run(params, after(make)[0])
    last, before = optax.tree.get(state, "last"), after(make, SOME - 1)[0]
    assert_same_run(jax.tree.map(jnp.add, before, last), params, before)
    np.testing.assert_allclose(optax.tree.get(state, "norm"), optax.tree.norm(last), 1e-5)


@ROWS()
def extra_arguments(make: Make) -> None:
    """unknown extra arguments are tolerated"""
    params, state = after(make)
    optimizer = make()

    def update(**extra):
        grads = jax.grad(matrix_loss)(params)
        value = matrix_loss(params)
        return optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=matrix_loss, **extra
        )[0]

    updates = update(foo="bar")
    assert_same_run(optax.apply_updates(params, updates), after(make, SOME + 1)[0], params)


WRAPPERS = {
    "masked": lambda make: optax.masked(make(), {"w": True, "b": False}),
    "partition": lambda make: optax.partition(
        {"ours": make(), "frozen": optax.set_to_zero()}, {"w": "ours", "b": "frozen"}
    ),
    "two": lambda make: optax.partition({"a": make(), "b": make()}, {"w": "a", "b": "b"}),
    "multi_steps": lambda make: optax.MultiSteps(make(), 2).gradient_transformation(),
    "inject": lambda make: optax.inject_hyperparams(lambda learning_rate: make())(
        learning_rate=1.0
    ),
    "finite": lambda make: optax.apply_if_finite(make(), 3),
    "clip": lambda make: optax.chain(optax.clip_by_global_norm(1.0), make()),
}
ONLY_W = ("masked", "partition")


def wrapped(make: Make, name: str) -> Any:
    """The state that the bare optimizer has reached, inside the wrapper."""
    params, bare = after(make)
    optimizer = WRAPPERS[name](make)
    initial = optimizer.init(params)
    if name in ("inject", "finite", "multi_steps"):
        field = {"multi_steps": "inner_opt_state"}.get(name, "inner_state")
        return initial._replace(**{field: bare})
    return (initial[0], bare) if name == "clip" else trained(optimizer)[1]


@ROWS()
def readouts(make: Make) -> None:
    """`metrics` and `reset` see through every wrapper"""
    needs_readouts(make)
    needs_step_sizes(after(make)[1])
    for name in WRAPPERS:
        state = wrapped(make, name)
        readings = po.metrics(state)
        assert readings["count"] == SOME, name
        assert readings["step_size"] > 0.0
        assert readings["step_size/w"].shape == ()
        held = {key.split("/")[1] for key in readings if key.startswith("signal/")}
        assert held == ({"w"} if name in ONLY_W else {"w", "b"})

        again = po.reset(state)
        assert_same_types(again, state)
        assert po.metrics(again)["count"] == 0
        assert po.metrics(again)["signal"] == 0.0
        assert po.metrics(again)["step_size"] == readings["step_size"]


@ROWS()
def averages(make: Make) -> None:
    """`eval_params` sees through every wrapper"""
    needs_readouts(make)
    params, bare = after(make)
    needs_average(bare)
    for name in WRAPPERS:
        averaged = po.eval_params(wrapped(make, name), params)
        assert_same_types(averaged, params)
        assert not np.array_equal(averaged["w"], params["w"])
        assert (name in ONLY_W) == np.array_equal(averaged["b"], params["b"]), name


@ROWS()
def readouts_under_jit(make: Make) -> None:
    """`metrics`, `eval_params` and `reset` under `jit`"""
    needs_readouts(make)
    params, state = after(make)
    assert_close(jax.jit(po.metrics)(state), po.metrics(state))
    assert_same(jax.jit(po.eval_params)(state, params), po.eval_params(state, params))
    assert_same(jax.jit(po.reset)(state), po.reset(state))


@ROWS()
def reset(make: Make) -> None:
    """`reset` starts the averages anew and keeps the step sizes"""
    needs_readouts(make)
    params, state = after(make)
    needs_step_sizes(state)
    before = po.metrics(state)["step_size"]
    elsewhere = jax.tree.map(lambda p: p + 100.0, params)
    moved, state = step_of(make)(elsewhere, po.reset(state))
    # Of one sample; averages that are not in use yet wait at the point after it.
    waits = po.metrics(state).get("second_order") == 1.0
    assert_close(po.eval_params(state, moved), moved if waits else elsewhere, 1e-6)
    assert po.metrics(state)["count"] == 1
    assert po.metrics(state)["signal"] == 0.0
    _, state = train(step_of(make), params, state, 4)
    assert po.metrics(state)["step_size"] < 2.0 * before


@ROWS()
def learning_rate(make: Make) -> None:
    """`learning_rate` multiplies the step"""
    rate = needs_rate(make)
    params, state = after(make)
    grads = jax.grad(matrix_loss)(params)
    extra = {"value": matrix_loss(params)}

    def update(optimizer):
        return optax.with_extra_args_support(optimizer).update(grads, state, params, **extra)[0]

    half = update(make(learning_rate=0.5 * rate))
    assert_close(jax.tree.map(lambda u: 0.5 * u, update(make())), half, 1e-5, 0.0)
    assert any(np.any(u != 0.0) for u in jax.tree.leaves(half))
