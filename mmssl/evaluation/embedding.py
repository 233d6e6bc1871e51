"""Run encoders over a data source: features in memory. `embedding_file` writes them to disk for `mmssl embed`.

Every modality is encoded alone: in a joint tower the caption would otherwise get into the picture's embedding, and
every probe and retrieval score would be a leak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..modality import Batch, Inputs, Modality, Preprocessor
from ..models.running import device_of, evaluating, to_device
from .baselines import hashed

if TYPE_CHECKING:
    from ..data.loading import Loaded
    from ..data.quarantine import Bad
    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel

Progress = Callable[[int], None]
"""Called with the number of rows done so far."""


@dataclass
class Embedded:
    """Features of n rows, on the CPU, float32.

    Attributes:
        present: modality -> (n,) bool.
        raw: modality -> (n, F) raw features, where the modality has any.
        pooled: encoder -> modality -> (n, V) summaries of the tower's tokens (`TowerConfig.readout`).
        embeddings: encoder -> modality -> (n, E) normalised: projected, or the summary where there is no projection.
        joint: encoder -> "a+b" -> (n, E) projected state of modalities that one tower was given together.
        bad: one entry for every broken value that was left out.
    """

    present: dict[str, Tensor] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    joint: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)

    def features(self, encoder: str, modality: str) -> Tensor | None:
        """What a probe sees of `encoder` ("raw" for the raw features), or None where there is nothing."""
        if encoder == "raw":
            return self.raw.get(modality)
        return self.pooled.get(encoder, {}).get(modality)


def has_raw(modality: Modality) -> bool:
    """Whether the modality offers raw features (the contract's base class offers none)."""
    return type(modality).raw_features is not Modality.raw_features


def _there(inputs: Inputs) -> Tensor:
    """(B,) bool which samples have this modality; inputs without `present` have it everywhere."""
    if "present" in inputs:
        return inputs["present"].bool().cpu()
    return torch.ones(len(next(iter(inputs.values()))), dtype=torch.bool)


def encode_together(model: MMSSLModel, batch: Batch, group: tuple[str, ...]) -> Tensor:
    """(B, E) projected embedding, not normalised, of several modalities that share a tower and see each other in it."""
    tower = model.tower_of(group[0])
    encoded = model.tower(tower)({name: model.modality(name).patchify(batch[name]) for name in group})
    return model.embed(tower, encoded).float()


class Collector:
    """Gathers the features of batch after batch."""

    def __init__(
        self, models: Mapping[str, MMSSLModel], describe: MMSSLModel | None, groups: Sequence[tuple[str, ...]] = ()
    ) -> None:
        """What is gathered.

        Args:
            models: encoder -> model.
            describe: the model whose modalities compute raw features, None for no raw ones.
            groups: modalities of one tower that it is also given together.
        """
        self.models, self.describe, self.groups = models, describe, groups
        self.parts: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, batch: Batch) -> None:
        """Encode one batch with every encoder, and keep what comes out of it on the CPU.

        Args:
            batch: modality -> input name -> tensor (B, ...), on the CPU; each encoder gets a copy on its own device.
        """
        present = {name: _there(inputs) for name, inputs in batch.items()}
        for encoder, model in self.models.items():
            device = device_of(model)
            moved = to_device(batch, device)
            output = model.encode_batch(moved, alone=True)
            assert output.pooled is not None and output.embeddings is not None and output.present is not None
            for name in batch:
                present[name] = present[name] & output.present[name].cpu()
                self._put(output.pooled[name].float().cpu(), "pooled", encoder, name)
                self._put(output.embeddings[name].float().cpu(), "embeddings", encoder, name)
            for group in self.groups:
                self._put(encode_together(model, moved, group).cpu(), "joint", encoder, "+".join(group))
        for name, inputs in batch.items():
            self._put(present[name], "present", name)
            if self.describe is not None and has_raw(self.describe.modality(name)):
                self._put(hashed(self.describe.modality(name).raw_features(inputs).float().cpu()), "raw", name)

    def _put(self, value: Tensor, *key: str) -> None:
        self.parts.setdefault(key, []).append(value)

    def result(self, order: Tensor | None = None, bad: Sequence[Bad] = ()) -> Embedded:
        """Everything gathered, with the rows in `order` where it is given."""
        out = Embedded(bad=list(bad))
        for key, parts in self.parts.items():
            value = torch.cat(parts)
            value = value if order is None else value[order]
            if len(key) == 2:
                getattr(out, key[0])[key[1]] = value
            else:
                getattr(out, key[0]).setdefault(key[1], {})[key[2]] = value
        return out


def embed_source(
    models: Mapping[str, MMSSLModel],
    preprocessors: Mapping[str, Preprocessor],
    source: Source,
    columns: Mapping[str, str | list[str]],
    *,
    describe: MMSSLModel | None = None,
    batch_size: int = 256,
    workers: int = 0,
    broken: str = "part",
    progress: Progress | None = None,
    groups: Sequence[tuple[str, ...]] = (),
) -> Embedded:
    """Features of all rows of `source`, in its order, by all models in one pass over the data.

    Args:
        models: encoder -> model.
        preprocessors: modality -> what reads and collates it.
        source: the data.
        columns: modality -> column(s), for the modalities to embed.
        describe: the model whose modalities compute the raw features; None leaves them out.
        batch_size: rows that are encoded at a time.
        workers: processes that decode; 0: this one does.
        broken: what a broken part of a row costs: that "part" alone, or the whole "row".
        progress: is called with the number of rows done.
        groups: modalities of one tower to encode together as well.

    Returns:
        The features; what is broken is absent, and listed in `bad`.
    """
    from ..data.loading import evaluation_batches

    chosen = {name: preprocessors[name] for name in columns}
    batches = evaluation_batches(source, chosen, dict(columns), batch_size=batch_size, workers=workers, broken=broken)
    return embed_batches(models, batches, describe=describe, progress=progress, groups=groups)


def embed_batches(
    models: Mapping[str, MMSSLModel],
    batches: Iterable[Loaded],
    *,
    describe: MMSSLModel | None = None,
    progress: Progress | None = None,
    groups: Sequence[tuple[str, ...]] = (),
) -> Embedded:
    """`embed_source` for rows that are loaded already."""
    collector, rows, bad, done = Collector(models, describe, groups), [], [], 0
    with evaluating([*models.values(), *([] if describe is None else [describe])]):
        for loaded in batches:
            collector.add(loaded.batch)
            rows.append(loaded.rows)
            bad.extend(loaded.bad)
            done += len(loaded.rows)
            if progress is not None:
                progress(done)
    # back into the order of the source, whatever order the batches came in
    order = torch.cat(rows).argsort() if rows else None
    return collector.result(order, bad)


def embed_texts(
    models: Mapping[str, MMSSLModel],
    preprocessor: Preprocessor,
    name: str,
    texts: Sequence[str | None],
    *,
    describe: MMSSLModel | None = None,
    batch_size: int = 256,
) -> Embedded:
    """Features of strings (None = absent) by the text modality `name`; fields as of `embed_source`, a row a string."""
    collector = Collector(models, describe)
    with evaluating([*models.values(), *([] if describe is None else [describe])]):
        for start in range(0, len(texts), batch_size):
            collector.add({name: preprocessor(list(texts[start : start + batch_size]))})
    return collector.result()
