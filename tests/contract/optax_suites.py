"""``python -m tests.contract.optax_suites [OPTIMIZER ...]``: optax's own suites, against ours.

optax ships the tests of its contributed optimizers and of its sharding. They are loaded from
the installed optax with our optimizers in place of its own; not a line of them is copied.
"""

import ast
import importlib.util
import os
import pathlib
import sys
import types
import unittest
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax

from tests.contract.subjects import OURS


class Version(str):
    """optax compares versions as strings; this one puts 0.10 after 0.9."""

    def __lt__(self, other: str) -> bool:
        return numbers(self) < numbers(other)

    def __ge__(self, other: str) -> bool:
        return not self < other


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:3] if part.isdigit()]


def load(name: str, replacements: dict[str, Any]) -> types.ModuleType:
    """The module with some of its globals replaced before its first test class is made."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(pathlib.Path(spec.origin).read_text("utf-8"))
    first_class = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.ClassDef))
    module = types.ModuleType(f"ours.{name}")
    sys.modules[module.__name__] = module
    for nodes in (tree.body[:first_class], tree.body[first_class:]):
        exec(compile(ast.Module(nodes, []), spec.origin, "exec"), module.__dict__)
        missing = replacements.keys() - module.__dict__.keys()
        assert not missing, f"{name} has no {missing} any more"
        module.__dict__.update(replacements)
    return module


def contributed(names: list[str]) -> types.ModuleType:
    subjects = tuple(
        {
            "opt_name": name,
            "opt_kwargs": OURS[name].keywords,
            "wrapper_name": None,
            "wrapper_kwargs": None,
        }
        for name in names
    )
    return load(
        "optax.contrib._common_test",
        {
            "_MAIN_OPTIMIZERS_UNDER_TEST": subjects,
            "_ALL_OPTIMIZERS_UNDER_TEST": subjects,
            "_get_opt_factory": lambda name: OURS[name].func,
        },
    )


def sharding(names: list[str]) -> types.ModuleType:
    optimizers = {name: OURS[name]() for name in names}
    return load("optax._src.sharding_test", {"OPTIMIZERS": optimizers})


def main(names: list[str]) -> int:
    jax.__version__ = Version(jax.__version__)
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromModule(module)
        for module in (contributed(names), sharding(names))
    )
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    for test, reason in result.skipped:
        print(f"skipped {test.id().rpartition('.')[2]}: {reason}")
    return not result.wasSuccessful()


if __name__ == "__main__":
    from absl import flags

    flags.FLAGS(sys.argv[:1])  # absl's test classes ask for parsed flags
    raise SystemExit(main(sys.argv[1:] or list(OURS)))
