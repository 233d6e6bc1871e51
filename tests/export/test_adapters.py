"""An adapter by itself for an exported stock class: `PeftModel` on the stock base gives what ours gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import export, runs

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.exporting.adapting import TOLERANCE, export_adapter
from mmssl.models.adapter_files import base_of, write_adapter
from mmssl.models.adapters import add_adapter
from mmssl.models.options import AdapterConfig
from mmssl.models.saving import load_model, save_model

pytestmark = pytest.mark.usefixtures("forked_proofs")


def saved(made: tuple[Any, Any], folder: Path, kind: str = "lora", extra: list[str] | None = None) -> Path:
    """A base at `folder`/base and an adapter of random values on it, of which the folder is returned."""
    model, processor = made
    save_model(model, processor, folder / "base")
    model = load_model(folder / "base")[0]
    known = base_of(model, str(folder / "base"))
    handle = add_adapter(model, AdapterConfig(type=kind), list(model.towers), extra=extra or [])
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    (folder / "adapter").mkdir()
    write_adapter(handle, known, processor, folder / "adapter", folder / "adapter")
    return folder / "adapter"


CASES = {
    "vit": (lambda: export.image_model({"channels": 1}, layer_scale=0.3, pooling="cls"), "lora", []),
    "vit_mae": (export.CASES["vit_mae"][1], "ia3", []),
    "ijepa": (export.CASES["ijepa"][1], "dora", []),
    "dinov2": (export.CASES["dinov2-registers"][1], "lora", []),
    "dinov3_vit": (export.CASES["dinov3_vit-gated"][1], "lora", []),
    "clip": (export.clip_model, "lora", ["projections.image", "projections.text"]),
    "siglip": (export.siglip_model, "rslora", []),
    "videomae": (export.video_model, "lora", []),
    "vjepa2": (export.vjepa2_model, "lora", []),
    "ast": (export.CASES["ast"][1], "lora", []),
    "timm": (lambda: export.image_model({"resize": "squash"}, layer_scale=0.4), "lora", []),
    "stock": (export.wrapped_model, "lora", []),
}


@pytest.mark.parametrize("to", [n if n == "clip" else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_the_adapter_on_the_stock_base_gives_ours(tmp_path: Path, to: str) -> None:
    made, kind, extra = CASES[to]
    adapter = saved(made(), tmp_path, kind, extra)
    done = export_adapter(adapter, to, tmp_path / "out", base=None)
    exact = [row for row in done.proof.rows if row.dtype == "float32"]
    assert exact and all(row.difference <= TOLERANCE * max(row.largest, 1.0) for row in exact)
    names = {p.name for p in (tmp_path / "out" / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"base", "adapter"}


def test_the_command_and_what_it_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    adapter = saved(export.image_model(), tmp_path)
    out = tmp_path / "out"
    assert main(["export", str(adapter), "--to", "vit", "--adapter", "--output", str(out)]) == 0
    assert "largest difference" in capsys.readouterr().out
    base = AutoModel.from_pretrained(out / "base").eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = base(pixels).last_hidden_state
        after = PeftModel.from_pretrained(base, out / "adapter").eval()(pixels).last_hidden_state
    assert (after - before).abs().max() > 1e-2  # it does something
    card = (out / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card and "ViTModel.from_pretrained(BASE)" in card and str(tmp_path) not in card
    assert str(tmp_path) not in (out / "adapter" / "adapter_config.json").read_text()
    assert main(["push", str(out / "adapter"), "me/toy", "--dry-run"]) == 0


def test_a_changed_adapter_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.errors import RunError
    from mmssl.exporting import adapting

    real = adapting.convert_adapter

    def spoilt(folder: Path, output: Path, where: dict[str, list[str]], **rest: Any) -> Any:
        swapped = {name: stock[::-1] for name, stock in where.items()}  # values where queries are
        return real(folder, output, swapped, **rest)

    monkeypatch.setattr(adapting, "convert_adapter", spoilt)
    adapter = saved(export.image_model(), tmp_path)
    with pytest.raises(RunError, match="the base with the adapter is not the model"):
        export_adapter(adapter, "vit", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_cannot_be_exported_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = saved(export.image_model(), tmp_path, "loha")
    out = ["--output", str(tmp_path / "out")]
    for words, says in (
        ([str(adapter), "--to", "vit", "--adapter"], "type 'loha' cannot be cut into stock modules"),
        ([str(tmp_path / "base"), "--to", "vit", "--adapter"], "is a model of mmssl; export it without --adapter"),
        ([str(adapter), "--to", "onnx", "--adapter"], "format onnx has no place for an adapter by itself"),
        ([str(tmp_path / "base"), "--to", "vit", "--base", "x"], "only an adapter has a base"),
    ):
        assert main(["export", *words, *out]) == 2
        lines = runs.errors(capsys.readouterr().err)
        assert len(lines) == 1 and says in lines[0]
    assert not (tmp_path / "out").exists()


def test_modules_without_a_counterpart_are_named(tmp_path: Path) -> None:
    model, processor = export.image_model()
    save_model(model, processor, tmp_path / "base")
    model = load_model(tmp_path / "base")[0]
    known = base_of(model, str(tmp_path / "base"))
    handle = add_adapter(model, AdapterConfig(target_modules=["proj"]), ["image"])  # that of the patches too
    (tmp_path / "adapter").mkdir()
    write_adapter(handle, known, processor, tmp_path / "adapter", tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "mmssl_adapter.json").read_text())["base_path"] == "../base"
    with pytest.raises(UserError, match="which the stock model does not have"):
        export_adapter(tmp_path / "adapter", "vit", tmp_path / "out")
    assert not (tmp_path / "out").exists()
