"""The tabular modality in a model: patches, losses, views."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch.nn import functional as F
from toys.refusals import refused
from toys.tables import fitted, model, module, table, whole

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl_tabular import augment


def test_round_trip_and_reload(tmp_path: Path) -> None:
    p = whole()
    inputs = p([*table(6, seed=1), None])
    m = module(p)
    back = m.unpatchify(m.patchify(inputs).values, inputs)
    assert back.keys() == inputs.keys()
    torch.testing.assert_close(back["cells"], inputs["cells"], equal_nan=True, rtol=0, atol=0)
    MMSSLProcessor({"tabular": p}).save_pretrained(tmp_path)
    again = MMSSLProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(
        again(tabular=table(6, seed=1))["tabular_cells"], p(table(6, seed=1))["cells"], equal_nan=True, rtol=0, atol=0
    )
    net = model(p)
    net.save_pretrained(tmp_path / "model")
    reloaded = MMSSLModel.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(
        net.encode_batch({"tabular": inputs}).embeddings["tabular"],
        reloaded.encode_batch({"tabular": inputs}).embeddings["tabular"],
    )


def test_absent_rows_change_nothing_and_columns_may_come_in_any_order() -> None:
    p = whole()
    net, rows = model(p), table(5, seed=2)
    together = net.encode_batch({"tabular": p([rows[0], None, *rows[1:]])})
    for i, row in enumerate(rows):
        alone = net.encode_batch({"tabular": p([row])}).pooled["tabular"][0]
        torch.testing.assert_close(alone, together.pooled["tabular"][i if i == 0 else i + 1], rtol=0, atol=1e-6)
    assert not together.present["tabular"][1]
    patches = net.modality("tabular").patchify(p(rows))
    order = torch.randperm(6).expand(5, -1)
    tower = net.towers["tabular"]
    straight, permuted = (tower({"tabular": x}).tokens["tabular"] for x in (patches, patches.take(order)))
    torch.testing.assert_close(permuted, straight.gather(1, order[..., None].expand_as(straight)), rtol=0, atol=2e-6)


def test_an_empty_cell_an_unseen_category_and_a_hidden_cell_are_three_different_things() -> None:
    p = whole()
    m, row = module(p), table(1)[0]
    empty, unseen = (m.embed(m.patchify(p([row | {"job": v}])))[0, 2] for v in (None, "pilot"))
    patches = m.patchify(p([row]))
    hidden = torch.zeros(1, 6, dtype=torch.bool)
    hidden[0, 2] = True
    masked = m.embed(patches, hidden)[0, 2]
    tokens = torch.stack([empty, unseen, masked, m.embed(patches)[0, 2]]).detach()
    assert float(torch.cdist(tokens, tokens).add(torch.eye(4) * 9).min()) > 1e-3
    other = m.patchify(p([row | {"job": "smith" if row["job"] != "smith" else "baker"}]))
    assert torch.equal(m.embed(other, hidden), m.embed(patches, hidden))  # content hidden, position not


def test_the_score_is_that_of_each_columns_own_predictions() -> None:
    p = whole()
    m = module(p)
    inputs = p(table(30, seed=3))
    inputs["cells"][0, 1] = math.nan  # an empty number in a column that never was empty
    patches = m.patchify(inputs)
    torch.manual_seed(1)
    pred = torch.randn(30, 6, m.pred_width())
    score = m.score(pred, m.target(inputs, patches), patches)
    offset = 0
    for i, column in enumerate(p.columns):
        width = (len(column.categories) + 1 if column.is_category else column.elements) + 1
        own = pred[:, i, offset : offset + width]
        offset += width
        cell = inputs["cells"][:, i]
        for row in range(30):
            empty = bool(cell[row].isnan().all())
            if column.is_category:
                expected = F.cross_entropy(own[row], torch.tensor(0 if empty else int(cell[row, 0]) + 1))
            else:
                there = ~cell[row, : column.elements].isnan()
                error = (own[row, 1:] - cell[row, : column.elements])[there].square()
                expected = error.mean() if bool(there.any()) else torch.tensor(0.0)
            assert float(score[row, i]) == pytest.approx(float(expected), abs=1e-5), (column.name, row)
    assert offset == m.pred_width()
    with refused("'pixels'"):
        m.target(inputs, patches, "pixels")


def test_empty_numbers_are_predicted_where_the_data_had_some() -> None:
    p = fitted([{"a": float(i) if i % 2 else None, "b": float(i)} for i in range(20)])
    m = module(p)
    inputs = p([{"a": None, "b": 1.0}, {"a": 3.0, "b": 1.0}])
    patches = m.patchify(inputs)
    pred = torch.zeros(2, 2, m.pred_width())
    pred[..., 0] = 2.0
    pred[..., 1] = inputs["cells"][1, 0, 0]
    said = m.score(pred, m.target(inputs, patches), patches)[:, 0]
    torch.testing.assert_close(said, F.softplus(torch.tensor([-2.0, 2.0])))


def test_raw_features_are_numbers_and_one_hot_categories() -> None:
    p = fitted([{"n": float(v), "c": c} for v, c in zip([1, 2, 3], "aba", strict=True)], scale="standard")
    rows = [{"n": 2.0, "c": "b"}, {"n": None, "c": "a"}, {"n": 2.0, "c": None}, {"n": 2.0, "c": "z"}, None]
    features = module(p).raw_features(p(rows))
    expected = [[0, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0] * 6]
    assert features.tolist() == expected


def test_trees_take_cells_as_they_are() -> None:
    p = fitted([{"n": float(v), "c": c} for v, c in zip([1, 2, 3], "aba", strict=True)], scale="standard")
    rows = [{"n": 2.0, "c": "b"}, {"n": None, "c": "a"}, {"n": 2.0, "c": None}, {"n": 2.0, "c": "z"}, None]
    features, categories = module(p).tree_features(p(rows))
    nan = float("nan")
    expected = torch.tensor([[0, 2], [nan, 1], [0, nan], [0, 0], [nan, nan]])
    torch.testing.assert_close(features, expected, equal_nan=True)
    assert categories == (False, True)


def test_cells_of_another_table_are_refused() -> None:
    p = whole()
    with pytest.raises(UserError, match="cells are 2 columns of 1 elements, this model has 6 of 7 .age, pay"):
        module(p).patchify({"cells": torch.zeros(1, 2, 1)})


def test_resampling_takes_the_asked_share_from_the_columns_own_values() -> None:
    p = whole()
    m = module(p)
    inputs = p([*table(63, seed=4), None])
    view = m.augment(inputs, Draws(5, 64), resample=0.5)
    same = ((view["cells"] == inputs["cells"]) | (view["cells"].isnan() & inputs["cells"].isnan())).all(-1)
    assert int((~same).sum(1).max()) == 3 and 2.0 < float((~same[:63]).sum(1).float().mean()) <= 3.0
    assert bool(same[63].all())  # an absent row stays absent, and nobody gets its cells
    for i in range(6):
        pool = {tuple(c) for c in inputs["cells"][:63, i].nan_to_num(-9).tolist()}
        assert {tuple(c) for c in view["cells"][:63, i].nan_to_num(-9).tolist()} <= pool
    again = m.augment(inputs, Draws(5, 64), resample=0.5)
    assert torch.equal(view["cells"].nan_to_num(-9), again["cells"].nan_to_num(-9))
    assert not torch.equal(
        view["cells"].nan_to_num(-9), m.augment(inputs, Draws(6, 64), resample=0.5)["cells"].nan_to_num(-9)
    )


def test_resampling_of_two_processes_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    p = whole()
    m = module(p)
    inputs = p([*table(7, seed=4), None])
    one = m.augment(inputs, Draws(5, 8), resample=0.5)["cells"]
    halves = [{k: v[part] for k, v in inputs.items()} for part in (slice(0, 4), slice(4, 8))]
    monkeypatch.setattr(
        augment,
        "gather_rows",
        lambda x: torch.cat([inputs["cells"]] if x.ndim == 3 else [inputs["present"].to(x.dtype)]),
    )
    two = [m.augment(half, Draws(5, 4, first=4 * i, total=8), resample=0.5)["cells"] for i, half in enumerate(halves)]
    torch.testing.assert_close(torch.cat(two), one, equal_nan=True, rtol=0, atol=0)


def test_columns_are_related_in_the_order_of_their_mutual_information() -> None:
    draw = np.random.default_rng(3)
    cause = draw.integers(0, 4, 300)
    columns = {f"c{n}": np.where(draw.random(300) < n / 6, draw.integers(0, 4, 300), cause) for n in range(6)}
    names = list(columns)
    rows = [{name: "abcd"[columns[name][i]] for name in names} for i in range(300)]
    found = fitted(rows).state["related"]
    for i, mine in enumerate(names):
        told = {j: mutual_info_score(columns[mine], columns[names[j]]) for j in range(6) if j != i}
        assert found[i] == sorted(told, key=told.__getitem__, reverse=True)


def test_correlated_masks_of_two_views_are_complements_around_a_seed() -> None:
    p = whole()
    m = module(p)
    inputs = p(table(200, seed=5))
    root = Draws(7, 200)
    seed = m.augment(inputs, root("view", "a", "tabular"), correlated="seed")["shown"]
    rest = m.augment(inputs, root("view", "b", "tabular"), correlated="rest")["shown"]
    assert torch.equal(seed, ~rest)
    assert set((~seed).sum(1).tolist()) == {4}  # the seed and half of the six columns
    age, pay = ~seed[:, 0], ~seed[:, 1]
    members = [{i, *p.state["related"][i][:3]} for i in range(6)]
    assert all({int(i) for i in torch.nonzero(~row)[:, 0]} in members for row in seed)
    assert float((age == pay).float().mean()) > 0.6  # what belongs together is hidden together
    assert not torch.equal(seed, m.augment(inputs, Draws(8, 200)("view"), correlated="seed")["shown"])
    patches = m.patchify(m.augment(inputs, root("view", "a", "tabular"), correlated="seed"))
    assert torch.equal(patches.valid, seed) and not patches.full


def test_one_seed_may_hold_for_a_whole_batch_and_is_the_same_for_any_number_of_processes() -> None:
    p = whole()
    m = module(p)
    rows = table(8, seed=5)
    seeds = set()
    for number in range(12):

        def shown(kind: str, draws: Draws, part: slice = slice(None), view: str = "a") -> torch.Tensor:
            return m.augment(p(rows[part]), draws("view", view), correlated=kind, alike=True)["shown"]

        seed = shown("seed", Draws(number, 8))
        assert torch.equal(seed, seed[:1].expand_as(seed))
        assert torch.equal(shown("rest", Draws(number, 8), view="b"), ~seed)
        assert torch.equal(shown("seed", Draws(number, 4, 4, 8), slice(4, 8)), seed[4:])
        seeds.add(tuple(seed[0].tolist()))
    assert len(seeds) > 2, "drawn anew for each batch"


def test_noise_and_dropping_leave_the_rest_alone() -> None:
    p = whole()
    m = module(p)
    inputs = p(table(400, seed=6))
    noisy = m.augment(inputs, Draws(1, 400), noise_std=0.5)["cells"] - inputs["cells"]
    assert bool((noisy[:, 2:4].nan_to_num(0) == 0).all()) and bool((noisy[:, 4, 1:5] == 0).all())
    assert 0.45 < float(noisy[:, [0, 1, 4, 5], 0].std()) < 0.55
    shown = m.augment(inputs, Draws(1, 400), drop=0.5)["shown"]
    assert set(shown.sum(1).tolist()) == {3}
    with refused(meant="resample"):
        m.augment(inputs, Draws(1, 400), resampled=0.5)
    with refused("drop"):
        m.augment(inputs, Draws(1, 400), drop=1.0)
