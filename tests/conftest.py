"""What the tests of all packages share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from fedsim.data import DataSet, load
from fedsim.data.store import store_root


@pytest.fixture(scope="session")
def stored() -> Callable[[str], DataSet]:
    """``stored(name)``: the full data set, or a skip that says what to do; a failure where CI is set."""

    def find(name: str) -> DataSet:
        if all((store_root() / name / f"{split}.safetensors").is_file() for split in ("train", "test")):
            return load(name)
        reason = f"NOT TESTED: {name} is not in {store_root()}. Get it with: fedsim data fetch {name}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    return find
