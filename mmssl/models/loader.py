"""`mmssl_loader.py`, which the `auto_map` of a saved folder names: by it transformers finds mmssl."""

from __future__ import annotations

from pathlib import Path

LOADER = "mmssl_loader"

PIPELINES = (
    "feature-extraction",
    "image-feature-extraction",
    "image-classification",
    "text-classification",
    "audio-classification",
    "video-classification",
    "zero-shot-image-classification",
)
"""Tasks of `transformers.pipeline` that `MMSSLPipeline` does, or says in one line why not."""
CUSTOM_PIPELINES = {task: {"impl": f"{LOADER}.MMSSLPipeline", "pt": ["AutoModel"]} for task in PIPELINES}
"""What `config.json` says of them."""

LOADER_SOURCE = '''"""Lets transformers find mmssl's classes: AutoModel.from_pretrained(..., trust_remote_code=True)."""

try:
    from mmssl.models.configuration_mmssl import MMSSLConfig
    from mmssl.models.modeling_mmssl import MMSSLModel
    from mmssl.models.processing_mmssl import MMSSLProcessor
except ImportError as error:
    raise ImportError("this checkpoint needs the package mmssl, which is not installed here") from error

__all__ = ["MMSSLConfig", "MMSSLModel", "MMSSLProcessor"]


def __getattr__(name):
    """`MMSSLPipeline`, which only `transformers.pipeline` asks for."""
    try:
        from mmssl.finetuning import pipelines
    except ImportError as error:
        raise ImportError("this checkpoint needs the package mmssl, which is not installed here") from error
    return getattr(pipelines, name)
'''


def write_loader(folder: Path) -> None:
    """Put it into a folder that a model or a processor was saved to."""
    (folder / f"{LOADER}.py").write_text(LOADER_SOURCE, encoding="utf-8")
