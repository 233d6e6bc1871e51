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

from ..errors import UserError
from ..modality import Batch, Inputs, Modality, Preprocessor
from ..models.running import device_of, evaluating, to_device
from .baselines import hashed

if TYPE_CHECKING:
    from ..data.loading import Loaded
    from ..data.quarantine import Bad
    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel

MOST_TOKENS = 2 * 1024**3
"""Bytes of tokens that are kept of one source: a probe on them reads them again and again."""

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
        tokens: encoder -> modality -> (n, N, D) every patch's token, nan where there is no such patch; if asked for.
        no_tokens: why there are none although they were asked for.
        bad: one entry for every broken value that was left out.
    """

    present: dict[str, Tensor] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    joint: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    tokens: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    no_tokens: str | None = None
    bad: list[Bad] = field(default_factory=list)

    def beside(self, other: Embedded) -> Embedded:
        """With the features of other columns of the same rows."""
        out = Embedded({**self.present, **other.present}, {**self.raw, **other.raw}, bad=[*self.bad, *other.bad])
        for kind in ("pooled", "embeddings"):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            setattr(out, kind, {e: {**mine.get(e, {}), **theirs.get(e, {})} for e in {**mine, **theirs}})
        return out

    def features(self, encoder: str, modality: str) -> Tensor | None:
        """What a probe sees of `encoder` ("raw" for the raw features), or None where there is nothing."""
        if encoder == "raw":
            return self.raw.get(modality)
        return self.pooled.get(encoder, {}).get(modality)


def refuse_diverged(rows: Embedded, what: str) -> None:
    """UserError where an encoder gives what is no number for rows that it was given. what: the rows are called."""
    for encoder, of in rows.pooled.items():
        for name, x in of.items():
            broken = int((~x.isfinite().all(1) & rows.present[name]).sum())
            if broken:
                raise UserError(
                    f"what the encoder '{encoder}' gives of {name} is not finite in {broken:,} of {len(x):,} "
                    f"{what} rows, expected numbers: its weights, or these rows, are too large or no numbers"
                )


def has_raw(modality: Modality) -> bool:
    """Whether the modality offers raw features (the contract's base class offers none)."""
    return type(modality).raw_features is not Modality.raw_features


def shared_space(model: MMSSLModel, one: str, other: str) -> bool:
    """Whether embeddings of two modalities may be compared: of one, of towers that project into one space, or of towers
    of one width that were trained to agree without a projection."""
    towers = [model.tower_of(name) for name in (one, other)]
    if one == other or all(tower in model.projections for tower in towers):
        return True
    agree = model.config.logit_scale is not None and not model.projections
    return agree and len({model.embedding_width(tower) for tower in towers}) == 1


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
        self,
        models: Mapping[str, MMSSLModel],
        describe: MMSSLModel | None,
        groups: Sequence[tuple[str, ...]] = (),
        tokens_of: int = 0,
        further: Mapping[str, str] | None = None,
    ) -> None:
        """What is gathered.

        Args:
            models: encoder -> model.
            describe: the model whose modalities compute raw features, None for no raw ones.
            groups: modalities of one tower that it is also given together.
            tokens_of: of how many rows every patch's token is kept; 0: of none.
            further: name of a further column -> its modality.
        """
        self.models, self.describe, self.groups, self.tokens_of = models, describe, groups, tokens_of
        self.further = further or {}
        self.parts: dict[tuple[str, ...], list[Tensor]] = {}
        self.longest: dict[tuple[str, str], int] = {}
        self.no_tokens: str | None = None

    def add(self, batch: Batch) -> None:
        """Encode one batch with every encoder, and keep what comes out of it on the CPU.

        Args:
            batch: modality, or further column -> input name -> tensor (B, ...), on the CPU; each encoder gets a copy on
                its own device.
        """
        main = {name: inputs for name, inputs in batch.items() if name not in self.further}
        if main:
            self._add(main, {}, self.groups)
        for name in batch.keys() & self.further.keys():
            self._add({self.further[name]: batch[name]}, {self.further[name]: name}, ())

    def _add(self, batch: Batch, called: Mapping[str, str], groups: Sequence[tuple[str, ...]]) -> None:
        """A batch of modalities; called: modality -> the name of what it is given, where that is another."""
        present = {name: _there(inputs) for name, inputs in batch.items()}
        for encoder, model in self.models.items():
            device = device_of(model)
            moved = to_device(batch, device)
            output = model.encode_batch(moved, alone=True)
            assert output.pooled is not None and output.embeddings is not None and output.present is not None
            for name in batch:
                present[name] = present[name] & output.present[name].cpu()
                self._put(output.pooled[name].float().cpu(), "pooled", encoder, called.get(name, name))
                self._put(output.embeddings[name].float().cpu(), "embeddings", encoder, called.get(name, name))
                if self.tokens_of:
                    assert output.tokens is not None and output.valid is not None
                    self._keep_tokens(output.tokens[name], output.valid[name], encoder, name)
            for group in groups:
                self._put(encode_together(model, moved, group).cpu(), "joint", encoder, "+".join(group))
        for name, inputs in batch.items():
            self._put(present[name], "present", called.get(name, name))
            if self.describe is not None and has_raw(self.describe.modality(name)):
                raw = self.describe.modality(name).raw_features(inputs).float().cpu()
                self._put(hashed(raw), "raw", called.get(name, name))

    def _keep_tokens(self, tokens: Tensor, valid: Tensor, encoder: str, name: str) -> None:
        """Keep them, or, where all rows' would be too many, none at all and say so."""
        self.longest[encoder, name] = max(tokens[0].numel(), self.longest.get((encoder, name), 0))
        a_row = 4 * sum(self.longest.values())  # all get the length of the longest
        if a_row * self.tokens_of > MOST_TOKENS:
            self.no_tokens = (
                f"the tokens of {self.tokens_of:,} rows, {a_row / 1e6:.3g} MB each, are more than the "
                f"{MOST_TOKENS / 1e9:.2g} GB that are kept; fewer rows: limit, train_limit"
            )
            self.tokens_of = 0
            self.parts = {key: parts for key, parts in self.parts.items() if key[0] != "tokens"}
            return
        self._put(tokens.float().masked_fill(~valid[..., None], torch.nan).cpu(), "tokens", encoder, name)

    def _put(self, value: Tensor, *key: str) -> None:
        self.parts.setdefault(key, []).append(value)

    def result(self, order: Tensor | None = None, bad: Sequence[Bad] = ()) -> Embedded:
        """Everything gathered, with the rows in `order` where it is given."""
        out = Embedded(bad=list(bad), no_tokens=self.no_tokens)
        for key, parts in self.parts.items():
            value = torch.cat(_as_long(parts) if key[0] == "tokens" else parts)
            value = value if order is None else value[order]
            if len(key) == 2:
                getattr(out, key[0])[key[1]] = value
            else:
                getattr(out, key[0]).setdefault(key[1], {})[key[2]] = value
        return out


def _as_long(parts: Sequence[Tensor]) -> list[Tensor]:
    """Batches of tokens (B, N, D) with the N of the longest, filled up with nan."""
    most = max(part.shape[1] for part in parts)
    return [torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[1]), value=torch.nan) for part in parts]


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
    tokens: bool = False,
    further: Mapping[str, str] | None = None,
    change: Callable[[Iterable[Loaded]], Iterable[Loaded]] | None = None,
) -> Embedded:
    """Features of all rows of `source`, in its order, by all models in one pass over the data.

    Args:
        models: encoder -> model.
        preprocessors: modality -> what reads and collates it.
        source: the data.
        columns: modality, or further column -> column(s), of what is to be embedded.
        describe: the model whose modalities compute the raw features; None leaves them out.
        batch_size: rows that are encoded at a time.
        workers: processes that decode; 0: this one does.
        broken: what a broken part of a row costs: that "part" alone, or the whole "row".
        progress: is called with the number of rows done.
        groups: modalities of one tower to encode together as well.
        tokens: keep every patch's token as well, of a source of known length.
        further: name of a further column -> its modality, whose preprocessor reads it.
        change: what is done to the batches first.

    Returns:
        The features; what is broken is absent, and listed in `bad`.
    """
    from ..data.loading import evaluation_batches

    chosen = {name: preprocessors[(further or {}).get(name, name)] for name in columns}
    batches = evaluation_batches(source, chosen, dict(columns), batch_size=batch_size, workers=workers, broken=broken)
    rows = len(source) if tokens else 0
    changed = batches if change is None else change(batches)
    return embed_batches(
        models, changed, describe=describe, progress=progress, groups=groups, tokens_of=rows, further=further
    )


def embed_batches(
    models: Mapping[str, MMSSLModel],
    batches: Iterable[Loaded],
    *,
    describe: MMSSLModel | None = None,
    progress: Progress | None = None,
    groups: Sequence[tuple[str, ...]] = (),
    tokens_of: int = 0,
    further: Mapping[str, str] | None = None,
) -> Embedded:
    """`embed_source` for rows that are loaded already; tokens_of: see `Collector`."""
    collector, rows, bad, done = Collector(models, describe, groups, tokens_of, further), [], [], 0
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
    further: Mapping[str, str] | None = None,
) -> Embedded:
    """Features of strings (None = absent) by the text modality `name`, or that of a further column of that name; fields
    as of `embed_source`, a row a string."""
    collector = Collector(models, describe, further=further)
    with evaluating([*models.values(), *([] if describe is None else [describe])]):
        for start in range(0, len(texts), batch_size):
            collector.add({name: preprocessor(list(texts[start : start + batch_size]))})
    return collector.result()
