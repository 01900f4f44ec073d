"""``python -m tests.contract.process OPTIMIZER ADDRESS INDEX``: one of two processes.

Together they train on all their devices and print how far the parameters have come.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.contract.distribution import STEPS, batch, mesh_of, params, spec_of, step_on
from tests.contract.row import DEVICES
from tests.contract.subjects import SUBJECTS
from tests.contract.training import train


def main(name: str, address: str, index: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, int(index))
    assert jax.device_count() == DEVICES
    mesh = mesh_of(AxisType.Auto)

    def place(leaf, spec):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(
            leaf.shape, NamedSharding(mesh, spec), lambda index: leaf[index]
        )

    optimizer = SUBJECTS[name]()
    x = place(batch(), P("x"))
    start = (params(), optimizer.init(params()))
    cut = jax.tree.map(lambda leaf: place(leaf, spec_of(leaf)), start)
    step = step_on(optimizer)
    end, _ = train(lambda *carry: step(*carry, x), *cut, STEPS)
    way = jax.jit(lambda end: optax.tree.norm(jax.tree.map(jnp.subtract, end, params())))
    print(float(way(end)))


if __name__ == "__main__":
    main(*sys.argv[1:])
