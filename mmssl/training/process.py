"""What the command line sets for the whole process before it trains. A call from Python leaves its process alone."""

from __future__ import annotations

import torch
from accelerate.utils import parse_flag_from_env

from ..models.dispatch import f32_products_by_onednn
from .memory import keep_freed_memory


def prepare_process() -> None:
    """Make steps on a CPU faster: float32 products by oneDNN, and freed memory kept (see both for when and how much).

    Both hold until the process ends, for everything in it. Products by oneDNN are as accurate but differ in the last
    bits, so that a run from Python equals one of the command to the last bit only behind this call.
    """
    f32_products_by_onednn()
    if parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available():
        keep_freed_memory()
