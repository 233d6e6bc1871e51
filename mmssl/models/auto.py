"""Makes `AutoConfig`, `AutoModel` and `AutoProcessor` know mmssl's classes. Imported by `import mmssl`."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_mmssl import MMSSLConfig
from .modeling_mmssl import MMSSLModel
from .processing_mmssl import MMSSLProcessor

AutoConfig.register("mmssl", MMSSLConfig, exist_ok=True)
AutoModel.register(MMSSLConfig, MMSSLModel, exist_ok=True)
AutoProcessor.register(MMSSLConfig, MMSSLProcessor, exist_ok=True)
