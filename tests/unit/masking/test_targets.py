"""Masks with a context and several target sets: counts, shapes, disjointness, connectedness, draws."""

from __future__ import annotations

import pytest
import torch
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import FeatureSubsets, MultiBlock, Regions, Subgraphs, TimeBlocks, build_mask, mask_names
from mmssl.masking.targets import drawn_share, united
from mmssl.patches import Patches, Split


def grid(batch: int, *sides: int) -> Patches:
    coords = torch.cartesian_prod(*(torch.arange(side) * 1.0 for side in sides))
    coords = (coords if coords.ndim == 2 else coords[:, None]).expand(batch, -1, -1).contiguous()
    return Patches(torch.zeros(*coords.shape[:2], 1), coords, torch.ones(coords.shape[:2], dtype=torch.bool), True)


def graphs(nodes: list[int], seed: int = 0, chain: bool = False) -> Patches:
    """Random trees with a few more edges, padded."""
    g, most = torch.Generator().manual_seed(seed), max(nodes)
    links, valid = torch.zeros(len(nodes), most, most), torch.zeros(len(nodes), most, dtype=torch.bool)
    for i, n in enumerate(nodes):
        valid[i, :n] = True
        for node in range(1, n):
            other = node - 1 if chain else int(torch.randint(node, (), generator=g))
            links[i, node, other] = 1.0  # one direction only: read in both
    return Patches(torch.zeros(len(nodes), most, 1), torch.zeros(len(nodes), most, 1), valid, links=links)


def electrodes(batch: int, channels: int = 19, times: int = 5) -> Patches:
    at = torch.randn(channels, 3, generator=torch.Generator().manual_seed(1))
    coords = torch.cat([torch.arange(times).repeat(channels)[:, None] * 0.5, at.repeat_interleave(times, 0)], 1)
    coords = coords.expand(batch, -1, -1).contiguous()
    return Patches(torch.zeros(*coords.shape[:2], 1), coords, torch.ones(coords.shape[:2], dtype=torch.bool), True)


def apply(mask: object, patches: Patches, draws: Draws) -> tuple[Split, torch.Tensor, torch.Tensor]:
    """(split, (B, N) context, (B, M, N) targets), after what holds of every mask: disjoint, valid, no double entry."""
    split = mask({"x": patches}, draws)["x"]  # type: ignore[operator]
    context = patches.hidden_by(split.keep)
    targets = torch.stack([patches.hidden_by(split.hide[:, i]) for i in range(split.hide.shape[1])], 1)
    assert not (context & targets.any(1)).any()
    assert not ((context | targets.any(1)) & ~patches.valid).any()
    assert torch.equal(context.sum(1), (split.keep >= 0).sum(1))
    assert torch.equal(targets.sum(2), (split.hide >= 0).sum(2))
    assert (context.any(1) == patches.present).all()
    if split.full:
        assert (split.keep >= 0).all() and (split.hide >= 0).all()
    return split, context, targets


def connected(cells: set[tuple[int, ...]]) -> bool:
    """Over edges, not corners."""
    seen, todo = set(), [next(iter(cells))]
    while todo:
        cell = todo.pop()
        if cell in cells and cell not in seen:
            seen.add(cell)
            todo += [cell[:a] + (cell[a] + d,) + cell[a + 1 :] for a in range(len(cell)) for d in (-1, 1)]
    return seen == cells


@pytest.mark.parametrize("sides", [(14, 14), (7, 7), (5, 20), (40,), (4, 6, 6)])
def test_blocks_have_the_asked_count_and_are_connected(sides):
    batch, patches = 24, grid(24, *sides)
    for key in range(3):
        split, context, targets = apply(MultiBlock(), patches, Draws(key, batch))
        share = drawn_share([0.15, 0.2], Draws(key, batch)("x")("scale"))
        assert 0.15 <= share <= 0.2 and split.hide.shape == (batch, 4, int(patches.count * share + 0.5))
        assert (targets.sum(2) == split.hide.shape[2]).all()
        for block in targets.flatten(0, 1):
            assert connected({tuple(c.int().tolist()) for c in patches.coords[0, block]})
        if sides == (14, 14):
            assert len({tuple(b.tolist()) for b in targets[:, 0]}) > batch / 2  # drawn per sample


def test_blocks_are_rectangles_of_the_asked_aspect():
    patches = grid(64, 20, 20)
    split = MultiBlock(scale=[0.16, 0.16], aspect=[1.0, 1.0])({"x": patches}, Draws(0, 64))["x"]
    assert split.hide.shape[2] == 64  # 8 x 8 fits exactly
    rows, columns = split.hide // 20, split.hide % 20
    assert (rows.amax(2) - rows.amin(2) == 7).all() and (columns.amax(2) - columns.amin(2) == 7).all()
    assert rows.amin(2).unique().tolist() == list(range(13))  # anywhere inside, and only inside
    flat = MultiBlock(scale=[0.1, 0.1], aspect=[0.25, 0.25], targets=1)({"x": patches}, Draws(0, 64))["x"].hide[:, 0]
    height, width = (i.amax(1) - i.amin(1) + 1 for i in (flat // 20, flat % 20))
    # 40 patches in 3 x 13 and the beginning of a further row
    assert (height <= 5).all() and (width >= 12).all() and (width <= 14).all()


def test_the_context_is_what_targets_leave_of_a_large_block():
    patches = grid(32, 14, 14)
    _, context, targets = apply(MultiBlock(context=[1.0, 1.0]), patches, Draws(2, 32))
    assert torch.equal(context, ~targets.any(1))
    _, context, targets = apply(MultiBlock(context=[0.6, 0.6], targets=1, scale=[0.05, 0.05]), patches, Draws(2, 32))
    outside = 196 - round(0.6 * 196)
    assert ((~context & ~targets.any(1)).sum(1) >= outside - 10).all()
    box = context | targets.any(1)
    assert connected({tuple(c.int().tolist()) for c in patches.coords[0, box[0]]})
    split, context, _ = apply(MultiBlock(keep=0.2), patches, Draws(2, 32))
    assert split.full and (context.sum(1) == 39).all()


def test_targets_that_cover_everything_are_cut_back_until_something_is_left():
    for mask in (MultiBlock(scale=[0.9, 0.9], targets=6), MultiBlock(scale=[0.9, 0.9], targets=6, axes=[1])):
        patches = grid(20, 4, 4)
        _, context, targets = apply(mask, patches, Draws(0, 20))
        for block in targets.flatten(0, 1):
            assert connected({tuple(c.int().tolist()) for c in patches.coords[0, block]})
    one = grid(3, 1)
    split, context, targets = apply(MultiBlock(), one, Draws(0, 3))
    assert context.all() and not targets.any()


def test_tubes_go_through_all_times():
    patches = grid(16, 6, 8, 8)
    mask = MultiBlock(axes=[1, 2], targets=8, scale=[0.15, 0.15], context=[1.0, 1.0])
    split, _, targets = apply(mask, patches, Draws(3, 16))
    tubes = targets.view(16, 8, 6, 64)
    assert torch.equal(tubes, tubes[:, :, :1].expand_as(tubes)) and (tubes[:, :, 0].sum(2) == 10).all()
    for tube in tubes[:, :, 0].flatten(0, 1):
        assert connected({tuple(c.int().tolist()) for c in patches.coords[0, :64, 1:][tube]})
    joint = united(split, patches)
    assert torch.equal(patches.hidden_by(joint.hide), targets.any(1)) and joint.hide.shape[1] == 1
    assert torch.equal(joint.keep, split.keep)


@pytest.mark.parametrize("times", [100, 200, 12, 5])
def test_time_blocks_leave_the_exact_share_in_runs_of_at_least_ten(times):
    patches = grid(200, times, 2)
    _, context, targets = apply(TimeBlocks(), patches, Draws(1, 200))
    share = drawn_share([0.15, 0.25], Draws(1, 200)("x", "share"))
    kept = max(int(times * share + 0.5), 1)
    hidden = targets[:, 0].view(200, times, 2)
    assert torch.equal(hidden[..., 0], hidden[..., 1]) and (hidden[..., 0].sum(1) == times - kept).all()
    assert torch.equal(context, ~targets[:, 0])
    runs = [[len(r) for r in "".join("_#"[i] for i in row).split("_") if r] for row in hidden[..., 0].int().tolist()]
    assert min(min(r) for r in runs) >= min(10, times - kept)
    if times >= 100:
        assert {len(r) for r in runs} >= set(range(1, 6))


def test_feature_subsets_are_random_disjoint_and_reach_every_column():
    patches = grid(4000, 14)
    split, context, targets = apply(FeatureSubsets(), patches, Draws(1, 4000))
    assert split.full and split.hide.shape[1] == 4
    seen = context.float().mean(0)
    assert (seen - seen.mean()).abs().max() < 0.03  # the first and the last column as often as any other
    for one in targets.float().mean(0):
        assert (one - one.mean()).abs().max() < 0.03
    assert (targets[:, 0] & targets[:, 1]).any() and (targets[:, 0] != targets[:, 1]).any(1).float().mean() > 0.9


def test_regions_are_the_nearest_channels_at_all_times():
    patches = electrodes(30)
    _, context, targets = apply(Regions(scale=[0.25, 0.25]), patches, Draws(5, 30))
    channels = targets.view(30, 4, 19, 5)
    assert torch.equal(channels, channels[..., :1].expand_as(channels)) and (channels[..., 0].sum(2) == 5).all()
    assert torch.equal(context, ~targets.any(1))
    at = patches.coords[0, ::5, 1:].double()
    distance = torch.cdist(at, at)
    for region in channels[..., 0].flatten(0, 1):
        balls = [set(row.topk(5, largest=False).indices.tolist()) for row in distance]
        assert set(region.nonzero()[:, 0].tolist()) in balls
    assert (apply(Regions(scale=[0.01, 0.01]), patches, Draws(5, 30))[2].sum(2) == 5).all()  # one channel, 5 times
    with pytest.raises(UserError, match="no coordinate but the time"):
        Regions()({"x": grid(1, 5)}, Draws(0, 1))


@pytest.mark.parametrize("chain", [False, True])
def test_subgraphs_are_connected(chain):
    nodes = [20, 20, 9, 4, 1, 33] * 5
    patches = graphs(nodes, chain=chain)
    _, context, targets = apply(Subgraphs(scale=[0.3, 0.3]), patches, Draws(0, 30))
    assert torch.equal(context, patches.valid & ~targets.any(1))
    assert patches.links is not None
    both = patches.links + patches.links.transpose(1, 2)
    for i, n in enumerate(nodes):
        size = min(max(int(n * 0.3 + 0.5), 1), n - 1)
        for target in targets[i]:
            members = target.nonzero()[:, 0]
            assert len(members) <= size and (len(members) == size or not target.any() or targets[i].sum() < 4 * size)
            reach = torch.linalg.matrix_power(both[i][members][:, members].double() + torch.eye(len(members)), n)
            assert (reach > 0).all()
    with pytest.raises(UserError, match="no links"):
        Subgraphs()({"x": grid(1, 5)}, Draws(0, 1))


def test_a_small_component_gives_a_smaller_subgraph():
    patches = graphs([12])
    lonely = torch.zeros(1, 12, 12)
    _, _, targets = apply(Subgraphs(scale=[0.5, 0.5]), patches.replace(links=lonely), Draws(0, 1))
    assert (targets.sum(2) == 1).all()


MASKS = [
    (MultiBlock(), grid(4, 6, 6)),
    (MultiBlock(keep=0.3, axes=[1]), grid(4, 6, 6)),
    (TimeBlocks(shortest=2), grid(4, 12, 3)),
    (FeatureSubsets(), grid(4, 14)),
    (Regions(), electrodes(4)),
    (Subgraphs(), graphs([20, 15, 18, 20])),
]


@pytest.mark.parametrize(("mask", "patches"), MASKS)
def test_padding_processes_and_order_change_nothing(mask, patches):
    batch, n = patches.batch, patches.count
    _, context, targets = apply(mask, patches, Draws(9, batch))
    index = torch.cat([torch.full((batch, 3), -1), torch.arange(n).expand(batch, -1), torch.full((batch, 5), -1)], 1)
    _, padded, padded_targets = apply(mask, patches.take(index), Draws(9, batch))
    assert torch.equal(padded[:, 3:-5], context) and torch.equal(padded_targets[:, :, 3:-5], targets)
    half = patches.take(torch.arange(n).expand(batch, -1), True)
    half = Patches(
        *(getattr(half, f)[2:] for f in ("values", "coords", "valid")),
        half.full,
        None if half.links is None else half.links[2:],
    )
    _, second, second_targets = apply(mask, half, Draws(9, 2, 2, 4))
    assert torch.equal(second, context[2:]) and torch.equal(second_targets, targets[2:])
    absent = patches.replace(valid=torch.zeros_like(patches.valid), full=False)
    split, nothing, _ = apply(mask, absent, Draws(9, batch))
    assert not nothing.any() and split.keep.shape[1] >= 1


@pytest.mark.parametrize(("mask", "patches"), MASKS)
def test_fixed_patches_are_always_seen(mask, patches):
    fixed = torch.zeros_like(patches.valid)
    fixed[:, 0] = True
    _, context, _ = apply(mask, patches.replace(fixed=fixed), Draws(4, patches.batch))
    assert context[:, 0].all()


def test_by_name_and_refusals():
    assert {"multi-block", "time-blocks", "feature-subsets", "regions", "subgraphs"} <= set(mask_names())
    assert build_mask({"type": "multi-block", "targets": 2}).targets == 2
    with refused("axes", "5"):
        MultiBlock(axes=[5])({"x": grid(1, 4)}, Draws(0, 1))
