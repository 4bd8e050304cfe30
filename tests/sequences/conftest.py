"""The number of edits that the random lives came to, told at the end."""

from __future__ import annotations

from collections import Counter

import pytest

_TALLY = pytest.StashKey[Counter]()


@pytest.fixture
def tally(request) -> Counter:
    return request.config.stash.setdefault(_TALLY, Counter())


def pytest_terminal_summary(terminalreporter, config) -> None:
    if tally := config.stash.get(_TALLY, None):
        terminalreporter.write_line("random lives: " + ", ".join(f"{tally[name]} {name}" for name in sorted(tally)))
