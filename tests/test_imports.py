"""Who may import whom, read from the source."""

import ast
import pathlib
import subprocess
import sys

import pytest

import parabolic_optax

PACKAGE = pathlib.Path(parabolic_optax.__file__).parent
ROLES = {"_directions", "_decay", "_curvature", "_saddle", "_steps"}
DIRECTIONS = {"_secants", "_quadratic", "_trust"}
PUBLISHED = {"_spans", "_regression", "_newton"}
WHOLE = {"_coordinates"}
BELOW = {"_types", "_layout", "_checks", "_tree"}
ALLOWED = {
    "_types": set(),
    "_layout": {"_types"},
    "_checks": {"_layout"},
    "_tree": {"_checks"},
    "_spectrum": set(),
    "_cautious": {"_types", "_checks"},
    "_rounding": {"_layout"},
    "_age": {"_rounding", "_tree"},
    **dict.fromkeys(ROLES | DIRECTIONS | PUBLISHED | WHOLE, BELOW),
    "_directions": {*BELOW, "_age", "_rounding"},
    # The rule takes what a decay asks for out of the weights, in the loop that moves them.
    "_steps": {*BELOW, "_decay"},
    "_quadratic": {*BELOW, "_spectrum"},
    "_regression": {*BELOW, "_spectrum"},
    "_metrics": {"_types", "_layout", "_tree"},
    "_parabolic": {"_types", "_checks", "_cautious", *ROLES},
    "_ogr": {"_types", "_tree", "_parabolic", *DIRECTIONS},
    "_published": {"_quadratic", *PUBLISHED},
    "__init__": {
        "_types",
        "_cautious",
        "_metrics",
        "_parabolic",
        "_ogr",
        "_published",
        *ROLES,
        *DIRECTIONS,
        *PUBLISHED,
        *WHOLE,
    },
}
OUTSIDE = {
    "collections", "dataclasses", "functools", "math", "operator", "typing", "warnings",
    "jax", "numpy", "optax",
}  # fmt: skip


def imported(module):
    """Full dotted names that the module imports, the names of `from` imports included."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*ALLOWED, "__main__"}


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_modules_import_only_what_lies_below(module):
    own = {
        name.split(".")[1] for name in imported(module) if name.split(".")[0] == "parabolic_optax"
    }
    assert own <= ALLOWED[module]


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_library_needs_only_jax_optax_and_numpy(module):
    roots = {name.split(".")[0] for name in imported(module)} - {"parabolic_optax"}
    assert roots <= OUTSIDE


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_nothing_private_of_optax_or_jax(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr != "_src"
        if isinstance(node, ast.Import):
            assert not any("_src" in alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert "_src" not in (node.module or "")


def test_all_is_sorted_and_complete():
    names = parabolic_optax.__all__
    assert names == sorted(names)
    assert all(hasattr(parabolic_optax, name) for name in names)


def test_no_device_is_needed_before_there_are_parameters():
    """A program may make its optimizer before ``jax.distributed.initialize``."""
    program = """
import jax, optax, parabolic_optax as po
jax.config.update("jax_platforms", "none")
makers = (po.parabolic_adam, po.parabolic_adamw, po.parabolic_sgd, po.parabolic_muon, po.ogr)
makers += (po.ogr_momentum, po.ogr_published, po.ogr_diagonal)
optimizers = [make() for make in makers]
optimizers += [po.parabolic_adamw(optax.cosine_decay_schedule(1.0, 100))]
optimizers += [po.parabolic(po.cautious(optax.scale_by_lion()), decay=po.decay_inward())]
try:
    optimizers[0].init(jax.numpy.ones(3))
except RuntimeError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Unable to initialize backend 'none'" in run.stdout
