"""The README says what the stored records say."""

import json
import pathlib

from benchmarks.digits_mnist import summary

ROOT = pathlib.Path(__file__).parent.parent


def test_readme_table_comes_from_the_stored_record():
    record = json.loads((ROOT / "benchmarks/results/digits_mnist.json").read_text("utf-8"))
    assert summary(record) in (ROOT / "README.md").read_text("utf-8")
