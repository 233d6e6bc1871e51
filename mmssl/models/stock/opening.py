"""Stock folders as models of mmssl, for `mmssl evaluate` and `mmssl embed`: what was exported, or comes from elsewhere.

Towers are started from the folder as `model.towers.X.from` does it (converted where the format can be read, wrapped
otherwise), with the preprocessing that the folder holds. What a stock class has no place for, how mmssl pools and how
many frames a second a clip has, is in `mmssl_export.json`, which every export writes; a folder without it is pooled as
is usual for its class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from ...boundary import inside
from ...errors import UserError
from ...modality import load_modality
from ...options.schema import build
from ..configuration_mmssl import MMSSLConfig
from ..foreign import without_origin
from ..locating import fetched
from ..modeling_mmssl import MMSSLModel
from ..options import TowerConfig
from ..processing_mmssl import MMSSLProcessor
from ..saving import no_progress_bars
from ..waves import takes_waves
from . import transfer
from .formats.siglip import NAFLEX
from .reading import apply_origins, stock_config
from .record import read_record
from .towers import load_origin, tower_specs

if TYPE_CHECKING:
    from transformers import PretrainedConfig


MEAN = ("videomae", "vjepa2", "ijepa", "vit_mae")
"""Types of models that have no class token, or one that was not trained to sum up."""
VIDEO, AUDIO = ("videomae", "vjepa2"), ("audio-spectrogram-transformer",)
PROJECTIONS = {"CLIPVisionModelWithProjection": "visual_projection", "CLIPTextModelWithProjection": "text_projection"}
ST_POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


def open_stock(path: str) -> tuple[MMSSLModel, MMSSLProcessor]:
    """The model and processor of a stock folder or id. UserError when it is of no kind that mmssl has a modality for,
    or lacks what prepares its samples."""
    modules = _modules(path)
    first = modules[0]["path"] if modules else ""
    origin = str(inside(Path(path), first, f"{path}: its modules.json")) if first else path
    config = stock_config(origin)
    if config is None:
        raise UserError(f"{path}: its config.json cannot be read as one of transformers")
    kinds = _kinds(path, config)
    record = read_record(path)
    data: dict[str, Any] = {"modalities": {}, "model": {"towers": {}}}
    for kind in kinds:
        kept = record["parts"].get(kind, {})
        same = not _pools(config) or record["format"] == "stock"  # else it is the class that pools
        pooling = _pooling(modules, kinds) or (same and kept.get("pooling")) or _usual(config, kind)
        data["model"]["towers"][kind] = {"from": origin, "pooling": pooling}
        if pooling == kept.get("pooling"):
            data["model"]["towers"][kind]["readout"] = kept.get("readout")
        if kind == "image" and config.model_type in NAFLEX:  # it cannot be wrapped: it takes patches, not pictures
            data["model"]["towers"][kind] |= {"convert": True, "pooling": kept.get("pooling") or "attention"}
        data["modalities"][kind] = {**kept.get("options", {}), **(_text(origin, config) if kind == "text" else {})}
    faults: list[str] = []
    apply_origins(data, faults)
    towers = {kind: build(TowerConfig, spec, kind, faults) for kind, spec in data["model"]["towers"].items()}
    preprocessors = {}
    for kind, options in data["modalities"].items():
        package = load_modality(kind)
        fitted = build(package.Config, options, kind, faults)
        if not faults:
            preprocessors[kind] = package.Preprocessor(fitted)
            if kind == "text" and fitted.tokenizer is None:
                faults.append("it has no tokenizer")
            if kind != "text" and not preprocessors[kind].state:
                faults.append(f"it has no file that says how its {kind}s are prepared (preprocessor_config.json)")
    if faults:
        raise UserError("\n".join(f"{path}: {fault}" for fault in faults))
    processor = MMSSLProcessor(preprocessors)
    return _built(path, origin, config, modules, towers, processor), processor


def _built(
    path: str,
    origin: str,
    config: PretrainedConfig,
    modules: list[dict[str, Any]],
    towers: dict[str, TowerConfig],
    processor: MMSSLProcessor,
) -> MMSSLModel:
    pair = config.model_type == "clip"  # its projections become mmssl's: probes see what lies before them
    projection = None if pair else _projection(path, origin, config, modules)
    width = config.projection_dim if pair else None if projection is None else len(projection)
    sizes = {name: {"type": name, **p.sizes()} for name, p in processor.preprocessors.items()}
    specs = tower_specs(towers, sizes, {})
    if pair:
        for kind, half in (("image", config.vision_config), ("text", config.text_config)):
            specs[kind]["foreign"] = {"library": "transformers", "config": without_origin(half.to_dict())}
    made = MMSSLConfig(modalities=sizes, towers=specs, projection=width)
    with no_progress_bars(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(made.initializer_seed)
        model = MMSSLModel(made)
        for name, tower in () if pair else towers.items():
            load_origin(model, processor, name, tower)
    if pair:
        _fill_clip(model, origin)
    if projection is not None:
        with torch.no_grad():
            next(iter(model.projections.values())).weight.copy_(projection)  # type: ignore[operator]
    return model.eval()


@torch.no_grad()
def _fill_clip(model: MMSSLModel, origin: str) -> None:
    from transformers import CLIPModel

    stock = transfer.pretrained(CLIPModel, origin, ignore=())
    for kind, half, projection in (
        ("image", stock.vision_model, stock.visual_projection),
        ("text", stock.text_model, stock.text_projection),
    ):
        net: Any = model.tower(kind).net
        net["encoder"].load_state_dict(half.state_dict())
        model.projections[kind].weight.copy_(projection.weight)  # type: ignore[operator]


def _kinds(path: str, config: PretrainedConfig) -> list[str]:
    """The modalities that a stock configuration takes."""
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        return ["image", "text"]
    if config.model_type in VIDEO:
        return ["video"]
    if config.model_type in AUDIO or takes_waves(config):
        return ["audio"]
    if getattr(config, "patch_size", None) and getattr(config, "image_size", config.model_type in NAFLEX):
        return ["image"]
    if getattr(config, "vocab_size", None) and getattr(config, "max_position_embeddings", None):
        return ["text"]
    raise UserError(
        f"{path}: found a model of type '{config.model_type}', expected an encoder of pictures in patches, "
        f"of text or of raw sound, a VideoMAE, V-JEPA 2 or Audio Spectrogram Transformer, or a pair such as CLIP"
    )


def _pools(config: PretrainedConfig) -> bool:
    """Whether it is a pair, or half of one, whose class has its own summary."""
    return hasattr(config, "vision_config") or config.model_type.startswith(("clip", "siglip"))


def _usual(config: PretrainedConfig, kind: str) -> str:
    if _pools(config):
        return "cls"  # what such a class pools to
    return "mean" if kind == "text" or takes_waves(config) or config.model_type in MEAN else "cls"


def _text(origin: str, config: PretrainedConfig) -> dict[str, Any]:
    """Length and padding of texts, from the tokenizer."""
    from transformers import AutoTokenizer

    config = getattr(config, "text_config", config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(origin, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(f"{origin}: its tokenizer cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    most = int(config.max_position_embeddings)
    if config.model_type in ("esm", "roberta", "xlm-roberta", "camembert", "mpnet"):  # they count from behind padding
        most -= int(config.pad_token_id or 0) + 1
    filled = "attention_mask" not in tokenizer.model_input_names
    return {"max_length": min(most, int(tokenizer.model_max_length)), "attend_padding": filled}


# ------------------------------------------------------------------------------------------- sentence-transformers


def _modules(path: str) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers folder or id, with their options; none of another one."""
    file = fetched(path, "modules.json")
    if file is None:
        return []
    try:
        found = json.loads(file.read_text())
        for module in found:
            module["name"] = module["type"].rpartition(".")[2]
            options = fetched(path, f"{module['path']}/config.json") if module["path"] else None
            module["options"] = json.loads(options.read_text()) if options is not None else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its modules.json cannot be read ({error})") from error
    if not found:
        raise UserError(f"{path}: its modules.json names no module, expected Transformer first")
    for module in found:
        options = module["options"]
        identity = str(options.get("activation_function", "Identity")).endswith("Identity")
        if module["name"] not in ("Transformer", "Pooling", "Dense", "Normalize") or (
            module["name"] == "Dense" and (options.get("bias", True) or not identity)
        ):
            raise UserError(
                f"{path}: found a module {module['name']} {options or ''}, expected Transformer, Pooling, "
                f"Dense without bias and activation, or Normalize"
            )
    return list(found)


def _pooling(modules: list[dict[str, Any]], kinds: list[str]) -> str | None:
    if not modules or kinds != ["text"]:
        return None
    options: dict[str, object] = next((m["options"] for m in modules if m["name"] == "Pooling"), {})
    older = [
        k.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for k, v in options.items()
        if k.startswith("pooling_mode_") and v is True
    ]
    mode = options.get("pooling_mode") or (older[0] if len(older) == 1 else None)
    if mode not in ST_POOLING:
        raise UserError(f"its pooling is {mode or older}, expected mean, cls or lasttoken")
    return ST_POOLING[mode]


def _projection(path: str, origin: str, config: object, modules: list[dict[str, Any]]) -> torch.Tensor | None:
    """(E, D) a linear map behind the pooled state that the tower does not hold; None where there is none."""
    dense = [module for module in modules if module["name"] == "Dense"]
    if len(dense) > 1:
        raise UserError(f"{path}: found {len(dense)} modules Dense, expected one at most")
    if dense:
        name = f"{dense[0]['path']}/model.safetensors"
        return _tensor(fetched(path, name) or Path(path) / name, "linear.weight")
    held = PROJECTIONS.get((getattr(config, "architectures", None) or [""])[0])
    if held is None:
        return None
    from transformers.utils import cached_file

    return _tensor(Path(str(cached_file(origin, "model.safetensors"))), f"{held}.weight")


def _tensor(file: Path, name: str) -> torch.Tensor:
    try:
        with safe_open(file, framework="pt") as weights:
            found: torch.Tensor = weights.get_tensor(name)
            return found.float()
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: its tensor {name} cannot be read ({error})") from error
