"""Evaluation: which rows, whole reports on a model made by hand, honest baselines on real data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys.points import READERS, WORDS, ByHand, table, write_data
from toys.refusals import refused

from mmssl.errors import UserError
from mmssl.evaluation import tasks
from mmssl.evaluation.embedding import Embedded, embed_source
from mmssl.evaluation.evaluate import evaluate
from mmssl.evaluation.rows import class_names, read_labels, spread, subset
from mmssl.evaluation.table import plain_table, rich_table
from mmssl.modality import Batch
from mmssl.models.running import evaluating
from mmssl.recipe.config import DataConfig, EvaluationConfig

# --- rows ----------------------------------------------------------------------------------------------------------


def test_spread_is_deterministic_and_not_the_first_rows() -> None:
    rows = spread(1000, 100, 3)
    assert rows == spread(1000, 100, 3) == sorted(set(rows)) and len(rows) == 100
    assert rows != spread(1000, 100, 4)
    assert 350 < np.mean(rows) < 650
    assert spread(5, None, 0) == spread(5, 9, 0) == [0, 1, 2, 3, 4]


def test_subset_of_a_stream() -> None:
    import datasets

    data = datasets.Dataset.from_dict({"x": list(range(500))})
    rows, remark = subset(data.to_iterable_dataset(), 50, 0, buffer=500)
    assert len(rows) == 50 and remark is None and np.mean(rows["x"]) > 100
    again, _ = subset(data.to_iterable_dataset(), 50, 0, buffer=500)
    assert list(rows["x"]) == list(again["x"])


def test_labels_of_every_kind() -> None:
    import datasets

    labels, _ = read_labels(table(label=["b", None, "a"]), table(label=["c", "a"]), None)
    assert labels is not None and labels.values == ["a", "b", "c"]
    assert labels.test.tolist() == [1, -1, 0] and labels.train is not None and labels.train.tolist() == [2, 0]
    labels, _ = read_labels(table(y=[7.0, float("nan"), 9.0]), table(x=[1]), "y")
    assert labels is not None and labels.values == [7, 9] and labels.train is None
    assert labels.test.tolist() == [0, -1, 1]
    reason = read_labels(table(y=[0.5, 1.0]), None, "y", task="classification")[1]
    assert reason == "column 'y' holds real numbers (0.5), no classes; label_task=regression"
    assert "no label column" in read_labels(table(x=[1]), None, None)[1]
    with pytest.raises(UserError, match="evaluation.label: the data has no column 'lable'.*did you mean 'label'"):
        read_labels(table(label=[1]), None, "lable")
    # the same numbers, other names: compared by name
    ab = table(label=[0, 1, -1]).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    ba = table(label=[0, 1]).cast_column("label", datasets.ClassLabel(names=["b", "a"]))
    labels, _ = read_labels(ab, ba, None)
    assert labels is not None and labels.values == ["a", "b"]
    assert labels.test.tolist() == [0, 1, -1] and labels.train is not None and labels.train.tolist() == [1, 0]
    labels, _ = read_labels(ab, ab, None)
    assert labels is not None and class_names(labels, ab, ab, None) == (["a", "b"], [0, 1])


def test_class_names() -> None:
    numbers = table(label=[3, 1, 3], label_name=["three", "one", "three"])
    labels, _ = read_labels(numbers, None, None)
    assert labels is not None
    assert class_names(labels, numbers, None, None) == (["one", "three"], [0, 1])
    assert class_names(labels, numbers, None, WORDS) == (list(WORDS), [1, 3])
    assert class_names(labels, numbers, None, ["uno", "tre"]) == (["uno", "tre"], [0, 1])
    with pytest.raises(UserError, match="evaluation.classes: 3 names for 2 different labels"):
        class_names(labels, numbers, None, ["a", "b", "c"])
    bare = table(label=[3, 1])
    labels, _ = read_labels(bare, None, None)
    assert labels is not None and "no class names" in class_names(labels, bare, None, None)
    torn = table(label=[3, 3], label_name=["three", "drei"])
    labels, _ = read_labels(torn, None, None)
    assert labels is not None and "several names ('three', 'drei')" in class_names(labels, torn, None, None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_report_of_a_skilled_model(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_data(tmp_path / "d")))
    config = EvaluationConfig(
        tasks=["knn", "linear", "zero-shot", "retrieval", "rankme"],
        classes=list(WORDS),
        limit=200,
        train_limit=100,
        templates=["{}", "the {}"],
        k=5,
    )
    model, untrained = ByHand(True), ByHand(False)
    model.train()
    report = evaluate(model, READERS, data, config, untrained=untrained)
    assert model.training, "the mode must be as before"
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["tasks"]) == {"knn", "linear", "zero-shot", "retrieval", "rankme"} and not report["skipped"]
    assert (report["n_test"], report["n_train"]) == (200, 100)
    zero = report["tasks"]["zero-shot"]["point/accuracy"]
    assert zero["model"] > 0.95 and zero["raw"] > 0.9 and zero["untrained"] < 0.8 and 0.2 < zero["chance"] < 0.35
    assert zero["n"] == 200 and zero["interval"]["model"][0] < zero["model"] <= zero["interval"]["model"][1]
    for task in ("knn", "linear"):
        assert report["tasks"][task]["point/accuracy"]["model"] > 0.9
        assert report["tasks"][task]["text/accuracy"]["raw"] == 1.0
    found = report["tasks"]["retrieval"]
    assert found["point->text/median rank"]["candidates"] == 8, "candidates are the different texts"
    assert found["point->text/median rank"]["n"] == 200 and found["text->point/median rank"]["n"] == 8
    assert found["point->text/R@1"]["model"] > 0.95 > found["point->text/R@1"]["chance"]
    assert "point->text/R@10" not in found and "text->point/R@10" in found
    rank = report["tasks"]["rankme"]["point/pooled"]
    assert 1 < rank["model"] <= 4 and rank["of"] == 4 and rank["chance"] is None
    # test and train rows of both modalities once, then 8 prompts (classes x templates) and 8 texts
    assert model.rows_seen == untrained.rows_seen == 2 * (200 + 100) + 8 + 8
    text = plain_table(report)
    assert "pretrained" in text and "point->text/R@1" in text and "raw features" in text
    assert rich_table(report).row_count == sum(map(len, report["tasks"].values()))


def test_scores_equal_those_computed_by_hand(tmp_path: Path) -> None:
    """The wiring: which rows, which labels, which features."""
    import pandas as pd
    from sklearn.neighbors import KNeighborsClassifier

    folder = write_data(tmp_path / "d")
    report = evaluate(
        ByHand(False), READERS, DataConfig(path=str(folder)), EvaluationConfig(tasks=["knn"], k=5, train_limit=60)
    )
    train, test = (pd.read_parquet(folder / f"{split}.parquet") for split in ("train", "test"))
    rows = spread(240, 60, 1)
    judge = KNeighborsClassifier(5, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    weight = ByHand(False).point.detach().numpy()
    known = np.stack(train.point)[rows] @ weight
    shift, scale = known.mean(0), known.std(0)
    judge.fit((known - shift) / scale, train.label[rows])
    expected = (judge.predict((np.stack(test.point) @ weight - shift) / scale) == test.label).mean()
    metric = report["tasks"]["knn"]["point/accuracy"]
    assert metric["model"] == pytest.approx(expected, abs=1e-9)
    assert metric["untrained"] is None and metric["chance"] == 0.25


def test_without_labels_the_label_free_tasks_remain(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_data(tmp_path / "d", label=None)))
    report = evaluate(ByHand(True), READERS, data, EvaluationConfig())
    assert set(report["tasks"]) == {"retrieval", "rankme"}
    assert report["skipped"] == dict.fromkeys(["knn", "zero-shot"], "the data has no label column (evaluation.label)")
    assert report["tasks"]["retrieval"]["point->text/R@1"]["raw"] > 0.9, "the ridge map still has its training pairs"


def test_without_text_zero_shot_still_works_but_retrieval_does_not(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_data(tmp_path / "d", text=None)))
    report = evaluate(ByHand(True), READERS, data, EvaluationConfig(classes=list(WORDS)))
    assert report["tasks"]["zero-shot"]["point/accuracy"]["model"] > 0.9
    assert report["tasks"]["zero-shot"]["point/accuracy"]["raw"] is None, "no training pairs, no map"
    assert "two of the model's modalities" in report["skipped"]["retrieval"]
    assert any("text: not evaluated, the data has no column 'text'" in note for note in report["notes"])


def test_what_is_no_number_is_refused_and_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(path=str(write_data(tmp_path / "d")))
    real = ByHand.encode_batch

    def diverged(self: ByHand, *args: Any, **options: Any) -> Any:
        output = real(self, *args, **options)
        output.pooled["point"][-1] = torch.nan
        return output

    monkeypatch.setattr(ByHand, "encode_batch", diverged)
    with pytest.raises(UserError, match="'model' gives of point is not finite in 1 of 40 test rows"):
        evaluate(ByHand(True), READERS, data, EvaluationConfig(tasks=["knn"], limit=40))


def test_missing_and_broken_values_are_left_out(tmp_path: Path) -> None:
    def holes(points: list[Any]) -> list[Any]:
        return [None if i % 10 == 0 else p[:2] if i % 10 == 1 else p for i, p in enumerate(points)]

    path = str(write_data(tmp_path / "d", point=holes))
    config = EvaluationConfig(tasks=["knn", "retrieval", "ranking", "rankme"])
    for broken, texts in (("part", 240), ("row", 216)):  # with "row" a broken sample is absent in all modalities
        report = evaluate(ByHand(True), READERS, DataConfig(path=path, max_bad=0.1, broken=broken), config)
        assert report["bad"] == {"test": 24, "train": 24} and report["n_test"] == 240
        assert report["tasks"]["knn"]["point/accuracy"]["n"] == 192
        assert report["tasks"]["knn"]["text/accuracy"]["n"] == texts
        assert report["tasks"]["retrieval"]["point->text/median rank"]["n"] == 192
        ranked, first = report["tasks"]["ranking"], report["tasks"]["retrieval"]["point->text/R@1"]
        assert first["model"] <= ranked["point->text/MRR"]["model"] <= 1 and ranked["point->text/MRR"]["n"] == 192
        assert ranked["point->text/nDCG"]["chance"] < 0.7 < ranked["point->text/nDCG"]["model"] <= 1
    with refused("24 of 240 samples read are broken (10%), more than max_bad = 0.05 allows"):
        evaluate(ByHand(True), READERS, DataConfig(path=path), config)


def test_a_missing_test_split(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "d")
    (folder / "test.parquet").unlink()
    data = DataConfig(path=str(folder))
    report = evaluate(ByHand(True), READERS, data, EvaluationConfig())
    assert report["n_test"] == 48 and report["n_train"] == 192 and "rows are held out (20%" in report["notes"][0]
    assert set(report["tasks"]) == {"knn", "rankme", "retrieval"}
    report = evaluate(ByHand(True), READERS, data, EvaluationConfig(test_share=0))
    assert set(report["tasks"]) == {"rankme"} and set(report["skipped"]) == {"knn", "zero-shot", "retrieval"}
    assert report["split"] == {"test": "train", "train": "train"} and "training split" in report["notes"][0]
    with refused("split 'validation'"):
        evaluate(ByHand(True), READERS, data, EvaluationConfig(split="validation"))
    report = evaluate(ByHand(True), READERS, data, EvaluationConfig(split="train", tasks=["knn", "rankme"]))
    assert report["skipped"] == {"knn": "the test rows are the training rows"} and "rankme" in report["tasks"]


def test_other_data_to_test_on(tmp_path: Path) -> None:
    folder, other = write_data(tmp_path / "d"), write_data(tmp_path / "e", n=80)
    (other / "test.parquet").rename(tmp_path / "held.parquet")
    # a lone file: its only split is what to test on, and the probes learn from the pretraining data
    config = EvaluationConfig(path=str(tmp_path / "held.parquet"), tasks=["knn"])
    report = evaluate(ByHand(True), READERS, DataConfig(path=str(folder)), config)
    assert (report["n_test"], report["n_train"]) == (80, 240)
    assert report["tasks"]["knn"]["point/accuracy"]["model"] > 0.9
    # data with a training split of its own: the probes learn from that
    both = write_data(tmp_path / "f", n=40)
    config = EvaluationConfig(path=str(both), tasks=["knn"])
    report = evaluate(ByHand(True), READERS, DataConfig(path=str(folder)), config)
    assert (report["n_test"], report["n_train"]) == (40, 40)


def test_streaming_data_and_no_tasks(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_data(tmp_path / "d")), streaming=True)
    report = evaluate(ByHand(True), READERS, data, EvaluationConfig(tasks=["knn"], limit=50, train_limit=100))
    assert (report["n_test"], report["n_train"]) == (50, 100)
    assert report["tasks"]["knn"]["point/accuracy"]["model"] > 0.8
    assert evaluate(ByHand(True), READERS, data, EvaluationConfig(tasks=[]))["tasks"] == {}


def test_what_the_user_gets_wrong(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_data(tmp_path / "d")))
    with pytest.raises(UserError, match="none of the model's modalities.*did you mean 'point'"):
        evaluate(ByHand(True), {"point": READERS["point"]}, data, EvaluationConfig(), columns={"point": "points"})
    with pytest.raises(UserError, match="unknown task 'kn'"):
        evaluate(ByHand(True), READERS, data, SimpleNamespace(tasks=["kn"]))  # type: ignore[arg-type]
    with refused("evaluation.label"):
        evaluate(ByHand(True), READERS, data, EvaluationConfig(label="nothing"))


def test_towers_of_different_width_are_not_compared() -> None:
    z = {"a": torch.randn(20, 4), "b": torch.randn(20, 3)}
    there = torch.ones(20, dtype=torch.bool)
    test = Embedded({"a": there, "b": there}, {}, {"model": z}, {"model": z})
    sides = {name: tasks.row_side(test, name) for name in z}
    metrics, skipped = tasks.retrieval(tasks.Features(test, None, frozenset()), sides)
    assert not metrics and "differ in width" in skipped["a->b"]


def test_evaluating_restores_a_frozen_part() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model.train()
    model[0].eval()
    with pytest.raises(RuntimeError, match="stop"), evaluating([model]):
        assert not model.training and not model[1].training
        raise RuntimeError("stop")
    assert model.training and not model[0].training and model[1].training


def test_embed_source_keeps_the_order_of_rows() -> None:
    data = table(point=[[float(i), 0.0, 0.0, 1.0] for i in range(11)])
    columns = {"point": "point"}
    out = embed_source({"model": ByHand(True)}, READERS, data, columns, describe=ByHand(True), batch_size=4)
    assert out.pooled["model"]["point"][:, 0].tolist() == out.raw["point"][:, 0].tolist() == list(range(11))


# --- real data: the baselines must be honest -----------------------------------------------------------------------


def test_the_raw_baseline_between_modalities_is_strong_on_real_digits() -> None:
    """A weak baseline flatters every encoder. Cosines around the origin instead of the mean: 0.6."""
    from mmssl.data.sources import open_source
    from mmssl.modality import load_modality

    image, text = load_modality("image"), load_modality("text")
    source = open_source("builtin:digits")
    options = {"size": 8, "patch": 2, "resize": "squash"}
    pictures = source.select_columns(["image"])[:300]["image"]
    readers = {
        "image": image.Preprocessor(image.Config(**options)).fit(pictures),
        "text": text.Preprocessor(text.Config(vocab_size=320, max_length=16)).fit(source[:300]["text"]),
    }
    parts = {name: load_modality(name).Modality(8, **readers[name].sizes()) for name in readers}

    class NoSkill(nn.Module):
        """All embeddings are equal; only what belongs to the raw features is real."""

        config = SimpleNamespace(projection=2, modalities={})

        def modality(self, name: str) -> Any:
            return parts[name]

        def encode_batch(self, batch: Batch, alone: bool = False) -> Any:
            rows = {n: len(next(iter(i.values()))) for n, i in batch.items()}
            same = {n: torch.ones(count, 2) for n, count in rows.items()}
            present = {n: torch.ones(count, dtype=torch.bool) for n, count in rows.items()}
            return SimpleNamespace(pooled=same, embeddings=same, present=present)

    config = EvaluationConfig(tasks=["zero-shot", "retrieval", "knn"], templates=["the digit {}", "a handwritten {}"])
    report = evaluate(NoSkill(), readers, DataConfig(path="builtin:digits"), config)
    found = report["tasks"]
    assert found["zero-shot"]["image/accuracy"]["raw"] > 0.8 > 0.2 > found["zero-shot"]["image/accuracy"]["model"]
    assert found["knn"]["image/accuracy"]["raw"] > 0.95
    first = found["retrieval"]["image->text/R@1"]
    assert first["raw"] > 0.8 and first["model"] == 0.0, "equal embeddings must not be ranked first"
    assert found["retrieval"]["image->text/median rank"]["model"] > 30
