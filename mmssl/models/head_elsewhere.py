"""What transformers' Auto classes for tasks find of mmssl, whose heads are no part of its model classes."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
)

from ..errors import UserError
from .configuration_mmssl import MMSSLConfig
from .modeling_mmssl import MMSSLModel


class HeadElsewhere(MMSSLModel):
    """What `AutoModelForImageClassification` and its like find of mmssl, whose heads lie beside their encoders."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """UserError with what opens a folder with its head."""
        place = str(pretrained_model_name_or_path)
        raise UserError(
            f"{place}: mmssl keeps the head of a task beside the encoder: mmssl.load_task({place!r}).predict(...) or "
            f"transformers.pipeline(TASK, {place!r}) gives its answers, AutoModel the encoder"
        )


for _auto in (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
):
    _auto.register(MMSSLConfig, HeadElsewhere, exist_ok=True)
