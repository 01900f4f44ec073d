"""The contract: what a program may ask of an optimizer it knows nothing about.

A row is a function that takes a factory, ``make(**keywords)``, builds its own arguments and
raises where the optimizer breaks the promise. The rows stand in one module per group; the
optimizers in `subjects`. pytest runs every row against ours (tests/test_contract.py), and
``python -m tests.contract`` prints the same table with the peers beside them.
"""

from tests.contract import (  # the order of the table
    distribution,  # isort: skip
    faults,  # isort: skip
    frameworks,  # isort: skip
    inputs,  # isort: skip
    persistence,  # isort: skip
    properties,  # isort: skip
    transformations,  # isort: skip
    wrappers,  # isort: skip
)
from tests.contract.row import NotApplicableError, Row, check
from tests.contract.subjects import OURS, PEERS

ROWS: list[Row] = [
    row
    for module in (
        wrappers,
        transformations,
        frameworks,
        persistence,
        distribution,
        faults,
        properties,
        inputs,
    )
    for row in module.ROWS
]

__all__ = ["OURS", "PEERS", "ROWS", "NotApplicableError", "Row", "check"]
