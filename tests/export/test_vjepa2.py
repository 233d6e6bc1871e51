"""V-JEPA 2's folder: it preprocesses as we do, has no predictor to speak of, and can be gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import runs
from toys.export import vjepa2_model
from transformers import AutoVideoProcessor, VJEPA2Model

from mmssl.exporting.writing import Exported, export_several
from mmssl.modality import load_modality
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.stock.exportable import Exportable
from mmssl.models.stock.formats.vjepa2 import as_ours
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model

pytestmark = pytest.mark.usefixtures("forked_proofs")

MODELS: dict[str, Any] = {
    "colour": vjepa2_model,
    "grey": lambda: vjepa2_model({"channels": 1, "tubelet": 1, "interpolation": "bicubic"}, layer_scale=0.3),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    folder = tmp_path_factory.mktemp("vjepa2")
    done = export_several([(make(), "vjepa2", folder / name, None) for name, make in MODELS.items()])
    return dict(zip(MODELS, done, strict=True))


def clip(height: int, width: int, grey: bool = False) -> np.ndarray[Any, Any]:
    out = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    out[..., 1:] = out[..., :1] if grey else out[..., 1:]  # so that luma rounds nothing
    return out


@pytest.mark.parametrize("shape", [(27, 27), (54, 90), (60, 48), (101, 64), (20, 31)])
@pytest.mark.parametrize("name", MODELS)
def test_it_preprocesses_as_we_do(exported, tmp_path, name, shape):
    """Resizing, whole pixels of what is cut, normalisation. 8-bit values may round otherwise: Pillow resizes here,
    torchvision there."""
    model, processor = MODELS[name]()
    part = Exportable(model, processor, tmp_path).part("video")
    stock = AutoVideoProcessor.from_pretrained(exported[name].folder)
    assert type(stock).__name__ == "VJEPA2VideoProcessor"
    frames = clip(*shape, grey=name == "grey")
    theirs = as_ours(part, stock(frames, return_tensors="pt")["pixel_values_videos"])
    ours = part.preprocessor([{"frames": frames, "fps": part.modality.fps}])["pixel_values"]
    steps = (theirs - ours).abs() * 0.3 * 255  # of 8 bits
    assert steps.max() < (1e-3 if shape == (27, 27) else 2.05 if name == "grey" else 1.05)
    assert steps.mean() < 0.3


@pytest.mark.parametrize("name", MODELS)
def test_the_predictor_says_nothing(exported, name):
    folder = exported[name].folder
    stock = VJEPA2Model.from_pretrained(folder).eval()
    assert all((p == 0).all() for p in stock.predictor.parameters()) and not len(stock.predictor.layer)
    assert "`skip_predictor=True`" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_gone_on_from(exported, tmp_path, name):
    """`from` what was written: the same states, and the same numbers out of the same frames."""
    folder: Path = exported[name].folder
    stock = VJEPA2Model.from_pretrained(folder).eval()
    content = runs.recipe()
    content["modalities"] = {"video": {}}
    content["model"] = {"towers": {"video": {"from": str(folder)}}, "compatible_with": "vjepa2"}
    content["objectives"]["mae"]["tower"] = "video"
    settings = load_recipe(content)
    part = load_modality("video").Preprocessor(settings.modalities["video"].config)
    model = build_model(settings, MMSSLProcessor({"video": part})).eval()
    config: Any = part.config
    assert (config.margin, config.resize) == (256 / 224, "crop")
    assert config.interpolation == ("bicubic" if name == "grey" else "bilinear")
    pixels = part([{"frames": clip(40, 32), "fps": 8.0}])["pixel_values"]
    theirs = AutoVideoProcessor.from_pretrained(folder)(clip(27, 27), return_tensors="pt")["pixel_values_videos"]
    ours = part([{"frames": clip(27, 27), "fps": 8.0}])["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    times = (torch.arange(4) / model.modality("video").fps)[None]
    with torch.no_grad():
        expected = stock(pixels, skip_predictor=True).last_hidden_state
        found = model(video_pixel_values=pixels, video_times=times).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
