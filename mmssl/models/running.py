"""Models at work: their device, evaluation mode, and the twin that nobody trained."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..modality import Batch
from .modeling_mmssl import MMSSLModel

logger = logging.getLogger("mmssl")


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def untrained_twin(model: MMSSLModel) -> MMSSLModel:
    """The same architecture with the random weights of its seed."""
    # on the CPU, where models are built, draws of the caller go on as if nothing had been drawn
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.config.initializer_seed)
        return type(model)(copy.deepcopy(model.config)).eval()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; from pinned memory without waiting for the copy."""
    return {n: {k: v.to(device, non_blocking=True) for k, v in inputs.items()} for n, inputs in batch.items()}


def in_float32(model: nn.Module, whole: bool) -> None:
    """Make float32 of the weights that are trained, in place; float32 ones stay what they are, bit for bit.

    transformers loads weights in the type that they are stored in. A step of 1e-4 of a bfloat16 weight is rounded away:
    most of them would stay where they are. Says so in one line where it changes any.

    Args:
        model: with `requires_grad` set.
        whole: all of them, as a tower needs one type throughout; else those alone that are trained.
    """
    odd = {
        str(p.dtype).removeprefix("torch.")
        for p in model.parameters()
        if p.is_floating_point() and p.dtype != torch.float32 and (whole or p.requires_grad)
    }
    if not odd:
        return
    if whole:
        model.float()
    else:
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.float()
    logger.warning("weights that are stored as %s are trained in float32", ", ".join(sorted(odd)))
