"""Masked autoencoding whose decoder sees another view of the sample (CroCo)."""

from __future__ import annotations

import copy
import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import jepa, mae
from mmssl.objectives.options.jepa import PredictorConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

ROWS = 6
LATER = {"later": {"signal": {"column": "later"}}}
MASKS = {"half": Random(ratio=0.5)}


def objective_of(net: MMSSLModel, **options: Any) -> mae.MAE:
    torch.manual_seed(1)
    return mae.MAE(mae.Config(**{"tower": "signal", "mask": "half", "decoder": toy_world.DECODER} | options), net)


def step_of(samples: dict[str, list], net: MMSSLModel) -> Step:
    return Step(toy_world.batch(samples), net, LATER, MASKS, Draws(1, ROWS))


def test_the_other_view_tells_and_where_there_is_none_nothing_is_added() -> None:
    """A sample that lacks it is reconstructed from its own visible patches, as without the option."""
    net = toy_world.model()
    samples = toy_world.later(toy_world.raw(ROWS, 3, absent=0.0), absent=0.0)
    beside = objective_of(net, beside_view="later")
    plain = copy.deepcopy(beside)
    plain.config.beside_view, plain.decoders["signal"].crosses = None, nn.ModuleList()
    without = samples | {"later": [None] * ROWS}
    alone = plain(step_of(samples, net)).total
    torch.testing.assert_close(beside(step_of(without, net)).total, alone, rtol=0, atol=1e-6)
    told = beside(step_of(samples, net)).total
    assert abs(float(told.detach()) - float(alone.detach())) > 1e-4
    # a sample that lacks it beside others that have it: by itself it is what it is without the option
    first = {name: [values[0], *[None] * (ROWS - 1)] for name, values in samples.items()}
    lacking = {**first, "later": [None, *samples["later"][1:]]}
    torch.testing.assert_close(beside(step_of(lacking, net)).total, plain(step_of(first, net)).total, rtol=0, atol=1e-6)
    # the encoder learns from what the other view was good for
    told.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in beside.decoders["signal"].crosses.parameters())
    assert beside.counts(step_of(without, net))["signal"].sum() == plain.counts(step_of(samples, net))["signal"].sum()


def test_it_works_in_half_precision() -> None:
    net = toy_world.model()
    samples = toy_world.later(toy_world.raw(ROWS, 3))
    beside = objective_of(net, beside_view="later")
    full = beside(step_of(samples, net)).total
    with torch.autocast("cpu", torch.bfloat16):
        half = beside(step_of(samples, net)).total
    assert half.dtype == torch.float32 and float(half.detach()) == pytest.approx(float(full.detach()), rel=0.02)


def test_contradictions_are_refused() -> None:
    net = toy_world.model()
    deep = mae.DecoderConfig(width=16, depth=1, heads=2, trunk="gcn")
    refusals: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"decoder": toy_world.HEAD, "mode": "replace"}, ("beside_view", "depth")),
        ({"tower": "graph", "decoder": deep}, ("beside_view", "trunk: transformer")),
        ({"mask": None, "decoder": toy_world.HEAD}, ("beside_view", "mask")),
        ({"tower": None, "towers": ["signal", "table"], "fusion": toy_world.FUSION}, ("beside_view", "tower")),
    ]
    for options, facts in refusals:
        with refused(*facts):
            objective_of(net, beside_view="later", **options)
    # the decoder would see what it is to say
    samples = toy_world.later(toy_world.raw(ROWS, 3))
    for options in ({"beside_view": "clean"}, {"beside_view": "later", "target_view": "later"}):
        with refused("beside_view", options["beside_view"], "signal"):
            objective_of(net, **options)(step_of(samples, net))
    with refused("predictor", "rotary", "additive"):
        predictor = PredictorConfig(width=16, depth=1, heads=2, positions="rotary")
        jepa.JEPA(jepa.Config(tower="table", mask="half", predictor=predictor), net)
    with refused("rotary_base", "positions"):
        objective_of(net, decoder=mae.DecoderConfig(width=16, depth=1, heads=2, rotary_base=100.0))


# --- real data: frames of videos ---------------------------------------------------------------------------------


def frames(folder: Path, apart: int = 6, most: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """(before, after): (n, 1, 32, 32) grey values of frames so far apart, some of each clip."""
    import av

    found: list[tuple[np.ndarray, np.ndarray]] = []
    with (folder / "metadata.csv").open() as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    for name in names:
        with av.open(str(folder / name)) as clip:
            grey = [f.to_ndarray(format="gray") for f in itertools.islice(clip.decode(video=0), 50)]
        small = [g.reshape(32, 2, 32, 2).mean((1, 3)) / 255 for g in grey]
        found += [(small[t], small[t + apart]) for t in range(0, len(small) - apart, (len(small) - apart) // most)]
    before, after = (torch.tensor(np.stack(side), dtype=torch.float32)[:, None] for side in zip(*found, strict=True))
    return before, after


def completion(seed: int) -> tuple[Pretraining, MMSSLModel]:
    """Cross-view completion of pictures of 32 pixels in patches of 4."""
    torch.manual_seed(seed)
    sizes = {"size": [32, 32], "patch": [4, 4], "channels": 1, "mean": [0.5], "std": [0.25], "unit_range": True}
    tower = TowerConfig(width=48, depth=2, heads=3, prefix=0, positions="rotary", rotary_base=100.0)
    config = MMSSLConfig(
        modalities={"image": {"type": "image", **sizes, "positions": "sincos"}}, towers={"image": tower_spec(tower)}
    )
    net = MMSSLModel(config)
    decoder = mae.DecoderConfig(width=48, depth=2, heads=3, positions="rotary", rotary_base=100.0)
    options = {"tower": "image", "mask": "most", "beside_view": "after", "target": {"image": "pixels"}}
    views = {"after": {"image": {"column": "after"}}}
    objective = mae.MAE(mae.Config(**options, decoder=decoder), net)
    return Pretraining(net, {"croco": objective}, views, {"most": Random(ratio=0.9)}), net


def inputs(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": (x - 0.5) / 0.25}


def trained(seed: int, before: torch.Tensor, after: torch.Tensor, steps: int) -> Pretraining:
    work, _ = completion(seed)
    optimizer = torch.optim.AdamW(work.parameters(), 2e-3)
    order = torch.Generator().manual_seed(seed)
    for number in range(steps):
        rows = torch.randint(len(before), (32,), generator=order)
        batch = {"image": inputs(before[rows]), "after": inputs(after[rows])}
        loss = work(batch, Draws(number, 32)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return work.eval()


@torch.no_grad()
def losses(work: Pretraining, before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    """Of the held-out frames, with the true second frame, with another clip's, and with none."""
    n = len(before)
    other = {"true": after, "shuffled": after.roll(n // 2, 0)}
    seen = {k: {"image": inputs(before), "after": inputs(x)} for k, x in other.items()}
    return {name: float(work(batch, Draws(7, n)).total) for name, batch in seen.items()}


@pytest.mark.slow
def test_the_true_other_frame_helps_and_another_clips_does_not(shared_data: Path) -> None:
    """Masked loss with the true second view < with a shuffled one, on clips of performers that were not learned from;
    before training they are alike."""
    pytest.importorskip("av")
    learned, held = (frames(shared_data / "weizmann4" / split) for split in ("train", "test"))
    before = losses(completion(0)[0].eval(), *held)
    after = losses(trained(0, *learned, steps=150), *held)
    assert after["true"] < 0.8 * after["shuffled"]
    assert before["true"] > 0.95 * before["shuffled"]
