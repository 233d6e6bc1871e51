"""What steps cost: tokens and FLOPs against counts by hand, and what must not be counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs
from toys.loops import loop_of

from mmssl.training import effort
from mmssl.training.effort import Counted, gpu_peak, processor_peak, tokens_of
from mmssl.training.metrics import Meter
from mmssl.training.ranks import costs

B, WIDTH = 16, 16


def first_step(folder: Path, content: dict[str, Any]) -> tuple[Any, Meter]:
    """A loop whose first step's gradients are there, and its meter."""
    loop, batches = loop_of(folder, content)
    meter = Meter()
    with loop.effort.watched():
        loop._gradients(batches, 0, meter)
    return loop, meter


def block(n: int, queries: int, width: int = WIDTH) -> int:
    """FLOPs of a sample in the forward pass of a block: n tokens, of which `queries` are computed."""
    projections = width * 2 * width * n + 2 * width * width * queries  # keys and values; queries and output
    return 2 * (projections + 2 * queries * n * width + 8 * width * width * queries)


def test_the_flops_of_a_masked_autoencoder_are_those_of_its_products(tmp_path):
    """8 x 8 pixels in 4 patches of 16 numbers, 2 of them seen, behind one class token."""
    content = runs.recipe()
    loop, meter = first_step(tmp_path, content)
    tower = loop.pretraining.model.tower("image")
    pixels = loop.pretraining.model.modality("image").pred_width()
    prefix, seen, queries = tower.prefix_count, 2, 2
    encoder = 2 * block(prefix + seen, prefix + seen)
    everything = prefix + seen + queries
    decoder = 2 * WIDTH * WIDTH * (prefix + seen) + block(everything, queries) + 2 * WIDTH * pixels * queries
    embedding = 2 * pixels * WIDTH * seen
    # a product has two gradients, that of what came from the data one
    flops = B * (3 * (encoder + decoder) + 2 * embedding)
    assert loop.effort.step == (flops, B * seen)
    assert tokens_of(meter) == B * seen and loop.effort.flops(meter) == flops


def test_what_a_backward_pass_computes_again_counts_once(tmp_path):
    plain, _ = first_step(tmp_path / "a", runs.recipe())
    again, _ = first_step(tmp_path / "b", runs.recipe(train={"gradient_checkpointing": True}))
    assert again.effort.step == plain.effort.step


def test_parts_of_a_step_cost_what_it_costs_whole_and_their_towers_count_once(tmp_path):
    """Contrast looks across rows: with accumulation the towers work a second time, in the backward pass."""
    whole, seen = first_step(tmp_path / "a", runs.image_text())
    parts, also = first_step(tmp_path / "b", {**runs.image_text(), "train": {**runs.IMAGE["train"], "accumulation": 4}})
    assert tokens_of(seen) == tokens_of(also) > B * 3
    assert parts.effort.step[0] == pytest.approx(whole.effort.step[0], rel=0.1)  # texts of a part are padded to its own


def test_tokens_are_the_valid_ones_of_the_model_and_not_its_teachers(tmp_path):
    """jepa: the student sees what is left of a mask, the teacher everything."""
    content = runs.recipe()
    content["masks"] = {"half": {"type": "random", "ratio": 0.5}}
    content["objectives"] = {
        "jepa": {"tower": "image", "mask": "half", "predictor": {"width": 16, "depth": 1, "heads": 2}}
    }
    _, meter = first_step(tmp_path, content)
    assert tokens_of(meter) == B * 2

    texts = runs.image_text()
    loop, batches = loop_of(tmp_path / "text", texts)
    (loaded,), meter = [next(batches)], Meter()
    with loop.effort.watched():
        loop._gradients(iter([loaded]), 0, meter)
    there = int(loop.pretraining.model.modality("text").patchify(loaded.batch["text"]).valid.sum())
    assert meter.places is not None and int(meter.places) == there  # of unequal length
    assert meter.tokens == B * (2 + 4)  # the image, masked and whole


def test_nothing_outside_of_training_counts_and_nothing_stays_behind(tmp_path):
    loop, batches = loop_of(tmp_path, runs.recipe())
    tower, meter = loop.pretraining.model.tower("image"), Meter()
    before = dict(tower._forward_pre_hooks)
    with loop.effort.watched():
        loop.pretraining.model.encode_batch(next(batches).batch)
        assert tokens_of(meter) == 0 and tower._forward_pre_hooks != before
    assert tower._forward_pre_hooks == before


def test_later_steps_are_scaled_by_their_tokens(tmp_path):
    loop, meter = first_step(tmp_path, runs.recipe())
    flops, tokens = loop.effort.step
    later = Meter(tokens=3 * tokens, steps=5)
    assert loop.effort.flops(later) == 3 * flops
    loop.effort.step = (flops, 0)  # stored outputs: no encoder works
    assert loop.effort.flops(later) == 5 * flops


def test_attention_of_a_processor_counts_as_its_products():
    q, k, v = (torch.randn(2, 3, 300, 8, requires_grad=True) for _ in range(3))
    with Counted() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * 2 * 3 * 300 * 300 * 8
    assert counter.flops == 2 * product + 5 * product  # the backward pass makes the scores once more


@pytest.mark.parametrize(
    ("name", "kind", "peak"),
    [
        ("NVIDIA H200", effort.HALF, 989e12),
        ("NVIDIA A100-SXM4-80GB", effort.TF32, 156e12),
        ("NVIDIA H100 PCIe", effort.FULL, 51e12),
        ("Tesla T4", effort.TF32, 8.1e12),
        ("NVIDIA A10G", effort.HALF, 70e12),
        ("Some other", effort.HALF, None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name(name, kind, peak):
    assert gpu_peak(name, kind) == pytest.approx(peak)


def test_the_peak_of_a_processor_is_measured_once(monkeypatch):
    processor_peak.cache_clear()
    calls = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: calls.append(1) or real(a, b))
    first = processor_peak(torch.float32, 1)
    assert first > 1e8 and processor_peak(torch.float32, 1) == first and 1 <= len(calls) <= effort.TRIES + 1


def test_a_run_says_what_it_cost_and_compiled_trunks_have_no_mfu(tmp_path):
    loop, meter = first_step(tmp_path, runs.recipe())
    (own,) = loop._tell(meter)
    flops, tokens = loop.effort.step
    row = costs([own, own], 2.0)
    assert row["tokens_per_second"] == tokens and row["mfu"] == pytest.approx(flops / 2 / loop.effort.peak)
    assert 0.05 < row["memory"] < 100
    unknown = effort.Effort(loop.pretraining.model, loop.accelerator, compiled=True)
    assert unknown.peak is None and unknown.flops(meter) is None
