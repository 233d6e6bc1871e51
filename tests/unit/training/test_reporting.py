"""`report.html` of a run, and `mmssl report` of runs on the disk: finished, killed, without their data, compared."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from toys import runs
from toys.pages import check
from toys.refusals import refused

import mmssl
from mmssl.cli import main
from mmssl.hub import picture
from mmssl.reporting import looking

pytestmark = pytest.mark.usefixtures("drawn")
ROWS = 24


@pytest.fixture(autouse=True, scope="module")
def few_rows() -> None:
    """Fewer rows are looked at than a user's."""
    patch = pytest.MonkeyPatch()
    patch.setattr(looking, "ROWS", ROWS)
    patch.setattr("mmssl.training.reporting.ROWS", ROWS)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    content = runs.image_text()
    content["evaluation"] = {"tasks": ["knn"], "label": "label", "limit": 40, "train_limit": 60}
    content["train"]["keep"] = 3
    assert runs.cli(folder, content=content) == 0
    return folder / "run"


def pictures(html: str) -> list[str]:
    """What the masks left and what was predicted, in order: a picture each."""
    made = html.partition('id="sees"')[2].partition("Patches and attention")[0]
    return re.findall(r"data:image/[^\"]+", made)


def test_a_run_writes_its_page(run: Path) -> None:
    html = (run / "report.html").read_text()
    found = check(html)
    for said in ("finished after 6 steps", "image, by mae", "image finds text", f"{ROWS} rows of", "knn", "clip.scale"):
        assert said in found.text, said
    assert len(pictures(html)) == 3 * looking.PICTURES
    assert "no reconstructions" not in found.text and "report.html" in (run / "train.log").read_text()


def test_its_card_shows_a_map_and_no_sample(run: Path) -> None:
    card = (run / "model" / "README.md").read_text()
    assert {path.name for path in (run / "model").glob("*.png")} == {picture.PICTURE, picture.MAP}
    assert f"]({picture.MAP})" in card and "coloured by `label`" in card and f"Embeddings of {ROWS} rows" in card
    assert "card_samples: false" in card and "knn" in card


@pytest.mark.slow
def test_samples_are_on_the_card_where_asked_and_a_push_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = runs.image_text()
    content["train"]["card_samples"] = True
    assert runs.cli(tmp_path, content=content) == 0
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "](samples-1.png)" in card and (tmp_path / "run" / "model" / "samples-1.png").is_file()
    capsys.readouterr()
    assert main(["push", str(tmp_path / "run"), "me/x", "--dry-run"]) == 0
    assert "its card shows samples of the data: samples-1.png" in "".join(capsys.readouterr())


def test_the_command_shows_the_same_of_the_disk(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--output", str(page)]) == 0
    assert capsys.readouterr().out.startswith(f"{page}: 0.")
    html = page.read_text()
    assert pictures(html) == pictures((run / "report.html").read_text())  # of the last checkpoint
    assert check(html).text.count("row ") == check((run / "report.html").read_text()).text.count("row ")


@pytest.mark.slow
def test_a_page_changes_nothing_of_the_model(run: Path, tmp_path: Path) -> None:
    content = runs.image_text()
    content["train"]["report"] = False
    assert runs.cli(tmp_path, content=content) == 0
    assert not (tmp_path / "run" / "report.html").exists()
    for name in ("model/model.safetensors", "metrics.jsonl"):
        mine, theirs = ((folder / name).read_bytes() for folder in (run, tmp_path / "run"))
        if name.endswith("jsonl"):
            mine, theirs = ([json.loads(row)["loss"] for row in text.splitlines()] for text in (mine, theirs))
        assert mine == theirs
    runs.assert_same_weights(run, tmp_path / "run")


def test_a_killed_run_says_so_and_is_compared(run: Path, tmp_path: Path) -> None:
    with runs.killed_at(4):
        runs.cli(tmp_path, "train.lr=0.5", output="killed")
    page = mmssl.report([run, tmp_path / "killed"], tmp_path / "both.html")
    found = check(page.read_text())
    assert "not finished (last logged: step 4 of 6)" in found.text and "finished after 6 steps" in found.text
    assert "there is no model yet" in found.text and "train.lr" in found.text and "0.5" in found.text


@pytest.mark.slow
def test_what_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")
    found = check(mmssl.report(copy).read_text())
    assert "no reconstructions: the run has no checkpoint" in found.text and "Nearest neighbours" in found.text
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("builtin:digits", str(tmp_path / "gone.csv")))
    found = check(mmssl.report(copy, tmp_path / "page.html").read_text())
    assert "what the model sees: " in found.text and "gone.csv" in found.text and "Scores" in found.text
    for name in ("metrics.jsonl", "evaluation.json", "train.log"):
        (copy / name).unlink()
    assert "no curves" in check(mmssl.report(copy).read_text()).text


def test_a_model_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run / "model", tmp_path / "alone")
    monkeypatch.chdir(tmp_path)
    page = mmssl.report("alone")
    assert page == Path("report.html")  # not in the model's folder
    found = check(page.read_text())
    assert "a model without its run" in found.text and "no curves" in found.text and "builtin:digits" in found.text


@pytest.mark.parametrize("words", [["nowhere"], ["{run}", "{run}/model"], ["{run}", "--output", "{run}"]])
def test_bad_input_is_a_line_and_2(run: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *(word.format(run=run) for word in words)]) == 2
    assert len(runs.errors(capsys.readouterr().err)) == 1


def test_without_what_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(picture, "installed", lambda name: name != "matplotlib")
    assert picture.page_wanted("auto") is False and "pip install 'mmssl[plots]'" in caplog.text
    with refused("report", "matplotlib"):
        mmssl.report(tmp_path)
    assert runs.cli(tmp_path, "train.card_samples=true") == 2
    assert runs.cli(tmp_path, "train.card_samples=true", "train.report=false") == 2
    assert runs.cli(tmp_path, "train.report=true") == 2 and not list(tmp_path.glob("run/metrics.jsonl"))
