"""The data of `data.mix` opened beside those of `data.path`, and what a run says and keeps of all of them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ..data.fingerprint import fingerprint
from ..data.loading import presence
from ..data.mixed_streams import MixedStreams, StreamPortion
from ..data.mixing import Mixture, Portion, Wish, places
from ..data.reader import is_stream
from ..data.row_files import selected
from ..data.selection import limited
from ..data.sources import open_source
from ..errors import UserError
from ..evaluation.held_out import elsewhere, files_of, has_split, opened_rows
from ..evaluation.leaks import refuse_label
from ..modality.columns import further_columns, with_further
from ..recipe.mixture import FIRST, MixConfig
from .building import Columns, TrainingData, flat, readers_of
from .observers import Measured, Moment, Observer, State, Verdict

if TYPE_CHECKING:
    from ..data.loading import Source
    from ..recipe.config import DataConfig, Recipe


OPTIONS = [part.name for part in dataclasses.fields(MixConfig)]
Mixed: TypeAlias = Mixture | MixedStreams


def open_mixture(recipe: Recipe, opened: TrainingData) -> Mixed | None:
    """The data that a recipe mixes, those of `data.path` first; None where it has no others.

    Raises UserError where one of them is not there or has none of the modalities, one is a stream and another not, or
    one is what things are measured on.
    """
    data = recipe.data
    if not data.mix:
        return None
    found: dict[str, tuple[Source, Columns]] = {FIRST: (opened.source, opened.columns)}
    for name, of in data.mix.items():
        try:
            _refuse_measured(recipe, of, opened)
            found[name] = _opened(recipe, of, opened.columns)
        except UserError as error:
            own = re.sub(rf"^data\.({'|'.join(OPTIONS)})\b", rf"data.mix.{name}.\1", str(error))
            raise UserError(own if own != str(error) else f"data.mix.{name}: {error}") from error
    asked: Mapping[str, DataConfig | MixConfig] = {FIRST: data, **data.mix}
    streams = [name for name, (source, _) in found.items() if is_stream(source)]
    if streams and (len(streams) < len(found) or any(of.weight is None for of in asked.values())):
        raise UserError(f"data.mix: '{streams[0]}' is a stream, expected all data to be, with a weight each, or none")
    if streams:
        return MixedStreams(
            {
                n: StreamPortion(of, columns, asked[n].weight or 1.0)
                for n, (of, columns) in found.items()
                if is_stream(of)
            },
            recipe.seed,
        )
    rows = {name: (source, columns) for name, (source, columns) in found.items() if not is_stream(source)}
    wishes = {name: Wish(len(of), asked[name].weight, asked[name].repeat) for name, (of, _) in rows.items()}
    counts = places(wishes, data.temperature, recipe.train.batch_size)
    portions = {name: Portion(source, columns, counts[name]) for name, (source, columns) in rows.items()}
    return Mixture(portions, recipe.seed)


def _refuse_measured(recipe: Recipe, of: MixConfig, opened: TrainingData) -> None:
    """UserError where data that are mixed in are by their name those that rows are measured of."""
    data, evaluation = recipe.data, recipe.evaluation
    if evaluation.tasks == []:
        return
    other = elsewhere(data, evaluation)
    path, name = evaluation.path or data.path, evaluation.name or (None if other else data.name)
    split = evaluation.split if opened.held is None else data.split
    if _place(of.path, of.name) != _place(path, name):
        return
    if of.split == split or (other and not has_split(data, path, name, split)):
        raise UserError(
            f"'{of.path}', split '{of.split}', has the rows that are measured on: expected other data, or "
            f"evaluation.tasks=[]"
        )


def _place(path: str, name: str | None) -> tuple[str, str | None]:
    return os.path.realpath(os.path.expanduser(path.removeprefix("file://"))), name


def _opened(recipe: Recipe, of: MixConfig, first: Columns) -> tuple[Source, Columns]:
    """The rows of data that are mixed in, and the columns of the modalities that they have."""
    own = {name: getattr(of, name) for name in ("path", "name", "split", "columns", "limit", "select")}
    data = dataclasses.replace(recipe.data, **own, mix={})
    readers = with_further(readers_of(recipe.modalities), further_columns(recipe.views))
    maybe = {name: [of.columns.get(name), first.get(name), name] for name in readers}
    words = set(flat(column for columns in maybe.values() for column in columns if column is not None))
    known = opened_rows(data, data.path, data.name, data.split, words, files_of(data, readers)).column_names or []
    columns: Columns = {}
    for name, candidates in maybe.items():
        if name in of.columns:  # which `open_source` checks
            columns[name] = of.columns[name]
            continue
        there = [column for column in candidates if column is not None and set(flat([column])) <= set(known)]
        if there:
            columns[name] = there[0]
    if not columns:
        raise UserError(
            f"'{data.path}' has none of the modalities {', '.join(recipe.modalities)}; its columns are "
            f"{', '.join(known)}: name one in `columns`"
        )
    refuse_label(recipe.evaluation.label, columns)
    source = open_source(
        data.path,
        name=data.name,
        split=data.split,
        streaming=data.streaming,
        columns=columns,
        fetch=data.fetch,
        reading=data.reading,
        files=files_of(data, readers, columns),
    )
    return limited(selected(source, of.select), of.limit), columns


def parts_of(mixture: Mixed) -> dict[str, tuple[Source, Columns]]:
    """Name -> the rows, and the columns of the modalities that they have."""
    portions: Mapping[str, Portion | StreamPortion] = mixture.portions
    return {name: (of.source, of.columns) for name, of in portions.items()}


def by_tokens(mixture: Mixed, tokens: Mapping[str, float], recipe: Recipe) -> Mixed:
    """The same with shares of tokens; tokens: name -> of a sample of these data, on average."""
    data = recipe.data
    asked: Mapping[str, DataConfig | MixConfig] = {FIRST: data, **data.mix}
    if isinstance(mixture, MixedStreams):
        streams = mixture.portions.items()
        return dataclasses.replace(
            mixture,
            portions={
                name: dataclasses.replace(of, weight=(asked[name].weight or 1.0) / tokens[name], tokens=tokens[name])
                for name, of in streams
            },
        )
    wishes = {
        name: Wish(len(of.source), asked[name].weight, asked[name].repeat, tokens[name])
        for name, of in mixture.portions.items()
    }
    counts = places(wishes, data.temperature, recipe.train.batch_size)
    portions = {
        name: dataclasses.replace(of, places=counts[name], tokens=tokens[name]) for name, of in mixture.portions.items()
    }
    return dataclasses.replace(mixture, portions=portions)


def said_of(mixture: Mixed, modalities: Iterable[str]) -> list[str]:
    """A line for each of the data."""
    out = []
    brought = {name: mixture.share(name) * (of.tokens or 0.0) for name, of in mixture.portions.items()}
    for name, of in mixture.portions.items():
        absent = [modality for modality in modalities if modality not in of.columns]
        share = f"{mixture.share(name):.1%} of the samples"
        if isinstance(of, Portion):
            share = f"{len(of.source):,} rows, {share}, each {of.places / len(of.source):.2g} times in an epoch"
        if of.tokens is not None:
            share += f", {of.tokens:.4g} tokens a sample, {brought[name] / sum(brought.values()):.1%} of the tokens"
        out.append(f"{name}: {share}" + (f"; without {', '.join(absent)}" if absent else ""))
    return out


def noted(source: Source, columns: Columns, mixture: Mixed | None, rows: Any = fingerprint) -> dict[str, Any]:
    """What `fingerprint` (or `glance`) says of the data, those of a mixture beside those of `data.path`."""
    said = dict(rows(source, flat(columns.values())))
    if mixture is not None:
        others = list(parts_of(mixture).items())[1:]
        said["mix"] = {name: rows(of, flat(wanted.values())) for name, (of, wanted) in others}
    return said


def counted(source: Source, columns: Columns, mixture: Mixed | None) -> dict[str, int]:
    """Modality -> rows that have it, of all data."""
    counts = dict.fromkeys(columns, 0)
    for of, wanted in [(source, columns)] if mixture is None else parts_of(mixture).values():
        for name, count in presence(of, wanted).items():
            counts[name] += count
    return counts


class Shares(Observer):
    """Says in every line of the log how the samples since the last one are shared among the data: `share/NAME`."""

    name = "shares"

    def __init__(self, mixture: Mixed, batch_size: int, world: int) -> None:
        self.mixture, self.batch_size, self.world = mixture, batch_size, world
        self.last = 0

    def due(self, moment: Moment) -> bool:
        """Where a line is written."""
        return moment.logs and moment.step > self.last

    def look(self, moment: Moment) -> Measured:
        """Computed: which data come where is known."""
        first, last = (step * self.batch_size for step in (self.last, moment.step))
        counts = self.mixture.shares(first, last, self.world)
        return {f"share/{name}": count / (last - first) for name, count in counts.items()}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """The next line begins here."""
        self.last = moment.step
        return None

    def state_dict(self) -> State:
        """The step of the last line."""
        return {"last": self.last}

    def load_state_dict(self, state: State, tensors: Mapping[str, Any]) -> None:
        """The step of the last line."""
        self.last = int(state.get("last", 0))
