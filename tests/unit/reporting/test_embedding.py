"""The map of embeddings, what lies near to what, and the columns that points are coloured by."""

from __future__ import annotations

import math
import sys
import types

import datasets
import pytest
import torch
from torch.nn import functional as F

from mmssl.reporting import embedding
from mmssl.reporting.embedding import CLASSES, colourings, neighbours, planes, retrieved


def test_the_first_two_components_are_laid_out() -> None:
    torch.manual_seed(0)
    plane = torch.rand(30, 2) * torch.tensor([4.0, 1.0])
    turned = plane @ torch.linalg.qr(torch.randn(6, 6))[0][:2]
    (found,) = planes(turned, seed=0, more=False)
    assert found.how == "PCA: 100% of the variance"
    places = torch.tensor(found.places)
    assert places.min() == 0 and places.max() == 1
    apart = torch.pdist((plane - plane.mean(0)) @ torch.linalg.svd(plane - plane.mean(0), full_matrices=False)[2].T)
    spans = (plane - plane.mean(0)) @ torch.linalg.svd(plane - plane.mean(0), full_matrices=False)[2].T
    mine = torch.pdist(places * (spans.amax(0) - spans.amin(0)))
    torch.testing.assert_close(mine, apart, rtol=0, atol=2e-3)
    assert planes(turned, 0, False) == [found]


def test_umap_is_asked_where_it_is_installed_and_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, **options: object) -> None:
            assert options["random_state"] == 7

        def fit_transform(self, rows: object) -> object:
            return torch.arange(40.0).view(20, 2).numpy()

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Fake))
    monkeypatch.setattr(embedding, "installed", lambda name: name == "umap")
    ways = [plane.how.partition(":")[0] for plane in planes(torch.randn(20, 4), 7, True)]
    assert ways == ["UMAP", "PCA"]  # the first is shown first
    assert len(planes(torch.randn(20, 4), 7, False)) == len(planes(torch.randn(9, 4), 7, True)) == 1


def test_the_nearest_others_by_cosine() -> None:
    rows = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    (near,) = neighbours(rows, [3, 5, 8, 9], [3, 4])  # 4 lacks the modality
    assert [row for row, _, _ in near.found] == [5, 8, 9] and near.found[0][1] == pytest.approx(1 / math.sqrt(1.01))
    (found,) = retrieved(rows, rows.flip(0), [3, 5, 8, 9], [3])
    assert [row for row, _, _ in found.found] == [9, 8, 5] and not any(own for _, _, own in found.found)
    assert retrieved(rows, rows, [3, 5, 8, 9], [8])[0].found[0][2]


def test_columns_that_tell_groups_of_rows_apart() -> None:
    count = 60
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["zebra", "ape"]),
            "label_name": datasets.Value("string"),
            "age": datasets.Value("float64"),
            "many": datasets.Value("string"),
            "same": datasets.Value("int64"),
            "blob": datasets.Value("binary"),
        }
    )
    rows = {
        "id": [f"r{i}" for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "label_name": [["zebra", "ape"][i % 2] for i in range(count)],
        "age": [None if i == 0 else float(i) for i in range(count)],
        "many": [f"v{min(i % 20, 13)}" for i in range(count)],
        "same": [1] * count,
        "blob": [b"x"] * count,
    }
    label, age, many = colourings(datasets.Dataset.from_dict(rows, features=features), None)
    assert label.column == "label" and label.names == ["zebra", "ape"] and label.group[:3] == [0, 1, 0]
    assert (
        age.column == "age"
        and len(age.names) == CLASSES
        and age.group[0] == -1
        and age.group[1:] == sorted(age.group[1:])
    )
    counts = [age.group.count(i) for i in range(CLASSES)]
    assert max(counts) - min(counts) <= 1
    assert many.names[-1] == "others" and many.group[13] == many.names.index("v13") and CLASSES in many.group
