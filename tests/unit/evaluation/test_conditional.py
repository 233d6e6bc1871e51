"""Retrieval with conditions (GeneCIS), and among look-alikes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toys import tuned
from toys.refusals import refused

from mmssl.cli import main
from mmssl.evaluation.conditional import conditional, galleries, look_alikes, numbered_values, ranks_among
from mmssl.evaluation.embedding import Embedded
from mmssl.evaluation.tasks import Features, Side


@pytest.mark.parametrize("kind", ["change", "focus"])
def test_only_the_right_candidate_matches(kind):
    rng = np.random.default_rng(0)
    y, values = rng.integers(-1, 4, 200), rng.integers(-1, 3, 200)
    found = galleries(kind, y, values, 8, 0)
    assert len(found.queries) > 100 and found.candidates.shape == (len(found.queries), 8)
    for row, value, rows in zip(found.queries, found.values, found.candidates.tolist(), strict=True):
        assert row not in rows and len(set(rows)) == 8 and (y[rows] >= 0).all() and (values[rows] >= 0).all()
        label, has = y[rows] == y[row], values[rows] == value
        if kind == "change":
            assert value != values[row] and label[0] and has[0], "the sample's label, with the value"
            assert not (label & has)[1:].any() and (label ^ has)[1:].all() and label[1:].sum() == 3
        else:
            assert value == values[row] and has[0] and not label[0]
            assert not has[1:].any() and label[1:].sum() == 3
    again = galleries(kind, y, values, 8, 0)
    assert (again.candidates == found.candidates).all()
    assert len(galleries(kind, np.zeros(9, int), np.zeros(9, int), 3, 0).queries) == 0


def test_ranks_are_by_cosine_and_ties_count_half():
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    candidates = torch.tensor([[[1.0, 1.0], [3.0, 0.1], [0.0, 1.0]], [[1.0, 1.0], [2.0, 2.0], [-1.0, 0.0]]])
    assert ranks_among(queries, candidates).tolist() == [2.0, 1.5]


def both(noise: float = 0.05) -> tuple[Features, tuple[np.ndarray, np.ndarray]]:
    """Rows whose label and value are an axis each, so that one that has both is found by their sum."""
    torch.manual_seed(0)

    def rows(n: int) -> tuple[Embedded, torch.Tensor, np.ndarray]:
        y, values = torch.arange(n) % 3, torch.arange(n) // 3 % 4
        x = torch.cat([torch.eye(3)[y], torch.eye(4)[values]], 1) + noise * torch.randn(n, 7)
        return Embedded({"image": torch.ones(n, dtype=torch.bool)}, pooled={"model": {"image": x}}), y, values.numpy()

    (test, y, values), (train, y_train, learned) = rows(120), rows(60)
    return Features(test, train, frozenset(), y, y_train), (values, learned)


def test_a_query_of_sample_and_condition_finds_what_neither_finds_alone():
    features, values = both()
    metrics, skipped = conditional(features, values, {}, 1, 6, 0.5, 0)
    assert not skipped and set(metrics) == {
        f"image/{kind} {score}"
        for kind in ("change", "focus")
        for score in ("R@1", "R@2", "R@3", "R@1, sample alone", "R@1, condition alone")
    }
    change = metrics["image/change R@1"]["model"]
    assert change > 0.9 and metrics["image/change R@1"]["chance"] == pytest.approx(1 / 6)
    assert metrics["image/change R@1, sample alone"]["model"] < 0.3
    assert metrics["image/change R@1, condition alone"]["model"] < 0.6
    assert metrics["image/focus R@1, condition alone"]["model"] == 1.0
    assert metrics["image/change R@3"]["model"] >= change and metrics["image/change R@1"]["n"] == 120
    none, skipped = conditional(features, (values[0], None), {}, 1, 6, 0.5, 0)
    assert not none and "neither texts nor training rows" in skipped["image"]


def test_conditions_that_are_spoken_are_compared_in_the_space_of_texts():
    features, (values, _) = both()
    x = torch.nn.functional.normalize(features.test.pooled["model"]["image"], dim=1)
    features.test.embeddings = {"model": {"image": x}}
    said = torch.cat([torch.zeros(8, 3), torch.eye(4).repeat_interleave(2, 0)], 1)  # two templates a value
    spoken = Embedded({"text": torch.ones(8, dtype=torch.bool)}, embeddings={"model": {"text": said}})
    metrics, _ = conditional(features, (values, None), {"image": ("text", spoken)}, 2, 6, 0.5, 0)
    assert metrics["image/change R@1"]["model"] > 0.9 > metrics["image/change R@1, sample alone"]["model"]


def test_bags_of_look_alikes_are_harder_than_drawn_ones():
    torch.manual_seed(0)
    n = 60
    groups = torch.arange(n) // 6
    seen = torch.eye(10)[groups] * 3 + 0.5 * torch.randn(n, 10)
    asked = seen + 0.6 * torch.randn(n, 10)
    there = torch.ones(n, dtype=torch.bool)
    rows = Embedded(
        {"a": there, "b": there}, raw={"a": asked, "b": seen}, embeddings={"model": {"a": asked, "b": seen}}
    )
    features = Features(rows, None, frozenset())
    own = [[row] for row in range(n)]
    sides = {"a": Side(rows, own), "b": Side(rows, own)}
    for values in (None, groups.tolist()):
        metrics, skipped = look_alikes(features, sides, 5, values, 0)
        assert not skipped
        hard, drawn = (metrics[f"a->b/R@1 of 5 {what}"] for what in ("look-alikes", "drawn"))
        assert hard["model"] < drawn["model"] - 0.1 and hard["chance"] == pytest.approx(0.2) and hard["n"] == n
    alone, _ = look_alikes(features, sides, 5, [0, 0, *range(1, n - 1)], 0)
    assert alone["a->b/R@1 of 5 look-alikes"]["n"] == 2, "the others look like none"
    rows.raw.clear()
    metrics, skipped = look_alikes(features, sides, 5, None, 0)
    assert not metrics and "has no raw features" in skipped["a->b"]


def test_values_are_numbered_and_few():
    names, test, train = numbered_values(["b", None, "a", "b", "a", "a"], ["c", float("nan")])
    assert names == ["a", "b", "c"]
    assert test.tolist() == [1, -1, 0, 1, 0, 0] and train.tolist() == [2, -1]
    for values in (["a", "a", "a"], ["a", "b", "c"]):
        with refused("condition", "values"):
            numbered_values(values, [])


def test_the_tasks_of_the_command(tmp_path, capsys):
    import datasets
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=4, return_X_y=True)
    pictures = list((x[:260].reshape(-1, 8, 8) * 15).astype(np.uint8))
    tones = ["dark" if row % 2 else "bright" for row in range(260)]
    pictures = [picture // 3 if tone == "dark" else picture for picture, tone in zip(pictures, tones, strict=True)]
    of = {"image": pictures, "label": y[:260].tolist(), "tone": tones}
    rows = datasets.Dataset.from_dict(of).cast_column("image", datasets.Image())
    (data := tmp_path / "data").mkdir()
    for split, part in (("train", range(130)), ("test", range(130, 260))):
        rows.select(part).to_parquet(data / f"{split}.parquet")
    base = tuned.image_base(tmp_path / "model")
    words = ["evaluate", str(base), "--data", str(data), "--task", "conditional", "label=label", "gallery=6"]
    out = tmp_path / "out"
    assert main([*words, "condition=tone", "--output", str(out)]) == 0
    report = {row["metric"]: row for row in json.loads((out / "suite.json").read_text())["rows"]}
    focus = report["image/focus R@1, condition alone"]
    assert focus["baselines"]["raw"] > 0.8 and focus["baselines"]["untrained"] is not None and focus["n"] == 130
    capsys.readouterr()
    assert main([*words, "condition=ton"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "condition: the data has no column 'ton'" in said and "'tone'" in said
    assert main([*words]) == 2 and "it needs a column whose values are asked for" in capsys.readouterr().err
