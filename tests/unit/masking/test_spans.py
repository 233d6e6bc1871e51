"""Spans, whole words and channels: exact counts, contiguity, independence of padding and process, fixed tokens."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from math import comb

import pytest
import torch
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Channel, Span, Tube, Whole, build_mask, mask_names
from mmssl.patches import Patches


def places(lengths: list[int], fixed: tuple[int, ...] = ()) -> Patches:
    """Texts of single-token words."""
    most = max(lengths)
    coords = torch.arange(most, dtype=torch.float32).expand(len(lengths), most)[..., None].contiguous()
    valid = coords[..., 0] < torch.tensor(lengths)[:, None]
    held = torch.zeros_like(valid)
    held[:, list(fixed)] = True
    full = bool(valid.all())
    return Patches(torch.randn(*valid.shape, 2), coords, valid, full, fixed=held & valid if fixed else None)


def hidden(mask: object, patches: Patches, draws: Draws) -> torch.Tensor:
    split = mask({"x": patches}, draws)["x"]  # type: ignore[operator]
    keep, hide = patches.hidden_by(split.keep), patches.hidden_by(split.hide)
    assert torch.equal(keep ^ hide, patches.valid) and not (keep & hide).any()
    return hide


def runs(row: torch.Tensor) -> list[int]:
    return [len(list(group)) for value, group in groupby(row.tolist()) if value]


@pytest.mark.parametrize(("ratio", "length"), [(0.15, 3.0), (0.5, 1.0), (0.65, 10.0), (0.9, 2.0), (0.3, 500.0)])
def test_spans_have_the_exact_count_and_number(ratio: float, length: float) -> None:
    n = 60
    hide = hidden(Span(ratio=ratio, length=length), places([n] * 40), Draws(4, 40))
    total = n - max(int(n * (1 - ratio) + 1e-6), 1)
    spans = min(max(round(total / length), 1), total, n - total + 1)
    assert hide.sum(1).tolist() == [total] * 40
    assert {len(runs(row)) for row in hide} == {spans}
    assert len({tuple(row.tolist()) for row in hide}) > 20  # and they differ from sample to sample


def test_every_arrangement_is_equally_likely() -> None:
    """Of 7 places 4 hidden in 2 spans: comb(3, 1) ways to share the lengths, comb(4, 2) ways to share the gaps."""
    rows = 9000
    hide = hidden(Span(ratio=0.5, length=2.0), places([7] * rows), Draws(11, rows))
    counts = Counter(tuple(row) for row in hide.int().tolist())
    ways = comb(3, 1) * comb(4, 2)
    assert len(counts) == ways
    expected = rows / ways
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 45  # chi2 of 17 degrees, p < 3e-4


@pytest.mark.parametrize("mask", [Span(ratio=0.4, length=2.5), Whole(ratio=0.4, axes=[0])])
def test_neither_padding_nor_the_process_nor_the_order_matters(mask: object) -> None:
    whole = hidden(mask, places([9, 17, 3, 0, 1]), Draws(2, 5))
    assert torch.equal(whole[0, :9], hidden(mask, places([9]), Draws(2, 1))[0])
    assert torch.equal(whole[1:3], hidden(mask, places([17, 3]), Draws(2, 2, 1, 5)))
    assert not whole[3:].any()  # of one place none is hidden
    plain, order = places([13]), torch.randperm(13)
    straight = hidden(mask, plain, Draws(3, 1))
    assert torch.equal(hidden(mask, plain.take(order[None], full=True), Draws(3, 1)), straight[:, order])


def test_fixed_tokens_stay_and_spans_pass_over_them() -> None:
    patches = places([20, 12], fixed=(0, 5, 11))
    for key in range(20):
        hide = hidden(Span(ratio=0.5, length=4.0), patches, Draws(key, 2))
        assert not hide[:, [0, 5, 11]].any()
        assert hide.sum(1).tolist() == [17 - 8, 9 - 4]
        left = hide[0][[i for i in range(20) if i not in (0, 5, 11)]]
        assert len(runs(left)) == 2  # 9 hidden places in spans of about 4


def words() -> Patches:
    """[CLS] two words of 3 and 1 tokens, one of 2, [SEP], four of 1, padding: as mmssl_text numbers them."""
    word = torch.tensor([-1, 0, 0, 0, 1, 2, 2, -1, 3, 4, 5, 6, 0, 0]).float().expand(50, -1)
    coords = torch.stack([torch.arange(14.0).expand(50, -1), word], -1)
    valid = (torch.arange(14) < 12).expand(50, -1).contiguous()
    return Patches(torch.zeros(50, 14, dtype=torch.int64), coords, valid, fixed=valid & (word < 0))


def test_whole_words_are_hidden_with_all_their_tokens() -> None:
    patches = words()
    for mask, count in ((Whole(ratio=0.3), 3), (Span(ratio=0.5, length=2.0, axis=1), 4)):
        hide = hidden(mask, patches, Draws(8, 50))
        token_words = patches.coords[0, :, 1].int().tolist()
        for row in hide:
            chosen = {w for w, h in zip(token_words[:12], row.tolist(), strict=False) if h}
            assert -1 not in chosen and len(chosen) == count
            assert all(bool(row[i]) == (token_words[i] in chosen) for i in range(12))
            assert not row[12:].any()
        assert len({tuple(row.tolist()) for row in hide}) > 10
    spans = hidden(Span(ratio=0.5, length=2.0, axis=1), patches, Draws(8, 50))
    for row in spans:  # 4 of 7 words in 2 runs of words
        by_word = torch.stack([row[token_words.index(w)] for w in range(7)])
        assert len(runs(by_word)) == 2


def test_channels_are_hidden_at_all_times() -> None:
    grid = torch.cartesian_prod(torch.arange(5) * 0.5, torch.arange(12) * 1.0).expand(3, -1, -1).contiguous()
    patches = Patches(torch.randn(3, 60, 4), grid, torch.ones(3, 60, dtype=torch.bool), full=True)
    hide = hidden(Channel(), patches, Draws(1, 3)).view(3, 5, 12)
    assert torch.equal(hide, hide[:, :1].expand_as(hide)) and hide[:, 0].sum(1).tolist() == [6, 6, 6]
    same = hidden(Tube(ratio=0.5), patches, Draws(1, 3)).view(3, 5, 12)
    assert torch.equal(hide, same)
    bands = hidden(Whole(ratio=0.25, axes=[1]), patches, Draws(1, 3)).view(3, 5, 12)
    assert torch.equal(bands, bands[:, :1].expand_as(bands)) and bands[:, 0].sum(1).tolist() == [3, 3, 3]


def test_by_name_and_refusals() -> None:
    assert {"span", "whole", "channel"} <= set(mask_names())
    assert isinstance(build_mask({"type": "span", "ratio": {"text": 0.15}}), Span)
    one = {"text": places([4])}
    with pytest.raises(UserError, match=r"span: axis: found 1, but the patches of 'text' have 1 coordinate"):
        Span(axis=1)(one, Draws(0, 1))
    with refused("axes", "2"):
        Whole(axes=[0, 2])(one, Draws(0, 1))
    assert Span(ratio={"audio": 0.5})(one, Draws(0, 1)) == {}
