"""Files of this machine are read without a word to others."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import datasets
import pytest
from toys.own_data import table

from mmssl.data.sources import open_source


@pytest.mark.parametrize("kind", ["parquet", "csv", "described"])
def test_nobody_is_told_of_what_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    asked: list[Any] = []

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        asked.append(host)
        raise OSError("nobody there")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    place = tmp_path / "data"
    place.mkdir()
    if kind == "csv":
        table(place / "t.csv", ["a", "b"], [[1, 2]] * 6)
    else:
        rows = datasets.Dataset.from_dict({"a": [1, 2, 3], "b": [4.0, 5.0, 6.0]})
        rows.to_parquet(place / "t.parquet")
        if kind == "described":
            text = "---\nconfigs:\n- config_name: one\n  data_files: t.parquet\n---\n"
            (place / "README.md").write_text(text)
    assert len(open_source(str(place))) > 0
    assert asked == []
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS  # the process is as it was
