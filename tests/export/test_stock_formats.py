"""Every format, written, reloaded by its public class in one process without mmssl, and compared there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from toys.export import CASES

from benchmarks.export_table import TABLE
from mmssl.exporting.writing import Exported, export_several
from mmssl.models.stock.formats import format_names

CLASSES = {
    "vit": "ViTModel",
    "vit_mae": "ViTMAEModel",
    "ijepa": "IJepaModel",
    "dinov2": "Dinov2Model",
    "dinov2-registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "vjepa2": "VJEPA2Model",
    "stock": "ViTModel",
    "vision-text-dual-encoder": "VisionTextDualEncoderModel",
}
LIBRARIES = {"sentence_transformers": "sentence-transformers"}
"""Names that the Hub has for a library."""


TRACED = [name for name, (to, _) in CASES.items() if to == "onnx"]
"""A trace takes as long as ten other cases: `test_onnx` has one in the fast tests, these are slow ones."""
FIRST = ("dinov2-registers", "clip-vision", "clip-text", "vision-text-dual-encoder", "sentence-transformers")
FURTHER = [name for name in CASES if "-" in name and name not in (*TRACED, *FIRST)]
"""Second models of a format, slow ones as well."""


def cases(names: Iterable[str]) -> list[Any]:
    """The names, those of what is traced and of second models marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in (*TRACED, *FURTHER) else name for name in names]


class Written(dict[str, Exported]):
    """Case -> what was written, of each group when the first of it is asked for: a fresh process costs seconds, so
    they share one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Exported:
        groups = [TRACED, FURTHER, [case for case in CASES if case not in (*TRACED, *FURTHER)]]
        (names,) = [group for group in groups if name in group]
        wanted = [(CASES[case][1](), CASES[case][0], self.folder / case, None) for case in names]
        self.update(zip(names, export_several(wanted), strict=True))
        return self[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return Written(tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize("name", cases(CASES))
def test_the_stock_class_gives_our_numbers(exported, name):
    proof = exported[name].proof
    assert proof.failures == []
    assert proof.largest("float32") < 2e-5
    if exported[name].format != "onnx":  # which is float32
        assert proof.largest("bfloat16") < 0.5
        assert proof.largest("bfloat16") > 0 or exported[name].format == "stock"  # the same class on both sides


FEATURES = "image-feature-extraction"
PIPELINES = {
    **dict.fromkeys(
        ("vit", "vit-grey", "vit_mae", "ijepa", "dinov2", "dinov2-registers", "dinov3_vit", "dinov3_vit-gated"),
        FEATURES,
    ),
    **dict.fromkeys(("clip-vision", "siglip-vision", "stock"), FEATURES),
    **dict.fromkeys(("clip-text",), "feature-extraction"),
    **dict.fromkeys(
        ("clip", "siglip", "vision-text-dual-encoder", "vision-text-dual-encoder-grey"),
        "zero-shot-image-classification",
    ),
}


@pytest.mark.parametrize("name", cases(PIPELINES))
def test_the_pipeline_gives_our_numbers_from_the_raw_sample(exported, name):
    proof = exported[name].proof
    assert proof.pipeline == PIPELINES[name]
    assert proof.pipeline_difference is not None and proof.pipeline_difference < 1e-5


SIZED = ("vit", "vit-grey", "vit_mae", "ijepa", "dinov2", "dinov2-registers", "dinov3_vit", "dinov3_vit-gated", "timm")


@pytest.mark.parametrize("name", cases([*SIZED, "stock"]))
def test_two_image_sizes(exported, name):
    assert {row.trial for row in exported[name].proof.rows} == {"32 x 32", "40 x 56"}


@pytest.mark.parametrize("name", cases(["vjepa2", "vjepa2-grey"]))
def test_longer_clips_and_larger_frames(exported, name):
    step = 3 * (2 if name == "vjepa2" else 1)
    assert {row.trial for row in exported[name].proof.rows} == {
        "4 frames of 24 x 24",
        f"{4 + step} frames of 24 x 24",
        "4 frames of 40 x 40",
    }
    card = (exported[name].folder / "README.md").read_text()
    assert "only zeros" in card and "from_pretrained(..., crop_size=SIZE)" in card


@pytest.mark.parametrize("name", ["videomae", "ast"])
def test_classes_that_never_interpolate_say_so(exported, name):
    assert len({row.trial for row in exported[name].proof.rows}) == 1
    assert "it does not interpolate its positions" in (exported[name].folder / "README.md").read_text()


@pytest.mark.slow
def test_a_pair_becomes_two_files_of_onnx_and_learned_tables_end(exported):
    done = exported["onnx-pool"]
    assert {p.name for p in done.folder.glob("*.onnx")} == {"image.onnx", "text.onnx"}
    assert {p.name for p in done.folder.glob("*.json")} >= {"preprocessor_config.json", "tokenizer.json"}
    notes = " ".join(done.job.notes)
    assert "`image.onnx` (image): float32, open in batch; pictures of 32 x 32" in notes
    assert "`text.onnx` (text): float32, open in batch, tokens; tokens at most 16" in notes


@pytest.mark.parametrize("name", cases(CLASSES))
def test_automodel_loads_it(exported, name):
    assert exported[name].proof.auto == CLASSES[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit-channels", "pipelines read colour pictures"),
        ("siglip-text", "AutoModel does not know SiglipTextModel"),
        ("siglip-short", "transformers' zero-shot pipeline fills SigLIP's texts up to 64 tokens, this model takes 16"),
    ],
)
def test_where_no_pipeline_works_it_says_why(exported, name, why):
    proof = exported[name].proof
    assert proof.pipeline.startswith(f"no: {why}") and proof.pipeline_difference is None


@pytest.mark.parametrize("name", cases(CASES))
def test_the_folder_holds_safetensors_a_processor_and_the_card(exported, name):
    folder: Path = exported[name].folder
    names = {p.name for p in folder.iterdir()}
    weights = {"model.safetensors", "open_clip_model.safetensors", "encoder.onnx"}
    files = {"image.onnx", "text.onnx"} if name == "onnx-pool" else weights & names
    assert (len(files) == 1 or name == "onnx-pool") and {"README.md", *files} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".py"))]
    if exported[name].job.library == "transformers":
        assert names & {"preprocessor_config.json", "video_preprocessor_config.json"} or name.endswith("-text")
        pair = name in ("clip", "siglip", "siglip-short") or name.startswith("vision-text")
        assert ("tokenizer.json" in names) == (pair or name.endswith("-text"))
    card = (folder / "README.md").read_text()
    assert "## Proof of equality" in card and "Loads without mmssl: yes." in card and "| float32 |" in card
    assert f"library_name: {LIBRARIES.get(exported[name].job.library, exported[name].job.library)}" in card
    if exported[name].job.cls:
        assert json.loads((folder / "config.json").read_text())["architectures"] == [exported[name].job.cls]
    for file in folder.glob("*.json"):
        assert str(folder.parent) not in file.read_text()


def test_every_format_is_written_here_and_in_the_table() -> None:
    assert set(format_names()) == set(TABLE) == {to for to, _ in CASES.values()}
