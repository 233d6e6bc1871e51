"""`--to onnx` for every modality: the file gives the model's numbers for samples that mmssl's processor prepared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.export import IMAGE, model_of, preprocessor, wrapped_model
from toys.samples import TINY, made, modality_of

from mmssl.errors import UserError
from mmssl.exporting.writing import Exported, export_model, export_several
from mmssl.modality import load_modality
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.stock import tracing
from mmssl.models.stock.formats import onnx as format_onnx

pytestmark = pytest.mark.usefixtures("forked_proofs")

TOWERS: dict[str, dict[str, Any]] = {
    "image": {"prefix": 3, "layer_scale": 0.3, "positions": "dinov3", "activation": "geglu"},
    "text": {"prefix": 0, "causal": True, "pooling": "last"},
    "audio": {"pooling": "attention"},
    "audio-waveform": {"positions": "rotary"},
    "video": {"prefix": 0},
    "tabular": {"pooling": "cls"},
    "eeg": {"width": 48, "embed_norm": True},
    "ecg": {"activation": "quick_gelu"},
    "ecg-lead": {"pooling": "cls", "qkv_bias": False},
    "graph": {"final_norm": False},
    "series": {"embed_norm": True},
    "volume": {"prefix": 0},
}
PICKED = "text"
"""The case whose model has another tower beside it, and is exported with `tower`."""


def model_for(case: str) -> tuple[MMSSLModel, MMSSLProcessor]:
    name = modality_of(case)
    package = load_modality(name)
    fitted = package.Preprocessor(package.Config(**TINY[case])).fit(made(case))
    parts, towers = {name: fitted}, {name: TOWERS[case]}
    if case == PICKED:
        parts, towers = parts | {"image": preprocessor("image", **IMAGE)}, towers | {"image": {}}
    return model_of(parts, towers, projection=12 if case in ("audio", "tabular") else None)


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[MMSSLModel, MMSSLProcessor]]:
    return {case: model_for(case) for case in TINY}


QUICK = ("tabular",)
"""A trace takes seconds; the other cases are marked as slow."""


def exports(cases: Iterable[str], folder: Path, models: Any) -> dict[str, Exported]:
    wanted: list[Any] = [(models[case], "onnx", folder / case, case if case == PICKED else None) for case in cases]
    return dict(zip(cases, export_several(wanted), strict=True))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, models: Any) -> dict[str, Exported]:
    return exports(QUICK, tmp_path_factory.mktemp("quick"), models)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, models: Any) -> dict[str, Exported]:
    return exports([case for case in TINY if case not in QUICK], tmp_path_factory.mktemp("others"), models)


def run(file: Path, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    return {n: torch.from_numpy(v) for n, v in zip(names, session.run(names, inputs), strict=True)}


def given(case: str, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """What our processor returns, as the file takes it."""
    name = modality_of(case)
    named = {key.removeprefix(f"{name}_"): value for key, value in inputs.items()}
    if name == "audio" and "length" not in named:
        named["length"] = torch.full(named["waveform"].shape[:1], named["waveform"].shape[1])
    if name == "video" and "length" not in named:
        named["length"] = torch.full(named["times"].shape[:1], named["times"].shape[1])
    wanted = {
        "image": ["pixel_values"],
        "text": ["input_ids", "attention_mask"],
        "audio": ["waveform", "length"],
        "video": ["pixel_values", "times", "length"],
        "tabular": ["cells"],
        "ecg": ["signal"],
        "series": ["signal"],
        "volume": ["voxels"],
        "eeg": ["signal", "electrodes"],
        "graph": ["x", "links", "nodes", "centre", "encodings"],
    }
    return {key: named[key].numpy() for key in wanted[name]}


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in TINY])
def test_it_gives_our_numbers_for_samples_that_our_processor_prepared(request, models, case):
    done = request.getfixturevalue("quick" if case in QUICK else "others")[case]
    (model, processor), name = models[case], modality_of(case)
    assert done.proof.failures == [] and done.proof.largest("float32") < 2e-5
    assert {p.name for p in done.folder.glob("*.onnx")} == {"encoder.onnx"}
    sizes = {row.trial for row in done.proof.rows}
    assert len(sizes) == 2 and {size.split()[1] for size in sizes} == {"2", "5"}
    samples = made(case, seed=4)
    for batch in (samples[:1], samples):
        inputs = processor(**{name: batch})
        with torch.no_grad():
            ours = model(**inputs)
        found = run(done.folder / "encoder.onnx", given(case, inputs))
        embedding = ours.embeddings[name] if model.config.projection else ours.pooled[name]
        torch.testing.assert_close(found["embedding"], embedding, rtol=0, atol=2e-5)
        prefix = found["last_hidden_state"].shape[1] - ours.tokens[name].shape[1]
        torch.testing.assert_close(found["last_hidden_state"][:, prefix:], ours.tokens[name], rtol=0, atol=5e-5)
        if "mask" in found:
            assert torch.equal(found["mask"], ours.valid[name])


@pytest.mark.slow
def test_the_card_says_what_is_open(others):
    text = (others["eeg"].folder / "README.md").read_text()
    assert "open in batch, windows, channels" in text and "electrodes: (B, channels, 3) places in metres" in text


def test_what_prepares_the_samples_is_in_the_folder(quick):
    again = MMSSLProcessor.from_pretrained(quick["tabular"].folder)
    row = made("tabular")[:2]
    assert torch.equal(
        again(tabular=row)["tabular_cells"].isnan(), model_for("tabular")[1](tabular=row)["tabular_cells"].isnan()
    )


def test_what_cannot_be_traced_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="it wraps a ViTModel, .*; format stock writes it as the ViTModel that it is"):
        export_model(wrapped_model(), "onnx", tmp_path / "out")
    model = model_of(
        {"image": preprocessor("image", size=16, patch=8, channels=3, mean=[0.4], std=[0.3])}, {"image": {}}
    )
    real = tracing.Encoder.forward

    def sized(self: Any, *inputs: torch.Tensor) -> Any:
        return real(self, *inputs) if int(inputs[0].sum()) >= 0 else ()  # asks for a value, which a trace has not

    monkeypatch.setattr(format_onnx.Encoder, "forward", sized)
    with pytest.raises(UserError, match="format onnx: the tower 'image' cannot be traced for image") as caught:
        export_model(model, "onnx", tmp_path / "out")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
