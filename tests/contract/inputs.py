"""x."""

from tests.contract.row import Rows

ROWS = Rows()
