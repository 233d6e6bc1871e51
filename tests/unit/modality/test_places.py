"""Where the patches of a view lie in the sample: what they show says where it came from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import world as toy_world

import mmssl_audio
import mmssl_ecg
import mmssl_eeg
import mmssl_image
import mmssl_video
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality.contract import Modality
from mmssl.modality.lookup import load_modality, modality_names
from mmssl.objectives.accumulation import Joined, draws_of
from mmssl.objectives.step import Step

ROWS = 6
SHIPPED = ("image", "video", "audio", "text", "tabular", "eeg", "ecg", "graph", "series", "volume")


def middles(modality: Any, inputs: dict[str, torch.Tensor], view: dict[str, Any], draws: Draws | None = None) -> Any:
    """(patches of the view, their places)."""
    draws = draws or Draws(5, ROWS)
    patches = modality.patchify(modality.augment(inputs, draws, **view))
    return patches, modality.places(inputs, patches, draws, **view)


def ramps(height: int, width: int) -> torch.Tensor:
    """(2, H, W) the row and the column of the middle of every pixel."""
    return torch.stack(torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"))


CROPS = {"crop_scale": [0.2, 0.8], "flip": 0.5}


@pytest.mark.parametrize("size", [8, 24, None])
def test_pictures(size: int | None) -> None:
    modality = mmssl_image.Modality(16, [24, 32], [4, 8], 2, [0.0] * 2, [1.0] * 2, unit_range=False)
    inputs = {"pixel_values": ramps(24, 32).expand(ROWS, -1, -1, -1)}
    patches, places = middles(modality, inputs, {**CROPS, "crop_size": size})
    shown = patches.values.unflatten(2, (2, 4 * 8))
    # pixels at the border of a crop are averages of fewer, and a little off
    torch.testing.assert_close(places.centre, shown.mean(-1) / torch.tensor([4.0, 8.0]), rtol=0, atol=0.06)
    step = places.centre.unflatten(1, patches.grid).diff(dim=1)[..., 0]
    torch.testing.assert_close(step, places.size.unflatten(1, patches.grid)[:, 1:, :, 0], rtol=0, atol=1e-5)
    halves = [middles(modality, {"pixel_values": inputs["pixel_values"][:3]}, CROPS, Draws(5, 3, i))[1] for i in (0, 3)]
    whole = middles(modality, inputs, CROPS)[1]
    torch.testing.assert_close(torch.cat([half.centre for half in halves]), whole.centre)


@pytest.mark.parametrize("view", [{}, {"frames": 4}, {"frames": 4, "stride": [2, 3], "reverse": 0.5}, {"frames": 6}])
@pytest.mark.parametrize("short", [False, True])
def test_clips(view: dict[str, Any], short: bool) -> None:
    colours: dict[str, Any] = {"channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3, "unit_range": False}
    modality = mmssl_video.Modality(16, size=[8, 8], patch=[4, 4], tubelet=2, fps=5.0, **colours)
    times = (torch.arange(12) / 5.0).expand(ROWS, -1)
    place = ramps(8, 8)[None].expand(12, -1, -1, -1)
    pixels = torch.cat([(times[0] * 5)[:, None, None, None].expand(-1, 1, 8, 8), place], 1).expand(ROWS, -1, -1, -1, -1)
    inputs = {"pixel_values": pixels, "times": times} | ({"length": torch.tensor([12, 5, 9, 2, 7, 1])} if short else {})
    patches, places = middles(modality, inputs, {**CROPS, **view})
    shown = patches.values.unflatten(2, (3, 2 * 4 * 4)).nanmean(-1)
    shown[..., 0] = (shown[..., 0] + 0.5) / 2  # a frame begins with its time, and is half a tubelet
    shown[..., 1:] /= 4
    there = patches.valid[..., None]
    torch.testing.assert_close(places.centre * there, shown.nan_to_num() * there, rtol=0, atol=0.06)


def signal(channels: int) -> torch.Tensor:
    """(ROWS, channels, 80) samples that say when they are; of some the end was not measured."""
    out = torch.arange(80.0).expand(ROWS, channels, -1).clone()
    out[1, :, 43:], out[2, :, 60:] = torch.nan, torch.nan
    return out


@pytest.mark.parametrize(
    "view", [{"crop": [0.5, 0.8]}, {"shift": 0.2}, {"crop": [0.4, 0.6], "shift": 0.1}, {"noise": 0.0}]
)
@pytest.mark.parametrize("kind", ["time", "lead", "eeg"])
def test_signals(view: dict[str, Any], kind: str) -> None:
    inputs = {"signal": signal(2)}
    if kind == "eeg":
        modality: Any = mmssl_eeg.Modality(16, rate=50.0, window=8)
        inputs["electrodes"] = torch.tensor([[0.01, 0.0, 0.05], [0.04, 0.02, 0.0]]).expand(ROWS, -1, -1)
    else:
        modality = mmssl_ecg.Modality(16, ["I", "V2"], 50.0, 8, kind)
    inputs["holes"] = torch.ones(ROWS, dtype=torch.bool)
    patches, places = middles(modality, inputs, view)
    whole = patches.valid & ~patches.values.isnan().any(-1)
    assert whole.any(1).all()
    shown = patches.values.nanmean(-1) + 0.5
    torch.testing.assert_close(places.centre[..., 0][whole], shown[whole] / 8, rtol=0, atol=1e-4)
    if kind == "eeg":
        electrode = patches.coords[..., 1:] * 100 + 0.5
        torch.testing.assert_close(places.centre[..., 1:], electrode, rtol=0, atol=1e-5)


@pytest.mark.parametrize("view", [{"crop": [0.3, 0.6]}, {"crop_seconds": 0.3}, {"polarity": 0.0, "gain": 0.0}])
def test_sounds(view: dict[str, Any]) -> None:
    modality = mmssl_audio.Modality(16, 100, "waveform", 8, 10, 5, [10, 1], 0.0, 1.0)
    inputs = {"waveform": torch.arange(80.0).expand(ROWS, -1), "length": torch.tensor([80, 40, 79, 60, 51, 80])}
    patches, places = middles(modality, inputs, view)
    whole = patches.valid & ~patches.values.isnan().any(-1)
    torch.testing.assert_close(
        places.centre[..., 0][whole], (patches.values.nanmean(-1)[whole] + 0.5) / 10, rtol=0, atol=1e-4
    )


def test_every_shipped_modality_knows_its_places_and_a_strangers_need_not() -> None:
    assert all(load_modality(name).Modality.knows_places() for name in modality_names() if name in SHIPPED)
    assert not Modality.knows_places()
    net = toy_world.model()
    step = Step(toy_world.batch(toy_world.raw(3)), net, {}, {}, Draws(1, 3))
    with pytest.raises(UserError, match=r"toys.graph does not say where"):
        step.places("graph")


def test_a_step_says_them_of_every_view_and_of_rows_in_parts() -> None:
    net, raw = toy_world.model(), toy_world.raw(8, seed=1)
    views: dict[str, Any] = {"late": {"signal": {"shift": 3}}, "spoiled": {"signal": {"corrupt": {"view": "late"}}}}
    step = Step(toy_world.batch(raw), net, views, {}, Draws(1, 8))
    late, clean = step.places("signal", "late"), step.places("signal")
    moved = late.centre - clean.centre
    assert (moved[..., 1] == 0).all() and set(moved[..., 0].unique().tolist()) > {0.0, 1.0}
    assert step.places("signal", "spoiled") is late
    assert step.places("table", "late") is step.places("table")  # the view leaves tables alone
    batches = [toy_world.batch({n: v[i : i + 2] for n, v in raw.items()}) for i in range(0, 8, 2)]
    draws = Draws(1, 8)
    parts = [Step(b, net, views, {}, d) for b, d in zip(batches, draws_of(batches, draws), strict=True)]
    joined = Joined(parts, draws)
    there = joined.patches("signal", "late").valid
    found = joined.places("signal", "late").centre[there]
    torch.testing.assert_close(found, late.centre[step.patches("signal", "late").valid])
