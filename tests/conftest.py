import pytest

# Rows are run by test_contract.py, which shows their assertions as if they were its own.
collect_ignore = ["contract"]
pytest.register_assert_rewrite("tests.contract")
