"""mmssl_video: files, folders and arrays to clips, frames at the asked times, tubelets, views of whole clips."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.refusals import refused

import mmssl_video
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl_video.decode import Wanted, read_clip

RNG = np.random.default_rng(0)
SMALL = {"size": 16, "patch": 8, "frames": 4, "fps": 5.0, "channels": 3, "mean": [0.5], "std": [0.25]}


def preprocessor(**options: object) -> mmssl_video.Preprocessor:
    return mmssl_video.Preprocessor(mmssl_video.Config(**{**SMALL, **options}))  # type: ignore[arg-type]


def modality(p: mmssl_video.Preprocessor, width: int = 24) -> mmssl_video.Modality:
    return mmssl_video.Modality(width, **p.sizes())


def model_of(p: mmssl_video.Preprocessor) -> MMSSLModel:
    torch.manual_seed(0)
    towers = {"video": {"width": 24, "depth": 2, "heads": 2}}
    return MMSSLModel(MMSSLConfig(modalities={"video": {"type": "video", **p.sizes()}}, towers=towers)).eval()


def clip(frames: int, side: int = 16, fps: float = 5.0) -> dict[str, object]:
    return {"frames": RNG.integers(0, 256, (frames, side, side, 3), dtype=np.uint8), "fps": fps}


def mp4(path: Path, frames: int, fps: int, gap: int | None = None) -> Path:
    """Frame k is grey 4 k, losslessly; gap: every frame but each such one is left out (a variable rate)."""
    av = pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "0", "g": "10"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv444p"
        for k in range(0, frames, gap or 1):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 4 * k, np.uint8), format="rgb24")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# ------------------------------------------------------------------------------------------------------------ patches


def test_patches_by_hand() -> None:
    p = preprocessor()
    inputs = p([clip(4), clip(3), None])
    assert inputs["pixel_values"].shape == (3, 4, 3, 16, 16) and inputs["length"].tolist() == [4, 3, 0]
    assert inputs["times"][0].tolist() == [pytest.approx(t) for t in (0.0, 0.2, 0.4, 0.6)]
    patches = modality(p).patchify(inputs)
    assert patches.values.shape == (3, 8, 3 * 2 * 8 * 8) and patches.valid.sum(1).tolist() == [8, 8, 0]
    assert patches.coords[0].tolist() == [[pytest.approx(t), r, c] for t in (0, 0.4) for r in (0, 1) for c in (0, 1)]
    pixels = inputs["pixel_values"]
    cut = patches.values[0, 6].view(3, 2, 8, 8)  # second time, second row, first column
    assert torch.equal(cut, pixels[0, 2:4, :, 8:, :8].transpose(0, 1))
    last = patches.values[1, 4].view(3, 2, 8, 8)  # the third frame, and one that does not exist
    assert not last[:, 0].isnan().any() and last[:, 1].isnan().all()


def test_values_are_normalised_pixels() -> None:
    white = {"frames": np.full((4, 16, 16, 3), 255, np.uint8), "fps": 5.0}
    assert torch.equal(preprocessor()([white])["pixel_values"], torch.full((1, 4, 3, 16, 16), 2.0))


def test_round_trip() -> None:
    p = preprocessor(frames=6)
    inputs = p([clip(6), clip(3), None])
    m = modality(p)
    back = m.unpatchify(m.patchify(inputs).values, inputs)
    assert set(back) == set(inputs) and all(torch.equal(back[k], inputs[k]) for k in inputs)


def test_targets_by_hand() -> None:
    p = preprocessor()
    m = modality(p)
    inputs = p([clip(4), clip(3)])
    patches = m.patchify(inputs)
    values = patches.values[0, 0]
    normal = m.target(inputs, patches)[0, 0]
    assert torch.allclose(normal, (values - values.mean()) / (values.var() + 1e-6).sqrt(), atol=1e-5)
    cube = values.view(3, 2, 64)
    by_channel = (cube - cube.mean((1, 2), True)) / (cube.flatten(1).var(1) + 1e-6).sqrt()[:, None, None]
    differences = m.target(inputs, patches, "differences")[0, 0].view(3, 2, 64)
    assert torch.allclose(differences[:, 0], by_channel[:, 0], atol=1e-5)
    assert torch.allclose(differences[:, 1], by_channel[:, 1] - by_channel[:, 0], atol=1e-5)
    score = m.score(torch.zeros(2, 8, m.pred_width()), m.target(inputs, patches), patches)
    assert score.isfinite().all() and score[0, 0] == pytest.approx(383 / 384, abs=1e-3)


# -------------------------------------------------------------------------------------------------------------- model


def test_padding_and_absent_rows_change_nothing_elsewhere() -> None:
    p = preprocessor(frames=8)
    model = model_of(p)
    short, long = clip(3), clip(8)
    with torch.no_grad():
        alone = model.encode_batch({"video": p([short])})
        mixed = model.encode_batch({"video": p([long, short, None])})
    n = int(alone.valid["video"].sum())
    assert n == 8 and (mixed.tokens["video"][1, :n] - alone.tokens["video"][0, :n]).abs().max() < 1e-6
    assert (mixed.pooled["video"][1] - alone.pooled["video"][0]).abs().max() < 1e-6
    assert mixed.present["video"].tolist() == [True, True, False] and not mixed.pooled["video"][2].any()


def test_permuted_patches_give_permuted_outputs() -> None:
    p = preprocessor()
    model = model_of(p)
    patches = model.modality("video").patchify(p([clip(4)]))
    assert patches.full
    order = torch.randperm(patches.count)
    with torch.no_grad():
        straight = model.towers["video"]({"video": patches}).tokens["video"]
        turned = model.towers["video"]({"video": patches.take(order[None], full=True)}).tokens["video"]
    assert (straight[:, order] - turned).abs().max() < 1e-5


def test_saved_and_reloaded(tmp_path: Path) -> None:
    p = mmssl_video.Preprocessor(mmssl_video.Config(size=16, patch=8, frames=4, fps=5.0)).fit([clip(4), clip(9)])
    assert p.state["channels"] == 3 and p.state["fps"] == 5.0
    model = model_of(p)
    samples = [clip(4), clip(2, side=40), None]
    save_model(model, MMSSLProcessor({"video": p}), tmp_path)
    again, processor = load_model(tmp_path)
    first = model.encode_batch({"video": p(samples)}).pooled["video"]
    second = again.eval()(**processor(video=samples)).pooled["video"]
    assert torch.equal(first, second) and first.abs().sum() > 0


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("fps", [25, 10, 7, 50])
def test_frames_at_the_asked_times(tmp_path: Path, fps: int) -> None:
    """A frame is shown until the next one: at time t, frame floor(t * fps)."""
    path = mp4(tmp_path / "a.mp4", 40, fps)
    for wanted in (Wanted(8, 5.0), Wanted(8, 12.5, 700_000), Wanted(5, None, 400_000)):
        for raw in (str(path), path.read_bytes(), {"bytes": None, "path": str(path)}):
            read = read_clip(raw, wanted)
            assert read is not None
            frames, times = read
            start = wanted.start(40 / fps, fps)
            if wanted.fps is None:
                first = -int(-(start - 0.5 / fps) * fps // 1)
                expected = [first + k for k in range(5)]
                assert times == [pytest.approx(k / fps, abs=1e-4) for k in range(5)]
            else:
                asked = [start + k / wanted.fps for k in range(wanted.frames)]
                expected = [int((t + 1e-4) * fps) for t in asked if t < 40 / fps - 1e-4]
                assert times == [pytest.approx(t - start) for t in asked[: len(expected)]]
            assert [round(float(f.mean()) / 4) for f in frames] == expected


def test_a_variable_frame_rate(tmp_path: Path) -> None:
    frames, times = read_clip(str(mp4(tmp_path / "a.mp4", 40, 20, gap=4)), Wanted(8, 10.0)) or ([], [])
    assert [round(float(f.mean()) / 4) for f in frames] == [0, 0, 4, 4, 8, 8, 12, 12]
    assert times == [pytest.approx(0.1 * k) for k in range(8)]


def test_seeking_gives_what_decoding_from_the_start_gives(tmp_path: Path) -> None:
    path = mp4(tmp_path / "a.mp4", 60, 6)  # ten seconds, a key frame every ten
    for choice in (500_000, 900_000, 1_000_000):
        frames, _ = read_clip(str(path), Wanted(6, 3.0, choice)) or ([], [])
        start = 8.0 * choice / (1 << 20)
        assert [round(float(f.mean()) / 4) for f in frames] == [int((start + k / 3 + 1e-4) * 6) for k in range(6)]


def test_frames_equal_those_of_av(shared_data: Path) -> None:
    av = pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    for name in ("weizmann4", "grid_s1_av"):
        path = sorted((shared_data / name / "train").glob("*.mp4"))[3]
        with av.open(str(path)) as container:
            every = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        frames, times = read_clip(str(path), Wanted(10, 9.0)) or ([], [])
        for frame, time in zip(frames, times, strict=True):
            shown = [picture for at, picture in every if at <= time + 1e-4][-1]
            assert np.array_equal(frame, shown)
        assert len(frames) == 10


def test_folders_lists_and_arrays(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pictures = [np.full((10, 12, 3), 5 * k, np.uint8) for k in range(12)]
    for k, picture in enumerate(pictures):
        image.fromarray(picture).save(tmp_path / f"frame{k}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    wanted = Wanted(4, 2.0, default_fps=6.0)
    array = np.stack(pictures)
    buffer = io.BytesIO()
    np.save(buffer, array)
    for raw in (
        tmp_path,
        str(tmp_path),
        [image.fromarray(p) for p in pictures],
        array,
        array.transpose(0, 3, 1, 2),
        {"frames": array, "fps": 6},
        buffer.getvalue(),
        torch.tensor(array),
    ):
        frames, times = read_clip(raw, wanted) or ([], [])
        assert [int(f[0, 0, 0]) // 5 for f in frames] == [0, 3, 6, 9] and frames[0].shape == (10, 12, 3)
        assert times == [0.0, 0.5, 1.0, 1.5]
    assert read_clip(None, wanted) is None and read_clip({"bytes": None, "path": None}, wanted) is None


def test_broken_videos_are_named(tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    data = sorted((shared_data / "weizmann4" / "train").glob("*.mp4"))[0].read_bytes()
    sound = tmp_path / "sound.wav"
    import wave

    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(b"\0\0" * 4000)
    cases = {
        "empty": b"",
        "cannot decode video": b"this is no video at all, but a text" * 9,
        "cannot decode|truncated": data[: len(data) // 2],
        "without pictures": str(sound),
        "no such file": str(tmp_path / "nothing.mp4"),
        "no pictures in folder": tmp_path,
        "shape": np.zeros((4, 4), np.uint8),
        "found shape": np.zeros((0, 4, 4, 3), np.uint8),
        "frame rate": {"frames": np.zeros((2, 4, 4, 3), np.uint8), "fps": 0},
        "expected a video": np.array(["a"]),
    }
    p = preprocessor(fps=12.5, frames=40)
    for reason, raw in cases.items():
        with pytest.raises(BadSample, match=reason):
            p.read(raw)
    with refused("2 samples", "video"):
        mmssl_video.Preprocessor(mmssl_video.Config()).fit([b"", b"xy"])


def test_a_truncated_file_whose_index_comes_first(tmp_path: Path) -> None:
    """It opens, and its header promises all pictures."""
    av = pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    source, fast = mp4(tmp_path / "a.mp4", 60, 10), tmp_path / "b.mp4"
    with av.open(str(source)) as old, av.open(str(fast), "w", options={"movflags": "+faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    assert len((read_clip(str(fast), Wanted(60, 10.0)) or ([], []))[0]) == 60
    data = fast.read_bytes()
    with pytest.raises(BadSample, match="truncated|cannot decode|corrupt"):
        read_clip(data[: int(len(data) * 0.7)], Wanted(60, 10.0))


def test_the_background_and_the_channels(tmp_path: Path) -> None:
    wide = {"frames": np.full((4, 8, 16, 3), 255, np.uint8), "fps": 5.0}
    padded = preprocessor(resize="pad")([wide])["pixel_values"]
    assert padded[0, 0, 0, :, 0].tolist() == [-2.0] * 4 + [2.0] * 8 + [-2.0] * 4
    grey = preprocessor(channels=1)([wide])["pixel_values"]
    assert grey.shape == (1, 4, 1, 16, 16)


def test_options_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="frames: found 5, expected a multiple of the tubelet's 2"):
        mmssl_video.Config(frames=5)
    with refused("size", "30"):
        mmssl_video.Config(size=[32, 30])
    with pytest.raises(UserError, match="not fitted"):
        mmssl_video.Preprocessor(mmssl_video.Config()).sizes()
    m = modality(preprocessor())
    with refused("crop_size"):
        m.augment(preprocessor()([clip(4)]), Draws(0, 1), crop_size=12)


# -------------------------------------------------------------------------------------------------------------- views


def test_all_frames_of_a_clip_undergo_the_same() -> None:
    p = preprocessor()
    m = modality(p)
    still = {"frames": np.repeat(RNG.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8), 4, 0), "fps": 5.0}
    out = m.augment(
        p([still, still]),
        Draws(1, 2),
        crop_scale=[0.3, 0.9],
        flip=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        gray=0.2,
        blur=0.5,
    )["pixel_values"]
    assert torch.allclose(out, out[:, :1].expand_as(out), atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 0.1  # and every clip something else


def test_views_depend_on_the_sample_alone() -> None:
    p = preprocessor(frames=8)
    m = modality(p)
    clips = [clip(8), clip(5), clip(3), clip(8)]
    spec = {"frames": 4, "stride": [1, 2], "time_jitter": 1, "crop_scale": [0.5, 1.0], "reverse": 0.5}
    whole = m.augment(p(clips), Draws(5, 4, 0, 4), **spec)
    for first in (0, 2):
        part = m.augment(p(clips[first : first + 2]), Draws(5, 2, first, 4), **spec)
        for key in ("pixel_values", "times", "length"):
            assert torch.allclose(whole[key][first : first + 2], part[key], atol=1e-5)


def test_time_by_hand() -> None:
    frames = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    p = preprocessor(frames=12, mean=[0.0], std=[1 / 255])
    m = modality(p)
    inputs = p([{"frames": frames, "fps": 5.0}, {"frames": frames[:3], "fps": 5.0}, None])

    def numbers(view: dict[str, torch.Tensor]) -> list[list[int]]:
        return [
            row[:n].round().int().tolist()
            for row, n in zip(view["pixel_values"][:, :, 0, 0, 0], view["length"].tolist(), strict=True)
        ]

    seen = set()
    for key in range(20):
        out = m.augment(inputs, Draws(key, 3), frames=4, stride=[2, 3])
        long, short, absent = numbers(out)
        step = long[1] - long[0]
        assert len(long) == 4 and step in (2, 3) and long == list(range(long[0], long[0] + 4 * step, step))
        assert out["times"][0, 1] == pytest.approx(0.2 * step) and out["times"][0, 0] == 0
        assert short == [0, 1, 2] and not absent and not out["pixel_values"][1, 3].any()
        seen.add((long[0], step))
    assert len(seen) > 5
    backwards = m.augment(inputs, Draws(0, 3), reverse=1.0)
    assert numbers(backwards)[:2] == [list(range(11, -1, -1)), [2, 1, 0]]
    assert torch.equal(backwards["times"], inputs["times"])
    jittered = numbers(m.augment(inputs, Draws(0, 3), time_jitter=1))[0]
    assert jittered == sorted(jittered) and jittered != list(range(12))
    assert max(abs(a - b) for a, b in zip(jittered, range(12), strict=True)) <= 1
    assert "reverse" in m.views and not mmssl_video.modality.ClipView().reverse


# ---------------------------------------------------------------------------------------------------------- real data


def test_real_clips(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    paths = sorted((shared_data / "weizmann4" / "test").glob("*.mp4"))[:4]
    paths += sorted((shared_data / "grid_s1_av" / "test").glob("*.mp4"))[:2]
    p = mmssl_video.Preprocessor(mmssl_video.Config(size=64, patch=16, frames=16, fps=12.5)).fit(map(str, paths))
    inputs = p([str(path) for path in paths])
    patches = modality(p).patchify(inputs)
    assert patches.full and patches.values.shape == (6, 8 * 4 * 4, 3 * 2 * 16 * 16)
    assert patches.coords[0, -1].tolist() == [pytest.approx(14 / 12.5), 3, 3]
    assert abs(float(patches.values.mean())) < 0.1 and abs(float(patches.values.std()) - 1) < 0.1
    shutil.copy(paths[0], tmp_path / "copy.mp4")
    assert torch.equal(p([str(tmp_path / "copy.mp4")])["pixel_values"], inputs["pixel_values"][:1])
    assert modality(p).raw_features(inputs).shape == (6, 2 * 3 * 16 * 16)


@pytest.mark.parametrize("name", ["examples/video_mae"])
def test_recipes_are_valid(name: str) -> None:
    from mmssl.recipe.loading import load_recipe

    recipe = load_recipe(name)
    p = mmssl_video.Preprocessor(recipe.modalities["video"].config).fit([clip(30, 64)])
    m = mmssl_video.Modality(24, **p.sizes())
    inputs = p([clip(60, 64), clip(30, 64)])
    for view in recipe.views.values():
        assert m.patchify(m.augment(inputs, Draws(0, 2), **view["video"])).count > 0
    for mask in recipe.masks.values():
        split = mask.config({"video": m.patchify(inputs)}, Draws(0, 2))["video"]
        assert split.keep.shape[1] * 8 < split.hide.shape[2]
