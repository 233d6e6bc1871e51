"""The rows of docs/benchmarks/mechanisms.md: their recipes are valid, and a result is of the recipe that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from toys.refusals import refused

from benchmarks.mechanisms import __main__ as command
from benchmarks.mechanisms import preparing, rows, run
from benchmarks.mechanisms.nets import SampleCNN
from benchmarks.mechanisms.rows import Row, due, read_rows, store, stored
from benchmarks.mechanisms.table import line, table
from mmssl.recipe.loading import load_recipe

ROWS = read_rows()
SCORES = {
    "linear accuracy": {"pretrained": 0.75, "untrained": 0.5, "raw": 0.6},
    "knn accuracy": {"pretrained": 1.0, "untrained": 0.25, "raw": 0.3},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_its_recipe_is_valid_and_what_comes_first_is_a_row(row: Row) -> None:
    written = row.recipe()
    if row.first is not None:
        written["train"].pop("after", None)  # what it goes on from is not there yet
    recipe = load_recipe({"name": row.name, **written})
    assert recipe.evaluation.tasks and recipe.evaluation.label
    assert row.first is None or row.first in {other.name for other in ROWS}
    assert row.prepare is None or row.prepare in preparing.MAKES


def test_every_recipe_of_the_folder_is_a_row() -> None:
    assert {path.stem for path in rows.HERE.glob("*.yaml")} - {"rows"} == {row.name for row in ROWS}
    with refused("nnclrr", "nnclr"):
        read_rows(["nnclrr"])


def test_a_result_of_another_recipe_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    row = read_rows(["gedi"])[0]
    assert due(row, 1) and table([row]).count("\n") == 1
    store(row, 1, SCORES)
    store(row, 0, SCORES)
    assert list(stored(row)) == [0, 1] and not due(row, 1) and due(row, 2)
    shown = ".750/.500 .750/.500 | 1.000/.250 1.000/.250 | .600, .300 |"
    assert line(row, stored(row)).endswith(shown) and "fashion_mnist, 150" in table([row])
    store(row, 0, SCORES | {"retrieval text to lead/R@10": SCORES["knn accuracy"]})
    shown = "`gedi`, text to lead, the partner among the nearest ten: 1.000/.250 -; raw features .300."
    assert table([row]).endswith("\n\n" + shown)
    monkeypatch.setattr(Row, "digest", lambda self: "another")
    assert due(row, 1)


def test_what_is_found_is_read_off_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {}

    def pretrain(recipe: dict[str, Any], *, output: Path) -> None:
        (output / "model").mkdir(parents=True)
        (output / "metrics.jsonl").write_text('{"loss": 2.0}\n{"loss": 1.5}\n')
        score = '{"model": 0.71, "untrained": 0.7, "raw": null}'
        ways = f'{{"text to lead/R@10": {score}, "lead to text/R@10": {score}}}'
        tasks = f'{{"knn": {{"image/accuracy": {score}}}, "linear": {{"image/ECE": {score}}}, "retrieval": {ways}}}'
        (output / "evaluation.json").write_text(f'{{"tasks": {tasks}}}')
        kept[recipe["name"]] = recipe

    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run.mmssl, "pretrain", pretrain)
    found = run.measure(read_rows(["beit"])[0], 2, tmp_path)
    assert found["knn accuracy"] == {"pretrained": 0.71, "untrained": 0.7}
    assert found["loss"] == [2.0, 1.5] and "linear ECE" not in found
    assert {"retrieval text to lead/R@10", "retrieval lead to text/R@10"} <= set(found)
    codes = kept["beit"]["objectives"]["beit"]["codes"]["image"]
    assert codes["from"] == str(tmp_path / "beit_tokenizer-2") and kept["beit_tokenizer"]["seed"] == 2


def test_nodes_are_told_how_far_they_lie_from_the_labels_of_training(tmp_path: Path) -> None:
    """0 - 1 - 2 - 3, and 4 alone; nodes 0 (class 0), 2 and 3 (class 1) are those of training."""
    index = np.array([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    masks = {"train_mask": np.array([1, 0, 1, 1, 0], bool), "test_mask": np.array([0, 1, 0, 0, 1], bool)}
    labels = np.array([0, 0, 1, 1, 1])
    np.savez(tmp_path / "line.npz", edge_index=index, y=labels, x=np.ones((5, 2), np.float32), **masks)
    path = preparing.prepared("far", f"graph:{tmp_path / 'line.npz'}", tmp_path)
    from mmssl.data.sources import open_source

    found = list(open_source(path, split="all"))
    assert [row["far_0_least"] for row in found] == [0, 1, 2, 3, 4]
    assert [row["far_1_mean"] for row in found] == [2.5, 1.5, 0.5, 0.5, 4]
    assert [row["far_1_least"] for row in found] == [2, 1, 0, 0, 4]
    assert preparing.prepared("far", f"graph:{tmp_path / 'line.npz'}", tmp_path) == path
    # 1 is half of either class; 0 has 1 and 2 around it, 1 has 0, 2 and 3, 2 has all others, 3 has 1 and 2, 4 nobody
    around = preparing.context(tmp_path / "line.npz")
    np.testing.assert_allclose(around["context_0"], [1 / 4, 1 / 3, 1 / 2, 1 / 4, 1 / 2], atol=1e-6)
    np.testing.assert_allclose(around["context_0"] + around["context_1"], 1, atol=1e-6)


def test_a_fifth_of_each_class_keeps_its_label(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for split, count in (("train", 60), ("test", 10)):
        datasets.Dataset.from_dict({"label": [n % 3 for n in range(count)]}).to_csv(source / f"{split}.csv")
    found = preparing.few(source)
    kept = [value for value in found["train"]["few"] if value is not None]
    assert sorted(kept) == ["class 0"] * 4 + ["class 1"] * 4 + ["class 2"] * 4
    pairs = zip(found["train"]["few"], found["train"]["label"], strict=True)
    assert all(value in (None, f"class {label}") for value, label in pairs)
    assert found["test"]["few"] == [None] * 10


def test_frames_stand_beside_later_ones(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "EVERY", 60)
    clips = shared_data.resolve() / "weizmann4"
    for split, count in (("train", 2), ("test", 1)):
        (tmp_path / split).mkdir()
        with (clips / split / "metadata.csv").open() as file:
            lines = file.read().splitlines()[: count + 1]
        (tmp_path / split / "metadata.csv").write_text("\n".join(lines) + "\n")
        for clip in lines[1:]:
            (tmp_path / split / clip.split(",")[0]).symlink_to(clips / split / clip.split(",")[0])
    found = preparing.frames(tmp_path)
    assert found["train"].column_names == ["image", "later", "label"] and len(found["test"]) >= 1
    row = found["train"][0]
    assert row["image"].size == (64, 64) and row["image"].mode == "L"
    assert np.abs(np.asarray(row["image"], int) - np.asarray(row["later"], int)).max() > 5


def test_half_of_the_classes_and_clusters_of_pixels(tmp_path: Path) -> None:
    images = [np.full((4, 4), 25 * n, np.uint8) for n in range(10)]
    for split, count in (("train", 40), ("test", 20)):
        held = {
            "image": [Image.fromarray(images[n % 10]) for n in range(count)],
            "label": [n % 10 for n in range(count)],
        }
        datasets.Dataset.from_dict(held).cast_column("image", datasets.Image()).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    assert set(preparing.MAKES["first_five"](tmp_path)["train"]["label"]) == set(range(5))
    assert set(preparing.MAKES["other_five"](tmp_path)["test"]["label"]) == set(range(5, 10))
    found = preparing.stages(tmp_path)
    # ten different pictures, ten clusters: one a label, the same in both splits
    for split in ("train", "test"):
        pairs = set(zip(found[split]["label"], found[split]["stage"], strict=True))
        assert len(pairs) == 10 and len({stage for _, stage in pairs}) == 10
    assert dict(zip(found["train"]["label"], found["train"]["stage"], strict=True)) == dict(
        zip(found["test"]["label"], found["test"]["stage"], strict=True)
    )


def test_nine_blocks_make_one_place_of_59049_samples() -> None:
    """Layer by layer in float64, with the statistics of the norms as they are."""
    torch.manual_seed(0)
    net = SampleCNN(16, 1).double().eval()
    x = torch.randn(1, 1, 3**10, dtype=torch.float64)
    weights = iter(net.parameters())
    y, number = x, 0
    while (weight := next(weights, None)) is not None:
        bias, scale, shift = next(weights), next(weights), next(weights)
        if number:
            windows = F.pad(y, (1, 1)).unfold(2, 3, 1)
        else:
            windows = y.unfold(2, 3, 3)
        y = torch.einsum("bctk,ock->bot", windows, weight) + bias[:, None]
        y = (y / (1 + 1e-5) ** 0.5 * scale[:, None] + shift[:, None]).clamp(min=0)
        if number:
            y = y.unfold(2, 3, 3).amax(3)
        number += 1
    assert number == 10 and y.shape == (1, 16, 1)
    torch.testing.assert_close(net(x), y[:, :, 0], rtol=0, atol=1e-10)


def test_the_command_names_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nothing", "--table"]) == 2
    assert "found 'nothing'" in capsys.readouterr().err
