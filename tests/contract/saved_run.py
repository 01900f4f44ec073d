"""``python -m tests.contract.saved_run OPTIMIZER FILE``: a run to be killed and resumed.

It saves after every step and goes on where the file says it was.
"""

import pathlib
import sys
import time
from typing import Any

import flax.serialization

from tests.contract.row import Make
from tests.contract.subjects import SUBJECTS
from tests.contract.training import after, step_of

STEPS = 300


def load(make: Make, file: pathlib.Path) -> Any:
    """Count, parameters and state."""
    state = (0, *after(make, 0))
    return flax.serialization.from_bytes(state, file.read_bytes()) if file.exists() else state


def main(name: str, path: str) -> None:
    make, file = SUBJECTS[name], pathlib.Path(path)
    count, params, state = load(make, file)
    step = step_of(make)
    print("begin", flush=True)
    while count < STEPS:
        params, state = step(params, state)
        count += 1
        new = file.with_suffix(".new")
        new.write_bytes(flax.serialization.to_bytes((count, params, state)))
        new.replace(file)  # all of it or nothing
        time.sleep(0.002)  # so that it can be killed half-way


if __name__ == "__main__":
    main(*sys.argv[1:])
