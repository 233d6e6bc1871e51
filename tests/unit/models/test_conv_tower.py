"""Convolutional towers: against plain convolutions over the whole input; what is not there never counts; refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.finetuning.layer_decay import layer_scale
from mmssl.masking import Random
from mmssl.modality import load_modality
from mmssl.models.adapters import add_adapter
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.conv_tower import ConvTower
from mmssl.models.convolutions import ConvTrunk, SampleNorm, stages_of, strides_of
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import AdapterConfig, TowerConfig
from mmssl.objectives import jepa, mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches, joined

LEADS = ["I", "II", "V1"]
SIZES: dict[str, dict[str, Any]] = {
    "image": {"size": [12, 8], "patch": [4, 2], "channels": 2, "mean": [0.0] * 2, "std": [1.0] * 2},
    "video": {"size": [8, 8], "tubelet": 2, "patch": [4, 4], "channels": 1, "mean": [0.0], "std": [1.0]},
    "audio": {
        "rate": 8000, "features": "mel", "mel_bins": 8, "window": 200, "shift": 80, "patch": [6, 4],
        "mean": 0.0, "std": 1.0,
    },
    "eeg": {"rate": 20.0, "window": 10, "channels": 3},
    "ecg": {"leads": LEADS, "rate": 20.0, "window": 7, "patch": "time"},
}  # fmt: skip
KINDS = [*SIZES, "ecg by lead"]


def sizes_of(kind: str) -> dict[str, Any]:
    return SIZES["ecg"] | {"patch": "lead"} if kind == "ecg by lead" else SIZES[kind]


def inputs_of(kind: str, batch: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """(inputs, the same with channels first: (B, C, *S), or (B * channels, 1, 1, T) of channels by themselves)."""
    torch.manual_seed(3)
    if kind == "image":
        x = torch.randn(batch, 2, 12, 8)
        return {"pixel_values": x}, x
    if kind == "video":
        x = torch.randn(batch, 4, 1, 8, 8)
        return {"pixel_values": x, "times": torch.arange(4.0).expand(batch, -1)}, x.transpose(1, 2)
    if kind == "audio":
        x = torch.randn(batch, 18, 8)
        return {"mel": x}, x.transpose(1, 2)[:, None]
    window = 10 if kind == "eeg" else 7
    x = torch.randn(batch, 3, 4 * window)
    if kind == "ecg":
        return {"signal": x}, x[:, :, None]
    places = 0.1 * torch.randn(batch, 3, 3)
    further = {} if kind == "ecg by lead" else {"electrodes": places, "channel": torch.arange(3).expand(batch, -1)}
    return {"signal": x, **further}, x.reshape(-1, 1, 1, 4 * window)


def model_of(kind: str, modality: dict[str, Any] | None = None, **tower: Any) -> Any:
    name = kind.partition(" ")[0]
    options = {"trunk": "resnet", "width": 16, "depth": 3, "heads": 4, "readout": "mean", **tower}
    config = MMSSLConfig(
        modalities={name: {"type": name, **sizes_of(kind), **(modality or {})}},
        towers={name: tower_spec(TowerConfig(**options))},
    )
    torch.manual_seed(0)
    model = MMSSLModel(config).eval()
    with torch.no_grad():
        for parameter in model.tower(name).trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def double(kind: str) -> tuple[ConvTower, Patches]:
    """(tower, patches), float64."""
    model = model_of(kind).double()
    name = next(iter(model.towers))
    p = model.modality(name).patchify(inputs_of(kind)[0])
    return model.tower(name), p.replace(values=p.values.double())


def tokens(tower: ConvTower, p: Patches, hidden: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return tower({tower.name: p}, None if hidden is None else {tower.name: hidden}).tokens[tower.name]


def as_if_there(p: Patches, there: Tensor, garbage: float) -> Patches:
    """All the patches, those that are not there invalid and full of garbage."""
    values = torch.where(there[..., None], p.values, torch.full_like(p.values, garbage))
    return p.replace(values=values, valid=there, full=False)


# ------------------------------------------------------------------------------------------------------- convolutions


def by_hand(trunk: Any, x: Tensor, added: Tensor | None) -> Tensor:
    """(B, D, *G) of the whole raster x (B, C, *S); added (B, stem, 1, 1): what comes to all places of a signal."""
    convolve = {4: F.conv2d, 5: F.conv3d}[x.ndim]
    pool = {4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]

    def norm(layer: Any, y: Tensor) -> Tensor:
        groups = y.unflatten(1, (layer.groups, -1)).flatten(2)
        y = ((groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-6).sqrt()).view(
            y.shape
        )
        by = (1, -1) + (1,) * (y.ndim - 2)
        return y * layer.weight.view(by) + layer.bias.view(by)

    def strided(layer: Any, y: Tensor) -> Tensor:
        return convolve(y, layer.weight, layer.bias, layer.stride, layer.padding)

    x = strided(trunk.stem, x)
    x = x if added is None else x + added
    sides = [s // t for s, t in zip(trunk.tile, trunk.stem.stride, strict=True)]
    for block in trunk.blocks:
        y = strided(block.conv1, F.gelu(norm(block.norm1, x)))
        y = strided(block.conv2, F.gelu(norm(block.norm2, y)))
        x = pool(x, block.conv1.stride)
        x = y + (x if block.shortcut is None else strided(block.shortcut, x))
        sides = [s // t for s, t in zip(sides, block.conv1.stride, strict=True)]
    x = pool(x, sides)
    return F.layer_norm(x.movedim(1, -1), (trunk.width,), trunk.norm.weight, trunk.norm.bias, 1e-6).movedim(-1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_plain_convolutions_over_the_whole_input(kind: str) -> None:
    tower, p = double(kind)
    _, raster = inputs_of(kind)
    added = None
    if tower.position is not None:
        first = p.coords.view(3, 3, 4, -1)[:, :, 0]  # of each channel, where time is zero
    with torch.no_grad():
        if tower.position is not None:
            added = (tower.position(first).double() @ tower.placed.weight.T).flatten(0, 1)[..., None, None]
        expected = by_hand(tower.trunk, raster.double(), added)
    if kind == "audio":  # its patches are ordered time by time, bands within
        expected = expected.transpose(2, 3)
    found = tokens(tower, p)
    assert found.shape[1] == p.count and float(found.std()) > 0.1
    torch.testing.assert_close(found, expected.flatten(2).mT.reshape(found.shape), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("side", "slots", "strides"),
    [(4, 3, [1, 2, 2]), (16, 4, [2, 2, 2, 2]), (32, 4, [4, 2, 2, 2]), (25, 3, [1, 5, 5]), (14, 3, [1, 1, 2]),
     (7, 2, [1, 1]), (1, 4, [1] * 4), (128, 4, [4, 4, 4, 2]), (60, 2, [4, 15])],
)  # fmt: skip
def test_strides_shrink_a_patch_to_one_place_or_to_what_they_do_not_divide(
    side: int, slots: int, strides: list[int]
) -> None:
    assert strides_of(side, slots) == strides


def test_stages_are_as_many_as_there_is_something_to_shrink() -> None:
    assert [stages_of((4, 4), depth) for depth in (0, 1, 2, 3, 9)] == [1, 1, 2, 3, 3]
    assert stages_of((1, 128), 8) == 4 and stages_of((7, 7), 5) == 1
    trunk = ConvTrunk(3, (32, 32), 64, 9)
    assert [block.conv2.out_channels for block in trunk.blocks] == [8] * 2 + [16] * 2 + [32] * 2 + [64] * 3


@pytest.mark.parametrize("channels", [6, 32])
def test_a_norm_counts_what_is_there_alone(channels: int) -> None:
    norm = SampleNorm(channels, 1e-6).double()
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
    x = torch.randn(2, 5, 4, channels).double()
    torch.testing.assert_close(norm(x, torch.ones(2, 5, 4, 1).double()), norm(x, None), rtol=0, atol=1e-12)
    there = torch.zeros(2, 5, 4, 1).double()
    there[:, :, :2] = 1
    torch.testing.assert_close(norm(x * there, there)[:, :, :2], norm(x[:, :, :2], None), rtol=0, atol=1e-12)
    assert torch.isfinite(norm(x * 0, there * 0)).all()


# ----------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_patches_are_as_if_they_had_never_been(kind: str) -> None:
    tower, p = double(kind)
    keep = torch.stack(
        [torch.randperm(p.count, generator=torch.Generator().manual_seed(s))[: p.count // 2] for s in range(3)]
    )
    there = p.hidden_by(keep)
    found = tokens(tower, p.take(keep, full=True))
    for garbage in (7.0, torch.nan):
        whole = tokens(tower, as_if_there(p, there, garbage))
        at = keep[..., None].expand_as(found)
        torch.testing.assert_close(found, whole.gather(1, at), rtol=0, atol=1e-12)
        assert whole[~there].abs().sum() == 0
    # nor do they only vanish: without them the tokens are others
    assert float((found - tokens(tower, p).gather(1, at)).abs().amax()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_hidden_never_shows_and_has_a_token(kind: str) -> None:
    tower, p = double(kind)
    hidden = torch.rand(3, p.count, generator=torch.Generator().manual_seed(1)) < 0.5
    found = tokens(tower, p, hidden)
    other = p.replace(values=torch.where(hidden[..., None], 9 * p.values + 1, p.values))
    assert torch.equal(found, tokens(tower, other, hidden))
    assert float(found[hidden].abs().mean()) > 0.1
    with torch.no_grad():
        tower.mask.token.add_(1.0)
    assert float((tokens(tower, p, hidden) - found).abs().amax()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_follow_their_patches_and_holes_are_nothing(kind: str) -> None:
    tower, p = double(kind)
    order = torch.stack([torch.randperm(p.count) for _ in range(3)])
    found = tokens(tower, p)
    torch.testing.assert_close(tokens(tower, p.take(order)), found.gather(1, order[..., None].expand_as(found)))
    holes = F.pad(order[:, :3], (1, 1), value=-1)
    padded = tokens(tower, p.take(holes))
    torch.testing.assert_close(padded[:, 1:4], tokens(tower, p.take(order[:, :3])), rtol=0, atol=1e-12)
    assert padded[:, [0, 4]].abs().sum() == 0


def test_a_small_picture_beside_a_large_one_is_what_it_is_alone() -> None:
    tower, p = double("image")
    large = tower.modalities["image"].patchify({"pixel_values": torch.randn(3, 2, 20, 16)})  # type: ignore[operator]
    both = joined([p, large.replace(values=large.values.double())])
    assert both.grid == (5, 8)
    found = tokens(tower, both)
    torch.testing.assert_close(found[:3, : p.count], tokens(tower, p), rtol=0, atol=1e-10)
    assert found[:3, p.count :].abs().sum() == 0


def test_padding_behind_a_sound_and_an_absent_sample_change_nothing() -> None:
    tower, p = double("audio")
    modality: Any = tower.modalities["audio"]
    mel = inputs_of("audio")[0]["mel"]
    longer = modality.patchify({"mel": F.pad(mel, (0, 0, 0, 12), value=5.0), "frames": torch.tensor([18, 18, 0])})
    found = tokens(tower, longer.replace(values=longer.values.double()))
    torch.testing.assert_close(found[:2, : p.count], tokens(tower, p)[:2], rtol=0, atol=1e-10)
    assert found[:2, p.count :].abs().sum() == 0 and found[2].abs().sum() == 0


# ------------------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize("kind", ["eeg", "ecg by lead"])
def test_channels_know_nothing_of_each_other(kind: str) -> None:
    tower, p = double(kind)
    found = tokens(tower, p).view(3, 3, 4, -1)
    other = p.values.clone().view(3, 3, 4, -1)
    other[:, 1] = 5 - 3 * other[:, 1]
    changed = tokens(tower, p.replace(values=other.view_as(p.values))).view_as(found)
    assert torch.equal(changed[:, [0, 2]], found[:, [0, 2]])
    assert float((changed[:, 1] - found[:, 1]).abs().amin(-1).amin()) > 0
    missing = p.valid.clone().view(3, 3, 4)
    missing[:, 1] = False
    without = tokens(tower, p.replace(valid=missing.view_as(p.valid), full=False)).view_as(found)
    torch.testing.assert_close(without[:, [0, 2]], found[:, [0, 2]], rtol=0, atol=1e-10)


def test_electrodes_of_unknown_place_are_told_apart_and_a_known_place_counts() -> None:
    tower, p = double("eeg")
    nowhere = p.coords.clone()
    nowhere[..., 1:] = 0
    lost = tokens(tower, p.replace(coords=nowhere))
    reading = p.values.view(3, 3, 4, -1)[:, [1, 0, 2]].reshape(p.values.shape)
    swapped = tokens(tower, p.replace(coords=nowhere, values=reading))
    torch.testing.assert_close(swapped.view(3, 3, 4, -1)[:, [1, 0, 2]].reshape(lost.shape), lost, rtol=0, atol=1e-12)
    assert float((lost - tokens(tower, p)).abs().amax()) > 1e-3


# --------------------------------------------------------------------------------------------------------- as a model


@pytest.mark.parametrize("kind", ["image", "video", "eeg"])
def test_a_saved_model_is_the_same_model(kind: str, tmp_path: Path) -> None:
    model = model_of(kind, final_norm=False, layer_scale=0.5, pooling="attention", readout=None)
    name, inputs = kind, inputs_of(kind)[0]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["towers"][name]["trunk"] == "resnet"
    again = MMSSLModel.from_pretrained(tmp_path).eval()
    assert isinstance(again.tower(name), ConvTower)
    found, wanted = (m.encode_batch({name: inputs}, states=True) for m in (again, model))
    torch.testing.assert_close(found.embeddings[name], wanted.embeddings[name], rtol=0, atol=1e-6)
    assert not found.hidden_states


def test_dropout_and_stochastic_depth_are_drawn_in_training_alone() -> None:
    for options in ({"dropout": 0.5}, {"drop_path": 0.9}):
        model, batch = model_of("image", **options), {"image": inputs_of("image")[0]}
        assert torch.equal(model.encode_batch(batch).tokens["image"], model.encode_batch(batch).tokens["image"])
        model.train()
        assert not torch.equal(model.encode_batch(batch).tokens["image"], model.encode_batch(batch).tokens["image"])


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_adapters_lie_on_the_convolutions(kind: str) -> None:
    model, batch = model_of("image"), {"image": inputs_of("image")[0]}
    before = model.encode_batch(batch).embeddings["image"]
    add_adapter(model, AdapterConfig(type=kind, r=None if kind == "ia3" else 2), ["image"])
    trained = {n.partition("trunk.")[2].partition(".base")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert all("conv" in name for name in trained) and len(trained) >= 3
    torch.testing.assert_close(model.eval().encode_batch(batch).embeddings["image"], before, rtol=0, atol=1e-5)
    model.encode_batch(batch).pooled["image"].sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("mode", ["drop", "replace"])
@pytest.mark.parametrize("kind", ["image", "ecg by lead"])
def test_masked_autoencoding_trains_all_of_it(kind: str, mode: str) -> None:
    model, name = model_of(kind), kind.partition(" ")[0]
    decoder = mae.DecoderConfig(width=8, depth=1, heads=2)
    objective = mae.MAE(mae.Config(tower=name, mask="half", mode=mode, decoder=decoder), model)
    work = Pretraining(model.train(), {"mae": objective}, {}, {"half": Random(ratio=0.5)})
    work({name: inputs_of(kind)[0]}, Draws(3, 3)).total.backward()
    missing = [n for n, p in work.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    shown = [f"towers.{name}.mask.token"] if mode == "drop" else []  # no mask token is in the encoder
    assert [n.removeprefix("model.") for n in missing] == shown, missing


def test_jepa_learns_from_what_is_left() -> None:
    model = model_of("image")
    config = jepa.Config(tower="image", mask="half", predictor=jepa.PredictorConfig(width=8, depth=1, heads=2))
    work = Pretraining(model.train(), {"jepa": jepa.JEPA(config, model)}, {}, {"half": Random(ratio=0.5)})
    work({"image": inputs_of("image")[0]}, Draws(3, 3)).total.backward()
    grads = {n: p.grad for n, p in model.tower("image").trunk.named_parameters()}
    assert grads and all(g is not None and bool(torch.isfinite(g).all()) for g in grads.values())


def test_the_stem_is_the_first_layer_of_decayed_rates() -> None:
    scale = layer_scale([f"model.{name}" for name, p in model_of("eeg").named_parameters() if p.requires_grad], 0.5)
    found = {name.removeprefix("model.towers.eeg."): factor for name, factor in scale.items()}
    assert found["trunk.stem.weight"] == found["placed.weight"] == 0.5**4
    assert [found[f"trunk.blocks.{block}.conv1.weight"] for block in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert found["trunk.norm.weight"] == 1.0


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation": "geglu"}, "found activation: geglu with trunk: resnet, whose blocks have no gate"),
        ({"pooling": "cls"}, "no class token"),
        ({"readout_layers": 2}, "readout_layers: found 2"),
    ],
)
def test_what_a_convolutional_tower_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        model_of("image", **options)


def test_patches_that_lie_on_no_grid_or_overlap_are_refused() -> None:
    config = TowerConfig(trunk="resnet", width=8)
    table = load_modality("tabular").Modality
    assert table.tile(object.__new__(table)) == ()
    with pytest.raises(UserError, match="modality 'audio': found trunk: resnet, .* expected trunk: transformer"):
        model_of("audio", {"stride": [3, 2]})
    two = {n: load_modality(n).Modality(1, **SIZES[n]) for n in ("image", "eeg")}
    with pytest.raises(UserError, match="in a tower of image, eeg, expected one modality"):
        ConvTower(config, two)
