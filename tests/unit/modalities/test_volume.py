"""mmssl_volume: any file or array to one grid of voxels, statistics, patches, views and where they lie."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl import limits
from mmssl.data.kinds import kinds_of
from mmssl.data.listing import list_files
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl_volume import Config, Modality, View
from mmssl_volume.augment import Boxes, augment_volumes, boxes_of
from mmssl_volume.preprocessor import Preprocessor
from mmssl_volume.reading import read_volume
from mmssl_volume.resample import resampled, steps_of

nibabel = pytest.importorskip("nibabel")
CUBE = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
ROWS = 5


def array_of(raw: object, **options: Any) -> np.ndarray[Any, Any]:
    found = read_volume(raw, **options)
    assert found is not None
    return found.array


def test_it_is_looked_at_as_it_was_recorded() -> None:
    found = Preprocessor(Config(size=4, patch=2)).look({"array": CUBE, "spacing": [4.0, 2.0, 0.5]})
    assert found is not None
    assert found.sizes == {
        "slices": 4.0, "rows": 5.0, "columns": 6.0, "channels": 1.0,
        "mm between slices": 4.0, "mm between rows": 2.0, "mm between columns": 0.5,
    }  # fmt: skip
    ((name, values),) = found.channels.items()
    assert name and np.array_equal(values, CUBE) and not found.signal
    assert Preprocessor(Config()).look(None) is None


@pytest.mark.parametrize(
    ("options", "shape", "found"),
    [
        ({"size": 48, "patch": 8}, (16, 15, 10), {"size": 16, "patch": 4}),
        ({"size": 48, "patch": 8}, (9, 11, 9), {"size": 12, "patch": 2}),
        ({"size": 48, "patch": 8}, (30, 20, 20), {"size": 32, "patch": 8}),
        ({"size": 48, "patch": 8}, (20, 20, 47), {}),
        ({"size": 48, "patch": 8}, (60, 20, 20), {}),
        ({"size": 48, "patch": 8, "spacing": 1.0}, (16, 16, 16), {}),
        ({"size": [8, 48, 48], "patch": [4, 8, 8]}, (16, 16, 16), {}),
    ],
)
def test_small_volumes_are_not_enlarged(options: dict[str, Any], shape: tuple[int, ...], found: dict[str, Any]) -> None:
    values = [np.zeros(shape, np.float32)] * 3
    assert Preprocessor(Config(**options)).suggest([*values, b"broken"])[0] == found


def test_thick_slices_are_as_far_apart_as_they_are() -> None:
    scan = {"array": np.zeros((6, 24, 24), np.float32), "spacing": [8.0, 1.0, 1.0]}
    assert Preprocessor(Config(size=48, patch=8)).suggest([scan])[0] == {}, "48 rows' worth of slices"


def nifti(array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None, version: int = 1) -> bytes:
    """`array` lies as NIfTI has it: (x, y, z[, t])."""
    cls = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    data: bytes = cls(array, np.eye(4) if affine is None else affine).to_bytes()
    return data


# ------------------------------------------------------------------------------------------------------------ reading


def test_every_form_of_a_volume_gives_its_numbers(tmp_path: Path) -> None:
    lying = CUBE.transpose(2, 1, 0)  # (x, y, z)
    np.save(tmp_path / "one.npy", CUBE)
    (tmp_path / "one.nii").write_bytes(nifti(lying))
    (tmp_path / "one.nii.gz").write_bytes(gzip.compress(nifti(lying)))
    mgh = nibabel.freesurfer.MGHImage(lying, np.eye(4)).to_bytes()
    (tmp_path / "one.mgz").write_bytes(gzip.compress(mgh))
    (tmp_path / "slices").mkdir()
    for n, part in enumerate(CUBE.astype(np.uint8)):
        Image.fromarray(part).save(tmp_path / "slices" / f"slice{n + 8}.png")  # 8, 9, 10, 11: in natural order
    forms: list[object] = [
        CUBE,
        CUBE[None],
        CUBE[..., None],
        CUBE.tolist(),
        torch.from_numpy(CUBE),
        *(str(tmp_path / name) for name in ("one.npy", "one.nii", "one.nii.gz", "one.mgz", "slices")),
        {"bytes": nifti(lying, version=2), "path": None},
        {"bytes": None, "path": str(tmp_path / "one.nii")},
        nifti(lying[..., None]),
        {"array": CUBE, "spacing": [1, 1, 1]},
        {"t1": CUBE},
        [Image.fromarray(part) for part in CUBE.astype(np.uint8)],
    ]
    for form in forms:
        found = array_of(form)
        assert found.shape == (1, *CUBE.shape)
        np.testing.assert_array_equal(found[0], CUBE)
    for null in (None, "", {"bytes": None, "path": None}, {"t1": None}):
        assert read_volume(null) is None


def test_a_file_is_turned_as_it_lies_in_the_body_and_means_what_its_scale_says() -> None:
    lying = CUBE.transpose(2, 1, 0)
    turned = np.ascontiguousarray(lying[::-1].transpose(1, 2, 0))  # stored as (y, z, -x)
    affine = np.array([[0, 0, -0.5, 9], [2.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    found = read_volume(nifti(turned, affine))
    assert found is not None and found.spacing == (3.0, 2.0, 0.5)
    np.testing.assert_array_equal(found.array[0], CUBE)
    image = nibabel.Nifti1Image(lying.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -1000)
    np.testing.assert_allclose(array_of(image.to_bytes())[0], CUBE * 0.5 - 1000)
    several = np.stack([lying, lying + 1], -1)
    np.testing.assert_array_equal(array_of(nifti(several))[1], CUBE + 1)


def test_named_channels_are_volumes_of_one_shape() -> None:
    found = read_volume({"t1": CUBE, "t2": {"array": CUBE + 1, "spacing": [2, 1, 1]}, "flair": None})
    assert found is not None and found.names == ["t1", "t2"] and found.spacing == (2.0, 1.0, 1.0)
    np.testing.assert_array_equal(found.array, np.stack([CUBE, CUBE + 1]))
    np.testing.assert_array_equal(array_of(np.stack([CUBE] * 3, -1), layout="channels_last"), np.stack([CUBE] * 3))


def truncated() -> bytes:
    return nifti(CUBE)[:-40]


def claiming() -> bytes:
    """A header that says it has a hundred billion voxels."""
    data = bytearray(nifti(np.zeros((2, 2, 2), np.float32)))
    struct.pack_into("<8h", data, 40, 3, 30_000, 30_000, 130, 1, 1, 1, 1)
    return bytes(data)


@pytest.mark.parametrize(
    ("raw", "facts"),
    [
        (b"", ["empty"]),
        (b"\x89PNG" + bytes(400), [".nii", "PNG"]),
        (truncated(), ["volume"]),
        (claiming(), ["data.limits.values"]),
        (gzip.compress(bytes(range(256)) * 2)[:-30], ["unpacked"]),
        (np.zeros((3, 4)), ["(3, 4)"]),
        (np.zeros((4, 0, 4)), ["(4, 0, 4)"]),
        (np.zeros((9, 9, 9, 9)), ["layout"]),
        (np.array([["a"]]), ["dtype"]),
        (nifti(np.zeros((4, 4, 4), np.complex64)), ["complex"]),
        ({"array": CUBE, "spacing": [1, 0, 1]}, ["spacing", "0"]),
        ({"array": CUBE, "spacing": [1, 1]}, ["three"]),
        ({"array": CUBE, "channels": ["a", "b"]}, ["channels", "1"]),
        ({"t1": CUBE, "t2": CUBE[:2]}, ["'t1' and 't2'", "4x5x6", "2x5x6"]),
        ({"t1": CUBE, "t2": b"no"}, ["channel 't2'"]),
        ([np.zeros((4, 4)), np.zeros((4, 5))], ["slice 1"]),
        ("nowhere.nii", ["nowhere.nii"]),
    ],
)
def test_what_is_no_volume_is_a_broken_sample_with_its_reason(raw: object, facts: list[str]) -> None:
    preprocessor = Preprocessor(Config(size=4, patch=2))
    with pytest.raises(BadSample) as caught:
        preprocessor.read(raw)
    assert "\n" not in str(caught.value) and all(fact in str(caught.value) for fact in facts)


def test_what_unpacks_to_more_than_is_allowed_is_broken() -> None:
    with limits.within(limits.Limits(bytes=5000)), pytest.raises(BadSample, match=r"data\.limits\.bytes"):
        read_volume(gzip.compress(bytes(100_000)))


def test_a_packed_file_and_its_words_are_one_row(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.nii.gz").write_bytes(gzip.compress(nifti(CUBE)))
        (tmp_path / f"{n}.txt").write_text("a head")
    import mmssl_text

    readers = {"volume": Preprocessor(Config()), "text": mmssl_text.Preprocessor(mmssl_text.Config())}
    files = sorted(str(path) for path in tmp_path.iterdir())
    rows = list_files(tmp_path, files, kinds_of(readers, {})).rows
    assert [sorted(row) for row in rows] == [["text", "volume"]] * 3


# --------------------------------------------------------------------------------------------------------------- grid


def test_voxels_are_means_of_what_they_cover_in_mm() -> None:
    rng = np.random.default_rng(0)
    volume = torch.from_numpy(rng.normal(size=(1, 8, 12, 6)).astype(np.float32))
    steps = steps_of((8, 12, 6), (1.0, 1.0, 1.0), (4, 6, 3), (2.0, 2.0, 2.0), "pad")
    assert steps == [2.0, 2.0, 2.0]
    found = resampled(volume, (4, 6, 3), steps)
    # the triangle of a halving: 1/8, 3/8, 3/8, 1/8 of the voxels around
    weights = torch.zeros(4, 8)
    for row in range(4):
        for at, share in zip(range(2 * row - 1, 2 * row + 3), (1, 3, 3, 1), strict=True):
            if 0 <= at < 8:
                weights[row, at] += share
    weights = weights / weights.sum(1, keepdim=True)
    along = torch.einsum("od,cdhw->cohw", weights, volume)
    reference = torch.nn.functional.interpolate(along, size=(6, 3), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "spacing", "steps"),
    [
        ("squash", (5.0, 1.0, 1.0), [0.5, 2.0, 3.0]),
        ("pad", None, [3.0, 3.0, 3.0]),
        ("crop", None, [0.5, 0.5, 0.5]),
        ("pad", (5.0, 1.0, 1.0), [0.6, 3.0, 3.0]),
        ("crop", (5.0, 1.0, 1.0), [0.4, 2.0, 2.0]),
    ],
)
def test_a_volume_fills_the_input_in_its_proportions(how: str, spacing: Any, steps: list[float]) -> None:
    assert steps_of((4, 16, 24), spacing, (8, 8, 8), None, how) == pytest.approx(steps)
    found = resampled(torch.ones(2, 4, 16, 24), (8, 8, 8), steps)
    assert (how == "pad") == bool(found.isnan().any())
    assert (found[~found.isnan()] - 1).abs().max() < 1e-6
    if how == "pad":
        inside = [round(n / step) for n, step in zip((4, 16, 24), steps, strict=True)]
        slices, rows, columns = ((8 - n) // 2 for n in inside)
        assert not found[:, slices : 8 - slices, rows : 8 - rows, columns : 8 - columns].isnan().all()
        assert found[:, : max(slices - 1, 0)].isnan().all()


def test_missing_voxels_do_not_bleed() -> None:
    volume = torch.full((1, 8, 8, 8), 3.0)
    volume[:, :4] = torch.nan
    found = resampled(volume, (4, 4, 4), [2.0] * 3)
    assert found[:, :2].isnan().all() and (found[:, 2:] == 3).all()


def test_normalisation_by_each_volume_counts_what_lies_above_the_background() -> None:
    rng = np.random.default_rng(1)
    head = np.zeros((8, 8, 8), np.float32)
    head[2:6, 2:6, 2:6] = rng.normal(400, 50, (4, 4, 4))
    sample = Preprocessor(Config(size=8, patch=4)).fit([head]).read(head)
    assert sample is not None
    inside = head[head > 0].astype(np.float64)
    np.testing.assert_allclose(sample.voxels[0], np.clip((head - inside.mean()) / inside.std(), -10, 10), rtol=1e-4)
    flat = Preprocessor(Config(size=8, patch=4)).fit([head]).read(np.full((8, 8, 8), 7.0))
    assert flat is not None and not flat.voxels.any()


def test_normalisation_by_the_data_and_hounsfield_units() -> None:
    scans = [np.random.default_rng(n).normal(-300, 900, (6, 6, 6)) for n in range(4)]
    fitted = Preprocessor(Config(size=6, patch=3, normalise="data", intensity=[-1000, 400])).fit(scans)
    clipped = np.clip(np.stack(scans), -1000, 400)
    assert fitted.state["mean"] == pytest.approx([clipped.mean()], rel=1e-5)
    assert fitted.state["std"] == pytest.approx([clipped.std()], rel=1e-5)
    inputs = fitted(scans)
    assert inputs["voxels"].shape == (4, 1, 6, 6, 6) and "holes" not in inputs
    assert inputs["voxels"].mean().abs() < 1e-5 and (inputs["voxels"].std(correction=0) - 1).abs() < 1e-5


def test_channels_by_name_in_any_order_and_what_a_sample_lacks() -> None:
    both = {"t1": CUBE, "t2": CUBE * 2}
    fitted = Preprocessor(Config(size=4, patch=2, normalise="none", clip=None, resize="squash")).fit(
        [both, {"t1": CUBE}]
    )
    inputs = fitted([{"t2": CUBE * 2, "t1": CUBE}, {"t1": CUBE}, None])
    assert fitted.state["channels"] == ["t1", "t2"]
    assert inputs["present"].tolist() == [True, True, False] and inputs["holes"].tolist() == [False, True, True]
    torch.testing.assert_close(inputs["voxels"][0, 1], 2 * inputs["voxels"][0, 0])
    assert inputs["voxels"][1, 1].isnan().all()
    with pytest.raises(BadSample, match="'flair'.*t1, t2"):
        fitted.read({"flair": CUBE})
    loose = Preprocessor(Config(size=4, patch=2, unknown="drop", channels=["t1"])).fit([both])
    assert loose([both])["voxels"].shape[1] == 1
    with pytest.raises(UserError, match="'t3' is in none"):
        Preprocessor(Config(size=4, patch=2, channels=["t1", "t3"], unknown="drop")).fit([both])
    with pytest.raises(BadSample, match="mm"):
        Preprocessor(Config(size=4, patch=2, spacing=1.0)).prepare(CUBE)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"size": [8, 8]}, "size: found 2 numbers"),
        ({"size": 10, "patch": 4}, "10 slices"),
        ({"size": [8, 8, 9], "patch": 4}, "9 columns"),
        ({"channels": ["a", "a"]}, "'a' twice"),
        ({"channels": []}, "channels"),
        ({"intensity": [5, 1]}, "intensity"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], fact: str) -> None:
    with pytest.raises(UserError, match=fact):
        Config(**options)


# -------------------------------------------------------------------------------------------------------------- views


def modality(channels: int = 1, size: tuple[int, int, int] = (8, 12, 16)) -> Modality:
    return Modality(16, size, (4, 4, 4), [str(n) for n in range(channels)])


def ramps(*sides: int) -> torch.Tensor:
    """(3, D, H, W) the slice, row and column of the middle of every voxel."""
    return torch.stack(torch.meshgrid(*(torch.arange(side) + 0.5 for side in sides), indexing="ij"))


@pytest.mark.parametrize("size", [None, [8, 4, 12]])
def test_patches_of_a_crop_lie_where_they_say(size: list[int] | None) -> None:
    net, draws = modality(3), Draws(5, ROWS)
    inputs = {"voxels": ramps(8, 12, 16).expand(ROWS, -1, -1, -1, -1)}
    view = {"crop_scale": [0.2, 0.8], "flip": [0.5, 0.5, 0.5], "crop_size": size}
    patches = net.patchify(net.augment(inputs, draws, **view))
    places = net.places(inputs, patches, draws, **view)
    shown = patches.values.unflatten(2, (3, -1)).mean(-1) / 4
    torch.testing.assert_close(places.centre, shown, rtol=0, atol=0.09)  # the border's voxels are averages of fewer

    def boxes_for(some: Draws) -> Boxes:
        return boxes_of(View.build(view), some, (8, 12, 16), torch.device("cpu"))

    boxes = boxes_for(draws)
    share = boxes.size.prod(1) / (8 * 12 * 16)
    assert ((share > 0.08) & (share <= 0.8 * (4 / 3) ** 3)).all() and boxes.mirrored.any(0).all()
    halves = [
        boxes_of(View.build(view), Draws(5, n, first), (8, 12, 16), torch.device("cpu")).start
        for n, first in ((2, 0), (3, 2))
    ]
    torch.testing.assert_close(torch.cat(halves), boxes.start)
    with pytest.raises(UserError, match="rotate"):
        net.places(inputs, patches, draws, rotate=3.0)


def test_turning_keeps_a_ball_and_moves_a_point_by_the_angle() -> None:
    sides = (24, 24, 36)
    place = ramps(*sides) - torch.tensor(sides)[:, None, None, None] / 2
    ball = (-place.square().sum(0) / 40).exp().expand(ROWS, 1, -1, -1, -1)
    turned = augment_volumes(ball, Draws(3, ROWS), View(rotate=90.0))
    assert (turned - ball).abs().max() < 0.05  # eight voxels' mean of a curved thing
    spot = (-(place - torch.tensor([0.0, 0.0, 8.0])[:, None, None, None]).square().sum(0) / 8).exp()
    turned = augment_volumes(spot.expand(ROWS, 1, -1, -1, -1), Draws(3, ROWS), View(rotate=40.0))
    mass = turned.flatten(1) / turned.flatten(1).sum(1, keepdim=True)
    found = mass @ place.flatten(1).T
    assert ((found.norm(dim=1) - 8).abs() < 0.1).all()  # as far from the middle as before
    assert (found[:, 2] < 7.95).all() and (found[:, 2] > 8 * np.cos(np.radians(40)) ** 2 - 0.1).all()


def test_values_change_channel_by_channel_and_one_channel_stays() -> None:
    x = torch.randn(400, 3, 4, 4, 4)
    changed = augment_volumes(x, Draws(1, 400), View(gain=0.3, shift=0.5))
    flat, was = changed.flatten(2).double(), x.flatten(2).double()
    gain = flat.std(2) / was.std(2)
    shift = flat.mean(2) - gain * was.mean(2)
    assert 0.7 <= gain.min() < 0.72 and 1.28 < gain.max() <= 1.3 and 0.48 < shift.abs().max() <= 0.5
    x[:, 0] = torch.nan
    dropped = augment_volumes(x, Draws(1, 400), View(drop=0.6)).isnan().flatten(2).all(2)
    assert dropped[:, 0].all() and not dropped.all(1).any()
    assert 0.3 < dropped[:, 1:].all(1).logical_not().logical_and(dropped[:, 1:].any(1)).float().mean() < 1.0
    everything = augment_volumes(x, Draws(1, 400), View(drop=1.0)).isnan().flatten(2).all(2)
    assert (everything.sum(1) == 2).all()
    noisy = augment_volumes(torch.zeros(50, 1, 4, 4, 4), Draws(1, 50), View(noise_std=0.2))
    assert noisy.std() == pytest.approx(0.2, rel=0.05)
    smooth = augment_volumes(torch.randn(50, 1, 8, 8, 8), Draws(1, 50), View(blur=1.0, blur_sigma=[1.0, 1.0]))
    assert smooth.std() < 0.3


def test_holes_move_along_and_patches_of_nothing_are_none() -> None:
    net = modality()
    voxels = torch.randn(2, 1, 8, 12, 16)
    voxels[1, :, :4] = torch.nan
    inputs = {"voxels": voxels, "holes": torch.tensor([False, True])}
    valid = net.patchify(inputs).valid.unflatten(1, (2, 3, 4))
    assert valid[0].all() and not valid[1, 0].any() and valid[1, 1].all()
    flipped = net.patchify(net.augment(inputs, Draws(0, 2), flip=[1.0, 0.0, 0.0])).valid.unflatten(1, (2, 3, 4))
    assert flipped[0].all() and flipped[1, 0].all() and not flipped[1, 1].any()
    assert net.raw_features(inputs).shape == (2, 8 * 8 * 8) and not net.raw_features(inputs).isnan().any()
    two = modality(2)
    pair = {"voxels": torch.randn(6, 2, 8, 12, 16)}
    assert two.patchify(two.augment(pair, Draws(0, 6), drop=0.9)).valid.all()  # the other channel is there


def test_it_says_what_does_not_fit() -> None:
    net = modality()
    with pytest.raises(UserError, match="2 channels"):
        net.patchify({"voxels": torch.zeros(1, 2, 8, 12, 16)})
    with pytest.raises(UserError, match="9x12x16"):
        net.patchify({"voxels": torch.zeros(1, 1, 9, 12, 16)})
    with pytest.raises(UserError, match="10x10x10"):
        net.augment({"voxels": torch.zeros(1, 1, 8, 12, 16)}, Draws(0, 1), crop_size=10)


def test_files_of_strangers_are_never_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadSample, match="objects of Python"):
        read_volume(file.getvalue())
