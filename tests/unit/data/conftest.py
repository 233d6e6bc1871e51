"""What `datasets` prepares for these tests goes into a temporary folder, not into the user's cache."""

from __future__ import annotations

from collections.abc import Iterator

import datasets
import pytest


@pytest.fixture(scope="package", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
