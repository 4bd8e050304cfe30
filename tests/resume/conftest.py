"""One process from which all others come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interrupted import Runs
from zygote import Zygote


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Iterator[Runs]:
    with Zygote() as zygote:
        yield Runs(zygote, tmp_path_factory.mktemp("runs"))
