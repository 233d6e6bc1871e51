"""What a model makes of some samples, for people to look at. Nothing of the model changes, and no generator is drawn
from: the rows are a function of the seed, masks of it and the row.

Shapes: B samples, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..draws import Draws, key_of
from ..errors import UserError, one_line
from ..evaluation.embedding import Collector, Embedded, shared_space
from ..evaluation.rows import spread
from ..modality import Batch, Inputs, Preprocessor
from ..modality.columns import with_further
from ..modality.shown import Shown
from ..models.modeling_mmssl import MMSSLModel
from ..models.options import pooling_parts
from ..models.running import device_of, evaluating, to_device
from ..patches import Patches
from .attention import looked_at, seen_by
from .embedding import FEWEST, Colouring, Near, Plane, colourings, neighbours, planes, retrieved

if TYPE_CHECKING:
    from datasets import Dataset

    from ..objectives.base import Objective, Reconstruction
    from ..objectives.pretraining import Pretraining
    from ..objectives.step import Step

ROWS, PICTURES, QUERIES = 300, 6, 10
"""Rows of a map; samples whose patches are shown; samples whose neighbours are."""
BATCH = 32
MOST_VALUES = 200_000_000
"""Numbers of the inputs of all rows that are looked at: of larger samples fewer are."""


@dataclass
class Subject:
    """What is looked at.

    Attributes:
        model: as it was saved.
        preprocessors: modality -> what reads it.
        rows: that samples are drawn from.
        called: what these rows are, in words.
        columns: modality, or further column of a view -> its column(s).
        label: the column of the labels, where one was named.
        seed: of the rows and the masks.
        pretraining: the model with its objectives before it was finished, which reconstruct; None: not to be had.
        further: further column -> its modality.
        more: take the time for a map by UMAP, where it is installed.
    """

    model: MMSSLModel
    preprocessors: Mapping[str, Preprocessor]
    rows: Dataset
    called: str
    columns: Mapping[str, str | list[str]]
    label: str | None = None
    seed: int = 0
    pretraining: Pretraining | None = None
    further: Mapping[str, str] = field(default_factory=dict)
    more: bool = False


@dataclass(frozen=True)
class Made:
    """was: a sample, which says what was hidden of it; made: with what was predicted; None: that cannot be shown."""

    row: int
    was: Shown
    made: Shown | None


@dataclass(frozen=True)
class Map:
    """Patches of a sample on their grid: (rows, columns, 3) bytes of the first three principal components of their
    tokens, (rows, columns) how much is looked at each, None where that is not known."""

    row: int
    was: Shown
    components: Any
    attention: Any = None


@dataclass
class Seen:
    """What there is to be seen.

    Attributes:
        rows: numbers of the rows in their data, by which samples are called.
        called: what these rows are.
        shown: modality -> row -> sample.
        made: (objective, modality) -> what it reconstructs.
        maps: modality -> patches.
        planes: modality -> its embeddings on a plane, of the rows in `there`.
        there: modality -> the rows that have it.
        colourings: what the planes can be coloured by, a value for each of all rows.
        near: modality -> neighbours of some rows.
        found: (modality, modality) -> what rows of the one find in the other.
        absent: what is not shown, and why.
    """

    rows: list[int]
    called: str
    shown: dict[str, dict[int, Shown]] = field(default_factory=dict)
    made: dict[tuple[str, str], list[Made]] = field(default_factory=dict)
    maps: dict[str, list[Map]] = field(default_factory=dict)
    planes: dict[str, list[Plane]] = field(default_factory=dict)
    there: dict[str, list[int]] = field(default_factory=dict)
    colourings: list[Colouring] = field(default_factory=list)
    near: dict[str, list[Near]] = field(default_factory=dict)
    found: dict[tuple[str, str], list[Near]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def look(subject: Subject) -> Seen:
    """Look at it. UserError where its rows cannot be read, or hold none of its modalities."""
    from ..data.loading import evaluation_batches
    from ..data.selection import row_numbers

    readers = with_further(subject.preprocessors, subject.further)
    subject = _fewer(subject, readers)
    numbers = row_numbers(subject.rows)
    seen = Seen(list(range(len(subject.rows))) if numbers is None else [int(n) for n in numbers], subject.called)
    own = {name: readers[name] for name in subject.preprocessors}
    collector, read = Collector({"model": subject.model}, None), 0
    with evaluating([subject.model]):
        for loaded in evaluation_batches(subject.rows, own, _of(subject, own), batch_size=BATCH):
            collector.add(loaded.batch)
            for name, inputs in loaded.batch.items():
                told = subject.model.modality(name).show(inputs, own[name])
                row_of = seen.shown.setdefault(name, {})
                row_of.update({read + i: _light(one) for i, one in enumerate(told) if one is not None})
            read += loaded.size
    _places(subject, collector.result(), seen)
    few = subject.rows.select(spread(len(subject.rows), PICTURES, subject.seed + 1))
    at = spread(len(subject.rows), PICTURES, subject.seed + 1)
    (loaded,) = evaluation_batches(few, readers, _of(subject, readers), batch_size=PICTURES)
    _patches(subject, loaded.batch, at, seen)
    _reconstructions(subject, loaded.batch, at, seen)
    for name, rows in seen.shown.items():
        if not rows:
            seen.absent.append(
                f"{name}: samples are not shown: the modality has nothing to be looked at, or none is there"
            )
    return seen


def _of(subject: Subject, readers: Mapping[str, Preprocessor]) -> dict[str, str | list[str]]:
    return {name: subject.columns[name] for name in readers if name in subject.columns}


def _fewer(subject: Subject, readers: Mapping[str, Preprocessor]) -> Subject:
    """The rows that are looked at: so many that their inputs stay in bounds."""
    from ..data.loading import evaluation_batches

    first = next(evaluation_batches(subject.rows, readers, _of(subject, readers), batch_size=1, limit=1), None)
    if first is None:
        raise UserError("there are no rows to look at")
    size = sum(value.numel() for inputs in first.batch.values() for value in inputs.values())
    most = max(min(ROWS, MOST_VALUES // max(size, 1)), PICTURES)
    return replace(subject, rows=subject.rows.select(spread(len(subject.rows), most, subject.seed)))


def _light(shown: Shown) -> Shown:
    """A sample with no more than a thumbnail needs."""
    from ..modality.shown import Curves, Frames, Spectrum

    if isinstance(shown, Frames):
        middle = shown.pixels[len(shown.pixels) // 2]
        every = max(max(middle.shape[:2]) // 96, 1)
        return Frames(middle[None, ::every, ::every].astype(np.float16).astype(np.float32))
    if isinstance(shown, Curves):
        return Curves(shown.values[:1, :: max(shown.values.shape[1] // 200, 1)].copy(), shown.names[:1], shown.step)
    if isinstance(shown, Spectrum):
        every = max(len(shown.values) // 128, 1)
        return Spectrum(shown.values[::every].copy(), shown.step * every)
    return shown


# ------------------------------------------------------------------------------------------------------- embeddings


def _places(subject: Subject, embedded: Embedded, seen: Seen) -> None:
    """Planes, neighbours, and what one modality finds in another."""
    queries = spread(len(seen.rows), QUERIES, subject.seed + 2)
    vectors = embedded.embeddings.get("model", {})
    for name, of in vectors.items():
        rows = [i for i, there in enumerate(embedded.present[name].tolist()) if there and bool(of[i].isfinite().all())]
        seen.there[name] = rows
        if len(rows) < FEWEST:
            seen.absent.append(f"{name}: no map and no neighbours: {len(rows)} rows have it, {FEWEST} are needed")
            continue
        seen.planes[name] = planes(of[rows], subject.seed, subject.more)
        seen.near[name] = neighbours(of[rows], rows, queries)
    for one, other in permutations(vectors, 2):
        if not shared_space(subject.model, one, other):
            continue  # nothing has brought them into one space
        both = [i for i in seen.there[one] if i in set(seen.there[other])]
        if len(both) >= FEWEST:
            seen.found[one, other] = retrieved(vectors[one][both], vectors[other][both], both, queries)
    try:
        seen.colourings = colourings(subject.rows, subject.label)
    except UserError as error:
        seen.absent.append(f"the map has no colours: {one_line(error)}")


# ---------------------------------------------------------------------------------------------------------- patches


def _patches(subject: Subject, batch: Batch, at: Sequence[int], seen: Seen) -> None:
    """Tokens of patches that lie on a grid, by their principal components, and where the last block looks."""
    model = subject.model
    device = device_of(model)
    for name in subject.preprocessors:
        inputs = batch[name]
        tower = model.tower(model.tower_of(name))
        shown = model.modality(name).show(inputs, subject.preprocessors[name])
        with evaluating([model]), seen_by(tower) as weights:
            patches = model.modality(name).patchify(to_device({name: inputs}, device)[name])
            encoded = tower({name: patches})
        own = encoded.patches[name]
        if own.grid is None or own.place is None or own.count < 2 or encoded.tokens[name].shape[1] != own.count:
            continue
        colours = _components(encoded.tokens[name].float(), own.valid)
        looked = None
        if weights:
            reads = tower.classes and "cls" in pooling_parts(tower.readout.how)
            looked = looked_at(weights[-1], own, reads)
        else:
            seen.absent.append(
                f"{name}: no attention maps: tower '{model.tower_of(name)}' is no transformer of mmssl's"
            )
        for i, one in enumerate(shown):
            if one is not None:
                look = None if looked is None else _on_grid(looked[i, :, None], own, i)[..., 0]
                map_ = Map(seen.rows[at[i]], one, _on_grid(colours[i], own, i), look)
                seen.maps.setdefault(name, []).append(map_)


def _components(tokens: Tensor, valid: Tensor) -> Tensor:
    """(B, N, 3) in 0..1: the first three principal components of all tokens (B, N, D) together."""
    rows = tokens[valid]
    mean = rows.mean(0)
    _, _, axes = torch.linalg.svd((rows - mean).double(), full_matrices=False)
    found = (tokens - mean).double() @ axes[:3].T
    found = torch.nn.functional.pad(found, (0, 3 - found.shape[-1]))
    known = found[valid]
    low, high = known.quantile(0.02, 0), known.quantile(0.98, 0)
    return ((found - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)


def _on_grid(values: Tensor, patches: Patches, row: int) -> Any:
    """Values (N, C) of one sample's patches as a picture (rows, columns, C), NaN where there is none; of three axes the
    first side by side, of one a single row."""
    assert patches.grid is not None and patches.place is not None
    grid = patches.grid
    found = torch.full((*grid, values.shape[-1]), torch.nan, dtype=torch.float64)
    valid = patches.valid[row].cpu()
    places = patches.place[row].cpu()[valid]
    found[tuple(places.unbind(-1))] = values.cpu().double()[valid]
    if len(grid) == 1:
        return found[None].numpy()
    chosen = spread_evenly(grid[0], 4) if len(grid) == 3 else []
    return np.concatenate([found[i].numpy() for i in chosen], 1) if chosen else found.numpy()


def spread_evenly(count: int, most: int) -> list[int]:
    """At most so many of 0..count-1, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


# -------------------------------------------------------------------------------------------------- reconstructions


def _reconstructions(subject: Subject, batch: Batch, at: Sequence[int], seen: Seen) -> None:
    """What objectives predict of what they hid."""
    pretraining = subject.pretraining
    if pretraining is None:
        return
    device = device_of(pretraining.model)
    draws = Draws(key_of(subject.seed, "report"), len(at), 0, len(at), device)
    with evaluating([pretraining]):
        step = pretraining.step(to_device(batch, device), draws)
        for objective, module in _reconstructing(pretraining):
            for name, found in module.reconstructs(step).items():
                made = list(_made(subject, step, name, found, at, seen.rows))
                seen.made[objective, name] = made
                if made and all(one.made is None for one in made):
                    kind = found.kind or subject.model.modality(name).targets[0]
                    seen.absent.append(
                        f"{objective}: target '{kind}' of {name} tells no values: only the mask is shown"
                    )


def _reconstructing(pretraining: Pretraining) -> Iterator[tuple[str, Objective]]:
    from ..objectives.base import Objective

    for name, module in pretraining.objectives.items():
        assert isinstance(module, Objective)
        if type(module).reconstructs is not Objective.reconstructs:
            yield name, module


def _made(
    subject: Subject, step: Step, name: str, found: Reconstruction, at: Sequence[int], numbers: Sequence[int]
) -> Iterator[Made]:
    """Each sample as it was, and with what was predicted put in."""
    modality, reader = step.model.modality(name), subject.preprocessors[name]
    patches, inputs = step.patches(name, found.view), step.inputs(name, found.view)
    guessed = modality.guess(found.prediction.float(), patches.take(found.index), found.kind)
    hidden = patches.hidden_by(found.index) & patches.valid
    mark = hidden if modality.ids else hidden[..., None].expand_as(patches.values)
    ones = modality.unpatchify(mark.to(patches.values.dtype), inputs)
    none = modality.unpatchify(torch.zeros_like(patches.values), inputs)
    mask: Inputs = {k: ones[k] != none[k] for k in ones if k in none and ones[k].shape == none[k].shape}
    was = modality.show(inputs, reader, mask)
    made: Sequence[Shown | None] = [None] * len(was)
    if guessed is not None:
        filled = modality.unpatchify(_filled(patches.values, found.index, guessed), inputs)
        made = modality.show(filled, reader, mask)
    for i, one in enumerate(was):
        if one is not None and bool(hidden[i].any()):
            yield Made(numbers[at[i]], one, made[i])


def _filled(values: Tensor, index: Tensor, guessed: Tensor) -> Tensor:
    """Values (B, N, ...) with those at index (B, m) replaced; -1: none."""
    out, there = values.clone(), index >= 0
    row = torch.arange(len(index), device=index.device)[:, None].expand_as(index)
    out[row[there], index[there]] = guessed[there].to(out.dtype)
    return out
