"""Masks that hide whole groups of patches: tubes in space, whole times."""

from __future__ import annotations

import pytest
import torch
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking import Temporal, Tube, build_mask, mask_names
from mmssl.patches import Patches

ROWS, COLUMNS = 5, 4


def video(times: list[int], fixed: bool = False) -> Patches:
    """One clip a number of times, on a grid of ROWS x COLUMNS, padded."""
    most = max(times)
    grid = torch.cartesian_prod(torch.arange(most) * 0.25, torch.arange(ROWS) * 1.0, torch.arange(COLUMNS) * 1.0)
    coords = grid.expand(len(times), -1, -1).contiguous()
    valid = coords[..., 0] < torch.tensor(times)[:, None] * 0.25
    return Patches(torch.randn(*valid.shape, 2), coords, valid, full=bool(valid.all()))


def hidden(mask: object, patches: Patches, draws: Draws) -> torch.Tensor:
    split = mask({"video": patches}, draws)["video"]  # type: ignore[operator]
    keep, hide = patches.hidden_by(split.keep), patches.hidden_by(split.hide)
    assert torch.equal(keep ^ hide, patches.valid) and not (keep & hide).any()  # every valid patch is in one of them
    return hide


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_tubes_hide_the_same_places_at_all_times(ratio: float) -> None:
    patches = video([6, 6, 6])
    hide = hidden(Tube(ratio=ratio), patches, Draws(1, 3)).view(3, 6, ROWS * COLUMNS)
    assert torch.equal(hide, hide[:, :1].expand_as(hide))
    kept = max(int(20 * (1 - ratio) + 1e-6), 1)
    assert (~hide[:, 0]).sum(1).tolist() == [kept] * 3
    assert not torch.equal(hide[0], hide[1])
    split = Tube(ratio=ratio)({"video": patches}, Draws(1, 3))["video"]
    assert split.full and split.keep.shape == (3, 6 * kept)


def test_every_place_is_hidden_equally_often() -> None:
    counts = hidden(Tube(ratio=0.5), video([1] * 2000), Draws(3, 2000)).float().mean(0)
    assert (counts - 0.5).abs().max() < 0.05


def test_groups_do_not_depend_on_padding_or_process() -> None:
    for mask in (Tube(ratio=0.7), Temporal(ratio=0.5), Temporal(ratio=0.5, choose="run")):
        whole = hidden(mask, video([4, 8, 2, 0]), Draws(9, 4)).view(4, 8, -1)
        alone = hidden(mask, video([4]), Draws(9, 1)).view(1, 4, -1)
        assert torch.equal(whole[0, :4], alone[0])
        second = hidden(mask, video([8, 2]), Draws(9, 2, 1, 4)).view(2, 8, -1)
        assert torch.equal(whole[1:3], second)


def test_times_are_hidden_whole() -> None:
    hide = hidden(Temporal(ratio=0.5), video([8, 8, 3, 1]), Draws(2, 4)).view(4, 8, -1)
    assert torch.equal(hide.any(2), hide.all(2))
    assert hide.any(2).sum(1).tolist() == [4, 4, 2, 0]  # of n times int(n / 2) are kept, but never none


def test_a_run_lies_between_the_first_and_the_last_time() -> None:
    starts = set()
    for key in range(30):
        hide = hidden(Temporal(ratio=0.5, choose="run"), video([8, 2]), Draws(key, 2)).view(2, 8, -1).any(2)
        at = hide[0].nonzero()[:, 0].tolist()
        assert at == list(range(at[0], at[0] + 4)) and at[0] >= 1 and at[-1] <= 6
        assert not hide[1].any()  # two times: nothing lies between
        starts.add(at[0])
    assert starts == {1, 2, 3}


def test_fixed_patches_stay_and_order_is_free() -> None:
    patches = video([4])
    patches = patches.replace(fixed=torch.arange(patches.count)[None] == 7)
    assert not hidden(Tube(ratio=0.9), patches, Draws(0, 1))[0, 7]
    order = torch.randperm(patches.count)
    plain = video([4])
    straight = hidden(Tube(ratio=0.6), plain, Draws(0, 1))
    assert torch.equal(hidden(Tube(ratio=0.6), plain.take(order[None], full=True), Draws(0, 1)), straight[:, order])


def test_by_name_and_refusals() -> None:
    assert {"tube", "temporal"} <= set(mask_names())
    assert build_mask({"type": "tube", "ratio": {"video": 0.9}}).ratio == {"video": 0.9}
    assert build_mask({"type": "tube", "ratio": {"other": 0.9}})({"video": video([2])}, Draws(0, 1)) == {}
    with refused("time", "3"):
        Tube(time=3)({"video": video([2])}, Draws(0, 1))
