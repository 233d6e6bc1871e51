"""Transformed views against torch's own turns and slices; within what each sample has; by a number that is drawn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking.transforms import Transform, orders, transformed
from mmssl.modality.faults import view_faults
from mmssl.options.schema import load

PICTURES = torch.arange(6 * 3 * 5 * 5, dtype=torch.float32).view(6, 3, 5, 5)
SIGNALS = torch.arange(4 * 2 * 9, dtype=torch.float32).view(4, 2, 9)


def apply(x: torch.Tensor, where: tuple[int, ...], number: list[int], **options: Any) -> torch.Tensor:
    return transformed(x, where, torch.tensor(number), Transform(**options))


def test_rotations_are_torch_s_and_pads_stay_outside():
    number = [0, 1, 2, 3, 1, 2]
    wanted = torch.stack([torch.rot90(x, k, (1, 2)) for x, k in zip(PICTURES, number, strict=True)])
    assert torch.equal(apply(PICTURES, (2, 3), number), wanted)
    padded = torch.full((6, 3, 7, 7), torch.nan)
    padded[..., :5, :5] = PICTURES
    found = apply(padded, (2, 3), number)
    assert torch.equal(found[..., :5, :5], wanted)
    assert bool(found[..., 5:, :].isnan().all()) and bool(found[..., 5:].isnan().all())


def test_an_axis_runs_backwards_within_its_sample():
    padded = torch.cat([SIGNALS, torch.full((4, 2, 3), torch.nan)], 2)
    padded[1, :, 6:] = torch.nan  # a short one, and a missing channel
    padded[2, 0] = torch.nan
    found = apply(padded, (2,), [1, 1, 1, 0], kind="reversal")
    assert torch.equal(found[0, :, :9], SIGNALS[0].flip(-1))
    assert torch.equal(found[1, :, :6], SIGNALS[1, :, :6].flip(-1))
    assert torch.equal(found[2, 1, :9], SIGNALS[2, 1].flip(-1)) and torch.equal(found[3, :, :9], SIGNALS[3])
    assert torch.equal(found.isnan(), padded.isnan())
    video = torch.arange(2 * 4 * 3 * 2 * 2.0).view(2, 4, 3, 2, 2)  # frames, channels, rows, columns
    assert torch.equal(apply(video, (1, 3, 4), [1, 0], kind="reversal", axes=[0])[0], video[0].flip(0))


def test_parts_are_put_in_the_order_of_the_number():
    every = list(itertools.permutations(range(3)))
    number = [0, 3, 5, 1]
    x = torch.cat([SIGNALS, SIGNALS[..., :1]], 2)  # ten places: one is left over
    found = apply(x, (2,), number, kind="permutation", parts=3)
    for row, k in enumerate(number):
        pieces = [x[row, :, 3 * part : 3 * part + 3] for part in every[k]]
        assert torch.equal(found[row], torch.cat([*pieces, x[row, :, 9:]], -1))


def test_a_jigsaw_moves_tiles_of_both_axes():
    number = [0, 7, 23, 11, 2, 5]
    found = apply(PICTURES[..., :4, :4], (2, 3), number, kind="permutation", parts=2, axes=[0, 1])
    halves = (slice(0, 2), slice(2, 4))
    corners = list(itertools.product(halves, halves))
    for row, k in enumerate(number):
        for place, taken in enumerate(orders(4, 24)[k]):
            assert torch.equal(found[row][:, *corners[place]], PICTURES[row, :, :4, :4][:, *corners[taken]])


def test_colours_change_places():
    found = apply(PICTURES, (2, 3), [0, 1, 2, 3, 4, 5], kind="channels", parts=3)
    for row, order in enumerate(itertools.permutations(range(3))):
        assert torch.equal(found[row], PICTURES[row, list(order)])


def test_orders_lie_far_apart_and_begin_with_the_usual_one():
    some = torch.tensor(orders(9, 30))
    assert some[0].tolist() == list(range(9)) and len({tuple(o) for o in some.tolist()}) == 30
    assert all(sorted(o) == list(range(9)) for o in some.tolist())
    apart = [int((a != b).sum()) for a, b in itertools.combinations(some, 2)]
    drawn = Draws(3, 30).uniform(9).argsort(1)
    assert min(apart) > min(int((a != b).sum()) for a, b in itertools.combinations(drawn, 2))
    assert len(orders(3, 24)) == 6 == Transform(kind="permutation", parts=3).count


def test_one_of_several_kinds_is_done_or_none_and_it_is_told_which():
    options = Transform(kind="which", of=["rotation", "channels"], parts=3)
    assert options.count == 1 + 3 + 5 and options.labels == 3
    number = [0, 1, 3, 4, 8, 6]
    found = transformed(PICTURES, (2, 3), torch.tensor(number), options)
    colours = [list(order) for order in itertools.permutations(range(3))]
    pairs = zip(PICTURES, number, strict=True)
    wanted = [torch.rot90(x, k, (1, 2)) if k < 4 else x[colours[k - 3]] for x, k in pairs]
    assert torch.equal(found, torch.stack(wanted))
    assert options.label(torch.tensor(number)).tolist() == [0, 1, 1, 2, 2, 2]
    drawn = options.drawn(Draws(1, 600))
    assert options.label(drawn).bincount().min() > 150 and drawn.unique().tolist() == list(range(9))
    halves = [options.drawn(Draws(1, 300, first, 600)) for first in (0, 300)]
    assert torch.equal(drawn, torch.cat(halves))


def test_numbers_follow_the_sample_and_are_all_drawn_or_one():
    options = Transform(kind="rotation")
    whole = options.drawn(Draws(1, 400))
    halves = [options.drawn(Draws(1, 200, first, 400)) for first in (0, 200)]
    assert torch.equal(whole, torch.cat(halves)) and whole.unique().tolist() == [0, 1, 2, 3]
    assert whole.bincount().min() > 70
    assert Transform(kind="rotation", number=2).drawn(Draws(1, 3)).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"number": 4}, ("number", "at most 3")),
        ({"kind": "reversal", "parts": 3}, ("parts", "has no effect")),
        ({"kind": "permutation", "axes": [0, 0]}, ("axes", "different ones")),
        ({"kind": "which"}, ("of", "[]", "different kinds")),
        ({"kind": "which", "of": ["reversal", "reversal"]}, ("of", "different kinds")),
        ({"kind": "which", "of": ["reversal"], "parts": 3}, ("parts", "has no effect")),
        ({"of": ["reversal"]}, ("of", "has no effect with kind: rotation")),
        ({"kind": "permutation", "parts": 9, "axes": [0, 1]}, ("parts", "81")),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, facts):
    with refused(*facts):
        load(Transform, options)


@pytest.mark.parametrize(
    ("x", "axes", "options", "facts"),
    [
        (PICTURES[..., :4], (2, 3), {}, ("rotation", "square")),
        (SIGNALS, (2,), {}, ("rotation", "one axis")),
        (SIGNALS, (2,), {"kind": "reversal", "axes": [1]}, ("axes", "1 of them")),
        (PICTURES, (2, 3), {"kind": "channels"}, ("parts", "3 channels")),
    ],
)
def test_samples_that_cannot_be_transformed_so_are_refused(x, axes, options, facts):
    with refused(*facts):
        apply(x, axes, [1] * len(x), **options)


@pytest.mark.parametrize(
    ("views", "facts"),
    [
        ({"v": {"x": {"transform": {"view": "w"}}}}, ("views.v.x.transform.view", "unknown view 'w'")),
        ({"v": {"x": {"transform": {}, "flip": 1}}}, ("views.v.x.flip", "beside 'transform'")),
        ({"v": {"x": {"transform": {"view": "w"}}}, "w": {"x": {"transform": {}}}}, ("transformed view 'w'",)),
        ({"v": {"x": {"transform": {"view": "w"}}}, "w": {"x": {"corrupt": {"view": "v"}}}}, ("transformed view 'v'",)),
    ],
)
def test_what_a_transformed_view_is_made_of_is_there_and_not_itself(views, facts):
    found = " ".join(view_faults(((), True), views, "v", "x"))
    assert all(fact in found for fact in facts), found
    assert view_faults(((), False), views, "v", "x") == ["views.v.x.transform: this modality has no transformed views"]
