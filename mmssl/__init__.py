"""mmssl: self-supervised pretraining on any modality, from unlabelled data to a Hugging Face model.

    import mmssl
    run = mmssl.pretrain("quickstart", train={"steps": 200})
    model = mmssl.MMSSLModel.from_pretrained("runs/quickstart/model")

Importing it makes `AutoConfig`, `AutoModel` and `AutoProcessor` know mmssl's models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .finetuning.finetune import finetune
    from .finetuning.task import load_task
    from .models.configuration_mmssl import MMSSLConfig
    from .models.modeling_mmssl import MMSSLModel
    from .models.processing_mmssl import MMSSLProcessor
    from .recipe.loading import load_recipe
    from .training.pretrain import pretrain

__all__ = [
    "MMSSLConfig",
    "MMSSLModel",
    "MMSSLProcessor",
    "__version__",
    "finetune",
    "load_recipe",
    "load_task",
    "pretrain",
]

_WHERE = {
    "MMSSLConfig": "mmssl.models.configuration_mmssl",
    "MMSSLModel": "mmssl.models.modeling_mmssl",
    "MMSSLProcessor": "mmssl.models.processing_mmssl",
    "finetune": "mmssl.finetuning.finetune",
    "load_recipe": "mmssl.recipe.loading",
    "load_task": "mmssl.finetuning.task",
    "pretrain": "mmssl.training.pretrain",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'mmssl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


try:
    from .models import auto as _auto  # noqa: F401 - registers the classes
except Exception as error:
    # A torchvision that does not fit torch, say. Raises again, naming the way out; only `mmssl doctor` may go on.
    from .doctor import import_failed

    import_failed(error)
