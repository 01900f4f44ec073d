"""A run that is saved, killed and resumed ends exactly where it would have ended."""

import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.contract import saved_run
from tests.contract.row import DEVICES, Make, Rows
from tests.contract.subjects import name_of
from tests.contract.training import (
    SOME,
    after,
    assert_same,
    assert_same_run,
    step_of,
    step_with,
    train,
)

ROWS = Rows()


@ROWS()
def msgpack(make: Make) -> None:
    """Flax msgpack: types, structure and every bit"""
    saved = flax.serialization.to_bytes(after(make))
    restored = flax.serialization.from_bytes(after(make, 0), saved)
    restored = jax.tree.map(jnp.asarray, restored)
    assert_same(restored, after(make))
    assert_same(step_of(make)(*restored), after(make, SOME + 1))


@ROWS()
def orbax(make: Make) -> None:
    """Orbax: types, structure and every bit"""
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(folder) / "step"
        checkpointer.save(path, after(make))
        checkpointer.wait_until_finished()
        target = jax.eval_shape(lambda: after(make))
        restored = checkpointer.restore(path, target)
    assert_same(restored, after(make))
    assert_same(step_of(make)(*restored), after(make, SOME + 1))


@ROWS(apart=True)
def other_devices(make: Make) -> None:
    """Orbax: saved on 8 devices, resumed on 2"""
    params = {"w": jnp.linspace(-1.0, 2.0, 32).reshape(16, 2), "b": jnp.ones(16)}

    def loss(params):
        return jnp.sum((params["w"] - 3.0) ** 2) + jnp.sum(params["b"] ** 4)

    def sharded(tree: Any, devices: int) -> Any:
        mesh = jax.make_mesh((devices,), ("x",), (AxisType.Auto,), devices=jax.devices()[:devices])

        def place(leaf):
            spec = PartitionSpec("x") if leaf.shape[:1] == (16,) else PartitionSpec()
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(place, tree)

    optimizer = make()
    step = jax.jit(step_with(optimizer, loss))
    start = (params, optimizer.init(params))
    on_all = jax.tree.map(
        lambda x, s: jax.device_put(x, s.sharding), start, sharded(start, DEVICES)
    )
    saved = train(step, *on_all, SOME)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(folder) / "step"
        checkpointer.save(path, saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, sharded(start, 2))
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(restored))
    assert_same(jax.device_get(restored), jax.device_get(saved))
    here, there = (jax.device_get(train(step, *each, 2)[0]) for each in (restored, saved))
    assert_same_run(here, there, jax.device_get(saved[0]))


@ROWS(slow=True)
def killed(make: Make) -> None:
    """a process killed by SIGKILL at random moments, resumed, ends at the same parameters"""
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "state"
        command = [sys.executable, "-m", "tests.contract.saved_run", name_of(make), str(file)]
        for _ in range(3):
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()  # it has begun to train
            time.sleep(moments.uniform(0.0, 0.7))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        count, *killed = saved_run.load(make, file)
    assert count == saved_run.STEPS
    assert_same(tuple(killed), train(step_of(make), *after(make, 0), saved_run.STEPS))
