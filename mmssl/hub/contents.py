"""What a folder of each kind may hold when it is published, and what it must."""

from __future__ import annotations

import re
from pathlib import Path

from ..boundary import read_json_object
from ..models.loader import LOADER, LOADER_SOURCE
from ..models.locating import ADAPTER, CONFIG, HEAD, MODULES, PEFT_CONFIG, PEFT_WEIGHTS, PROCESSOR, TASK

CARD = "README.md"
LOADER_FILE = f"{LOADER}.py"
ALWAYS = (CARD, "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", ".gitattributes")
WEIGHTS = r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
TOKENIZER = (
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|"
    r"chat_template\.(jinja|json)|spiece\.model|tokenizer\.model|sentencepiece\.bpe\.model|bpe\.codes|unigram\.json|"
    r"[\w.-]+\.bpe"
)
OURS = rf"{WEIGHTS}|config\.json|processor_config\.json|reproduction\.json|{TASK}|{HEAD}|{LOADER}\.py"
TUNED = (
    rf"adapter_config\.json|adapter_model\.safetensors|{ADAPTER}|processor_config\.json|reproduction\.json|{TASK}|"
    rf"{HEAD}|{LOADER}\.py"
)
PEFT = r"adapter_config\.json|adapter_model\.safetensors"
STOCK = (
    rf"{WEIGHTS}|{TOKENIZER}|config\.json|processor_config\.json|preprocessor_config\.json|generation_config\.json|"
    r"video_preprocessor_config\.json|mmssl_export\.json|[\w-]+\.onnx|[\w-]+\.onnx\.data|open_clip_config\.json|"
    rf"open_clip_model\.safetensors|{MODULES}|config_sentence_transformers\.json|sentence_bert_config\.json|"
    rf"(\d+_)?(Transformer|Pooling|Dense|Normalize)/({WEIGHTS}|{TOKENIZER}|(sentence_bert_)?config\.json)"
)
PICTURES = (".png", ".svg")


def kind_of_folder(folder: Path) -> str:
    """What it holds: "model" or "adapter" (of mmssl's), "peft" (an adapter for a stock class), or "other": what stock
    classes and other libraries load."""
    if (folder / ADAPTER).is_file():
        return "adapter"
    if (folder / PEFT_CONFIG).is_file():
        return "peft"
    if not (folder / CONFIG).is_file():
        return "other"
    config = read_json_object(folder / CONFIG, f"push: {CONFIG}")
    return "model" if config.get("model_type") == "mmssl" else "other"


def may_hold(folder: Path, name: str) -> bool:
    """Whether a file belongs to a folder of its kind. Pictures do where the card shows them, the files of a modality
    where `processor_config.json` lists them."""
    if name in ALWAYS:
        return True
    if name.endswith(PICTURES):
        card = folder / CARD
        return card.is_file() and f"]({name})" in card.read_text(encoding="utf-8", errors="replace")
    kind = kind_of_folder(folder)
    if re.fullmatch({"model": OURS, "adapter": TUNED, "peft": PEFT, "other": STOCK}[kind], name):
        return True
    return kind in ("model", "adapter") and name in _listed(folder)


def _listed(folder: Path) -> set[str]:
    if not (folder / PROCESSOR).is_file():
        return set()
    parts = read_json_object(folder / PROCESSOR, f"push: {PROCESSOR}").get("modalities")
    listed = [
        part.get("files") for part in (parts.values() if isinstance(parts, dict) else []) if isinstance(part, dict)
    ]
    return {str(file) for files in listed if isinstance(files, list) for file in files}


def lacks(folder: Path) -> list[str]:
    """A line for each thing that makes a folder no whole model, for others who load it."""
    faults = []
    kind = kind_of_folder(folder)
    needed = [CARD, PROCESSOR, LOADER_FILE] if kind in ("model", "adapter") else [CARD]
    needed += [PEFT_WEIGHTS] if kind in ("adapter", "peft") else []
    hints = {
        CARD: "write down what it is, what it was trained on and its limits",
        PROCESSOR: "processor.save_pretrained(FOLDER) writes it",
        LOADER_FILE: "model.save_pretrained(FOLDER) writes it",
    }
    for name in needed:
        if not (folder / name).is_file():
            faults.append(f"push: {folder} has no {name}, expected a whole {kind}; {hints.get(name, 'train it again')}")
    loader = folder / LOADER_FILE
    if loader.is_file() and loader.read_bytes() != LOADER_SOURCE.encode():
        faults.append(f"push: {LOADER_FILE}: it is not mmssl's own, and would be run by whoever loads the model")
    if (folder / "model.safetensors").is_file() and (folder / "model.safetensors.index.json").is_file():
        faults.append(
            "push: model.safetensors: it lies beside the shards of model.safetensors.index.json, and would be loaded "
            "in their place; take out what is old"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = read_json_object(index, f"push: {index.name}").get("weight_map")
        shards = set(map(str, named.values())) if isinstance(named, dict) else set()
        there = {path.name for path in folder.glob("model-*.safetensors")}
        for name in sorted(shards - there):
            faults.append(f"push: {name}: {index.name} names it, but it is not there")
        for name in sorted(there - shards):
            faults.append(f"push: {name}: {index.name} does not name it; take out what is old")
    return faults
