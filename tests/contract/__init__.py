"""The contract: what a program may ask of an optimizer it knows nothing about.

A row is a function that takes a factory, ``make(**keywords)``, builds its own arguments and
raises where the optimizer breaks the promise. The rows stand in one module per group; the
optimizers in `subjects`. pytest runs every row against ours (tests/test_contract.py), and
``python -m tests.contract`` prints the same table with the peers beside them.
"""
