"""The image modality: resizing, statistics, patches, targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from toys.refusals import refused

import mmssl_image
from mmssl.errors import BadSample, UserError

RNG = np.random.default_rng(0)


def bytes_of(size: tuple[int, ...], top: int = 256, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(0, top, size).astype(dtype)


def fitted(samples: list[Any], **options: Any) -> mmssl_image.Preprocessor:
    return mmssl_image.Preprocessor(mmssl_image.Config(**options)).fit(samples)


def modality(size: int = 8, patch: int = 2, channels: int = 3, width: int = 16, **more: Any) -> mmssl_image.Modality:
    mean, std = [0.5] * channels, [0.25] * channels
    return mmssl_image.Modality(width, [size, size], [patch, patch], channels, mean, std, **more)


# ------------------------------------------------------------------------------------------- resizing and statistics


def test_resize_modes() -> None:
    image = np.zeros((4, 8, 1), dtype=np.uint8)
    image[:, 2:6] = 200  # the middle square
    options: dict[str, Any] = {"size": 4, "patch": 2, "interpolation": "nearest"}
    read = {
        how: fitted([image], resize=how, background=9, **options).read(image)[..., 0]  # type: ignore[index]
        for how in ("crop", "squash", "pad")
    }
    assert (read["crop"] == 200).all()
    assert read["squash"].tolist() == [[0, 200, 200, 0]] * 4
    assert read["pad"].tolist() == [[9] * 4, [0, 200, 200, 0], [0, 200, 200, 0], [9] * 4]
    flt = image.astype(np.float32)
    padded = fitted([flt], resize="pad", **options).read(flt)
    assert padded is not None and np.isnan(padded[0]).all() and np.isnan(padded[3]).all()
    assert padded[1, :, 0].tolist() == [0, 200, 200, 0]


def test_resize_equals_pillow_and_never_overshoots() -> None:
    image = bytes_of((40, 60, 3))
    read = fitted([image], size=16, patch=4, resize="squash").read(image)
    assert np.array_equal(read, np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)))
    step = np.zeros((10, 10, 4), dtype=np.float32)
    step[:, 5:] = 1
    read = fitted([step], size=32, patch=4).read(step)
    assert read is not None and read.min() == 0 and read.max() == 1
    same = fitted([step], size=10, patch=5).read(step)
    assert np.array_equal(same, step)


def test_statistics_equal_numpy_in_float64() -> None:
    images = [bytes_of((8, 8, 3)) for _ in range(20)]
    state = fitted(images, size=8, patch=2).state
    pixels = np.stack(images).reshape(-1, 3) / 255
    assert state["channels"] == 3 and state["unit_range"] is True
    np.testing.assert_allclose(state["mean"], pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(state["std"], pixels.std(0), rtol=1e-6)
    large = [np.full((8, 8), 1e5, dtype=np.float32) + bytes_of((8, 8), 2) for _ in range(4)]
    np.testing.assert_allclose(
        fitted(large, size=8, patch=2).state["std"], np.stack(large).std(dtype=np.float64), rtol=1e-6
    )
    assert fitted(large, size=8, patch=2).state["unit_range"] is False
    assert fitted([np.full((8, 8), 7, np.uint8)], size=8, patch=2).state["std"] == [1.0]


def test_channels_found_and_adapted() -> None:
    grey, colour, five = bytes_of((8, 8)), bytes_of((8, 8, 3)), bytes_of((8, 8, 5))
    options: dict[str, Any] = {"size": 8, "patch": 2}
    assert fitted([grey], **options).state["channels"] == 1
    assert fitted([five, five, colour], **options).state["channels"] == 5
    both = fitted([grey, colour, grey], **options)
    assert both.state["channels"] == 3
    pixels = np.stack([np.repeat(grey[..., None], 3, 2), colour, np.repeat(grey[..., None], 3, 2)])
    np.testing.assert_allclose(both.state["mean"], (pixels / 255).mean((0, 1, 2)), rtol=1e-6)
    read = both.read(grey)
    assert read is not None and np.array_equal(read, np.repeat(grey[..., None], 3, 2))
    read = fitted([colour], channels=1, **options).read(colour)
    assert (
        read is not None
        and np.abs(read[..., 0].astype(int) - np.asarray(Image.fromarray(colour).convert("L"))).max() <= 1
    )
    with refused("5 channels", "3", error=BadSample):
        both.read(five)
    with pytest.raises(UserError, match="none of 2 samples.*not an image"):
        fitted([b"rubbish", None], **options)


def test_collate_normalises_and_marks_absent_rows() -> None:
    images = [bytes_of((8, 8, 3)) for _ in range(3)]
    p = fitted(images, size=8, patch=2)
    whole = p(images)
    assert set(whole) == {"pixel_values"} and whole["pixel_values"].dtype == torch.float32
    expected = (np.stack(images).transpose(0, 3, 1, 2) / 255 - np.reshape(p.state["mean"], (3, 1, 1))) / np.reshape(
        p.state["std"], (3, 1, 1)
    )
    np.testing.assert_allclose(whole["pixel_values"], expected, atol=2e-6)
    part = p([images[0], None, images[2]])
    assert part["present"].tolist() == [True, False, True]
    assert (part["pixel_values"][1] == 0).all() and torch.equal(part["pixel_values"][2], whole["pixel_values"][2])
    none = p([None, None])
    assert none["pixel_values"].shape == (2, 3, 8, 8) and not none["present"].any()


def test_config_faults_are_named() -> None:
    with pytest.raises(UserError, match="size: found a width of 30, expected a multiple of the patch's 16"):
        mmssl_image.Config(size=[32, 30])
    with refused("background"):
        mmssl_image.Config(background=[1, 2])
    with refused("mean, std"):
        mmssl_image.Config(mean=[0.5, 0.5], channels=3)
    with pytest.raises(Exception, match="channels"):
        mmssl_image.Config(channels="three")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not fitted"):
        mmssl_image.Preprocessor(mmssl_image.Config()).sizes()


def test_a_configured_preprocessor_needs_no_fit() -> None:
    p = mmssl_image.Preprocessor(mmssl_image.Config(size=4, patch=2, channels=3, mean=[0.5], std=[0.5, 0.25, 1.0]))
    pixels = p([np.full((4, 4, 3), 255, np.uint8)])["pixel_values"]
    assert pixels[0, :, 0, 0].tolist() == [1.0, 2.0, 0.5]
    assert mmssl_image.Modality(8, **p.sizes()).pred_width() == 12


# ------------------------------------------------------------------------------------------------- patches, targets


def test_patches_by_hand() -> None:
    m = mmssl_image.Modality(8, [4, 6], [2, 3], 2, [0.0, 0.0], [1.0, 1.0])
    pixels = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    patches = m.patchify({"pixel_values": pixels})
    assert patches.full and patches.values.shape == (1, 4, 12)
    assert patches.coords[0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    # patch 1: top right; channel 0 rows 0 and 1, then channel 1
    assert patches.values[0, 1].tolist() == [3, 4, 5, 9, 10, 11, 27, 28, 29, 33, 34, 35]
    absent = m.patchify({"pixel_values": pixels.repeat(2, 1, 1, 1), "present": torch.tensor([True, False])})
    assert not absent.full and absent.valid.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_unpatchify_is_the_exact_inverse(size: tuple[int, int]) -> None:
    m = modality(patch=2, channels=5)
    inputs = {"pixel_values": torch.randn(3, 5, *size), "present": torch.tensor([True, True, False])}
    back = m.unpatchify(m.patchify(inputs).values, inputs)
    assert torch.equal(back["pixel_values"], inputs["pixel_values"]) and torch.equal(back["present"], inputs["present"])
    with pytest.raises(UserError, match="multiples of the patch"):
        m.patchify({"pixel_values": torch.zeros(1, 5, 7, 8)})
    with refused("3 channels"):
        m.patchify({"pixel_values": torch.zeros(1, 3, 8, 8)})


def test_tokens_equal_a_convolution_plus_positions() -> None:
    m = modality(size=8, patch=4, width=16)
    pixels = torch.randn(2, 3, 8, 8)
    tokens = m.embed(m.patchify({"pixel_values": pixels}))
    stock = F.conv2d(pixels, m.proj.weight.reshape(16, 3, 4, 4), m.proj.bias, stride=4).flatten(2).transpose(1, 2)
    coords = m.patchify({"pixel_values": pixels}).coords
    torch.testing.assert_close(tokens, stock + m.position(coords), atol=1e-5, rtol=1e-5)


def test_hidden_patches_lose_content_and_keep_position() -> None:
    m = modality()
    a, b = (m.patchify({"pixel_values": torch.randn(1, 3, 8, 8)}) for _ in range(2))
    hidden = torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, [2, 5]] = True
    x, y = m.embed(a, hidden), m.embed(b, hidden)
    assert torch.equal(x[hidden], y[hidden]) and not torch.allclose(x[0, 2], x[0, 5])
    assert not torch.isclose(x[~hidden], y[~hidden]).all(-1).any()


def test_half_precision_model_gives_half_precision_tokens() -> None:
    m = modality().to(torch.bfloat16)
    patches = m.patchify({"pixel_values": torch.randn(1, 3, 8, 8)})
    assert patches.values.dtype == torch.float32 and m.embed(patches).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def stock_mae() -> Any:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
    )
    return ViTMAEForPreTraining(config)


@pytest.mark.parametrize("normalised", [True, False])
def test_target_and_score_equal_stock_vit_mae(stock_mae: Any, normalised: bool) -> None:
    stock_mae.config.norm_pix_loss = normalised
    m = modality(size=32, patch=8)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        stock = stock_mae(pixels)
    # stock order within a patch is (row, column, channel), ours (channel, row, column)
    pred = stock.logits.reshape(2, 16, 8, 8, 3).permute(0, 1, 4, 2, 3).flatten(2)
    inputs, kind = {"pixel_values": pixels}, "normalised" if normalised else "pixels"
    patches = m.patchify(inputs)
    score = m.score(pred, m.target(inputs, patches, kind), patches, kind)
    torch.testing.assert_close(score[stock.mask.bool()].mean(), stock.loss, atol=1e-6, rtol=1e-6)
    with refused(meant="normalised"):
        m.target(inputs, patches, "normalized")


def test_sincos_positions_equal_stock_vit_mae(stock_mae: Any) -> None:
    m = modality(size=32, patch=8)
    coords = m.patchify({"pixel_values": torch.zeros(1, 3, 32, 32)}).coords
    # transformers 5.23 marks the projection first, and then leaves a new model's positions at zero
    stock_mae.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    stock_mae.vit.embeddings.initialize_weights()
    stock = stock_mae.vit.embeddings.position_embeddings[:, 1:]
    torch.testing.assert_close(m.positions(16)(coords), stock, atol=1e-6, rtol=1e-6)


def test_missing_pixels_count_for_nothing() -> None:
    m = modality(size=4, patch=2, channels=1)
    pixels = torch.randn(1, 1, 4, 4)
    pixels[0, 0, 0, 0] = torch.nan  # one of four numbers of patch 0
    pixels[0, 0, 2:, 2:] = torch.nan  # all of patch 3
    inputs = {"pixel_values": pixels}
    patches = m.patchify(inputs)
    target = m.target(inputs, patches)
    known = pixels[0, 0, [0, 1, 1], [1, 0, 1]].double()
    expected = (known - known.mean()) / (known.var() + 1e-6).sqrt()
    torch.testing.assert_close(target[0, 0, 1:].double(), expected, atol=1e-5, rtol=1e-5)
    pred = torch.randn(1, 4, 4, requires_grad=True)
    score = m.score(pred, target, patches)
    torch.testing.assert_close(score[0, 0], (pred[0, 0, 1:] - target[0, 0, 1:]).square().mean())
    assert score[0, 3] == 0
    score.sum().backward()
    assert pred.grad is not None and pred.grad.isfinite().all() and pred.grad[0, 0, 0] == 0
    assert m.embed(patches).isfinite().all() and m.raw_features(inputs).isfinite().all()


def test_learned_positions_are_one_vector_a_cell() -> None:
    m = modality(size=8, patch=4, positions="learned")
    coords = m.patchify({"pixel_values": torch.zeros(1, 3, 8, 8)}).coords
    assert torch.equal(m.position(coords)[0], m.position.table)  # type: ignore[arg-type]


def test_raw_features_are_area_averages() -> None:
    pixels = torch.randn(2, 1, 64, 64)
    features = modality(size=64, patch=8, channels=1).raw_features({"pixel_values": pixels})
    assert features.shape == (2, 32 * 32)
    torch.testing.assert_close(features[:, 0], pixels[:, 0, :2, :2].mean((1, 2)))
    small = torch.randn(2, 3, 8, 8)
    assert torch.equal(modality().raw_features({"pixel_values": small}), small.flatten(1))


@pytest.mark.parametrize("shape", [(32, 32), (60, 48), (101, 64), (64, 101), (20, 31), (333, 500)])
def test_a_crop_is_that_of_clips_processor(shape: tuple[int, int]) -> None:
    """Sides are rounded down and cut in whole pixels, as stock processors do; 8-bit values may round otherwise."""
    from transformers import CLIPImageProcessor

    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    smooth = np.stack([np.sin(9 * x + 5 * y), np.cos(7 * x), np.sin(8 * y)], -1)
    image = (127.5 * (smooth + 1)).astype(np.uint8)
    stock = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
    )
    theirs = np.asarray(stock(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    ours = fitted([image], size=32, patch=8, resize="crop", interpolation="bicubic").read(image)
    assert ours is not None
    steps = np.abs(ours.astype(float) - theirs)
    assert steps.max() <= 2.01 and steps.mean() < 0.3
    full = Image.fromarray(image).resize(_covering(shape), Image.Resampling.BICUBIC)
    top, left = (full.height - 32) // 2, (full.width - 32) // 2
    assert np.abs(ours - np.asarray(full, dtype=float)[top : top + 32, left : left + 32]).max() <= 1


def _covering(shape: tuple[int, int]) -> tuple[int, int]:
    """(width, height): the shorter side 32, the other in proportion, rounded down."""
    return tuple(32 * side // min(shape) for side in shape[::-1])  # type: ignore[return-value]
