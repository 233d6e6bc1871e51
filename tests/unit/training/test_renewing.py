"""`data.renewed` and `data.beside`: clusters that a run finds anew, what follows them, and going on after a kill."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toys import runs
from toys.refusals import refused

from mmssl import cluster
from mmssl.curation.kmeans import unit
from mmssl.data.sampler import order
from mmssl.recipe.loading import load_recipe
from mmssl.recipe.renewing import RenewedConfig
from mmssl.training.beside import about_rows, follow
from mmssl.training.building import fitted_processor, open_training_data
from mmssl.training.engine import make_accelerator
from mmssl.training.feeding import Feed
from mmssl.training.labels import open_labels
from mmssl.training.observers import Moment
from mmssl.training.renewing import Clustering, Held, called_as_before, clustered

ROWS = 64


def recipe(renewed: dict[str, Any] | None, sampler: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    """Contrast with the negatives of one's own cluster, or by a sampler that goes by the clusters."""
    train = {"health_every": 2, "guard": None, "batch_size": 4, "log_every": 1, "save_every": 2, "steps": 8}
    content = runs.recipe(data={"limit": ROWS, "renewed": renewed, "sampler": sampler, **data}, train=train)
    if sampler is None:
        content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
        told = {"type": "contrastive", "towers": ["image"], "views": ["a", "b"], "negatives_column": "cluster"}
        content["objectives"] = {"simclr": {**told, "head_hidden": 16, "head_width": 8, "temperature": 0.5}}
    return content


def test_clusters_are_those_of_the_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(90, 6)) + 3 * np.eye(6)[np.arange(90) % 6]).astype(np.float32)
    there = np.arange(90) % 10 != 3
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 6, mask=pa.array(~there))
    pq.write_table(pa.table({"image_embedding": lists}), tmp_path / "e.parquet")
    for options in ({"clusters": [8, 3]}, {"clusters": 5, "kind": "plain", "standardise": True, "balanced": True}):
        cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", seed=4, **options)
        expected = pq.read_table(tmp_path / "c.parquet")
        held = Held(tmp_path, "image", "data.renewed", rows=90, x=x, there=there)
        found = clustered(held, RenewedConfig(every=1, **options), 4, None)
        for level, name in enumerate(["", "_2"][: len(found.ids)]):
            assert [None if i < 0 else i for i in found.ids[level].tolist()] == expected[f"cluster{name}"].to_pylist()
            assert np.allclose(found.distances[level][there], expected[f"distance{name}"].drop_null(), atol=1e-6)
    before = Clustering(((found.ids + 2) % 5).astype(np.int32), found.distances)
    before.ids[0, ~there] = -1
    again = clustered(
        Held(tmp_path, "image", "", rows=90, x=x, there=there), RenewedConfig(every=1, **options), 4, before
    )
    assert np.array_equal(again.ids, before.ids), "the same clusters keep their numbers"


def test_a_cluster_is_called_as_that_before_which_most_of_its_rows_were_in() -> None:
    before = np.array([0, 0, 0, 1, 1, 1, 2, 2, -1], np.int32)
    found = np.array([2, 2, 1, 1, 1, 1, 0, -1, 0], np.int32)
    assert called_as_before(found, before, 3).tolist() == [0, 0, 1, 1, 1, 1, 2, -1, 2]


def fed(content: dict[str, Any], folder: Path) -> tuple[Any, Any, Any]:
    """(renewed, batches from a micro-batch on, labels) of a run that has found nothing yet; its clusters are set by
    hand."""
    asked = load_recipe(content)
    opened = open_training_data(asked)
    accelerator = make_accelerator(asked.train)
    beside, renewed = about_rows(asked, opened)
    labels = open_labels(asked, opened.source, opened.columns, None, folder, accelerator, False, beside)
    if renewed is not None:
        follow(renewed, labels)
    processor = fitted_processor(asked.modalities, opened.source, opened.columns, folder, accelerator, samples=20)
    where: Any = SimpleNamespace(process_index=0, num_processes=1)
    batches = Feed(asked, opened.source, opened.columns, processor, where, {}, {}, None, labels, renewed=renewed)
    return renewed, batches, labels


def find(renewed: Any, ids: Any, step: int, distances: Any = None) -> None:
    """As if the model's embeddings were so clustered after this step."""
    ids = np.asarray(ids, np.int32)[None]
    far = np.zeros(ids.shape, np.float32) if distances is None else np.asarray(distances, np.float32)[None]
    renewed._embed, renewed._on_first = (lambda: None), (lambda work: Clustering(ids, far))
    seen = renewed.look(Moment(step, 100))
    assert seen["renewed/clusters"] == len({*ids[ids >= 0].tolist()})
    renewed.note(Moment(step, 100), seen)
    assert renewed.renewed


def rows_of(batches: Any, first: int, count: int) -> list[list[int]]:
    return [loaded.rows.tolist() for loaded in itertools.islice(batches(first), count)]


def test_batches_go_by_the_clusters_from_the_step_at_which_they_were_found(tmp_path: Path) -> None:
    content = recipe({"every": 5, "first": 5, "clusters": 3}, {"kind": "same", "column": "cluster"})
    renewed, batches, _ = fed(content, tmp_path)
    plain = rows_of(batches, 0, 5)
    assert plain == np.stack([order(ROWS, 0, 0)[4 * b : 4 * b + 4] for b in range(5)]).tolist(), "before: any order"
    assert [renewed.due(Moment(step, 20)) for step in (0, 4, 5, 9, 10, 20)] == [False, False, True, False, True, False]
    ids = np.arange(ROWS) % 3
    find(renewed, ids, 5)
    first = rows_of(batches, 5, 16)
    assert not renewed.renewed and all(len({*ids[b].tolist()}) == 1 for b in first)
    assert sorted(itertools.chain(*first[:15])) == sorted({*itertools.chain(*first[:15])}), "an epoch begins there"
    assert rows_of(batches, 8, 3) == first[3:6], "from any micro-batch on"
    other = (np.arange(ROWS) // 8) % 3
    find(renewed, other, 10)
    second = rows_of(batches, 10, 6)
    assert all(len({*other[b].tolist()}) == 1 for b in second)
    assert (renewed.began, renewed.epoch) == (10, 2), "a third epoch, as the second was broken off"
    again, batches_again, _ = fed(content, tmp_path)
    again.load_state_dict(renewed.state_dict(), renewed.tensors())
    assert rows_of(batches_again, 10, 6) == second


def test_a_share_of_each_cluster_stays_and_another_one_after_the_next_time(tmp_path: Path) -> None:
    sampler = {"kind": "kept", "column": "distance", "each": "cluster", "keep": 0.5, "order": "lowest"}
    renewed, batches, _ = fed(recipe({"every": 8, "clusters": 2}, sampler), tmp_path)
    ids = (np.arange(ROWS) >= 16).astype(int)
    find(renewed, ids, 0, np.arange(ROWS))
    rows = sorted(itertools.chain(*rows_of(batches, 0, 8)))
    assert rows == [*range(16), *range(16, 32)], "16 of each, the nearest ones; the small cluster whole"
    find(renewed, ids, 8, -np.arange(ROWS))
    assert sorted(itertools.chain(*rows_of(batches, 8, 8))) == [*range(16), *range(48, 64)]


def test_labels_follow_the_clusters_and_stages_are_told_together(tmp_path: Path) -> None:
    renewed, batches, labels = fed(recipe({"every": 3, "clusters": 4, "stages": True}), tmp_path)
    (key,) = labels.given
    loaded = next(iter(batches(0)))
    assert not loaded.batch[key]["present"].any(), "nothing is known before"
    two, three = np.arange(ROWS) % 2, np.arange(ROWS) % 3
    two[5] = three[5] = -1
    find(renewed, two, 0)
    find(renewed, three, 3)
    for loaded in itertools.islice(batches(3), 6):
        rows, said = loaded.rows.numpy(), loaded.batch[key]
        assert said["present"].tolist() == (rows != 5).tolist()
        known = rows[rows != 5]
        value = said["value"][said["present"]].numpy()
        assert np.array_equal(value[:, None] == value[None], (known[:, None] - known[None]) % 6 == 0)


@pytest.mark.parametrize(
    "sampler", [None, {"kind": "same", "column": "cluster"}, {"kind": "kept", "column": "distance"}], ids=str
)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path, sampler: dict[str, Any] | None) -> None:
    content = recipe({"every": 3, "first": 1, "clusters": 3, "stages": sampler is None}, sampler)
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    found = {row["step"]: row for row in runs.metrics(tmp_path / "straight")}
    assert [step for step in found if "renewed/clusters" in found[step]] == [1, 4, 7]
    assert "renewed/moved" in found[4] and "renewed/moved" not in found[1]
    with runs.killed_at(5):  # a checkpoint is of step 4, behind the second clustering
        runs.cli(tmp_path, content=content)
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    assert runs.losses(tmp_path / "run") == runs.losses(tmp_path / "straight")
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")
    kept = load_file(sorted((tmp_path / "run/checkpoints").glob("*/clusters.safetensors"))[-1])
    assert kept["ids"].shape == (1, ROWS) and ("stages" in kept) == (sampler is None)


def test_clusters_may_be_the_classes_of_a_head(tmp_path: Path) -> None:
    content = recipe({"clusters": 5})
    content["objectives"] = {"told": {"type": "supervised", "towers": ["image"], "column": "cluster"}}
    content["train"]["steps"] = 2
    assert runs.cli(tmp_path, content=content) == 0
    heads = [value for name, value in runs.weights(tmp_path / "run").items() if name.endswith("bias")]
    assert any(value.shape == (5,) for value in heads)


def test_columns_of_a_file_beside_the_data(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"cluster": [None if row % 5 == 0 else row % 7 for row in range(1437)]}), path)
    _, batches, labels = fed(recipe(None, beside=str(path)), tmp_path)
    (key,) = labels.given
    numbers = np.sort(order(1437, 0, 0)[:ROWS])
    for loaded in itertools.islice(batches(0), 5):
        rows, said = numbers[loaded.rows.numpy()], loaded.batch[key]
        assert said["present"].tolist() == (rows % 5 != 0).tolist()
        same = torch.from_numpy(rows[:, None] % 7 == rows[None] % 7)
        both = said["present"][:, None] & said["present"][None]
        assert torch.equal((said["value"][:, None] == said["value"][None])[both], same[both])


def test_what_cannot_be_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    same = {"kind": "same", "column": "cluster"}
    for content, facts in (
        (recipe({"clusters": 65}, same), ("data.renewed.clusters", 65, 64)),
        (recipe({"clusters": 4, "first": 8}, same), ("data.renewed.first", 8, "nothing is clustered")),
        (recipe({"clusters": 3}, {"kind": "distinct", "column": "cluster"}), ("data.renewed.clusters", 3, 4)),
        (recipe({"clusters": [3, 3]}, same), ("clusters", "fall|fewer")),
        (recipe({"clusters": 3}, {"kind": "same", "column": "label"}), ("data.renewed", "neither data.sampler")),
        (recipe(None, beside=str(tmp_path / "no.parquet")), ("data.beside", "no.parquet")),
    ):
        with refused(*[fact for fact in facts if fact != "fall|fewer"]):
            fed(content, tmp_path)
    for data, facts in (
        ({"streaming": True}, ("data.renewed", "streaming")),
        ({"mix": {"more": {"path": "x"}}}, ("data.renewed", "data.mix")),
    ):
        with refused(*facts):
            load_recipe(recipe({"clusters": 3}, None, **data))
    with refused("data.renewed.of", "pictures", "image"):
        load_recipe(recipe({"clusters": 3, "of": "pictures"}))
    with refused("data.renewed.stages", "every"):
        load_recipe(recipe({"clusters": 3, "stages": True}))
    content = recipe({"clusters": 3, "every": 2, "stages": True})
    content["objectives"] = {"told": {"type": "supervised", "towers": ["image"], "column": "cluster"}}
    with refused("objectives.told.column", "data.renewed", "stages"):
        fed(content, tmp_path)
