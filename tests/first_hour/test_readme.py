"""The README's section on own data, run as it is printed; and the commands that a run prints at its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toys.own_data import of_kinds, pictures, scans, sensors, sentences, table
from toys.own_files import encoded, tudataset, wfdb_record

from mmssl.cli import main
from mmssl.modality.columns import further_columns
from mmssl.recipe.loading import load_recipe, plain_recipe, recipe_names
from mmssl.recipe.presets import presets_of

README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = re.compile(r"<!-- own data[^\n]*-->\n```\n(.*?)```\n<!-- /own data -->", re.DOTALL)


def recordings(folder: Path) -> None:
    """Sounds of two lengths."""
    for number in range(24):
        encoded(folder / f"{number}.wav", seconds=0.4 + 0.1 * (number % 2), seed=number)


def records(folder: Path) -> None:
    """Electrocardiograms as WFDB records."""
    for number in range(24):
        wfdb_record(folder, f"r{number}")


def patients(path: Path) -> None:
    """A table with an identifier, numbers, words and a missing cell."""
    rng = np.random.default_rng(2)
    rows: list[list[object]] = [
        [
            f"P{n:04}",
            int(rng.integers(20, 80)),
            f"{rng.normal():.3f}",
            "yes" if n % 3 else "no",
            "" if n == 5 else n % 4,
        ]
        for n in range(40)
    ]
    table(path, ["patient_id", "age", "2024", "smoker", "ward"], rows)


def texts(path: Path) -> None:
    """A text a line."""
    path.write_text("\n".join(sentences(60)) + "\n")


def pairs(path: Path) -> None:
    """A table of pictures and captions."""
    pictures(path.parent / "shown")
    files = sorted((path.parent / "shown").rglob("*.png"))
    rows: list[list[object]] = [
        [str(file.relative_to(path.parent)), line] for file, line in zip(files, sentences(12), strict=True)
    ]
    table(path, ["file", "caption"], rows)


OWN: dict[str, Callable[[Path], object]] = {
    "pictures/": pictures,
    "recordings/": recordings,
    "records/": records,
    "sensors/": sensors,
    "scans/": scans,
    "table.csv": patients,
    "texts.txt": texts,
    "graphs/": tudataset,
    "pairs.csv": pairs,
}
"""What the README calls the user's data -> what writes some."""


EXPORTS = {
    "image_mae": "vit_mae",
    "image_jepa": "ijepa",
    "image_contrastive": "vit",
    "image_dino": "dinov2",
    "image_lejepa": "vit",
    "image_text_clip": "clip",
    "audio_mae": "ast",
    "audio_jepa": "ast",
    "audio_contrastive": "ast",
    "text_mae": "sentence-transformers",
    "text_jepa": "sentence-transformers",
    "text_contrastive": "sentence-transformers",
    "text_pairs": "sentence-transformers",
    "video_mae": "videomae",
    "video_jepa": "vjepa2",
    "video_contrastive": "vjepa2",
}
"""Recipe -> a stock class that its model exports to, without anything set; all others to ONNX at least."""


def printed() -> list[list[str]]:
    """The commands of the section, without their comments."""
    found = SECTION.search(README.read_text())
    assert found is not None, "the README's section on own data is marked"
    return [shlex.split(line, comments=True) for line in found[1].splitlines() if line.strip()]


def tiny(recipe: str) -> list[str]:
    """What makes a run of a recipe one of seconds, without touching what it reads."""
    plain = plain_recipe(recipe)
    small = "{width: 16, depth: 2, heads: 2}"
    words = [f"model.towers.{name}.{key}" for name in plain["model"]["towers"] for key in ("width=16", "heads=2")]
    for name, part in plain["objectives"].items():
        words += [f"objectives.{name}.{key}={small}" for key in ("predictor",) if key in part]
        words += [
            f"objectives.{name}.decoder.{k}" for k in ("width=16", "heads=2") if "width" in part.get("decoder", {})
        ]
    return [*words, "train.steps=2", "train.batch_size=4", "train.health_every=null", "train.trackers=[]"]


def next_commands(said: str) -> list[list[str]]:
    """The commands of mmssl that a run prints behind `next:`."""
    lines = said.partition("\nnext:\n")[2].splitlines()
    return [words for line in lines if (words := shlex.split(line)) and words[0] == "mmssl"]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that was printed; what it said."""
    code = main(words[1:])
    said = capsys.readouterr()
    assert code == 0, (words, said.err)
    return said.out


def test_the_section_speaks_of_what_is_written_here() -> None:
    named = [word.partition("=")[2] for words in printed() for word in words if word.startswith("data.path=")]
    assert named == list(OWN)


@pytest.mark.parametrize("words", printed(), ids=lambda words: words[2])
def test_own_data_as_printed(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = next(word.partition("=")[2] for word in words if word.startswith("data.path="))
    OWN[path](tmp_path / path)
    said = run([*words, *tiny(words[2])], capsys)
    assert "chosen: preset demo" in said and "exports to: " in said and "rows are held out" in said
    assert "rankme" in said, "one file is enough to be measured"
    exports = next(line for line in said.splitlines() if line.startswith("exports to: ")).partition("; not to: ")[0]
    assert EXPORTS.get(words[2], "onnx") in exports.removeprefix("exports to: ").split(", ")
    commands = next_commands(said)
    assert [command[1] for command in commands] == ["evaluate", "embed"]
    for command in commands:
        run(command, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if presets_of(plain_recipe(name))])
def test_what_every_recipe_prints_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On data of all its modalities, in one table of files."""
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    path = of_kinds(tmp_path, {kind: kind for kind in recipe.modalities} | further_columns(recipe.views))
    said = run(["mmssl", "pretrain", name, f"data.path={path}", *tiny(name)], capsys)
    run(["mmssl", "export", f"runs/{name}", "--to", EXPORTS.get(name, "onnx"), "--output", "exported"], capsys)
    for command in next_commands(said):
        run(command, capsys)
