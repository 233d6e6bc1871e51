"""What is asked: a small untrained model and its rows, opened once for all tests of the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import shown

from mmssl.demonstrating.engine import Engine, open_engine
from mmssl.demonstrating.options import DemoConfig


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model; its rows lie beside it."""
    return shown.save(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="session")
def engine(saved: Path) -> Engine:
    return open_engine(saved, DemoConfig(path=str(saved.parent / "rows"), columns=shown.COLUMNS))
