"""What the configurations in a stranger's folder may ask of the libraries that build models, and what not.

transformers and open_clip follow some of their keys out of the folder: to a module that is imported, a kernel
that is fetched, a backbone that is downloaded. mmssl writes none of these keys, and refuses them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UserError
from .loader import CUSTOM_PIPELINES

ELSEWHERE = ("attn_implementation", "_attn_implementation", "quantization_config", "kernel_config")
"""Keys of a configuration of transformers by which kernels or further packages are fetched or imported."""
BACKBONES = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "timm_model_name", "hf_model_name")
"""Keys by which a model is built of another one, fetched by its name."""
BACKBONE_TYPES = ("timm_wrapper", "timm_backbone")


def refuse_elsewhere(config: Mapping[str, object], where: str) -> None:
    """UserError where a `config.json` of mmssl holds a key that leads transformers out of the folder."""
    for key in ELSEWHERE:
        if config.get(key):
            raise UserError(f"{where}: found {key} {config[key]!r:.60}, expected none in a model of mmssl")
    if config.get("custom_pipelines", CUSTOM_PIPELINES) != CUSTOM_PIPELINES:
        raise UserError(f"{where}: found custom_pipelines of others' making, expected those that mmssl writes")


def inner_config(config: Mapping[str, object], where: str) -> dict[str, object]:
    """The configuration of a wrapped model without what concerns its loading; UserError where it needs another one."""
    out = {}
    for key, value in config.items():
        if key in BACKBONES and value or key == "model_type" and value in BACKBONE_TYPES:
            raise UserError(f"{where}: found {key} {value!r:.60}, expected a model that needs no other one")
        if key not in (*ELSEWHERE, "auto_map"):
            out[key] = inner_config(value, f"{where}.{key}") if isinstance(value, Mapping) else value
    return out
