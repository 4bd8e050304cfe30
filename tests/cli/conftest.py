from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

pytest.register_assert_rewrite("commands")


@pytest.fixture(autouse=True)
def elsewhere(no_data_at_hand, tmp_path, monkeypatch) -> None:
    """An empty folder to work in, no data set at hand, and no network."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def as_found() -> Iterator[None]:
    """Take back what a command line may do to its process, but a test must not do to the tests after it."""
    loggers = [logging.getLogger(name) for name in ("growkit", "pytorch_lightning", "lightning_fabric")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    with mock.patch.dict(os.environ):
        yield
    for logger, (level, logger.propagate, logger.handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def module(tmp_path, monkeypatch) -> Iterator[Callable[[str, str], Path]]:
    """Return a function that writes a module and makes it importable; returns the folder it is in."""
    folder, written = tmp_path / "modules", []
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def write(name: str, code: str) -> Path:
        (folder / f"{name}.py").write_text(code)
        written.append(name)
        return folder

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def install(module) -> Callable[..., Path]:
    """Return a function that installs a module as a plugin; returns the folder to import it from."""

    def write(entry: str, code: str, *, name: str, dist: str = "someone-elses", attribute: str = "") -> Path:
        folder = module(name, code)
        info = folder / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        value = f"{name}:{attribute}" if attribute else name
        (info / "entry_points.txt").write_text(f"[growkit]\n{entry} = {value}\n")
        return folder

    return write
