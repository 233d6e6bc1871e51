"""Draws are a pure function of (key, row, position); masks have exactly the asked count and shape."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from toys.refusals import refused

from mmssl.draws import Draws, key_of, uniforms
from mmssl.masking import Block, MultiBlock, PerModality, Random, Temporal, Tube, Whole, build_mask
from mmssl.patches import Patches


def patches(batch, n, valid=None, coords=None, fixed=None):
    coords = torch.arange(n, dtype=torch.float32).expand(batch, n)[..., None] if coords is None else coords
    full = valid is None
    valid = torch.ones(batch, n, dtype=torch.bool) if full else valid
    return Patches(torch.randn(batch, n, 3), coords.contiguous(), valid, full, fixed=fixed)


def test_uniform_draws_are_uniform_and_independent():
    u = Draws(7, 400)("a").uniform(500)
    assert abs(u.mean().item() - 0.5) < 0.002 and abs(u.var().item() - 1 / 12) < 0.001
    counts = torch.histc(u, 50, 0, 1)
    chi2 = ((counts - 4000) ** 2 / 4000).sum().item()
    assert chi2 < 95  # 49 degrees of freedom, p < 1e-4
    assert abs(np.corrcoef(u[:-1].flatten(), u[1:].flatten())[0, 1]) < 0.01
    assert abs(np.corrcoef(u[:, :-1].flatten(), u[:, 1:].flatten())[0, 1]) < 0.01
    other = Draws(8, 400)("a").uniform(500)
    assert abs(np.corrcoef(u.flatten(), other.flatten())[0, 1]) < 0.01
    n = Draws(7, 400).normal(500)
    assert abs(n.mean().item()) < 0.01 and abs(n.std().item() - 1) < 0.01


def test_two_processes_and_padding_draw_the_same():
    whole = Draws(3, 8)
    halves = [Draws(3, 4, first, 8) for first in (0, 4)]
    assert torch.equal(whole.bits(5), torch.cat([h.bits(5) for h in halves]))
    assert torch.equal(whole.bits(5), whole.bits(9)[:, :5])
    assert torch.equal(halves[0].permutation(), whole.permutation())
    assert sorted(whole.permutation().tolist()) == list(range(8))
    assert key_of(1, "a") != key_of(1, "b") and key_of(1, 2) != key_of(2, 1)


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("mask", [Random, Block])
def test_counts_are_exact(mask, ratio):
    side = 14
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(1, -1, 2)
    p = patches(6, side * side, coords=grid.float().expand(6, -1, -1))
    split = mask(ratio=ratio)({"x": p}, Draws(1, 6))["x"]
    kept = int(side * side * (1 - ratio) + 1e-6)
    assert split.keep.shape == (6, kept) and split.hide.shape == (6, 1, side * side - kept) and split.full
    both = torch.cat([split.keep, split.hide[:, 0]], 1).sort(1).values
    assert torch.equal(both, torch.arange(side * side).expand(6, -1))


def test_short_samples_padding_and_fixed_patches():
    valid = torch.arange(10)[None] < torch.tensor([10, 4, 1, 0])[:, None]
    fixed = torch.zeros(4, 10, dtype=torch.bool)
    fixed[:, 0] = True
    p = patches(4, 10, valid, fixed=fixed & valid)
    split = Random(ratio=0.5)({"x": p}, Draws(1, 4))["x"]
    hidden = p.hidden_by(split.hide)
    assert hidden.sum(1).tolist() == [5, 2, 0, 0]  # of 9, 3, 0, 0 maskable: all but max(int(n / 2), 1)
    assert not (hidden & (fixed | ~valid)).any()
    kept = p.hidden_by(split.keep)
    assert torch.equal(kept, valid & ~hidden)


def test_random_masks_do_not_depend_on_padding():  # wherever the padding lies
    valid = torch.arange(12)[None] < torch.tensor([7, 5])[:, None]
    long, short = patches(2, 12, valid), patches(2, 7, valid[:, :7])
    a = Random(ratio=0.5)({"x": long}, Draws(1, 2))["x"].hide
    b = Random(ratio=0.5)({"x": short}, Draws(1, 2))["x"].hide
    assert torch.equal(long.hidden_by(a)[:, :7], short.hidden_by(b))


def test_one_block_is_connected():
    side = 12
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(1, -1, 2)
    p = patches(20, side * side, coords=grid.float().expand(20, -1, -1))
    split = Block(ratio=0.3, boxes=1, aspect=[0.5, 2.0])({"x": p}, Draws(5, 20))["x"]
    for hidden in p.hidden_by(split.hide).view(-1, side, side).numpy():
        cells = {tuple(c) for c in np.argwhere(hidden)}
        seen, todo = set(), [next(iter(cells))]
        while todo:
            r, c = todo.pop()
            if (r, c) in cells and (r, c) not in seen:
                seen.add((r, c))
                todo += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        assert seen == cells
    rows = split.hide[:, 0] // side
    assert rows.float().std(1).mean() < 3  # a random mask has about 3.45


def test_ratio_a_modality_and_a_mask_a_modality():
    two = {"a": patches(3, 20), "b": patches(3, 10)}
    out = Random(ratio={"a": 0.75})(two, Draws(1, 3))
    assert set(out) == {"a"} and out["a"].keep.shape[1] == 5
    mask = build_mask({"type": "per-modality", "masks": {"b": {"type": "block", "ratio": 0.5}}})
    assert isinstance(mask, PerModality) and set(mask(two, Draws(1, 3))) == {"b"}
    with refused(meant="random"):
        build_mask({"type": "randon"})


def test_take_follows_links_and_holes():
    p = patches(2, 4).replace(links=torch.arange(32.0).view(2, 4, 4))
    taken = p.take(torch.tensor([[3, 1, -1], [0, 2, 1]]))
    assert taken.valid.tolist() == [[True, True, False], [True, True, True]]
    assert taken.links[0, 0, 1] == p.links[0, 3, 1] and taken.links[1, 1, 2] == p.links[1, 2, 1]
    assert (taken.links[0, 2] == 0).all() and (taken.values[0, 2] == 0).all()


COORDS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 3)),
    elements=st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1.0, 2.0]),
)


@given(coords=COORDS, data=st.data(), ratio=st.floats(0, 0.99), seed=st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("mask", [Random, Block, Tube, Temporal, partial(Whole, axes=[0])])
def test_what_is_kept_and_what_is_hidden_part_the_patches(mask, coords, data, ratio, seed):
    """Wherever the patches lie (twice at one place, all in a line, none): each that is there is kept or hidden, once;
    what is fixed is kept, and of a sample that has patches never nothing."""
    batch, n, _ = coords.shape
    where = arrays.arrays(bool, (batch, n))
    valid, fixed = (torch.from_numpy(data.draw(where)) for _ in range(2))
    p = Patches(torch.zeros(batch, n, 1), torch.from_numpy(coords), valid, bool(valid.all()), fixed=fixed & valid)
    split = mask(ratio=ratio)({"x": p}, Draws(seed, batch))["x"]
    for row in range(batch):
        keep = [i for i in split.keep[row].tolist() if i >= 0]
        hide = [i for i in split.hide[row].flatten().tolist() if i >= 0]
        assert sorted(keep + hide) == valid[row].nonzero()[:, 0].tolist()
        assert not fixed[row, hide].any()
        assert keep or not valid[row].any()
    if split.full:
        assert (split.keep >= 0).all() and (split.hide >= 0).all()


@given(data=st.data(), batch=st.integers(1, 3), n=st.integers(1, 6), k=st.integers(0, 8))
@settings(max_examples=150, deadline=None)
def test_taking_patches_is_indexing_sample_by_sample(data, batch, n, k):
    """Against a loop in Python, for any index with holes, repeats and padding."""
    valid, fixed = (torch.from_numpy(data.draw(arrays.arrays(bool, (batch, n)))) for _ in range(2))
    index = torch.from_numpy(data.draw(arrays.arrays(np.int64, (batch, k), elements=st.integers(-1, n - 1))))
    number = torch.arange(1.0, 1 + batch * n * n).view(batch, n, n)
    p = Patches(number[..., :2].contiguous(), number[..., :1].contiguous(), valid, False, links=number, fixed=fixed)
    taken = p.take(index)
    for row in range(batch):
        for to, i in enumerate(index[row].tolist()):
            hole = i < 0
            assert bool(taken.valid[row, to]) == (not hole and bool(valid[row, i]))
            assert bool(taken.fixed[row, to]) == (not hole and bool(fixed[row, i]))
            assert taken.values[row, to].tolist() == ([0.0] * p.values.shape[2] if hole else p.values[row, i].tolist())
            assert taken.coords[row, to].tolist() == ([0.0] if hole else p.coords[row, i].tolist())
            for across, j in enumerate(index[row].tolist()):
                assert taken.links[row, to, across] == (0 if hole or j < 0 else number[row, i, j])
    picked = torch.zeros(batch, n, dtype=torch.bool)
    for row, i in (index >= 0).nonzero().tolist():
        picked[row, index[row, i]] = True
    assert torch.equal(p.hidden_by(index), picked)


def test_numpy_draws_what_torch_draws(monkeypatch):
    """On a CPU numpy computes the hash, in 32 bits that wrap; elsewhere torch, in 64 that are cut."""

    def drawn() -> list[torch.Tensor]:
        several = [Draws(key, 5, 7, 40) for key in (0, 1, 0xFFFFFFFF, 0x80000001)]
        return [
            *(d.bits(*shape) for d in several for shape in ((), (3,), (4, 2), (2, 3, 5), (0,))),
            *(d.permutation() for d in several),
            *(d.integers(1000, 9) for d in several),
            uniforms(several, 4, 2),
            torch.stack([d.uniform(4, 2) for d in several]),
        ]

    ours = drawn()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    theirs = drawn()
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert torch.equal(ours[-1], ours[-2])


@pytest.mark.parametrize("first", [0, 1])
def test_samples_on_one_grid_get_the_boxes_that_they_get_beside_others(first):
    """One grid for all samples is looked up once, and says what sorting each sample's coordinates says."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    coords = torch.stack([y, x], -1).reshape(1, 54, 2).repeat(3, 1, 1)
    mixed = coords.clone()
    mixed[0] = coords[0].flip(0) * 2.5 + first  # the first sample lies on another grid
    there = torch.ones(3, 54, dtype=torch.bool)
    values = torch.zeros(3, 54, 1)
    for mask in (MultiBlock(), MultiBlock(targets=2, scale=[0.5, 0.6], axes=[1])):
        alike = mask({"x": Patches(values, coords, there, full=True)}, Draws(3, 3))["x"]
        other = mask({"x": Patches(values, mixed, there, full=True)}, Draws(3, 3))["x"]
        assert torch.equal(alike.hide[1:], other.hide[1:])
        keep = [set(row.tolist()) - {-1} for row in alike.keep]
        assert keep[1:] == [set(row.tolist()) - {-1} for row in other.keep][1:]


def test_noise_is_normal_and_follows_its_place_alone():
    x = Draws(1, 40).noise(3, 40, 41)
    assert abs(x.mean()) < 0.02 and abs(x.var() - 1) < 0.02 and abs((x**4).mean() - 3) < 0.1
    pairs = x[..., 0:40:2] * x[..., 1::2]  # of one radius and one angle, and yet independent
    assert abs(pairs.mean()) < 0.02 and abs((x[..., 0:40:2].square() * x[..., 1::2].square()).mean() - 1) < 0.05
    assert torch.equal(Draws(1, 40).noise(2, 40, 30), x[:, :2, :, :30])
    assert torch.equal(Draws(1, 15, 25, 40).noise(3, 40, 41), x[25:])
