"""What the machine lacks is told as such, whatever a decoder was doing: no sample is to blame for it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample, RunError, UserError


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate"), OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "I/O")],
)
@pytest.mark.parametrize("what", ["", "a.edf cannot be read as edf"])
def test_a_fault_of_the_machine_ends_the_run(error: Exception, what: str) -> None:
    with pytest.raises(RunError), reading_sample(what):
        raise error


@pytest.mark.parametrize("error", [IndexError("list index out of range"), KeyError("x"), OSError(errno.EINVAL, "no")])
def test_anything_else_is_the_samples_with_type_and_place(error: Exception) -> None:
    with pytest.raises(BadSample, match=rf"^a\.edf: {type(error).__name__}: .* \(at faults/.*:\d+\)$"):
        with reading_sample("a.edf"):
            raise error


def test_what_a_decoder_said_itself_stays_as_it_is() -> None:
    for error in (BadSample("truncated"), UserError("an option")):
        with pytest.raises(type(error)) as caught, reading_sample("a.edf"):
            raise error
        assert str(caught.value) == str(error)


@pytest.mark.parametrize("kind", ["eeg", "ecg", "graph"])
def test_decoders_let_them_through(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the readers of others, out of memory in the middle."""
    mne, wfdb, networkx = (pytest.importorskip(name) for name in ("mne", "wfdb", "networkx"))

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(mne.io, "read_raw_fif", fail)
    monkeypatch.setattr(wfdb, "rdheader", fail)
    monkeypatch.setattr(wfdb, "rdrecord", fail)
    monkeypatch.setattr(networkx, "read_gml", fail)
    if kind == "eeg":
        from mmssl.modality.biosignals.mne_files import open_mne as read

        (tmp_path / "a.fif").write_bytes(b"")
        path = tmp_path / "a.fif"
        path.write_bytes(bytes(64))
    elif kind == "ecg":
        from mmssl.modality.biosignals.wfdb_records import open_wfdb as read

        path = tmp_path / "a.hea"
        path.write_text("a 1 500 10\na.dat 16 200 16 0 0 0 0 I\n")
        (tmp_path / "a.dat").write_bytes(bytes(20))
    else:
        from mmssl_graph.networkx_files import read_networkx as read

        path = tmp_path / "a.gml"
        path.write_text("graph [ node [ id 0 ] ]")
    with pytest.raises(RunError, match="not enough memory"), reading_sample():  # as behind every `Preprocessor.read`
        read(path)
