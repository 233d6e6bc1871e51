"""`mmssl init`: what it takes data for, and that the recipe it writes runs as it is."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys.own_data import of_kinds, pictures, sensors, sentences, table
from toys.own_files import encoded, person, tudataset, video, wfdb_record

import mmssl
from mmssl.cli import main
from mmssl.looking import composing
from mmssl.looking.groups import group_of
from mmssl.looking.init import Started, init
from mmssl.looking.options import InitConfig
from mmssl.looking.writing import commented
from mmssl.modality.table import Column
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe

RUNS = ("image", "tabular")
"""Kinds whose recipe is run in the fast tests."""


def _table(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [[f"P{n:04}", *rng.normal(size=3).round(3), "abc"[n % 3], ("no", "yes")[n % 2], n % 2] for n in range(60)]
    table(folder / "t.csv", ["patient_id", "x", "y", "z", "sort", "word_of", "outcome"], rows)


def _lines(folder: Path) -> None:
    (folder / "t.txt").write_text("\n".join(sentences(40)) + "\n")


def _arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(2, 90)).tolist() for _ in range(12)]
    pq.write_table(pa.table({"signal": signals, "label": [n % 2 for n in range(12)]}), folder / "t.parquet")


def _twelve(folder: Path) -> None:
    rng = np.random.default_rng(0)
    signals = [(80 * rng.normal(size=(12, 1000)).cumsum(1)).astype(np.int16).tolist() for _ in range(12)]
    pq.write_table(pa.table({"signal": signals}), folder / "t.parquet")


def _montage(folder: Path) -> None:
    rng = np.random.default_rng(0)
    signals = [(30 * rng.normal(size=(3, 200))).tolist() for _ in range(12)]
    pq.write_table(pa.table({"signal": signals}), folder / "t.parquet")
    (folder / "about.json").write_text(json.dumps({"electrodes": ["Fp1", "Cz", "O2"], "sampling_rate": 100}))
    (folder / "README.md").write_text("Three electrodes.")


def _npy(folder: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        np.save(folder / f"{number}.npy", rng.normal(size=shape).astype(np.float32))


def _pairs(folder: Path) -> None:
    of_kinds(folder, {"image": "image", "caption": "text"})
    (folder / "table.jsonl").rename(folder / "pairs.jsonl")


KINDS: dict[str, tuple[Callable[[Path], object], str, dict[str, Any]]] = {
    "image": (pictures, ".", {"image": "image"}),
    "audio": (lambda f: [encoded(f / f"{n}.wav", seed=n) for n in range(12)], ".", {"audio": "audio"}),
    "video": (lambda f: [video(f / f"{n}.mp4", seed=n) for n in range(8)], ".", {"video": "video"}),
    "ecg": (lambda f: [wfdb_record(f, f"r{n}") for n in range(12)], ".", {"ecg": "ecg"}),
    "ecg-unnamed": (_twelve, "t.parquet", {"ecg": "signal"}),
    "eeg": (_montage, "t.parquet", {"eeg": "signal"}),
    "series": (lambda f: sensors(f / "s"), "s", {"series": "series"}),
    "series-arrays": (_arrays, "t.parquet", {"series": "signal"}),
    "volume": (lambda f: _npy(f, (12, 14, 12)), ".", {"volume": "volume"}),
    "volume-channels": (lambda f: _npy(f, (2, 8, 8, 8)), ".", {"volume": "volume"}),
    "bands": (lambda f: _npy(f, (6, 24, 24)), ".", {"image": "image"}),
    "graph": (tudataset, ".", {"graph": "graph"}),
    "text": (_lines, "t.txt", {"text": "text"}),
    "tabular": (_table, "t.csv", {"tabular": ["x", "y", "z", "sort"]}),
    "tabular-numbers": (lambda f: person(f / "t.csv", rows=40), "t.csv", {}),
    "image-text": (_pairs, "pairs.jsonl", {"image": "image", "text": "caption"}),
}
"""Kind -> (what writes such data, its name, modality -> column(s) that are to be found)."""


def started(kind: str, folder: Path, **options: Any) -> Started:
    """Data of a kind, and what `init` makes of them."""
    write, name, _ = KINDS[kind]
    data = folder / "data"
    data.mkdir()
    write(data)
    return init(InitConfig(path=str(data / name), **options), folder / "recipe.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_each_kind(kind: str, tmp_path: Path) -> None:
    done = started(kind, tmp_path)
    recipe = load_recipe(done.path)
    wanted = KINDS[kind][2]
    if wanted:
        assert {name: recipe.data.columns.get(name, name) for name in recipe.modalities} == wanted
    assert plainyaml.read(done.path) == done.recipe and recipe.train.epochs is not None and recipe.train.epochs >= 10
    chosen = next(iter(done.recipe["objectives"]))
    line = next(line for line in done.text.splitlines() if line.strip().startswith(f"{chosen}:"))
    assert "#" in line, "the objective's reason stands behind it"


def _hospital(file: Path, rows: int = 160) -> Path:
    """As a hospital's spreadsheet writes it: decimal commas, dates with points, bounds, several rows of a patient."""
    rng = np.random.default_rng(0)
    line = [
        [
            1000 + n % 70,
            f"p{n % 70}@x.org",
            f"{1 + n % 28:02}.{1 + n % 12:02}.{1990 + n % 31}",
            "<0,8" if n % 9 == 0 else f"{rng.lognormal():.2f}".replace(".", ","),
            f"{rng.normal(13, 2):.1f}".replace(".", ",") if n % 11 else "n/a",
            ("Ward", "ICU")[n % 2],
            ("no", "yes")[n % 33 == 0],
        ]
        for n in range(rows)
    ]
    names = ["Case-ID", "mail", "seen", "crp", "hb", "ward", "dead"]
    file.write_text("\n".join(";".join(map(str, row)) for row in [names, *line]) + "\n", "cp1252")
    return file


def test_a_table_as_hospitals_have_it(tmp_path: Path) -> None:
    """Numbers with decimal commas and dates are no words, which were left out; a patient's rows stay together."""
    done = init(InitConfig(path=str(_hospital(tmp_path / "t.csv"))), tmp_path / "r.yaml")
    assert done.recipe["data"]["columns"]["tabular"] == ["seen", "crp", "hb", "ward", "dead"]
    assert done.recipe["evaluation"]["group"] == "Case-ID"
    told = "\n".join(done.found)
    assert "seen: dates" in told and "crp: numbers" in told and "mail: words, 70 different" in told
    assert "one to each 'Case-ID'" in told and "'Case-ID' has 2.3 rows of each value" in told
    assert "if it is one of ward, dead" in told, "those of few values first"


@pytest.mark.parametrize("name", ["Patienten-ID", "patient", "PatientNr", "subject_id", "speakers", "participant_code"])
def test_names_that_say_who_a_row_is_of(name: str) -> None:
    column = Column(name, [n % 9 for n in range(40)], range(40))
    found, left, said = group_of({name: column})
    assert found is not None and found[0] == name and left == {name: "who a row is of"} and not said


SHORT = {"steps": 2, "health_every": None, "trackers": [], "log_every": 1}


def runs(done: Started, folder: Path) -> None:
    """The recipe is run as it was written, for two steps."""
    done_run = mmssl.pretrain(done.path, output=folder / "run", train=SHORT, evaluation={"tasks": []})
    assert (done_run.folder / "model" / "config.json").is_file()


@pytest.mark.parametrize("kind", [k if k in RUNS else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_the_recipe_runs_as_it_is(kind: str, tmp_path: Path) -> None:
    runs(started(kind, tmp_path), tmp_path)


SETS = """
adult ag_news_mini bonn_eeg california_housing cifar10_mini citeseer clothing_reviews cora ecg5000_beats eeg_eye_state
eegmmi_s001 emoji fashion_mnist flickr8k_mini fsdd grid_s1_av letter_recognition mutag prose_republic proteins ptbxl_500
spoken_written_digits weizmann4 wine_quality
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_shared_set(name: str, shared_data: Path, tmp_path: Path) -> None:
    """A recipe that runs as it is, of each."""
    runs(init(InitConfig(path=str(shared_data / name)), tmp_path / "recipe.yaml"), tmp_path)


def test_every_shared_set_is_tried(shared_data: Path) -> None:
    assert sorted(path.name for path in shared_data.iterdir() if path.is_dir()) == sorted(SETS)


def test_grey_pictures_have_no_colours_to_change(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / f"{number}.png")
    done = init(InitConfig(path=str(tmp_path)), tmp_path / "recipe.yaml")
    view = done.recipe["views"]["a"]["image"]
    assert not {"saturation", "hue", "gray"} & set(view) and view["brightness"]
    assert "1 channel" in done.text
    assert "  samples of image: width 40, height 40, channels 1 (12 looked at)" in done.found
    runs(done, tmp_path)


def test_labels_and_what_tells_them_are_no_inputs(tmp_path: Path) -> None:
    done = started("tabular", tmp_path)
    assert done.recipe["evaluation"] == {"label": "outcome"}
    said = "\n".join(done.found)
    assert "word_of" in said and "tells the label" in said and "patient_id" in said


def test_a_label_that_is_asked_for(tmp_path: Path) -> None:
    done = started("tabular", tmp_path, label="word_of")
    assert done.recipe["evaluation"]["label"] == "word_of"
    assert done.recipe["data"]["columns"]["tabular"] == ["x", "y", "z", "sort"], "what tells it goes with it"


def test_what_nothing_says_of_signals(tmp_path: Path) -> None:
    eeg = started("eeg", tmp_path).recipe["modalities"]["eeg"]
    assert (eeg["source_rate"], eeg["source_channels"], eeg["seconds"]) == (100.0, ["Fp1", "Cz", "O2"], 2.0)
    other = tmp_path / "other"
    other.mkdir()
    found = started("ecg-unnamed", other)
    assert found.recipe["modalities"]["ecg"]["source_rate"] == 100.0
    assert found.recipe["modalities"]["ecg"]["source_unit"] == "uV"
    assert "12 channels" in "\n".join(found.found)


@pytest.mark.parametrize(
    ("goal", "base", "tasks"),
    [("retrieval", "tabular_contrastive", ["knn", "rankme"]), ("classify", "tabular_mae", ["knn", "linear"])],
)
def test_goals(goal: str, base: str, tasks: list[str], tmp_path: Path) -> None:
    done = started("tabular", tmp_path, goal=goal)
    assert (done.base, done.recipe["evaluation"]["tasks"]) == (base, tasks)


@pytest.mark.parametrize(("rows", "epochs"), [(300, 500), (5_000, 32), (16_000, 32), (32_561, 16)])
def test_tables_are_read_out_of_all_blocks_and_trained_for_longer(rows: int, epochs: int) -> None:
    """As letter_recognition was, whose 16,000 rows gained by 4,000 steps of 128, and not by 1,250."""
    found = composing.compose(["tabular"], None, False)
    composing.lengthen(found, ["tabular"], rows)
    composing.length(found, rows)
    assert found.data["model"]["towers"]["tabular"]["readout_layers"] == 2
    assert found.data["train"]["epochs"] == epochs
    assert "letter_recognition" in found.why["model.towers.tabular.readout_layers"]


def test_what_else_there_is_is_as_long_as_its_recipe() -> None:
    for modalities, goal in ((["tabular"], "retrieval"), (["text"], None), (["image"], None)):
        found = composing.compose(modalities, goal, False)
        before = copy.deepcopy(found.data)
        composing.lengthen(found, modalities, 16_000)
        assert found.data == before


def test_names_of_strangers_stay_in_their_comment() -> None:
    data = {"data": {"path": "x\ny: 1 # z", "columns": {"tabular": ["a: b", "c\u2028d", "- e"]}}}
    why = {"data.path": "a\nobjectives: {}", "data.columns.tabular": "one\u2028two: 3\x85\x1b[2J"}
    text = commented(data, why, ["head\nseed: 1"])
    assert plainyaml.parse(text, "it") == data and "\x1b" not in text


def test_a_file_is_never_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "p")
    kept = tmp_path / "recipe.yaml"
    kept.write_text("mine")
    words = ["init", str(tmp_path / "p"), "--output", str(kept)]
    assert main(words) == 2 and kept.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0 and "image" in kept.read_text()
    assert f"mmssl pretrain {kept}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere/"], "no such file or folder"),
        (["{p}", "--goal", "fame"], "goal"),
        (["{p}", "--label", "lable"], "did you mean 'label'"),
        (["{p}", "streaming=true"], "streaming"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "p")
    out = tmp_path / "recipe.yaml"
    named = [word.format(p=tmp_path / "p") for word in words]
    assert main(["init", *named, "--output", str(out)]) == 2
    assert said in capsys.readouterr().err and not out.exists()


def test_an_empty_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p").mkdir()
    assert main(["init", str(tmp_path / "p"), "--output", str(tmp_path / "r.yaml")]) == 2
    assert "empty" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "p")


# ---------------------------------------------------------------------------------------------------------- questions


def _terminal(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> list[str]:
    """One that answers, then Enter each time; returns what it is asked."""
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return answers[len(asked) - 1] if len(asked) <= len(answers) else ""

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    return asked


def test_without_a_terminal_nobody_is_asked(tmp_path, monkeypatch, capsys):
    _table(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "t.csv", "--ask"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "recipe.yaml").exists()


def test_who_takes_all_that_was_found_gets_the_same_recipe(tmp_path, monkeypatch, capsys):
    _table(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "t.csv"]) == 0
    without = (tmp_path / "recipe.yaml").read_bytes()
    asked = _terminal(monkeypatch, [])
    assert main(["init", "t.csv", "--ask", "--force"]) == 0
    assert (tmp_path / "recipe.yaml").read_bytes() == without
    said = capsys.readouterr().out
    assert len(asked) == 5 and "[outcome]" in asked[1] and "[none]" in asked[2] and "[x, y, z, sort]" in asked[3]
    assert said.count("t.csv: 60 rows") == 2  # of each of the two, once


def test_answers_change_the_recipe_and_wrong_ones_are_asked_again(tmp_path, monkeypatch, capsys):
    _table(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = _terminal(monkeypatch, ["classify", "srt", "sort", "", "x, y", "demo"])
    assert main(["init", "t.csv", "--ask"]) == 0
    recipe = load_recipe("recipe.yaml")
    assert recipe.evaluation.label == "sort" and recipe.data.columns["tabular"] == ["x", "y"]
    assert "did you mean 'sort'" in capsys.readouterr().out and asked[1] == asked[2]


def test_who_stops_while_being_asked_has_no_file(tmp_path, monkeypatch):
    _table(tmp_path)
    monkeypatch.chdir(tmp_path)
    _terminal(monkeypatch, [])

    def stop(question: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", stop)
    assert main(["init", "t.csv", "--ask"]) == 130 and not (tmp_path / "recipe.yaml").exists()
