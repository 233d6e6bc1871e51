"""GMML's corrupted views: how much is overwritten, in which shapes, with what; and the loss where it was."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking.corruption import Corruption, boxes, corrupt
from mmssl.modality import load_modality
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.recipe.checks import check_recipe
from mmssl.recipe.loading import load_recipe

PIXELS = torch.randn(8, 3, 40, 36, generator=torch.Generator().manual_seed(0))


def test_the_share_overwritten_lies_within_its_bounds():
    _, hit = corrupt(PIXELS, (2, 3), Draws(1, 8), Corruption())
    share = hit[:, 0].float().mean((1, 2))
    assert (share >= 0.5).all() and (share <= 0.75).all() and share.std() > 0.02
    assert (hit == hit[:, :1]).all()  # all channels of a pixel
    narrow = corrupt(PIXELS, (2, 3), Draws(1, 8), Corruption(share=[0.2, 0.25]))[1].float().mean((1, 2, 3))
    assert (narrow >= 0.2).all() and (narrow <= 0.25).all()


def test_clean_pixels_are_untouched_and_overwritten_ones_are_not():
    for fill in ("noise", "zero", "other"):
        out, hit = corrupt(PIXELS, (2, 3), Draws(2, 8), Corruption(fill=[fill]))
        assert torch.equal(out[~hit], PIXELS[~hit])
        assert (out[hit] != PIXELS[hit]).float().mean() > 0.999
        if fill == "zero":
            assert (out[hit] == 0).all()
        if fill == "noise":
            assert abs(out[hit].mean()) < 0.05 and abs(out[hit].std() - 1) < 0.05


def test_other_is_the_same_place_of_another_sample():
    out, hit = corrupt(PIXELS, (2, 3), Draws(2, 8), Corruption(fill=["other"]))
    ring = Draws(2, 8)("other").permutation().tolist()
    order = [ring[ring.index(i) - 1] for i in range(8)]  # the next one on a ring, never the sample itself
    assert torch.equal(out[hit], PIXELS[order][hit])


def test_boxes_are_connected_rectangles_that_ignore_the_patches(monkeypatch):
    monkeypatch.setattr("mmssl.masking.corruption.TRIES", 1)
    one = Corruption(share=[1.0, 1.0], side=0.5)
    grid = torch.ones(64, 40, 36, dtype=torch.bool)
    hit, _ = boxes(grid, Draws(3, 64), one)
    starts = set()
    for sample in hit.numpy():
        _, count = ndimage.label(sample)
        rows, columns = np.nonzero(sample)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert count == 1 and sample.sum() == height * width  # connected, and full
        assert height <= 20 and width <= 18
        starts.add((rows.min() % 4, columns.min() % 4))
    assert len(starts) > 8  # of 16 places within a patch of 4 x 4


def boxes_at_full_size(grid, draws, options, tries=400):
    """`boxes` with each box as a mask of the whole sample."""
    count = grid.ndim - 1
    hit, fill = np.zeros(grid.shape, bool), np.zeros(grid.shape, int)
    share = draws("share").uniform(low=options.share[0], high=options.share[1])
    for i, there in enumerate(grid.numpy()):
        lines = [there.any(tuple(a for a in range(count) if a != axis)) for axis in range(count)]
        extent = np.array([line.nonzero()[0].max(initial=-1) + 1 for line in lines], np.float32)
        for number in range(tries):
            if hit[i].sum() >= share[i] * there.sum():
                break
            u, where, which = draws("box", number).uniform(3, count)[i].numpy()
            side = np.maximum(np.ceil(u * (options.side * extent)), 1)
            start = np.floor(where * np.maximum(extent - side + 1, 0))
            box = there.copy()
            for axis, at in enumerate(np.indices(there.shape)):
                box &= (at >= start[axis]) & (at < start[axis] + side[axis])
            if (hit[i] | box).sum() <= options.share[1] * there.sum():
                hit[i] |= box
                fill[i][box] = int(which[0] * len(options.fill))
    return hit, fill


@pytest.mark.parametrize("sizes", [(20, 18), (90,), (4, 9, 9)])
@pytest.mark.parametrize("options", [{}, {"share": [0.9, 0.92]}, {"side": 1.0}])
def test_boxes_are_those_of_whole_masks(sizes, options):
    grid = torch.rand(5, *sizes, generator=torch.Generator().manual_seed(0)) > 0.1
    grid[0, sizes[0] // 2 :], grid[1] = False, False  # a shorter sample, and one that is absent
    options = Corruption(fill=["noise", "zero", "other"], **options)
    hit, fill = boxes(grid, Draws(7, 5), options)
    expected, kind = boxes_at_full_size(grid, Draws(7, 5), options)
    assert np.array_equal(hit, expected) and np.array_equal(fill * hit, kind * expected)


def test_boxes_have_sides_and_fills_as_gmml_draws_them(monkeypatch):
    options = Corruption(share=[1.0, 1.0], fill=["noise", "zero"])
    monkeypatch.setattr("mmssl.masking.corruption.TRIES", 1)
    hit, fill = boxes(torch.ones(3000, 40, 40, dtype=torch.bool), Draws(1, 3000), options)
    height, width = (hit.any(axis).sum(1) for axis in (2, 1))
    for side in (height, width):  # uniform from 1 to 12
        counts = torch.bincount(side, minlength=13)[1:]
        assert len(counts) == 12 and ((counts - 250).square() / 250).sum() < 11 + 4.5 * 22**0.5
    assert abs(torch.corrcoef(torch.stack([height, width]).float())[0, 1]) < 4.5 / 3000**0.5
    zeros = (fill.flatten(1).amax(1) == 1).float().mean()
    assert abs(zeros - 0.5) < 4.5 * 0.5 / 3000**0.5
    monkeypatch.undo()
    hit, _ = boxes(torch.ones(300, 40, 40, dtype=torch.bool), Draws(2, 300), Corruption())
    share = hit.flatten(1).float().mean(1)
    wanted = Draws(2, 300)("share").uniform(low=0.5, high=0.75)
    assert ((share >= wanted - 1e-6) & (share <= 0.75)).all() and (share - wanted).mean() < 0.02


def test_missing_samples_stay_missing_and_do_not_count():
    signal = torch.randn(6, 3, 200, generator=torch.Generator().manual_seed(1))
    signal[0, :, 120:] = torch.nan
    signal[1, 2] = torch.nan
    signal[2] = torch.nan
    out, hit = corrupt(signal, (2,), Draws(4, 6), Corruption(fill=["other", "noise"]))
    assert torch.equal(out.isnan(), signal.isnan()) and not (hit & signal.isnan()).any()
    out, hit = corrupt(signal, (2,), Draws(4, 6), Corruption())
    there = (~signal.isnan()).any(1)
    share = hit.any(1).sum(1) / there.sum(1)
    assert ((share >= 0.5) & (share <= 0.75))[[0, 1, 3, 4, 5]].all()
    longer = torch.nn.functional.pad(signal, (0, 50), value=torch.nan)
    wide, _ = corrupt(longer, (2,), Draws(4, 6), Corruption())
    torch.testing.assert_close(wide[..., :200], out, rtol=0, atol=0, equal_nan=True)  # padding changes nothing
    second, _ = corrupt(signal[3:], (2,), Draws(4, 3, 3, 6), Corruption())
    assert torch.equal(second, out[3:])


SIZES = {
    "image": {"size": [16, 16], "patch": [4, 4], "channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3},
    "ecg": {"leads": ["I", "II", "V1"], "rate": 100.0, "window": 25},
    "audio": {
        "rate": 8000,
        "features": "mel",
        "mel_bins": 32,
        "window": 256,
        "shift": 80,
        "patch": [4, 8],
        "mean": -5.0,
        "std": 4.0,
    },
    "video": {"size": [16, 16], "tubelet": 2, "patch": [4, 4], "channels": 1, "mean": [0.5], "std": [0.2]},
}


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    if name == "image":
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=g)}
    if name == "ecg":
        return {"signal": torch.randn(4, 3, 250, generator=g)}
    if name == "audio":
        return {"waveform": torch.randn(4, 8000, generator=g), "length": torch.tensor([8000, 8000, 6000, 3000])}
    times = torch.arange(8).expand(4, -1) / 8
    return {"pixel_values": torch.randn(4, 8, 1, 16, 16, generator=g), "times": times}


@pytest.mark.parametrize("name", SIZES)
def test_every_modality_says_which_numbers_of_its_patches_were_overwritten(name):
    modality = load_modality(name).Modality(32, **SIZES[name])

    class Net:
        def modality(self, _):
            return modality

    views = {"spoiled": {name: {"corrupt": {"share": [0.3, 0.6]}}}}
    step = Step({name: inputs_of(name)}, Net(), views, {}, Draws(1, 4))
    hit, clean, spoiled = step.corrupted(name, "spoiled"), step.patches(name), step.patches(name, "spoiled")
    assert step.corrupted(name, "clean") is None
    assert hit.shape == clean.values.shape == spoiled.values.shape
    assert torch.equal(clean.valid, spoiled.valid)
    differ = (clean.values != spoiled.values) & ~(clean.values.isnan() & spoiled.values.isnan())
    assert not (differ & ~hit).any() and (differ & hit).sum() > 0.999 * hit.sum()
    there = clean.valid[..., None] & ~clean.values.isnan()
    share = hit.flatten(1).sum(1) / there.flatten(1).sum(1)
    assert ((share > 0.28) & (share < 0.62)).all()
    patches = hit.float().mean(-1)
    assert ((patches > 0) & (patches < 1)).any()  # some patches are hit in part


def test_the_loss_is_the_mean_absolute_error_of_what_was_overwritten():
    work = toy_world.masked()
    objective = work.objectives["gmml"]
    step = Step(toy_world.batch(toy_world.raw(6)), work.model, work.views, work.masks, Draws(1, 6))
    loss = objective(step).total
    hit, clean = step.corrupted("signal", "spoiled"), step.patches("signal", "a").values
    seen = step.encode("signal", "spoiled")
    assert seen.tokens["signal"].shape[1] == clean.shape[1]  # all tokens are kept
    error = (objective.decoders["signal"](seen.tokens["signal"]) - clean).abs()
    torch.testing.assert_close(loss, error[hit].mean(), rtol=0, atol=1e-6)
    assert not torch.equal(step.patches("signal", "spoiled").values[hit], clean[hit])


def test_what_cannot_be_is_refused_with_the_reason():
    net = toy_world.model()
    with pytest.raises(UserError, match="decoder.depth of 'signal' must be 0, found 1"):
        mae.MAE(mae.Config(tower="signal", view="x", decoder=toy_world.DECODER), net)
    objective = mae.MAE(mae.Config(tower="signal", decoder=toy_world.HEAD), net)
    with pytest.raises(UserError, match="no mask, and view 'clean' corrupts no modality of tower 'signal'"):
        Pretraining(net, {"gmml": objective})(toy_world.batch(toy_world.raw(4)), Draws(1, 4))
    for view, line in (
        ({"table": {"corrupt": {}}}, "views.x.table.corrupt: this modality has no corrupted views"),
        ({"signal": {"corrupt": {"share": 3}}}, "views.x.signal.corrupt.share: found 3"),
        ({"signal": {"corrupt": {}, "gain": 0.2}}, "views.x.signal.gain: found beside 'corrupt'"),
        ({"signal": {"corrupt": {"view": "y"}}}, "views.x.signal.corrupt.view: found unknown view 'y'"),
        ({"signal": {"corrupt": {"view": "x"}}}, "found the corrupted view 'x', expected one that is not"),
    ):
        with pytest.raises(UserError, match=line):
            Pretraining(net, {}, {"x": view})


def test_a_recipe_with_a_corrupted_view_is_checked_as_a_whole():
    gmml = {"views.spoiled": {"image": {"corrupt": {"fill": ["noise"]}}}, "objectives.mae": {"view": "spoiled"}}
    faults: list[str] = []
    check_recipe(load_recipe("examples/image_mae", gmml), faults)
    assert not faults
    with pytest.raises(UserError, match=r"views.spoiled.image.corrupt.fill: found 'nose' .text., expected .*'noise'"):
        load_recipe("examples/image_mae", {"views.spoiled": {"image": {"corrupt": {"fill": ["nose"]}}}})
