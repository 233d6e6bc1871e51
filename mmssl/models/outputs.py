"""`MMSSLOutput`: what an `MMSSLModel` gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class MMSSLOutput(ModelOutput):
    """What `MMSSLModel` says of a batch.

    Attributes:
        last_hidden_state: (B, n, D), of a model with a single tower, else None.
        pooler_output: (B, V), likewise: its summary.
        tokens: modality -> (B, n, D).
        valid: modality -> (B, n) bool, False where tokens are padding.
        pooled: modality -> (B, V) float32, the tower's summary (`TowerConfig.readout`).
        embeddings: modality -> (B, E) float32, L2-normalised: projected, or the summary where there is no projection.
        present: modality -> (B,) bool, False for samples without it (their rows are zero).
        hidden_states: with `output_hidden_states`, modality -> a (B, n, D) for each block, before the last norm.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    tokens: dict[str, Tensor] | None = None
    valid: dict[str, Tensor] | None = None
    pooled: dict[str, Tensor] | None = None
    embeddings: dict[str, Tensor] | None = None
    present: dict[str, Tensor] | None = None
    hidden_states: dict[str, tuple[Tensor, ...]] | None = None

    @property
    def logits(self) -> Tensor:
        """AttributeError with what has them: a class of transformers or PEFT for some task may ask."""
        raise AttributeError(
            "logits: this is an encoder, without the head of a task: mmssl.load_task(FOLDER).predict(...), or "
            "pipeline(TASK, FOLDER) on what mmssl finetune wrote"
        )
