"""What others publish runs no code of theirs here, whatever somebody answers, and is read as safetensors alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys.refusals import refused
from toys.stock import vit
from transformers import ViTModel

from mmssl.errors import UserError
from mmssl.models.foreign import describe_foreign
from mmssl.models.saving import load_model
from mmssl.models.stock.reading import stock_config
from mmssl.models.stock.transfer import pretrained
from mmssl_text.tokenizers import Pretrained

READERS: dict[str, Callable[[str], Any]] = {
    "kind of a folder": stock_config,
    "wrapped tower": describe_foreign,
    "model": load_model,
    "tokenizer": lambda path: Pretrained(path, True),
}


@pytest.mark.parametrize("name", READERS)
def test_code_in_a_folder_is_not_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ran = tmp_path / "theirs", tmp_path / "ran"
    folder.mkdir()
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}})
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.suppress(UserError):
        assert READERS[name](str(folder)) is None
    assert not ran.exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with refused("safetensors") as caught:
        pretrained(ViTModel, str(tmp_path), ignore=())
    assert "\n" not in str(caught.value)
