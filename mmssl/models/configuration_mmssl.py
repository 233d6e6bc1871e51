"""`MMSSLConfig`: what `model/config.json` holds."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..errors import UserError
from .auto import bring_model
from .untrusted import refuse_elsewhere


class MMSSLConfig(PreTrainedConfig):
    """Architecture of an `MMSSLModel`.

    Attributes:
        modalities: name -> {"type": package name, "width"-less keyword arguments of its `Modality`}, from the fitted
            preprocessors.
        towers: name -> the fields of `TowerConfig` (options.py; as YAML writes them), plus `foreign` for a wrapped
            model: what is needed to rebuild it without its origin.
        projection: width of the shared embedding, or None for none.
        projection_hidden: width of the layer between a pooled output and the shared embedding; None: a linear map.
        projection_standard: what comes into the projection is standardised number by number over the training rows.
        projection_dropout: of what comes into the projection and its hidden layer, in training.
        logit_scale: of contrastive training across towers, log(1 / temperature): with `logit_bias` what turns products
            of embeddings into probabilities; None where there was no such training.
        logit_bias: SigLIP's bias.
        codes: name -> what describes the `Codes` that an objective has left in the model, which give patches ids; None
            where none did.
        initializer_seed: of the random weights.
    """

    model_type = "mmssl"

    modalities: dict[str, Any] | None = None
    towers: dict[str, Any] | None = None
    projection: int | None = None
    projection_hidden: int | None = None
    projection_dropout: float | int = 0.0
    projection_standard: bool = False
    logit_scale: float | None = None
    logit_bias: float | None = None
    codes: dict[str, Any] | None = None
    initializer_seed: int = 0

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: object) -> Any:
        """As transformers' own, of a file that leads nowhere out of its folder (UserError)."""
        refuse_elsewhere(config_dict, "config.json")
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: see `MMSSLModel.register_for_auto_class`."""

    def __post_init__(self, **kwargs: object) -> None:
        bring_model()
        for key in ("modalities", "towers"):
            value = getattr(self, key) or {}
            if not isinstance(value, dict):
                raise UserError(f"config.json: {key}: found {value!r:.60}, expected names with their options")
            setattr(self, key, dict(value))
        super().__post_init__(**kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a configuration that comes into this process pickled, without being built."""
        bring_model()
        self.__dict__.update(state)


AutoConfig.register("mmssl", MMSSLConfig, exist_ok=True)
