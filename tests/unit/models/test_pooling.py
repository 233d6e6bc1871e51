"""Pooling and readout: each against its definition in float64, for every modality, in any order and padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.samples import TINY, made, modality_of

from mmssl.errors import UserError
from mmssl.modality import load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.options import CELLS
from mmssl.models.pooling import WIDEST, Pooling
from mmssl.patches import Patches

WIDTH = 16
OFFERED = {
    "image": {"grid": 4, "flat": 6},
    "text": {"grid": 2},
    "audio": {"grid": 4, "axis": 4},
    "audio-waveform": {"grid": 2},
    "video": {"grid": 8, "axis": 4},
    "tabular": {"axis": 4, "flat": 4},
    "eeg": {"grid": 2, "axis": 5},
    "ecg": {"grid": 2},
    "ecg-lead": {"grid": 2, "axis": 8},
    "graph": {},
    "series": {"grid": 2, "axis": 3},
    "volume": {"grid": 8},
}


def model_of(case: str, **tower: Any) -> tuple[MMSSLModel, dict[str, Tensor]]:
    name = modality_of(case)
    package = load_modality(name)
    fitted = package.Preprocessor(package.Config(**TINY[case])).fit(made(case))
    towers = {name: {"width": WIDTH, "depth": 2, "heads": 2, **tower}}
    config = MMSSLConfig(modalities={name: {"type": name, **fitted.sizes()}}, towers=towers)
    torch.manual_seed(0)
    return MMSSLModel(config).eval(), fitted(made(case))


def encoded_of(case: str, **tower: Any) -> tuple[Any, MMSSLModel, Any]:
    model, inputs = model_of(case, **tower)
    name = modality_of(case)
    modality = model.modality(name)
    with torch.no_grad():
        return model.tower(name)({name: modality.patchify(inputs)}), model, modality


@pytest.mark.parametrize("case", TINY)
def test_which_cells_a_modality_has(case):
    _, _, modality = encoded_of(case)
    found = {kind: modality.cells(kind) for kind in CELLS if modality.cells(kind)}
    assert found.keys() == OFFERED[case].keys()
    assert found == {kind: found[kind] if case == "eeg" and kind == "axis" else n for kind, n in OFFERED[case].items()}


def by_hand(part: str, tokens: Tensor, valid: Tensor, prefix: Tensor, order: Tensor) -> Tensor:
    rows = []
    for x, there, first, at in zip(tokens.double(), valid, prefix.double(), order, strict=True):
        x, at = x[there], at[there]
        if not len(x):
            rows.append(torch.zeros(tokens.shape[2], dtype=torch.float64))
            continue
        ways = {"mean": x.mean(0), "std": x.std(0, correction=0), "max": x.amax(0), "sum": x.sum(0)}
        rows.append({**ways, "cls": first[0], "last": x[at.argmax()]}[part])
    return torch.stack(rows)


@pytest.mark.parametrize("case", ["audio", "graph", "text"])
def test_statistics_are_those_of_valid_tokens(case):
    encoded, _, _ = encoded_of(case)
    name = modality_of(case)
    patches = encoded.patches[name]
    parts = ["mean", "std", "max", "sum", "cls", "last"]
    order = patches.coords[..., 0] if case != "graph" else torch.arange(patches.count).expand(patches.batch, -1)
    encoded.patches[name] = patches.replace(coords=order[..., None].float())
    found = Pooling("+".join(parts), {name: None})(encoded.tokens, encoded.patches, encoded.prefix, [name])  # type: ignore[dict-item]
    wanted = [by_hand(p, encoded.tokens[name], patches.valid, encoded.prefix, order) for p in parts]
    torch.testing.assert_close(found.double(), torch.cat(wanted, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", [case for case, cells in OFFERED.items() if cells])
def test_cells_are_means_that_follow_the_patch_and_not_its_place_in_the_row(case):
    encoded, _, modality = encoded_of(case)
    name = modality_of(case)
    patches, tokens = encoded.patches[name], encoded.tokens[name]
    shuffled = torch.randperm(patches.count, generator=torch.Generator().manual_seed(0)).expand(patches.batch, -1)
    padded = torch.cat([shuffled, torch.full((patches.batch, 2), -1)], 1)
    moved = {name: patches.take(padded)}
    rest = {name: torch.cat([tokens[:, shuffled[0]], torch.full((patches.batch, 2, WIDTH), 9.0)], 1)}
    for kind in OFFERED[case]:
        pooling = Pooling(kind, {name: modality})
        found = pooling(encoded.tokens, encoded.patches, encoded.prefix, [name])
        assert found.shape == (patches.batch, WIDTH * modality.cells(kind)) == (patches.batch, WIDTH * pooling.times())
        cell = modality.cell(kind, patches)
        assert int(cell[patches.valid].min()) >= 0 and int(cell[patches.valid].max()) < modality.cells(kind)
        for row in range(patches.batch):
            for number in range(modality.cells(kind)):
                members = patches.valid[row] & (cell[row] == number)
                wanted = tokens[row][members].double().mean(0) if members.any() else torch.zeros(WIDTH).double()
                have = found[row].view(-1, WIDTH)[number].double()
                torch.testing.assert_close(have, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooling(rest, moved, encoded.prefix, [name]), found)


@pytest.mark.parametrize("case", OFFERED)
def test_raw_features_go_past_the_trunk(case):
    encoded, model, modality = encoded_of(case, pooling="mean+raw")
    name, inputs = modality_of(case), model_of(case)[1]
    plain = encoded_of(case)[0].pooled()
    wanted = modality.raw_features(inputs) * encoded.present()[:, None]
    assert model.tower(name).pooled_width == WIDTH + wanted.shape[1] == WIDTH + modality.raw_width
    torch.testing.assert_close(encoded.pooled(), torch.cat([plain, wanted], 1))
    assert encoded_of(case)[0].patches[name].raw is None  # computed where it is pooled alone
    encoded.patches[name] = encoded.patches[name].take(torch.zeros(len(wanted), 1, dtype=torch.long))
    encoded.tokens[name] = encoded.tokens[name][:, :1]
    with pytest.raises(UserError, match="left out by a mask"):
        encoded.pooled()


def test_raw_features_are_of_no_layer_and_of_one_modality():
    with pytest.raises(UserError, match="readout_layers: found 2 with readout mean\\+raw"):
        model_of("image", readout="mean+raw", readout_layers=2)


def test_halves_are_cut_in_the_middle_and_a_picture_of_another_size_lies_over_the_same_grid():
    _, model, modality = encoded_of("image")
    pixels = torch.zeros(1, 3, 16, 24)
    cell = modality.cell("grid", modality.patchify({"pixel_values": pixels}))
    assert cell.view(2, 3).tolist() == [[0, 0, 1], [2, 2, 3]]
    large = modality.patchify({"pixel_values": torch.zeros(1, 3, 32, 48)})
    assert modality.cell("flat", large).view(4, 6).tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


def test_a_lead_is_its_own_cell_whatever_leads_a_model_has():
    _, _, modality = encoded_of("ecg-lead")
    coords = torch.tensor([[[0.0, modality.order[3]], [0.2, modality.order[0]]]])
    patches = Patches(torch.zeros(1, 2, modality.window), coords, torch.ones(1, 2, dtype=torch.bool))
    assert modality.cell("axis", patches).tolist() == [[3, 0]]


def test_objectives_learn_through_pooling_and_what_is_taken_is_the_readout():
    encoded, model, _ = encoded_of("tabular", readout="flat+std")
    assert encoded.pooled("tabular").shape == (5, WIDTH) and encoded.summary("tabular").shape == (5, 5 * WIDTH)
    assert model.tower("tabular").summary_width == 5 * WIDTH == model.embedding_width("tabular")
    assert model.tower("tabular").pooled_width == WIDTH == model.projected_width("tabular")


@pytest.mark.parametrize("norm", [True, False])
def test_the_last_blocks_side_by_side(norm):
    encoded, model, _ = encoded_of("audio", readout="mean", readout_layers=2, readout_norm=norm)
    name, tower = "audio", model.tower("audio")
    again = tower({name: encoded.patches[name]}, layers=[1])
    first = again.layers[1][name]
    first = tower.trunk.norm(first) if norm else first
    valid = encoded.patches[name].valid[..., None]
    mean = (first * valid).sum(1) / valid.sum(1).clamp(min=1)
    torch.testing.assert_close(encoded.summary(), torch.cat([mean, encoded.pooled()], 1))
    assert 1 not in encoded.layers, "what is read out is not what an objective asked for"


@pytest.mark.parametrize(
    ("case", "tower", "line"),
    [
        ("graph", {"readout": "grid"}, "readout: found grid, but patches of modality 'graph' lie in no cells"),
        ("image", {"pooling": "axis"}, "pooling: found axis, .* expected grid, flat"),
        ("image", {"pooling": "cls", "prefix": 0}, "pooling: found cls, but the tower has no class token"),
        ("image", {"readout": "attention"}, "readout: found attention, but pooling: mean leaves the query untrained"),
        ("image", {"readout_layers": 3}, "readout_layers: found 3, expected at most the tower's 2 blocks"),
    ],
)
def test_refusals(case, tower, line):
    with pytest.raises(UserError, match=line):
        model_of(case, **tower)


@pytest.mark.parametrize("how", ["mean+mean", "middle", "mean+attention", ""])
def test_what_is_no_pooling(how):
    with pytest.raises(Exception, match=r"expected attention, or some of mean, std"):
        model_of("image", pooling=how)


@pytest.mark.parametrize("case", TINY)
def test_a_default_is_the_modality_s_own_and_written_into_the_configuration(case):
    model, inputs = model_of(case)
    name = modality_of(case)
    model.settle_readouts()
    spec: Any = model.config.towers[name]  # type: ignore[index]
    assert spec["readout"] in model.modality(name).readouts
    again = MMSSLModel(MMSSLConfig(modalities=model.config.modalities, towers=model.config.towers)).eval()
    again.load_state_dict(model.state_dict())
    ours, theirs = (m.encode_batch({name: inputs}).embeddings[name] for m in (model, again))  # type: ignore[index]
    torch.testing.assert_close(ours, theirs)
    assert ours.shape[1] == model.embedding_width(name)


def test_a_default_is_never_wider_than_a_probe_can_bear():
    model, _ = model_of("tabular", width=2048, heads=8)
    model.settle_readouts()
    assert model.config.towers["tabular"]["readout"] == "mean+std"  # type: ignore[index]
    assert model.tower("tabular").summary_width <= WIDEST


def test_pretrained_projected_and_learned_towers_keep_their_own_way():
    for tower, wanted in (({"pooling": "cls"}, "cls"), ({"from": "x", "readout": None}, None)):
        model, _ = model_of("image")
        spec: Any = model.config.towers["image"]  # type: ignore[index]
        spec.update(tower)
        model.settle_readouts()
        assert spec.get("readout") == wanted


def test_std_of_equal_tokens_has_a_finite_gradient():
    encoded, _, _ = encoded_of("image")
    same = torch.ones_like(encoded.tokens["image"]).requires_grad_()
    replace(encoded, tokens={"image": same}, readout=Pooling("std", {})).summary().sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()
