"""The decoder that attends to another view, and rotary positions in it, against an independent computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys.refusals import refused

from mmssl.models.decoder import Beside, Decoder
from mmssl.models.options import DecoderPositions
from mmssl.patches import Patches
from mmssl_image import Modality

GRID, WIDTH, HEADS, DEPTH = 4, 16, 2, 2
BASE = 100.0


def modality(width: int = 12) -> Modality:
    return Modality(width, size=[8, 8], patch=[2, 2], channels=1, mean=[0.0], std=[1.0], positions="sincos")


def decoder(crosses: bool = True, **positions: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = 12, 5, WIDTH, DEPTH, HEADS
    made = Decoder(modality(), *sizes, crosses=crosses, positions=DecoderPositions(**positions)).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return made


def patches(rows: Tensor) -> Patches:
    """(B, n) numbers of patches on the grid; -1: none."""
    coords = torch.stack([rows // GRID, rows % GRID], -1).float().masked_fill(rows[..., None] < 0, 0)
    return Patches(torch.zeros(*rows.shape, 4), coords, rows >= 0, bool((rows >= 0).all()))


def turned(x: Tensor, places: Tensor) -> Tensor:
    """x (n, d) turned pair by pair; places (n, 2): half of the channels by row, half by column."""
    out = x.clone()
    pairs = x.shape[1] // 4
    for axis in range(2):
        for pair in range(pairs):
            at = axis * 2 * pairs + 2 * pair
            angle = places[:, axis] * BASE ** (-pair / pairs)
            out[:, at] = x[:, at] * angle.cos() - x[:, at + 1] * angle.sin()
            out[:, at + 1] = x[:, at + 1] * angle.cos() + x[:, at] * angle.sin()
    return out


def attended(q: Tensor, k: Tensor, v: Tensor, at: Tensor | None, other: Tensor | None) -> Tensor:
    """Head by head softmax attention of (n, D) over (m, D); at, other: places of either where they turn."""
    found = []
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        a, b = q[:, part], k[:, part]
        if at is not None and other is not None:
            a, b = turned(a, at), turned(b, other)
        found.append((a @ b.T / (WIDTH / HEADS) ** 0.5).softmax(-1) @ v[:, part])
    return torch.cat(found, 1)


def by_hand(
    net: Decoder, prefix: Tensor, tokens: Tensor, seen: Patches, asked: Patches, other: Any, rotary: bool
) -> Any:
    """CroCo's decoder of one sample: in each block attention, attention to the other view, perceptron."""

    def norm(x: Tensor, of: Any) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], of.weight, of.bias, 1e-6)

    def placed(x: Tensor, of: Patches) -> Tensor:
        return x if rotary else x + net.positions(of.coords[0]).double()

    spans = [seen.coords[0].double(), asked.coords[0].double()]
    at = torch.cat([torch.zeros(len(prefix), 2).double(), *spans])  # no angle is no turn
    x = torch.cat(
        [
            net.project(prefix),
            placed(net.project(tokens), seen),
            placed(net.mask.tokens.expand(len(spans[1]), -1), asked),
        ]
    )
    memory = None if other is None else placed(net.project(other[0]), other[1])
    for block, cross in zip(net.trunk.blocks, net.crosses, strict=True):
        q, k, v = block.attention.qkv(norm(x, block.norm1)).chunk(3, -1)
        own = (at, at) if rotary else (None, None)
        x = x + block.attention.proj(attended(q, k, v, *own))
        if memory is not None:
            q, (k, v) = cross.q(norm(x, cross.norm)), cross.kv(norm(memory, cross.norm_other)).chunk(2, -1)
            theirs = (at, other[1].coords[0].double()) if rotary else (None, None)
            x = x + cross.proj(attended(q, k, v, *theirs))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(norm(x, block.norm2))))
    return net.head(norm(x, net.trunk.norm))[len(x) - len(spans[1]) :]


@pytest.mark.parametrize("rotary", [False, True])
def test_a_decoder_beside_another_view_equals_its_formula(rotary: bool) -> None:
    """Also of a sample that has no other view, to which nothing is added, and of patches that are not there."""
    net = decoder(**({"positions": "rotary", "rotary_base": BASE} if rotary else {}))
    if net.rotary is not None:
        net.rotary.precision = torch.float64
    seen = patches(torch.tensor([[0, 5, 6], [3, 9, 10]]))
    asked = patches(torch.tensor([[1, 15], [2, 8]]))
    there = torch.tensor([[0, 4, 7, 13], [-1, -1, -1, -1]])
    there = torch.cat([there, torch.tensor([[2, -1], [-1, -1]])], 1)
    other = patches(there)
    prefix, tokens, theirs = (torch.randn(2, n, 12).double() for n in (1, 3, 6))
    ours = net(prefix, tokens, seen, asked, beside=Beside(theirs, other))
    for row in (0, 1):
        valid = there[row] >= 0
        beside = (theirs[row, valid], patches(there[row : row + 1, valid])) if valid.any() else None
        one = (prefix[row], tokens[row], seen.rows(slice(row, row + 1)), asked.rows(slice(row, row + 1)), beside)
        torch.testing.assert_close(ours[row], by_hand(net, *one, rotary), rtol=0, atol=1e-6 if rotary else 1e-9)


def test_rotary_positions_depend_on_differences_alone() -> None:
    """A shift of all coordinates changes nothing; added ones it would change."""
    prefix, tokens, theirs = (torch.randn(1, n, 12).double() for n in (1, 3, 2))
    rows = [torch.tensor([[0, 5, 6]]), torch.tensor([[1, 9]]), torch.tensor([[4, 8]])]
    for kind, same in (("additive", False), ("rotary", True)):
        net = decoder(positions=kind)
        if net.rotary is not None:
            net.rotary.precision = torch.float64
        found = []
        for shift in (0, 1):  # to the right
            seen, asked, other = (patches(of + shift) for of in rows)
            found.append(net(prefix[:, :0], tokens, seen, asked, beside=Beside(theirs, other)))
        assert torch.allclose(*found, rtol=0, atol=1e-9) is same


def test_several_sets_of_queries_are_as_if_each_came_alone() -> None:
    net = decoder(positions="rotary")
    prefix, tokens, theirs = (torch.randn(2, n, 12).double() for n in (1, 3, 2))
    seen, other = (
        patches(torch.tensor([[0, 5, 6], [3, 9, 10]])),
        Beside(theirs, patches(torch.tensor([[4, 8], [-1, -1]]))),
    )
    sets = torch.tensor([[[1, 2], [7, 11]], [[0, 1], [14, 15]]])
    together = net(prefix, tokens, seen, patches(sets.flatten(0, 1)), beside=other).unflatten(0, (2, 2))
    for number in (0, 1):
        alone = net(prefix, tokens, seen, patches(sets[:, number]), beside=other)
        torch.testing.assert_close(together[:, number], alone, rtol=0, atol=1e-9)


def test_what_cannot_turn_or_look_is_refused() -> None:
    from toys import table

    with refused("decoder", "rotary", "additive"):
        cells = table.Modality(12, **table.Preprocessor(table.Config(columns={"age": 0})).sizes())
        Decoder(cells, 12, 5, 16, 1, 2, positions=DecoderPositions(positions="rotary"))
    with refused("decoder", "heads"):
        Decoder(modality(), 12, 5, 16, 1, 8, positions=DecoderPositions(positions="rotary"))
    with pytest.raises(ValueError, match="pass `beside`"):
        prefix, tokens = torch.zeros(1, 1, 12).double(), torch.zeros(1, 1, 12).double()
        one = patches(torch.tensor([[1]]))
        decoder()(prefix, tokens, one, one)
