"""Projections that start in closed form: the directions of the generalised eigenproblem, and how a run begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import eigh
from toys import runs
from toys.refusals import refused

from mmssl import pretrain
from mmssl.errors import UserError
from mmssl.objectives.parts.closed_form import PENALTIES, Correlated, Rows, Shrinkage, _folds, choose, closed_form
from mmssl.recipe.loading import load_recipe

WIDTHS = {"a": 5, "b": 7, "c": 4}
PENALTY = {"a": 0.3, "b": 1.0, "c": 0.1}


def rows_of(names: str, n: int = 60, noise: float = 1.0) -> dict[str, Rows]:
    """Sides that share two numbers."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(n, 2))
    out = {}
    for name in names:
        x = shared @ rng.normal(size=(2, WIDTHS[name])) + noise * rng.normal(size=(n, WIDTHS[name]))
        scaled = x * rng.uniform(0.1, 10, WIDTHS[name]) + 3
        out[name] = Rows(torch.from_numpy(scaled), torch.ones(n, dtype=torch.bool))
    return out


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_maps_are_the_vectors_of_the_generalised_eigenproblem(names):
    rows, pairs = rows_of(names), [(a, b) for a in names for b in names if a < b]
    found = Correlated(rows, pairs).maps(Shrinkage({n: PENALTY[n] for n in names}, 0.5), 3)
    z = {n: (x.x - x.x.mean(0)).numpy() / np.sqrt(x.x.numpy().std(0)) for n, x in rows.items()}
    whole, own, at = np.zeros((16, 16)), np.zeros((16, 16)), {}
    size = 0
    for name in names:
        at[name] = slice(size, size := size + WIDTHS[name])
        scatter = z[name].T @ z[name]
        own[at[name], at[name]] = scatter + PENALTY[name] * np.trace(scatter) / WIDTHS[name] * np.eye(WIDTHS[name])
    for a, b in pairs:
        whole[at[a], at[b]] = z[a].T @ z[b]
        whole[at[b], at[a]] = whole[at[a], at[b]].T
    value, vector = eigh(whole[:size, :size], own[:size, :size])
    value, vector = value[::-1][:3], vector[:, ::-1][:, :3]
    if len(names) == 2:
        vector = vector * np.sqrt(2)  # each side's by itself is of length 1
    for name, linear in found.items():
        wanted = vector[at[name]] * value**0.5
        have = linear.weight.numpy()
        np.testing.assert_allclose(np.abs(have), np.abs(wanted), rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(have @ have.T, wanted @ wanted.T, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(linear(rows[name].x).numpy(), z[name] @ have, rtol=1e-9, atol=1e-10)


def test_partners_are_found_that_were_held_out_and_a_missing_side_counts_for_nothing():
    rows = rows_of("ab", 200, noise=0.3)
    fit, held = ({n: of.some(at) for n, of in rows.items()} for at in (torch.arange(100), torch.arange(100, 200)))
    maps = closed_form(fit, [("a", "b")], 4, 0, "here")
    a, b = (torch.nn.functional.normalize(maps[n](held[n].x.float()), dim=1) for n in "ab")
    ahead = (a @ b.T > (a * b).sum(1, keepdim=True)).sum(1)
    assert (ahead < 10).double().mean() > 0.5  # 0.1 by chance
    length = maps["a"](fit["a"].x.float()).norm(dim=1).mean()
    assert float(length) == pytest.approx(1, abs=1e-5)
    there = torch.arange(100) < 70
    lacking = {"a": fit["a"], "b": Rows(torch.where(there[:, None], fit["b"].x, 1e6), there)}
    again = {"a": fit["a"], "b": Rows(torch.where(there[:, None], fit["b"].x, -5.0), there)}
    one, other = (closed_form(of, [("a", "b")], 4, 0, "here") for of in (lacking, again))
    torch.testing.assert_close(one["a"].weight, other["a"].weight)
    assert one["a"].weight.isfinite().all()


def test_what_is_chosen_tells_held_out_partners_better_than_any_one_penalty():
    rows, pairs = rows_of("ab", 40, noise=3.0), [("a", "b")]

    def score(of: Shrinkage) -> float:
        total = 0.0
        for fit, held in _folds(rows, 1):
            maps = Correlated({n: x.some(fit) for n, x in rows.items()}, pairs).maps(of, 4)
            a, b = (torch.nn.functional.normalize(maps[n](rows[n].x[held]), dim=1) for n in "ab")
            for way in (a @ b.T, b @ a.T):
                total += float(((way.diagonal() - way.mean(1)) / way.std(1)).mean())
        return total

    chosen = score(choose(rows, pairs, 4, 1))
    others = [score(Shrinkage(dict.fromkeys("ab", penalty), 0.5)) for penalty in PENALTIES]
    assert chosen >= max(others) > min(others)


def test_equal_rows_are_held_out_together_and_few_pairs_are_refused():
    rows = rows_of("ab", 12)
    with pytest.raises(UserError, match="found 12 samples with both 'a' and 'b', expected at least 16"):
        closed_form(rows, [("a", "b")], 4, 0, "here")
    x = torch.arange(10.0)[:, None].repeat(3, 1)
    for fit, held in _folds({"a": Rows(x, torch.ones(30, dtype=torch.bool))}, 0):
        assert not set(x[fit, 0].tolist()) & set(x[held, 0].tolist())
        assert len(fit) + len(held) == 30 and len(held)


def content(**train: Any) -> dict[str, Any]:
    out = runs.image_text()
    del out["objectives"]["mae"]
    out["masks"] = {}
    out["data"]["limit"] = 64
    out["model"] |= {"projection_standard": True}
    out["model"]["towers"]["image"]["pooling"] = "mean+raw"
    out["objectives"]["clip"]["start"] = "cca"
    out["train"] |= {"steps": 2, "save_every": 1, "health_every": None, **train}
    return out


def test_a_run_starts_from_them_and_goes_on_exactly(tmp_path):
    run = pretrain(content(lr=1e-9), output=tmp_path / "still")
    fitted = load_file(run.folder / "fitted" / "clip.safetensors")
    for tower in ("image", "text"):  # the folder that was saved has what was fitted: so low a rate trains nothing
        torch.testing.assert_close(run.model.projections[tower].weight, fitted[f"{tower}.weight"])
        torch.testing.assert_close(run.model.projections[tower].norm.mean, fitted[f"{tower}.norm.mean"])
    whole = pretrain(content(steps=3), output=tmp_path / "whole")
    with runs.killed_at(2):
        pretrain(content(steps=3, log_every=1), output=tmp_path / "cut")
    again = pretrain(content(steps=3, log_every=1), output=tmp_path / "cut", resume=True)
    for (name, one), other in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_views_are_what_the_maps_are_of_and_the_clean_rows_say_how_strongly_they_are_shrunk(tmp_path, monkeypatch):
    from mmssl.objectives import contrastive

    asked = []

    def noted(rows, pairs, width, seed, where, seen=None):
        asked.append((rows, seen))
        return closed_form(rows, pairs, width, seed, where, seen)

    monkeypatch.setattr(contrastive, "closed_form", noted)
    out = content(lr=1e-9)
    out["views"] = {"changed": {"image": {"crop_scale": [0.3, 0.9], "flip": 0.5}}}
    out["objectives"]["clip"]["views"] = ["changed"]
    monkeypatch.setattr(contrastive, "MOST", 150)
    run = pretrain(out, output=tmp_path / "run")
    ((rows, seen),) = asked
    assert len(rows["image"].x) == 64 and len(seen["image"].x) >= 150  # the samples again and again, as they are drawn
    assert len(seen["image"].x.unique(dim=0)) > 140 and len(seen["text"].x.unique(dim=0)) <= 64
    width = run.model.projections["image"].out_features
    chosen = choose(rows, [("image", "text")], width, 0)
    wanted = Correlated(seen, [("image", "text")]).maps(chosen, width)["image"].single()
    weight = run.model.projections["image"].weight.T
    torch.testing.assert_close(weight / weight.norm(), wanted.weight / wanted.weight.norm(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.model.projections["image"].norm.mean, wanted.mean)


def test_what_it_does_not_go_with_is_refused():
    for changed in ({"keys": "teacher"}, {"layers": [1]}):
        out = content()
        out["objectives"]["clip"] |= changed
        with refused("start", "cca"):
            load_recipe(out)
    out = content()
    out["objectives"]["clip"] |= {"pairs": "within", "views": ["clean", "clean"]}
    with refused("start"):
        load_recipe(out)
    out = content()
    out["model"]["projection_standard"] = False
    with refused("start: found cca", "projection_standard"):
        pretrain(out)
