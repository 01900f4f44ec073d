"""``python -m tests.contract.compiled_update OPTIMIZER``: what a large update communicates.

Compiles, and does not run, the update of a transformer with 8 billion parameters that are cut
over all devices; prints the collective operations in it, and the memory, as JSON.
"""

import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.contract.row import Make, NotApplicableError
from tests.contract.subjects import SUBJECTS

LAYERS, WIDTH, KEYS, HIDDEN, WORDS = 32, 4096, 1024, 14336, 128256
# The layers are stacked; every matrix is cut along an axis of 4096 or 14336.
SHAPES = {
    "embedding": ((WORDS, WIDTH), P(None, "x")),
    "query": ((LAYERS, WIDTH, WIDTH), P(None, "x")),
    "key": ((LAYERS, WIDTH, KEYS), P(None, "x")),
    "value": ((LAYERS, WIDTH, KEYS), P(None, "x")),
    "attention": ((LAYERS, WIDTH, WIDTH), P(None, "x")),
    "gate": ((LAYERS, WIDTH, HIDDEN), P(None, "x")),
    "up": ((LAYERS, WIDTH, HIDDEN), P(None, "x")),
    "down": ((LAYERS, HIDDEN, WIDTH), P(None, "x")),
    "norms": ((LAYERS, 2, WIDTH), P()),
    "norm": ((WIDTH,), P()),
    "head": ((WIDTH, WORDS), P("x")),
}
# Of one displacement: either its slope or the squares of the gradient alone.
ROUNDS = 2
# Lengths; the newest displacement made orthogonal to the rows, twice; its products; the slopes;
# what is left of the gradient made orthogonal, twice; its products; the norm to start over from.
# Beside them, the two of the fallback.
ROUNDS_OF_ROWS = 9 + ROUNDS
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\((?:.*?stack_frame_id=(\d+))?"
)


def measure(optimizer: optax.GradientTransformationExtraArgs) -> dict[str, Any]:
    mesh = jax.make_mesh((jax.device_count(),), ("x",), (AxisType.Auto,))
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for name, (shape, spec) in SHAPES.items()
    }
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec_of(leaf.shape))
        ),
        jax.eval_shape(optimizer.init, params),
    )

    def update(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(
        update,
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, (params, state)),
        donate_argnums=(1, 2),
    )
    compiled = jitted.lower(params, state, params).compile()
    text = compiled.as_text()
    files = files_of_frames(text)
    memory = compiled.memory_analysis()
    return {
        "parameters": sum(int(np.prod(p.shape)) for p in params.values()),
        "collectives": [
            {
                "kind": kind,
                "numbers": sum(map(size, re.findall(r"\w+\[([\d,]*)\]", result))),
                "of_optax": bool(frame) and "/optax/" in files[frame],
            }
            for result, kind, frame in COLLECTIVE.findall(text)
        ],
        "rows": rows_of(state),
        "gib_per_device": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
    }


def spec_of(shape: tuple[int, ...]) -> P:
    """How a leaf of the state is cut: as the parameter that its shape is, or ends with."""
    for axis in range(len(shape)):
        for known, spec in SHAPES.values():
            if shape[axis:] == known:
                return P(*[None] * axis, *spec)
    return P()


def size(shape: str) -> int:
    return int(np.prod([int(n) for n in shape.split(",") if n]))


def files_of_frames(text: str) -> dict[str, str]:
    """The source file of every stack frame that a compiled program names."""
    names = dict(re.findall(r'^(\d+) "(.*)"$', text.partition("FunctionNames")[0], re.MULTILINE))
    locations = dict(re.findall(r"^(\d+) \{file_name_id=(\d+)", text, re.MULTILINE))
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", text, re.MULTILINE)
    return {frame: names[locations[location]] for frame, location in frames}


def rows_of(state: Any) -> int:
    """How many vectors like the parameters are kept in one leaf; 1 where none are stacked."""
    shapes = [shape for shape, _ in SHAPES.values()]
    return max(
        leaf.shape[0] if leaf.shape[1:] in shapes and leaf.shape not in shapes else 1
        for leaf in jax.tree.leaves(state)
    )


def check(make: Make, output: str) -> None:
    """Raises AssertionError where more than the statistics are communicated.

    One all-reduce is enough for statistics that do not wait for each other; the program has one in
    each of two branches, of which a step takes one. To make one vector
    orthogonal to k others takes two passes over them, each after the last, wherever it is done:
    where the state holds k such vectors, nine more are allowed. Their length may grow like k.
    """
    measured = json.loads(output.splitlines()[-1])
    collectives, rows = measured["collectives"], measured["rows"]
    rounds = ROUNDS if rows == 1 else ROUNDS_OF_ROWS
    ours = not make.func.__module__.startswith("optax.")
    of_base = [each for each in collectives if each["of_optax"] and ours]
    own = [each for each in collectives if each not in of_base]
    kinds = [each["kind"] for each in own]
    assert set(kinds) <= {"all-reduce"}, f"{sorted(set(kinds))} in the compiled update"
    assert len(kinds) <= rounds, f"{len(kinds)} all-reduces in the compiled update"
    most = max((each["numbers"] for each in own), default=0)
    assert most <= 8 * rows * len(SHAPES), f"an all-reduce of {most} numbers"
    if of_base:
        raise NotApplicableError("optax's direction gathers; beside it, small all-reduces alone")


if __name__ == "__main__":
    print(json.dumps(measure(optax.with_extra_args_support(SUBJECTS[sys.argv[1]]()))))
