"""Models at work: their device, evaluation mode, and the twin that nobody trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..modality import Batch
from .modeling_mmssl import MMSSLModel


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
