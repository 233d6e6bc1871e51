"""What masks draw against what the papers draw, in distribution: lengths, distances and areas, not counts alone.

The papers' draws are simulated here one sample at a time from their text, by numpy. Bounds are some 4.5 standard errors
of the difference of two such means; where ours is known to differ, both numbers are asserted.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking import Block, Budget, FeatureSubsets, MultiBlock, Random, Span, Subgraphs, TimeBlocks, Tube
from mmssl.patches import Patches

Mask = NDArray[np.bool_]


def grid(batch: int, *sides: int) -> Patches:
    coords = torch.cartesian_prod(*(torch.arange(side) * 1.0 for side in sides))
    coords = (coords if coords.ndim == 2 else coords[:, None]).expand(batch, -1, -1).contiguous()
    return Patches(torch.zeros(*coords.shape[:2], 1), coords, torch.ones(coords.shape[:2], dtype=torch.bool), True)


def drawn(mask: object, sides: tuple[int, ...], rows: int, keys: int, sets: bool = False) -> Mask:
    """(rows * keys, *sides) what our mask hides in so many steps; with `sets` (rows * keys, M, *sides) apart."""
    found = []
    for key in range(keys):
        patches = grid(rows, *sides)
        hide = mask({"x": patches}, Draws(key, rows))["x"].hide  # type: ignore[operator]
        parts = [patches.hidden_by(hide[:, i]) for i in range(hide.shape[1])]
        found.append(torch.stack(parts, 1).numpy() if sets else torch.stack(parts).any(0).numpy())
    flat = np.concatenate(found)
    return flat.reshape(*flat.shape[:-1], *sides)


def runs(hidden: Mask) -> NDArray[np.int64]:
    edges = np.diff(np.r_[0, hidden.astype(int), 0])
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


def away(hidden: Mask) -> NDArray[np.int64]:
    """Of each hidden place, how many places it is from the nearest visible one."""
    return np.abs(np.flatnonzero(hidden)[:, None] - np.flatnonzero(~hidden)[None]).min(1)


def same_mean(a: list[float] | NDArray[np.float64], b: list[float] | NDArray[np.float64]) -> None:
    a, b = np.asarray(a, float), np.asarray(b, float)
    error = math.sqrt(a.var() / len(a) + b.var() / len(b))
    assert abs(a.mean() - b.mean()) < 4.5 * error + 1e-9, (a.mean(), b.mean(), error)


def stretches_of_the_paper(rng: np.random.Generator, times: int, shortest: int, kept: int) -> Mask:
    """ECG-JEPA's mask, time by time."""
    hidden, left = np.zeros(times, bool), times - kept
    while left > 0:
        low = high = int(rng.choice(np.flatnonzero(~hidden)))
        while low > 0 and not hidden[low - 1]:
            low -= 1
        while high < times and not hidden[high]:
            high += 1
        length = rng.integers(shortest, left + 1) if left >= shortest else left
        if high - low <= length:
            start, stop = low, high
        elif left >= shortest:
            start = rng.integers(low, high - length + 1)
            stop = start + length
        else:
            start = rng.choice([at for at, ok in ((low, low > 0), (high - length, high < times)) if ok])
            stop = start + length
        hidden[start:stop] = True
        left -= stop - start
    return hidden


def test_time_blocks_draw_the_stretches_of_ecg_jepa():
    rng = np.random.default_rng(0)
    theirs = [stretches_of_the_paper(rng, 200, 10, math.ceil(rng.uniform(0.15, 0.25) * 200)) for _ in range(1000)]
    ours = drawn(TimeBlocks(draw="lengths"), (200,), 25, 40)
    other = drawn(TimeBlocks(), (200,), 5, 80)
    for about in (  # patches are 50 ms long
        lambda m: len(runs(m)),
        lambda m: len(runs(m)) == 1,
        lambda m: float(np.median(runs(m))),
        lambda m: runs(m).max(),
        lambda m: runs(m).min(),
        lambda m: (away(m) > 20).mean(),
        lambda m: m[:10].mean(),
        lambda m: m[95:105].mean(),
    ):
        same_mean([about(m) for m in theirs], [about(m) for m in ours])
    for masks, count, median, far in ((theirs, 2.7, 2.1, 0.53), (ours, 2.7, 2.1, 0.53), (other, 8.3, 0.62, 0.15)):
        assert np.mean([len(runs(m)) for m in masks]) == pytest.approx(count, abs=0.2)
        assert np.median(np.concatenate([runs(m) for m in masks])) * 0.05 == pytest.approx(median, abs=0.15)
        assert np.mean([(away(m) > 20).mean() for m in masks]) == pytest.approx(far, abs=0.05)


@pytest.mark.parametrize("times", [200, 12, 5, 1])
def test_time_blocks_by_lengths_leave_the_exact_count_of_any_length_and_padding(times):
    patches = grid(40, times, 2)
    longer = padded(patches, 6)
    mask = TimeBlocks(draw="lengths", shortest=4)
    split, wide = (mask({"x": p}, Draws(3, 40))["x"] for p in (patches, longer))
    hidden = patches.hidden_by(split.hide[:, 0])
    assert torch.equal(longer.hidden_by(wide.hide[:, 0])[:, : patches.count], hidden)  # padding changes nothing
    assert not longer.hidden_by(wide.hide[:, 0])[:, patches.count :].any()
    by_time = hidden.view(40, times, 2)
    assert torch.equal(by_time[..., 0], by_time[..., 1]) and len(set(by_time[..., 0].sum(1).tolist())) == 1
    assert by_time[..., 0].sum() < 40 * times and (times == 1 or by_time.any())
    if times == 200:
        assert min(runs(row).min() for row in by_time[..., 0].numpy()) >= 4
        halves = [mask({"x": grid(20, times, 2)}, Draws(3, 20, 20 * i, 40))["x"].hide for i in range(2)]
        assert torch.equal(torch.cat(halves), split.hide)


def padded(patches: Patches, more: int) -> Patches:
    batch = patches.batch
    return Patches(
        torch.cat([patches.values, torch.zeros(batch, more, 1)], 1),
        torch.cat([patches.coords, torch.zeros(batch, more, patches.coords.shape[2])], 1),
        torch.cat([patches.valid, torch.zeros(batch, more, dtype=torch.bool)], 1),
    )


def test_spans_have_the_lengths_of_spanbert_but_for_its_end_at_ten():
    rng = np.random.default_rng(1)
    sizes = np.arange(1, 11)
    odds = 0.2 * 0.8 ** (sizes - 1)
    theirs = []
    for _ in range(400):
        hidden, budget = np.zeros(256, bool), math.ceil(256 * 0.15)
        while hidden.sum() < budget:
            start, length = rng.integers(0, 256), rng.choice(sizes, p=odds / odds.sum())
            if not hidden[start]:
                hidden[start : start + min(length, budget - hidden.sum())] = True
        theirs.append(hidden)
    ours = drawn(Span(length=3.8), (256,), 100, 4)
    assert [round(np.mean([len(runs(m)) for m in masks]), 1) for masks in (theirs, ours)] == [
        pytest.approx(10.3, abs=0.3),
        10.0,
    ]
    lengths = [np.concatenate([runs(m) for m in masks]) for masks in (theirs, ours)]
    assert [x.std() for x in lengths] == pytest.approx([2.7, 3.1], abs=0.2)
    assert [np.median(x) for x in lengths] == [3, 3] and np.quantile(lengths[1], 0.9) in (8, 9)
    same_mean([m[128] for m in theirs], [m[128] for m in ours])


def beit(rng: np.random.Generator, side: int, total: int, least: int) -> Mask:
    """Boxes of an area between `least` and what is left, until ten tries in a row do not fit."""
    mask, tries = np.zeros((side, side), bool), 0
    while mask.sum() < total and tries < 10:
        left = total - mask.sum()
        area, ratio = least + (left - least) * rng.random(), math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        tries += 1
        if high < side and wide < side:
            top, first = rng.integers(0, side - high + 1), rng.integers(0, side - wide + 1)
            box = mask[top : top + high, first : first + wide]
            if 0 < box.size - box.sum() <= left:
                box[:], tries = True, 0
    return mask


def deep(mask: Mask, steps: int) -> float:
    """The share of what is hidden that lies more than so many steps from anything visible."""
    inner = mask
    for _ in range(steps):
        wide = np.pad(inner, 1, constant_values=True)  # nothing visible lies outside
        inner = inner & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return float(inner.sum() / mask.sum())


def test_blocks_are_as_deep_as_those_of_beit():
    rng = np.random.default_rng(2)
    theirs, ours = [beit(rng, 14, 75, 16) for _ in range(400)], drawn(Block(ratio=75 / 196), (14, 14), 100, 5)
    for steps, found in ((1, [0.55, 0.54]), (2, [0.23, 0.215])):
        means = [np.mean([deep(m, steps) for m in masks]) for masks in (theirs, ours)]
        assert means == pytest.approx(found, abs=0.02)
    assert np.mean([m.sum() for m in theirs]) == pytest.approx(74.5, abs=0.3) and (ours.sum((1, 2)) == 75).all()


def test_half_of_the_samples_are_hidden_with_ratios_spread_over_the_range():
    mask = Block(ratio=[0.1, 0.5], samples=0.5)
    counts = [_hidden_counts(mask, 32, key) for key in range(30)]
    for count in counts:
        assert (count > 0).sum() == 16
        of = np.sort(count[count > 0] / 196)  # one in each sixteenth of the range
        assert (np.abs(of - (0.1 + 0.4 * (np.arange(16) + 0.5) / 16)) <= 0.0125 + 1 / 196).all()
    same_mean(np.concatenate(counts) > 0, np.repeat([0.0, 1.0], 480))
    assert all(0 < (np.array(counts)[:, row] > 0).sum() < 30 for row in range(32))  # another half in each step
    halves = [_hidden_counts(mask, 16, 3, first) for first in (0, 16)]
    assert np.concatenate(halves).tolist() == counts[3].tolist()  # two processes draw what one does
    alone = _hidden_counts(Block(ratio=0.3, samples=0.25), 32, 0)
    assert sorted(alone.tolist()) == [0] * 24 + [59] * 8
    with refused("ratio", "[0.5, 0.1]"):
        Block(ratio=[0.5, 0.1])


def _hidden_counts(mask: Block, rows: int, key: int, first: int = 0) -> NDArray[np.int64]:
    split = mask({"x": grid(rows, 14, 14)}, Draws(key, rows, first, 32))["x"]
    assert ((split.keep >= 0).sum(1) + (split.hide[:, 0] >= 0).sum(1) == 196).all()
    return (split.hide[:, 0] >= 0).sum(1).numpy()


def test_multi_blocks_leave_what_those_of_i_jepa_leave_but_reach_every_edge():
    rng = np.random.default_rng(3)

    def block(size: tuple[int, int]) -> Mask:
        mask = np.zeros((14, 14), bool)
        top, first = rng.integers(0, 14 - size[0]), rng.integers(0, 14 - size[1])
        mask[top : top + size[0], first : first + size[1]] = True
        return mask

    targets, contexts = [], []
    for _ in range(300):
        u, v = rng.random(2)
        area, ratio = int(196 * (0.15 + 0.05 * u)), 0.75 + 0.75 * u
        size = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        around = min(round(math.sqrt(int(196 * (0.85 + 0.15 * v)))), 13)
        found = np.stack([block(size) for _ in range(4)])
        targets.append(found)
        contexts.append(block((around, around)) & ~found.any(0))
    theirs = np.stack(targets)
    ours = drawn(MultiBlock(), (14, 14), 2, 150, sets=True)
    assert [x.mean() for x in (theirs, ours)] == pytest.approx([0.171, 0.176], abs=0.004)
    assert [x.any(1).mean() for x in (theirs, ours)] == pytest.approx([0.45, 0.48], abs=0.015)
    assert np.mean(contexts) == pytest.approx(0.415, abs=0.015)
    kept = [(MultiBlock()({"x": grid(2, 14, 14)}, Draws(key, 2))["x"].keep >= 0).sum(1) / 196 for key in range(150)]
    assert torch.cat(kept).mean().item() == pytest.approx(0.455, abs=0.02)
    assert theirs[:, :, -1].sum() == 0 and ours[:, :, -1].mean() == pytest.approx(ours[:, :, 0].mean(), abs=0.02)


def test_tubes_of_multi_block_hide_as_much_as_those_of_v_jepa():
    rng = np.random.default_rng(4)
    for scale, count, found in ((0.15, 8, (0.626, 0.624)), (0.7, 2, (0.817, 0.832))):
        theirs = []
        for _ in range(300):
            ratio, mask = 0.75 + 0.75 * rng.random(), np.zeros((14, 14), bool)
            high = min(round(math.sqrt(int(196 * scale) * ratio)), 14)
            wide = min(round(math.sqrt(int(196 * scale) / ratio)), 14)
            for _ in range(count):
                top, first = rng.integers(0, 15 - high), rng.integers(0, 15 - wide)
                mask[top : top + high, first : first + wide] = True
            theirs.append(mask.mean())
        mask = MultiBlock(axes=[1, 2], targets=count, scale=[scale, scale], context=[1.0, 1.0])
        ours = drawn(mask, (1, 14, 14), 60, 4).mean((1, 2, 3))
        assert (np.mean(theirs), ours.mean()) == pytest.approx(found, abs=0.02)
        assert abs(np.std(theirs) - ours.std()) < 0.03


@pytest.mark.parametrize(
    ("mask", "sides", "hidden"),
    [(Random(ratio=0.75), (8,), 6), (Tube(ratio=0.75), (2, 8), 6), (FeatureSubsets(scale=[0.25, 0.26]), (8,), 2)],
)
def test_any_set_of_so_many_places_is_as_likely(mask, sides, hidden):
    found = drawn(mask, sides, 1400, 1, sets=True)[:, 0]
    found = found if found.ndim == 2 else found[:, 0]
    assert (found.sum(1) == hidden).all()
    codes, counts = np.unique(found @ (1 << np.arange(8)), return_counts=True)
    assert len(codes) == math.comb(8, hidden)
    expected = 1400 / len(codes)
    chi = ((counts - expected) ** 2 / expected).sum()
    freedom = len(codes) - 1
    assert chi < freedom + 4.5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_budgets_are_shared_as_dirichlet_shares_are(alpha):
    names = "abc"
    patches = {name: grid(1000, 40) for name in names}
    split = Budget(visible=30, alpha=alpha)(patches, Draws(5, 1000))
    ours = np.stack([(split[name].keep >= 0).sum(1).numpy() for name in names], 1)
    theirs = 30 * np.random.default_rng(5).dirichlet([alpha] * 3, 1000)
    assert (ours.sum(1) == 30).all()
    for mine, real in zip(ours.T, theirs.T, strict=True):
        same_mean(mine.astype(float), real)
        same_mean((mine - 10.0) ** 2, (real - 10) ** 2)
    same_mean(ours[:, 0] * ours[:, 1].astype(float), theirs[:, 0] * theirs[:, 1])


def test_subgraphs_grow_by_any_neighbour_alike():
    links = torch.zeros(6, 6)
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 4), (1, 5)):  # a chain with a branch
        links[a, b] = 1.0
    rows, rng = 3000, np.random.default_rng(6)
    valid = torch.ones(rows, 6, dtype=torch.bool)
    patches = Patches(torch.zeros(rows, 6, 1), torch.zeros(rows, 6, 1), valid, True, links=links.expand(rows, 6, 6))
    hide = Subgraphs(targets=1, scale=[0.5, 0.5])({"x": patches}, Draws(0, rows))["x"].hide
    ours = patches.hidden_by(hide[:, 0]).numpy() @ (1 << np.arange(6))
    near = (links + links.T).numpy() > 0
    theirs = []
    for _ in range(rows):
        members = [int(rng.integers(6))]
        while len(members) < 3:
            members.append(int(rng.choice(np.flatnonzero(near[members].any(0) & ~np.isin(np.arange(6), members)))))
        theirs.append(sum(1 << m for m in members))
    for code in set(theirs) | set(ours.tolist()):
        same_mean((ours == code).astype(float), (np.array(theirs) == code).astype(float))
