"""`mmssl_loader.py`, which the `auto_map` of a saved folder names: by it transformers finds mmssl."""

from __future__ import annotations

from pathlib import Path

LOADER = "mmssl_loader"

LOADER_SOURCE = '''"""Lets transformers find mmssl's classes: AutoModel.from_pretrained(..., trust_remote_code=True)."""

try:
    from mmssl.models.configuration_mmssl import MMSSLConfig
    from mmssl.models.modeling_mmssl import MMSSLModel
    from mmssl.models.processing_mmssl import MMSSLProcessor
except ImportError as error:
    raise ImportError("this checkpoint needs the package mmssl, which is not installed here") from error

__all__ = ["MMSSLConfig", "MMSSLModel", "MMSSLProcessor"]
'''


def write_loader(folder: Path) -> None:
    """Put it into a folder that a model or a processor was saved to."""
    (folder / f"{LOADER}.py").write_text(LOADER_SOURCE, encoding="utf-8")
