"""Several devices and several processes, on JAX's own engine."""

import functools
import os
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.contract import compiled_update
from tests.contract.row import DEVICES, Make, Rows
from tests.contract.subjects import SUBJECTS, name_of
from tests.contract.training import SOME, assert_same_run, raise_or_excuse, step_with, train

ROWS = Rows()

STEPS = SOME


def params() -> dict[str, jax.Array]:
    return {
        "w": jnp.linspace(-1.0, 2.0, 128).reshape(16, 8),
        "b": jnp.linspace(0.5, 1.5, 8),
        "scale": jnp.array(1.5, jnp.float32),
    }


def batch() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(32, 16)), jnp.float32)


def loss(params: Any, x: jax.Array) -> jax.Array:
    return jnp.mean((params["scale"] * jnp.tanh(x @ params["w"] + params["b"]) - 0.5) ** 2)


def step_on(optimizer: Any) -> Any:
    """The compiled step on parameters, state and a batch."""
    return jax.jit(
        lambda params, state, x: step_with(optimizer, lambda params: loss(params, x))(params, state)
    )


@functools.cache
def single(name: str) -> Any:
    """Parameters of the same run on one device."""
    optimizer = SUBJECTS[name]()
    step = step_on(optimizer)
    start = (params(), optimizer.init(params()))
    return train(lambda *carry: step(*carry, batch()), *start, STEPS)[0]


def assert_equal_to_single(make: Make, got: Any) -> None:
    assert_same_run(jax.device_get(got), single(name_of(make)), params())


def mesh_of(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((DEVICES,), ("x",), (kind,))


def spec_of(leaf: Any) -> P:
    """Every leaf with enough rows is cut along them."""
    return P("x") if leaf.shape and leaf.shape[0] % DEVICES == 0 else P()


def like_params(leaf: Any) -> bool:
    return leaf.shape in {p.shape for p in jax.tree.leaves(params()) if p.ndim}


WORLD = 512


@ROWS(apart=True)
def data_parallel(make: Make) -> None:
    """a batch over 8 devices is the run on one"""
    mesh = mesh_of(AxisType.Auto)
    x = jax.device_put(batch(), NamedSharding(mesh, P("x")))
    start = jax.device_put((params(), make().init(params())), NamedSharding(mesh, P()))
    optimizer = make()
    step = step_on(optimizer)
    end, _ = train(lambda *carry: step(*carry, x), *start, STEPS)
    assert_equal_to_single(make, end)


@ROWS(apart=True)
def fully_sharded(make: Make) -> None:
    """parameters and all that is like them cut over 8 devices, from init on"""
    mesh = mesh_of(AxisType.Auto)
    cut = jax.tree.map(lambda p: jax.device_put(p, NamedSharding(mesh, spec_of(p))), params())
    x = jax.device_put(batch(), NamedSharding(mesh, P()))
    optimizer = make()
    step = step_on(optimizer)
    state = optimizer.init(cut)
    end, new = train(lambda *carry: step(*carry, x), cut, state, STEPS)
    for leaf in jax.tree.leaves((state, end, new)):
        if like_params(leaf):
            assert not leaf.sharding.is_fully_replicated, f"{leaf.shape} is on every device"
    assert_equal_to_single(make, end)


@ROWS(apart=True)
def explicit(make: Make) -> None:
    """explicit sharding: the types of the state, shardings included, are those of init"""
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        cut = jax.tree.map(lambda p: jax.device_put(p, NamedSharding(mesh, spec_of(p))), params())
        grads = jax.tree.map(lambda p: 0.5 * p, cut)
        optimizer = optax.with_extra_args_support(make())

        @jax.jit
        def step(params, state):
            extra = {"value": jnp.float32(1.0)}
            updates, state = optimizer.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        state = optimizer.init(cut)
        try:
            end, new = train(step, cut, state, 2)
        except Exception as error:
            raise_or_excuse(make, error, "does not support explicit sharding")
        for before, now in ((state, new), (cut, end), (state, jax.jit(optimizer.init)(cut))):
            assert jax.tree.map(jax.typeof, before) == jax.tree.map(jax.typeof, now)


@ROWS(apart=True)
def shard_map(make: Make) -> None:
    """inside `shard_map`, with gradients averaged over a named axis"""
    optimizer = make()

    def local(params, state, x):
        def mean(params):
            return jax.lax.pmean(loss(params, x), "x")

        return step_with(optimizer, mean)(params, state)

    mesh = mesh_of(AxisType.Auto)
    step = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), P("x")), out_specs=(P(), P()))
    )
    state = optimizer.init(params())
    end, _ = train(lambda *carry: step(*carry, batch()), params(), state, STEPS)
    assert_equal_to_single(make, end)


@ROWS(apart=True, slow=True)
def ensemble(make: Make) -> None:
    """inside `shard_map`, with parameters and a run of its own on every device"""
    optimizer = make()
    starts = jax.tree.map(lambda p: jnp.stack([(1.0 + n) * p for n in range(DEVICES)]), params())

    def member(start, x):
        start = jax.tree.map(lambda p: p[0], start)
        step = step_with(optimizer, lambda params: loss(params, x))
        carry = (start, optimizer.init(start))
        (end, _), _ = jax.lax.scan(lambda carry, _: (step(*carry), None), carry, None, STEPS)
        return jax.tree.map(lambda p: p[None], end)

    cut = jax.shard_map(
        member, mesh=mesh_of(AxisType.Auto), in_specs=(P("x"), P()), out_specs=P("x")
    )
    ends = jax.device_get(jax.jit(cut)(starts, batch()))
    assert_equal_to_single(make, jax.tree.map(lambda p: p[0], ends))
    assert all(not np.allclose(p[0], p[1]) for p in jax.tree.leaves(ends))


def start(script: str, *arguments: str, devices: int) -> subprocess.Popen[str]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", f"tests.contract.{script}", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output_of(process: subprocess.Popen[str]) -> str:
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-2000:]
    return output


@ROWS(slow=True)
def two_processes(make: Make) -> None:
    """two processes, 4 devices each, over `jax.distributed`"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = [(name_of(make), address, str(i)) for i in range(2)]
    processes = [start("process", *each, devices=DEVICES // 2) for each in arguments]
    moved = jax.tree.map(jnp.subtract, single(name_of(make)), params())
    ways = [float(output_of(process).splitlines()[-1]) for process in processes]
    np.testing.assert_allclose(ways, float(optax.tree.norm(moved)), 1e-2)


@ROWS(slow=True)
def eight_billion(make: Make) -> None:
    """8 billion parameters on 512 devices: one small all-reduce, or a few, and no gather"""
    compiled_update.check(make, output_of(start("compiled_update", name_of(make), devices=WORLD)))
