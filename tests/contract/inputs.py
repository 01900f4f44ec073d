"""Bad input is refused with a message that names it; what else is refused is in test_errors.py."""

import re
from collections.abc import Callable

import jax.numpy as jnp

from tests.contract.row import Make, Rows
from tests.problems import matrix_params

ROWS = Rows()


def assert_refused(call: Callable[[], object], message: str) -> None:
    said = None
    try:
        call()
    except (TypeError, ValueError) as error:
        said = str(error)
    assert said is not None, "accepted"
    assert re.search(message, said), f"not clear: {said[:100]}"


@ROWS()
def without_params(make: Make) -> None:
    """an update without `params` that needs them says so"""
    params = matrix_params()
    assert_refused(lambda: make().update(params, make().init(params)), r"params")


@ROWS()
def other_tree(make: Make) -> None:
    """gradients of another tree are refused as such"""
    params = matrix_params()
    assert_refused(
        lambda: make().update({"w": params["w"]}, make().init(params), params),
        r"gradients and the parameters are different trees",
    )


@ROWS()
def other_shape(make: Make) -> None:
    """a gradient of another shape is refused with both shapes"""
    params = matrix_params()
    assert_refused(
        lambda: make().update(params | {"w": params["w"].T}, make().init(params), params),
        r"gradient of w has shape \(3, 2\), the parameter \(2, 3\)",
    )


@ROWS()
def integers(make: Make) -> None:
    """integer parameters are refused by name"""
    assert_refused(
        lambda: make().init({"w": jnp.ones(2), "deep": {"steps": jnp.arange(3)}}), r"deep/steps"
    )
