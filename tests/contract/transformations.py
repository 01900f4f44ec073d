"""Whatever JAX does to a training step, and the number types it runs in."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.contract.row import Make, Rows
from tests.contract.training import (
    SOME,
    after,
    assert_finite,
    assert_moved,
    assert_same,
    assert_same_run,
    assert_same_types,
    raise_or_excuse,
    step_of,
    step_with,
    train,
)
from tests.problems import matrix_loss, matrix_params

ROWS = Rows()


@ROWS()
def one_trace(make: Make) -> None:
    """one trace for all steps"""
    params = matrix_params()
    train(step_of(make), params, make().init(params), 3)
    assert step_of(make)._cache_size() == 1


@ROWS()
def stable_state(make: Make) -> None:
    """structure, shapes and types of the state are those of init; nothing weakly typed"""
    initial = make().init(matrix_params())
    params, state = after(make)
    assert_same_types(initial, state)
    assert_same_types(params, matrix_params())
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state)), "weakly typed"


@ROWS()
def jit(make: Make) -> None:
    """`jit` changes nothing"""
    params = matrix_params()
    eager = train(step_with(make()), params, make().init(params), 3)
    assert_same_run(eager[0], after(make, 3)[0])


@ROWS()
def scan(make: Make) -> None:
    """`scan` and `while_loop` are the loop"""
    step = step_with(make())
    initial = after(make, 0)

    @jax.jit
    def run(carry):
        carry, _ = jax.lax.scan(lambda carry, _: (step(*carry), None), carry, None, SOME - 4)
        return jax.lax.fori_loop(0, jnp.int32(4), lambda _, carry: step(*carry), carry)

    assert_same_run(run(initial)[0], after(make)[0])


@ROWS()
def cond(make: Make) -> None:
    """`cond` between a step and none"""
    step = step_with(make())

    @jax.jit
    def run(carry, go):
        return jax.lax.cond(go, lambda carry: step(*carry), lambda carry: carry, carry)

    start = after(make)
    assert_same(run(start, False), start)
    assert_same_run(run(start, True)[0], after(make, SOME + 1)[0], start[0])


@ROWS()
def vmap(make: Make) -> None:
    """`vmap` over an ensemble whose members are at different steps"""
    counts = (SOME - 4, SOME, SOME + 1)
    members = [after(make, count) for count in counts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    params, states = jax.jit(jax.vmap(step_with(make())))(*stacked)
    for i, count in enumerate(counts):
        own = jax.tree.map(operator.itemgetter(i), params)
        assert_same_run(own, after(make, count + 1)[0], members[i][0])
    assert jax.tree.structure(states) == jax.tree.structure(members[0][1])


@ROWS()
def checkpoint(make: Make) -> None:
    """`checkpoint` of the loss and of the step"""
    step = step_with(make(), jax.checkpoint(matrix_loss))
    params, _ = jax.jit(jax.checkpoint(step))(*after(make))
    assert_same_run(params, after(make, SOME + 1)[0], after(make)[0])


@ROWS()
def donation(make: Make) -> None:
    """parameters and state can be donated, from the first step on"""
    step = jax.jit(step_with(make()), donate_argnums=(0, 1))
    # The start is copied, because the steps of the other rows are kept.
    carry = jax.tree.map(lambda x: jnp.array(x, copy=True), matrix_params())
    carry = carry, make().init(carry)
    for _ in range(SOME):
        before = [leaf for leaf in jax.tree.leaves(carry) if leaf.size]
        carry = step(*carry)
        assert all(leaf.is_deleted() for leaf in before), "a buffer was not donated"
    assert_same_run(carry[0], after(make)[0])


@ROWS()
def abstract_init(make: Make) -> None:
    """`init` on `ShapeDtypeStruct`, and `eval_shape`"""
    described = jax.eval_shape(matrix_params)
    real = jax.tree.map(lambda x: (x.shape, x.dtype), make().init(matrix_params()))
    for state in (make().init(described), jax.eval_shape(make().init, described)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == real


@ROWS()
def types_of_updates(make: Make) -> None:
    """updates in bfloat16, float16 and float32, as the parameters; stable state"""
    optimizer = make()
    for dtype in (jnp.bfloat16, jnp.float16):
        params = matrix_params(dtype)
        step = jax.jit(step_with(optimizer))
        initial = optimizer.init(params)
        new, state = train(step, params, initial, 2)
        assert_same_types(new, params)
        assert_same_types(state, initial)
        assert step._cache_size() == 1, "traced again"
        assert_finite((new, state))


@ROWS()
def mixed_types(make: Make) -> None:
    """parameters of different types in one tree"""
    params = {"w": matrix_params(jnp.bfloat16)["w"], "b": matrix_params(jnp.float32)["b"]}
    optimizer = make()
    new, state = train(jax.jit(step_with(optimizer)), params, optimizer.init(params), 2)
    assert_same_types(new, params)
    assert_same_types(state, optimizer.init(params))


@ROWS()
def x64(make: Make) -> None:
    """x64 mode: float64 and float32 parameters keep their types, counters theirs"""
    with jax.enable_x64(True):
        for dtype in (jnp.float64, jnp.float32):
            params = matrix_params(dtype)
            optimizer = make()
            step = jax.jit(step_with(optimizer))
            initial = optimizer.init(params)
            new, state = train(step, params, initial, 2)
            assert_same_types(new, params)
            assert_same_types(state, initial)
            assert not any(leaf.dtype == jnp.int64 for leaf in jax.tree.leaves(state))


@ROWS()
def complex_numbers(make: Make) -> None:
    """complex parameters reach their minimum"""
    target = jnp.array([[1.0 - 2.0j, -0.5j], [2.0 + 1.0j, 1.0]])
    params = {"z": jnp.array([[0.5 + 0.5j, 1.0], [-1.0j, 2.0 - 1.0j]]), "x": jnp.array([3.0, 1.0])}

    def loss(params):
        return jnp.sum(jnp.abs(params["z"] - target) ** 2) + jnp.sum((params["x"] + 1.0) ** 2)

    optimizer = optax.with_extra_args_support(make())

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        # JAX's gradient is the conjugate of the direction of ascent.
        grads = jax.tree.map(jnp.conj, grads)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (end, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 1000))(start)
    assert_same_types(state, start[1])
    assert_same_types(end, params)
    assert loss(end) < 0.01 * loss(params), f"loss {loss(params)} to {loss(end)} only"


@ROWS()
def strict_promotion(make: Make) -> None:
    """strict promotion of types and ranks, given gradients in the parameters' types"""
    grads = jax.grad(matrix_loss)(matrix_params())
    extra = {"value": jnp.float32(1.0), "grad": grads}
    optimizer = optax.with_extra_args_support(make())
    state = optimizer.init(matrix_params())
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        try:
            jax.jit(lambda *args: optimizer.update(*args, **extra)).trace(
                grads, state, matrix_params()
            )
        except jax.dtypes.TypePromotionError as error:
            raise_or_excuse(make, error, "is not strict")


@ROWS()
def leak_checking(make: Make) -> None:
    """no tracer leaks"""
    with jax.checking_leaks():
        jax.make_jaxpr(step_with(make()))(*after(make, 0))


@ROWS()
def debug_nans(make: Make) -> None:
    """no NaN or infinity arises inside, also from zero gradients"""
    step = jax.jit(step_with(make()))
    still = jax.jit(step_with(make(), lambda params: 0.0 * matrix_loss(params)))
    with jax.debug_nans(True), jax.debug_infs(True):
        train(step, *train(still, *train(step, *after(make, 0), 3), 2), 2)
        train(still, *after(make, 0), 2)


@ROWS()
def descends(make: Make) -> None:
    """the loss falls, on the parameters as they are"""
    step = step_with(make())
    run = jax.jit(lambda carry: jax.lax.fori_loop(0, 600, lambda _, c: step(*c), carry))
    params, _ = run(after(make, 0))
    assert_finite(params)
    assert_moved(params, matrix_params())
    before, now = matrix_loss(matrix_params()), matrix_loss(params)
    assert np.isfinite(now)
    assert now < 0.2 * before, f"loss {before} to {now} only"
