"""Every sample that is looked at, read once as training would: what is broken, how large it is, what its channels are.

Rows are read by worker processes and told of in a file, line by line, so that a look that was interrupted goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ..boundary import reading_sample
from ..data.quarantine import Bad
from ..data.reader import Fault, Reader, named_file
from ..errors import BadSample, RunError, UserError, one_line
from ..files import replaceable
from ..modality import Preprocessor, select
from ..modality.looked import Looked
from ..models.privacy import without_secrets
from ..saying import Advance, doing
from .sketches import sketch

if TYPE_CHECKING:
    from datasets import Dataset

AT_ONCE = 32
MOST = 20_000
"""Numbers of a channel that its statistics are made of, evenly spread."""
AT_REST = 0.05
"""Share of a signal's samples at its least or greatest value from which on it is saturated."""
STAYS, LEVELS = 3, 64
"""Times that a signal stays at one extreme for two samples and more from which on it is saturated too, where it has so
many different values: of 1,800 leads of PTB-XL and 3,840 of EEGMMI none does; of leads cut where 5 % of their samples
lie 97 % are found so."""
SIDES = (8, 9)
"""Of the small picture that samples are compared by."""
FINE = 512
"""Pixels of the shorter side of a picture, at least, that this is made of."""

Facts = dict[str, Any]
"""Of a row: "row", "modalities" (name -> "sizes", "channels", the "file" it comes from, and "small", "words" or
"cells" to be compared by), "bad" (modality -> reason)."""


class Looker(Reader):
    """Reads rows, and tells of each in place of putting them into a batch."""

    def load(self, items: Any) -> Any:
        """Facts of these rows."""
        return [self.facts(row, index) for (_, index, _), row in zip(items, self.rows(items), strict=True)]

    def facts(self, row: Any, index: int) -> Facts:
        """What there is to say of a row."""
        if isinstance(row, Bad):
            return {"row": index, "modalities": {}, "bad": {"*": row.reason}}
        read, bad = self.read(row, 0, index)
        out: Facts = {"row": index, "modalities": {}, "bad": {fault.modality: fault.reason for fault in bad}}
        for name, reader in self.preprocessors.items():
            if name in out["bad"] or "*" in out["bad"] or (read and read.get(name) is None):
                continue
            raw = self.declared(select(row, self.columns[name]), self.columns[name])
            found = _looked(reader, raw)
            if found is not None:
                file = None if found.text is not None else named_file(raw)
                out["modalities"][name] = told(found) | ({} if file is None else {"file": without_secrets(file)})
        if out["bad"].get("*") == "no modality present":
            out["bad"] = {}
        return out


def _looked(reader: Preprocessor, raw: object) -> Looked | None:
    try:
        with reading_sample():
            return reader.look(raw)
    except BadSample:
        return Looked()  # it was read, in the way that training reads it


def told(found: Looked) -> Facts:
    """A sample in numbers."""
    channels = {name: _channel(values, found.signal) for name, values in found.channels.items()}
    out: Facts = {"sizes": {key: round(float(value), 6) for key, value in found.sizes.items()}}
    if channels:
        out["channels"] = channels
        out["unit"], out["signal"] = found.unit, found.signal
    if found.doubts:
        out["doubts"] = found.doubts
    if found.text is not None:
        words = sketch(found.text)
        return out if words is None else {**out, "words": words}
    if found.cells:
        return {**out, "cells": {name: float(f"{value:.12g}") for name, value in found.cells.items()}}
    small = small_of(found)
    return out if small is None else {**out, "small": small.tobytes().hex()}


def _channel(values: NDArray[Any], signal: bool) -> list[float | int]:
    """[mean, deviation, least, greatest, 1 where it is flat, 1 where it is saturated]."""
    whole = np.asarray(values).reshape(-1)
    flat = whole[:: max(len(whole) // MOST, 1)].astype(np.float64)
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return [0.0, 0.0, 0.0, 0.0, 1, 0]
    low, high, spread = float(flat.min()), float(flat.max()), float(flat.std())
    saturated = signal and len(flat) >= 100 and high > low and _rests(whole.astype(np.float64), flat)
    still = high == low and len(whole) > 1  # of a cell of a table nothing is said
    return [float(f"{x:.6g}") for x in (flat.mean(), spread, low, high)] + [int(still), int(saturated)]


def _rests(whole: NDArray[np.float64], some: NDArray[np.float64]) -> bool:
    """Whether a signal rests at its least or greatest value; `some` of its numbers tell how many values it has."""
    low, high = float(np.nanmin(whole)), float(np.nanmax(whole))
    share = float(((whole == low) | (whole == high)).mean())
    levels = len(np.unique(some))
    if share > AT_REST and levels > 8:
        return True
    if levels < LEVELS:
        return False  # of few values each comes often
    stays = [_stays(whole == extreme) for extreme in (low, high) if extreme != 0.0]  # 0 is what counts have least
    return max(stays, default=0) >= STAYS


def _stays(there: NDArray[np.bool_]) -> int:
    """How often two and more in a row are true."""
    pairs = there[1:] & there[:-1]
    return int(pairs[:1].sum() + (pairs[1:] & ~pairs[:-1]).sum())


def small_of(found: Looked) -> NDArray[np.int8] | None:
    """A sample as a picture of `SIDES`, around its mean, the largest number 127: nearly the same of samples that are,
    however bright or loud. None: too little to go by, or the same everywhere."""
    grids = [grid for values in found.channels.values() if (grid := _small(np.asarray(values))) is not None]
    if not grids:
        return None
    grid = np.mean(grids, axis=0)
    grid = grid - grid.mean()
    most = np.abs(grid).max()
    return None if grid.std() < 1e-9 else np.asarray((127 * grid / most).round(), np.int8)


def _small(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """An array as a picture of `SIDES`, each cell the mean of what lies in it; one axis is cut into its rows."""
    rows, columns = SIDES
    if values.ndim == 2 and min(values.shape) >= 2 * FINE:  # of large pictures every other pixel, or fewer
        step = min(values.shape) // FINE
        values = values[::step, ::step]
    numbers = np.nan_to_num(values.astype(np.float64))
    if numbers.ndim == 1:
        if len(numbers) < rows * columns:
            return None
        numbers = numbers[: len(numbers) // (rows * columns) * (rows * columns)]
        size = np.abs(numbers - numbers.mean()).reshape(rows, columns, -1).mean(-1)
        return np.asarray(size)
    if numbers.ndim > 2 or numbers.shape[0] < rows or numbers.shape[1] < columns:
        return None  # volumes: in little the heads of two people look alike
    edges = [np.linspace(0, length, parts + 1).astype(int) for length, parts in zip(numbers.shape, SIDES, strict=True)]
    sums = np.add.reduceat(np.add.reduceat(numbers, edges[0][:-1], 0), edges[1][:-1], 1)
    return np.asarray(sums / np.outer(np.diff(edges[0]), np.diff(edges[1])))


# ----------------------------------------------------------------------------------------------------- all of them


def look_through(
    rows: Dataset,
    readers: Mapping[str, Preprocessor],
    columns: Mapping[str, str | list[str]],
    numbers: Sequence[int],
    kept: Path | None,
    key: str,
    *,
    workers: int,
    what: str,
) -> list[Facts]:
    """Facts of these rows, of those that `kept` has already from there.

    Args:
        rows: the data.
        readers: modality -> its fitted preprocessor.
        columns: modality -> its column(s).
        numbers: of the rows.
        kept: the file that facts are written to as they come; None: nowhere.
        key: what the file belongs to: of other data, or read otherwise, it is begun anew.
        workers: processes that read; 0: this one.
        what: is read, in words.

    Raises:
        RunError: the file cannot be written.
    """
    known = _known(kept, key)
    left = [number for number in numbers if number not in known]
    looker = Looker(rows, readers, columns, None)
    chunks = [[(0, number, None) for number in left[at : at + AT_ONCE]] for at in range(0, len(left), AT_ONCE)]
    try:
        with doing(what, len(numbers)) as advance, _appended(kept, key, bool(known)) as file:
            for facts in _read(looker, chunks, workers):
                known |= {one["row"]: one for one in facts}
                if file is not None:
                    file.write("".join(json.dumps(one) + "\n" for one in facts))
                    file.flush()
                advance(len(known))
    except OSError as error:
        raise RunError(f"{kept} could not be written: {one_line(error)}") from error
    return [known[number] for number in numbers]


def _read(looker: Looker, chunks: list[Any], workers: int) -> Iterator[list[Facts]]:
    results: Any = map(looker.__getitems__, chunks)
    if workers:
        results = torch.utils.data.DataLoader(
            looker, batch_sampler=chunks, num_workers=workers, collate_fn=_as_it_is, generator=torch.Generator()
        )
    for result in results:
        if isinstance(result, Fault):
            raise result.error
        yield cast("list[Facts]", result)


def _as_it_is(facts: object) -> object:
    return facts


def _known(kept: Path | None, key: str) -> dict[int, Facts]:
    """What an interrupted look has told of already; a last line that it did not finish is left out."""
    if kept is None or not kept.is_file():
        return {}
    lines = kept.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        if json.loads(lines[0]).get("key") != key:
            return {}
    except (ValueError, AttributeError):
        return {}
    found = {}
    for line in lines[1:-1]:
        try:
            facts = json.loads(line)
            found[int(facts["row"])] = facts
        except (ValueError, KeyError, TypeError):
            continue
    return found


@contextlib.contextmanager
def _appended(kept: Path | None, key: str, goes_on: bool) -> Iterator[TextIO | None]:
    """The file of facts, open for more of them; None where there is none."""
    if kept is None:
        yield None
        return
    path = replaceable(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    if goes_on:
        text = path.read_bytes()
        path.write_bytes(text[: text.rfind(b"\n") + 1])
    with path.open("a" if goes_on else "w", encoding="utf-8") as file:
        if not goes_on:
            file.write(json.dumps({"key": key}) + "\n")
        yield file


def fitted(
    readers: Mapping[str, Preprocessor], samples: Mapping[str, Sequence[object]], advance: Advance
) -> dict[str, str]:
    """Fit the preprocessors; modality -> why it could not be: nothing that it looked at can be read. advance: told how
    many are fitted."""
    failed = {}
    for number, (name, reader) in enumerate(readers.items()):
        advance(number)
        try:
            reader.fit(samples[name])
        except UserError as error:
            failed[name] = one_line(error)
    return failed
