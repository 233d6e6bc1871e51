"""FIF files whose tags lead back: mne would follow them for ever (found by `make fuzz`)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from mmssl.errors import BadSample
from mmssl.modality.biosignals.mne_files import check_tags


def tags(*headers: tuple[int, int]) -> bytes:
    """Tags of (bytes that follow, where the next lies)."""
    return b"".join(struct.pack(">4i", 100, 3, size, after) + bytes(max(size, 0)) for size, after in headers)


@pytest.mark.parametrize("headers", [[(4, 0), (4, 0), (4, -1)], [(4, 20), (4, 60), (20, 0), (0, -1)], [(4, 0)], []])
def test_tags_that_go_on(headers: list[tuple[int, int]], tmp_path: Path) -> None:
    (tmp_path / "a.fif").write_bytes(tags(*headers))
    check_tags(tmp_path / "a.fif")


@pytest.mark.parametrize("headers", [[(4, 0), (4, 1)], [(4, 0), (4, 20)], [(-16, 0)], [(4, 0), (-40, 0)]])
def test_tags_that_lead_back(headers: list[tuple[int, int]], tmp_path: Path) -> None:
    (tmp_path / "a.fif").write_bytes(tags(*headers))
    with pytest.raises(BadSample, match="leads back to byte"):
        check_tags(tmp_path / "a.fif")


def test_packed_files_are_looked_through_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.fif.gz").write_bytes(gzip.compress(tags((4, 0), (4, 20))))
    with pytest.raises(BadSample, match="the tag at byte 20 leads back to byte 20"):
        check_tags(tmp_path / "a.fif.gz")
