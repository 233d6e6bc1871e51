"""`mmssl list modalities`, and what is said where a package that a modality needs is not installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.modality import installed, load_modality, modality_names
from mmssl.recipe import listing

REPO = Path(__file__).resolve().parents[3]
NEEDS = [(name, dependency) for name in modality_names() for dependency in getattr(load_modality(name), "NEEDS", {})]
FILES = {
    ("audio", "soundfile"): ("x.wav", b"RIFF\x24\x00\x00\x00WAVEfmt "),
    ("audio", "av"): ("x.mp4", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00"),
    ("video", "av"): ("x.mp4", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00"),
    ("eeg", "mne"): ("x.fif", b"not empty"),
    ("ecg", "mne"): ("x.fif", b"not empty"),
    ("eeg", "wfdb"): ("x.hea", b"x 1 100 1000\nx.dat 16 200 12 0 0 0 0 C3\n"),
    ("graph", "torch_geometric"): ("x_A.txt", b"1, 2\n"),
    ("volume", "nibabel"): ("x.nii", (348).to_bytes(4, "little") + bytes(400)),
    ("ecg", "wfdb"): ("x.hea", b"x 1 100 1000\nx.dat 16 200 12 0 0 0 0 I\n"),
}
"""A file of the kind that each package is needed for: the fault is found before any of it is read."""


def test_the_command_says_what_each_reads_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "modalities"]) == 0
    text = capsys.readouterr().out
    parts = {part.split()[0]: part for part in text.split("\n") if part and not part.startswith(" ")}
    shipped = {path.name.removeprefix("mmssl_") for path in (REPO / "modalities").glob("mmssl_*")}
    wanted = {"audio", "ecg", "eeg", "graph", "image", "series", "tabular", "text", "video", "volume"}
    assert shipped == wanted <= set(parts)
    lines = text.splitlines()
    for name in shipped:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        assert lines[at + 1].split()[0] == "reads" and len(lines[at + 1].split()) > 4
        assert lines[at + 2].split()[0] == "needs"
    assert ("needs wfdb: installed" in text) == installed("wfdb")


@pytest.mark.parametrize(("name", "dependency"), NEEDS)
def test_what_is_missing_is_said_with_the_line_that_installs_it(
    name: str, dependency: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m == dependency or m.startswith(f"{dependency}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, dependency, None)
    line = f"pip install '{load_modality(name).NEEDS[dependency]}'"
    listed = "\n".join(line for _, line in listing.modalities())
    assert f"needs {dependency}: not installed, {line}" in listed
    package = load_modality(name)
    file, content = FILES[name, dependency]
    (tmp_path / file).write_bytes(content)
    (tmp_path / "x.dat").write_bytes(bytes(2000))
    with pytest.raises(UserError) as caught:
        if name == "graph":  # a file of many graphs is opened, where others are read one by one
            package.open_rows(str(tmp_path), "train")
        else:
            package.Preprocessor(package.Config()).read(str(tmp_path / file))
    assert line in str(caught.value) and dependency in str(caught.value) and "\n" not in str(caught.value)


def test_every_extra_is_one_of_the_project() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name, dependency in NEEDS:
        requirement = load_modality(name).NEEDS[dependency]
        if requirement.startswith("mmssl["):
            assert dependency in extras[requirement.removeprefix("mmssl[").rstrip("]")]
    assert {name for name in extras if name in modality_names()} >= {
        path.name.removeprefix("mmssl_") for path in (REPO / "modalities").glob("mmssl_*")
    }
