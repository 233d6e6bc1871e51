"""An adapter of ours as an adapter for the exported stock model.

Our trunk has one map for queries, keys and values, most stock classes have three. For LoRA the change B A of the fused
map is cut by rows: the three share A and each takes its third of B, which is exact. DoRA's magnitudes belong to rows
and are cut alike; so are (IA)^3's factors where they act on outputs, while those on inputs are shared. Other types mix
rows (LoKr's Kronecker product, orthogonal maps over blocks): merge such an adapter and export the merged model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..boundary import read_json_object, reading_of
from ..errors import UserError
from ..models.locating import PEFT_CONFIG, PEFT_WEIGHTS

CONVERTIBLE = ("LORA", "IA3")
PREFIX = "base_model.model."
Modules = Mapping[str, Sequence[str]]
"""Our module (`towers.image.trunk.blocks.0.attention.qkv`) -> the stock one(s) that hold its rows, in order."""


def block_modules(
    tower: str, depth: int, layers: str, qkv: Sequence[str], proj: str, fc1: Sequence[str], fc2: str
) -> dict[str, list[str]]:
    """`Modules` of a tower's blocks. layers: path of the list of blocks in the stock model; the rest: paths in a block
    (`mmssl.models.stock.transfer.BlockNames` has them for every format)."""
    out = {}
    for i in range(depth):
        ours, theirs = f"towers.{tower}.trunk.blocks.{i}", f"{layers}.{i}"
        out[f"{ours}.attention.qkv"] = [f"{theirs}.{name}" for name in qkv]
        out[f"{ours}.attention.proj"] = [f"{theirs}.{proj}"]
        out[f"{ours}.mlp.fc1"] = [f"{theirs}.{name}" for name in fc1]
        out[f"{ours}.mlp.fc2"] = [f"{theirs}.{fc2}"]
    return out


def wrapped_modules(names: Sequence[str], tower: str, inner: str = "") -> dict[str, list[str]]:
    """`Modules` of a tower that wraps a stock model: the same names without the way to it.

    names: our modules that have an adapter; inner: where the encoder lies in the stock model (`vision_model.`).
    """
    start = f"towers.{tower}.net.encoder."
    return {name: [inner + name.removeprefix(start)] for name in names if name.startswith(start)}


def adapted_modules(folder: Path) -> list[str]:
    """Our modules that the adapter in `folder` changes."""
    return sorted({_split(key)[0] for key in _read(folder)[1]})


def convert_adapter(
    folder: str | Path,
    output: str | Path,
    modules: Modules,
    base: str | None = None,
    scales: Mapping[str, Tensor] | None = None,
) -> list[str]:
    """Write the adapter in `folder` into `output` as one for the stock model; returns the stock modules it changes.

    base: what the new adapter calls its base. scales: our module -> (O,) factors that the export multiplied into its
    rows (a layer scale that the stock class lacks). UserError when its type, or a module it changes, has no stock
    counterpart.
    """
    kind = refuse_unconvertible(Path(folder))
    config, weights = _read(Path(folder))
    on_input = str(config.get("feedforward_modules") or "")
    out: dict[str, Tensor] = {}
    hit: dict[str, list[str]] = {}
    for key, value in weights.items():
        name, part = _split(key)
        if name not in modules:
            raise UserError(f"{folder}: the adapter changes '{name}', which the stock model does not have")
        stock = list(modules[name])
        hit[name] = stock
        scale = (scales or {}).get(name)
        for where, rows in zip(stock, _rows(value, part, len(stock), scale), strict=True):
            out[f"{PREFIX}{where}.{part}"] = rows.contiguous().clone()
    target = Path(output)
    target.mkdir(parents=True, exist_ok=True)
    names = sorted(n for stock in hit.values() for n in stock)
    new: dict[str, object] = {
        **config,
        "target_modules": names,
        "base_model_name_or_path": base,
        "modules_to_save": None,
    }
    if kind == "IA3":
        new["feedforward_modules"] = sorted(
            n
            for ours, stock in hit.items()
            for n in stock
            if _listed(config.get("feedforward_modules"), on_input, ours)
        )
    save_file(out, target / PEFT_WEIGHTS, metadata={"format": "pt"})
    (target / PEFT_CONFIG).write_text(json.dumps(new, indent=2) + "\n")
    return names


def refuse_unconvertible(folder: Path) -> str:
    """The type of the adapter in `folder`; UserError when it cannot be cut into stock modules."""
    config = _read(folder)[0]
    kind = str(config.get("peft_type"))
    if kind not in CONVERTIBLE:
        raise UserError(
            f"{folder}: an adapter of type '{kind.lower()}' cannot be cut into stock modules; export the merged model"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise UserError(f"{folder}: an adapter with {key} cannot be converted; export the merged model")
    return kind


def _listed(value: object, pattern: str, name: str) -> bool:
    if isinstance(value, list):
        return any(name == v or name.endswith(f".{v}") for v in value)
    return bool(pattern) and re.fullmatch(pattern, name) is not None


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with reading_of(f"{folder}: no adapter can be read"):
        config = read_json_object(folder / PEFT_CONFIG, f"{folder}: its {PEFT_CONFIG}")
        return config, load_file(folder / PEFT_WEIGHTS)


def _split(key: str) -> tuple[str, str]:
    """(our module, what of it): `...qkv.lora_A.weight` -> (`...qkv`, `lora_A.weight`)."""
    match = re.fullmatch(r"base_model\.model\.(.+?)\.((?:lora_|ia3_).+)", key)
    if match is None:
        name = key.removeprefix(PREFIX)
        raise UserError(f"the adapter holds '{name}', trained whole, which a stock model has no place for")
    return match[1], match[2]


def _rows(value: Tensor, part: str, count: int, scale: Tensor | None) -> list[Tensor]:
    """A tensor of one module's adapter, for each of the `count` modules that share its rows.

    `lora_A` (r, I) and (IA)^3's factors of inputs (1, I) are the same for all; `lora_B` (O, r), DoRA's magnitudes (O,)
    and (IA)^3's factors of outputs (O, 1) have a row for each output.
    """
    shared = part.startswith("lora_A") or part.startswith("ia3_") and value.shape[0] == 1
    if scale is not None and not shared and not part.startswith("ia3_"):
        factor = scale.abs() if "magnitude" in part else scale
        value = value * (factor if value.ndim == 1 else factor[:, None])
    return [value] * count if shared else list(torch.chunk(value, count))
