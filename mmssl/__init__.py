"""mmssl: self-supervised pretraining on any modality, from unlabelled data to a Hugging Face model.

    import mmssl
    run = mmssl.pretrain("quickstart", train={"steps": 200})
    model = mmssl.MMSSLModel.from_pretrained("runs/quickstart/model")

Importing it makes `AutoConfig`, `AutoModel` and `AutoProcessor` know mmssl's models, whichever of the two packages
comes first. It imports nothing heavy: torch and transformers come with the first of the names below that is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .models.auto import watch as _watch_auto_classes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import demo, embed, evaluate, evaluate_suite, export, pretrain, push, report, tune
    from .around import check, cluster, init, plan, select
    from .finetuning.finetune import finetune
    from .finetuning.pipelines import MMSSLPipeline
    from .finetuning.task import load_task
    from .models.configuration_mmssl import MMSSLConfig
    from .models.modeling_mmssl import MMSSLModel
    from .models.processing_mmssl import MMSSLProcessor
    from .provenance import trust
    from .recipe.loading import load_recipe
    from .saying import set_log

__all__ = [
    "MMSSLConfig",
    "MMSSLModel",
    "MMSSLPipeline",
    "MMSSLProcessor",
    "__version__",
    "check",
    "cluster",
    "demo",
    "embed",
    "evaluate",
    "evaluate_suite",
    "export",
    "finetune",
    "init",
    "load_recipe",
    "load_task",
    "plan",
    "pretrain",
    "push",
    "report",
    "select",
    "set_log",
    "trust",
    "tune",
]

_WHERE = {
    "MMSSLConfig": "mmssl.models.configuration_mmssl",
    "MMSSLModel": "mmssl.models.modeling_mmssl",
    "MMSSLPipeline": "mmssl.finetuning.pipelines",
    "MMSSLProcessor": "mmssl.models.processing_mmssl",
    "check": "mmssl.around",
    "cluster": "mmssl.around",
    "demo": "mmssl.api",
    "embed": "mmssl.api",
    "evaluate": "mmssl.api",
    "evaluate_suite": "mmssl.api",
    "export": "mmssl.api",
    "finetune": "mmssl.finetuning.finetune",
    "init": "mmssl.around",
    "load_recipe": "mmssl.recipe.loading",
    "load_task": "mmssl.finetuning.task",
    "plan": "mmssl.around",
    "pretrain": "mmssl.api",
    "push": "mmssl.api",
    "report": "mmssl.api",
    "select": "mmssl.around",
    "set_log": "mmssl.saying",
    "trust": "mmssl.provenance",
    "tune": "mmssl.api",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mmssl' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(_WHERE[name]), name)
    except Exception as error:
        # A torchvision that does not fit torch, say: what that means, and the way out.
        from .doctor import import_failed

        raise import_failed(error) from error


def __dir__() -> list[str]:
    return sorted(__all__)


_watch_auto_classes()
