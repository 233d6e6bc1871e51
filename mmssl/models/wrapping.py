"""What a wrapped pretrained model is rebuilt from, and the tower that is made of it: whatever library it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..boundary import reading_of
from ..errors import UserError
from ..modality import Modality
from .foreign import OPEN_CLIP, TIMM, Foreign, OpenClipTower, TransformersTower, open_clip_config, without_origin
from .options import TowerConfig
from .tower import Tower
from .untrusted import inner_config
from .waves import WaveTower, takes_waves


def describe_foreign(origin: str) -> Foreign:
    """What rebuilds the architecture of `origin`. UserError when it cannot be read."""
    if origin.startswith(OPEN_CLIP):
        return {"library": "open_clip", "config": open_clip_config(origin.removeprefix(OPEN_CLIP))}
    if origin.startswith(TIMM):
        from .timm_tower import timm_config

        return {"library": "timm", "config": timm_config(origin)}
    from transformers import AutoConfig

    with reading_of(f"model.towers: from '{origin}': no transformers model"):
        config = AutoConfig.from_pretrained(origin, trust_remote_code=False)
    return {"library": "transformers", "config": without_origin(config.to_dict())}


def build_foreign(options: TowerConfig, modalities: Mapping[str, Modality], foreign: Foreign) -> Tower:
    """The tower of a description, with random weights. `load_foreign` fills in the pretrained ones."""
    if len(modalities) != 1:
        raise UserError(f"model.towers: a pretrained tower has one modality, found {', '.join(modalities)}")
    from .timm_tower import TimmTower

    kinds: dict[str, Any] = {"transformers": TransformersTower, "open_clip": OpenClipTower, "timm": TimmTower}
    library = foreign.get("library")
    if library not in kinds or not isinstance(foreign.get("config"), Mapping):
        raise UserError(f"model.towers: found a tower of {library!r:.60}, expected one of {', '.join(kinds)}")
    config = inner_config(foreign["config"], "model.towers: foreign")
    hears = library == "transformers" and takes_waves(config) and hasattr(next(iter(modalities.values())), "features")
    tower: Tower = (WaveTower if hears else kinds[library])(options, modalities, config)
    return tower
