"""`mmssl select`: a small file that says of every row of the data whether it is kept, and why not.

Steps come in one order, whatever order they are written in: copies, the target, the score, the balance. Each sees what
the ones before have left. The file holds `row`, the columns that tell rows apart, `reason` ("kept", or why not), `of`
(the row that a copy is one of) and `value` (its cosine, the similarity to the target, the score). It takes the place of
an older one when it is whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.fingerprint import sketch
from ..data.row_files import KEPT, REASON, about_of, kept_rows, read_values, refuse_others, with_about
from ..data.sampler import order
from ..data.sources import used_columns
from ..errors import RunError, UserError, nearest, one_line
from ..evaluation.embedding_file import id_columns
from ..files import whole_file
from ..saying import doing, say
from .duplicates import alike_rows, same_contents
from .embeddings import Embeddings, embedding_columns, open_embeddings
from .kmeans import Labels, unit
from .near import hits, simcore, similarities, target_centres
from .options import SelectConfig
from .scores import Scores, as_numbers, best_rows, pair_cosines, typicality

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

COPY, NEAR_COPY, FAR, LOW, SURPLUS, UNKNOWN = "copy", "near copy", "far", "low score", "surplus", "unknown"
BEFORE = "before"
"""Left out by an earlier selection, which `select=FILE` names."""
MISSING = (None, "")


@dataclass
class Materials:
    """What rows are chosen by.

    Attributes:
        source: the rows.
        options: what is asked for.
        embeddings: of the rows; None: none were named.
        target: embeddings of the data that rows are to be near to.
        predicted: in their place, the classes that rows of the target are taken for.
    """

    source: Dataset
    options: SelectConfig
    embeddings: Embeddings | None = None
    target: Embeddings | None = None
    predicted: list[Any] | None = None

    def values(self, name: str, option: str) -> list[Any]:
        """A column of the data, or of one of the files; UserError where none or several have it."""
        files = {"beside": self.options.beside}
        files["embeddings"] = None if self.embeddings is None else str(self.embeddings.path)
        known = {"the data": list(self.source.column_names)}
        known |= {path: self._columns(path, key) for key, path in files.items() if path is not None}
        own = {*id_columns(self.source), "row"}
        found = [of for of, names in known.items() if name in names and (of == "the data" or name not in own)]
        if len(found) > 1:
            raise UserError(f"{option}: found '{name}', which {' and '.join(found)} have: expected another name of one")
        if not found:
            every = list(dict.fromkeys(n for names in known.values() for n in names))
            hint = nearest(name, every)
            raise UserError(f"{option}: found no column '{name}', expected one of {', '.join(every)}{hint}")
        if found[0] == "the data":
            return list(self.source.with_format(None)[name])
        return read_values(found[0], name, option)

    def _columns(self, path: str, option: str) -> list[str]:
        import pyarrow.parquet as pq

        refuse_others(path, about_of(path, option), self.source, option)
        names: list[str] = pq.read_schema(path).names
        return names

    def needed(self, option: str) -> Embeddings:
        """The embeddings, of which `option` has need."""
        if self.embeddings is None:
            raise UserError(f"{option}: found it without embeddings, expected --embeddings FILE|MODEL")
        return self.embeddings

    @cached_property
    def vectors(self) -> tuple[Labels, NDArray[np.float32]]:
        """(numbers of the rows that have an embedding, these brought to length 1, in memory)."""
        numbers, x = self.needed("embeddings").load()
        return numbers, unit(x).astype(np.float32)


@dataclass
class Chosen:
    """What is said of each row.

    Attributes:
        reason: (n,) object; "kept" so far.
        of: (n,) int64, -1 where a row is no copy.
        value: (n,) float64, nan where nothing was computed.
    """

    rows: int
    reason: NDArray[Any] = field(init=False)
    of: Labels = field(init=False)
    value: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.reason = np.full(self.rows, KEPT, object)
        self.of, self.value = np.full(self.rows, -1, np.int64), np.full(self.rows, np.nan)

    @property
    def left(self) -> Labels:
        """Numbers of the rows that are kept so far."""
        return np.flatnonzero(self.reason == KEPT)

    def keep(self, rows: Labels, why: str) -> None:
        """Of those that are left these alone stay; the others go for that reason."""
        gone = np.setdiff1d(self.left, rows)
        self.reason[gone] = why


def choose(materials: Materials) -> Chosen:
    """All steps that are asked for, in their order. UserError where none is, or a step finds nothing to go by."""
    options, chosen = materials.options, Chosen(len(materials.source))
    steps = {
        "drop_duplicates": (_copies, options.drop_duplicates is not False),
        "near": (_near, options.near is not None),
        "keep": (_score, options.keep is not None),
        "balance": (_balance, options.balance is not None),
    }
    if options.select is not None:
        chosen.keep(kept_rows(options.select, materials.source, "select"), BEFORE)
    for name, (step, asked) in steps.items():
        if asked:
            with doing(f"choosing rows: {name.replace('_', ' ')}"):
                step(materials, chosen)
            if not len(chosen.left):
                raise UserError(f"{name}: no row of {chosen.rows:,} would be left")
    return chosen


def _copies(materials: Materials, chosen: Chosen) -> None:
    """The first of several that are alike stays."""
    options = materials.options
    groups = None if options.within is None else materials.values(options.within, "within")
    for row, first in same_contents(materials.source, compared_columns(materials), chosen.left.tolist()).items():
        chosen.reason[row], chosen.of[row] = COPY, first
    if options.drop_duplicates is True:
        return
    numbers, x = materials.vectors
    here = np.isin(numbers, chosen.left)
    named = None if groups is None else [groups[row] for row in numbers[here].tolist()]
    for row, (first, cosine) in alike_rows(numbers[here], x[here], float(options.drop_duplicates), named).items():
        chosen.reason[row], chosen.of[row], chosen.value[row] = NEAR_COPY, first, cosine


def compared_columns(materials: Materials) -> list[str]:
    """What copies are told by: the columns that are named, or that the embeddings are of, or all that do not tell rows
    apart."""
    source, named = materials.source, used_columns(materials.options.columns)
    of = materials.embeddings.about.get("columns") if materials.embeddings is not None else None
    wanted = named or of or [name for name in source.column_names if name not in id_columns(source)]
    for name in wanted:
        if name not in source.column_names:
            raise UserError(f"columns: the data have no column '{name}'{nearest(name, source.column_names)}")
    return list(wanted)


def _near(materials: Materials, chosen: Chosen) -> None:
    """What is near to the target stays."""
    options, target = materials.options, materials.target
    here = np.zeros(chosen.rows, bool)
    here[chosen.left] = True
    if options.near_classes is not None:
        classes: list[Hashable] = materials.values(options.near_classes, "near_classes")
        if materials.predicted is not None:
            there = {classes[row] for row in chosen.left.tolist()} - set(MISSING)
            told = Counter(one for one in materials.predicted if one in there)
            counts: dict[Hashable, int] = {one: told[one] for one in there}
            if not told:
                raise UserError(
                    f"near_predicted: none of the {len(materials.predicted):,} rows of '{options.near}' is taken for a "
                    f"class of '{options.near_classes}'"
                )
        else:
            assert target is not None
            counts = hits(materials.needed("near"), classes, here, target)
        most = max(round(options.near_share * len(counts)), 1)
        best = sorted(counts, key=lambda name: (-counts[name], str(name)))[:most]
        chosen.value[chosen.left] = [counts.get(classes[row], 0) for row in chosen.left.tolist()]
        chosen.reason[[row for row in chosen.left.tolist() if classes[row] in MISSING]] = UNKNOWN
        chosen.keep(np.array([r for r in chosen.left.tolist() if classes[r] in best], np.int64), FAR)
        return
    assert target is not None
    alike = similarities(materials.needed("near"), target_centres(target, options.near_clusters, options.seed))
    alike[~here] = -np.inf
    rows, _ = simcore(alike, options.near_stop, options.near_reference, options.near_rows)
    known = np.isfinite(alike).any(1)
    if len(rows) == known.sum() and options.near_rows is None and not options.standardise:
        say("near: no round was below the stop: all rows are near; standardise=true tells apart what is all alike")
    chosen.reason[here & ~known] = UNKNOWN
    chosen.value[known] = alike[known].max(1)
    chosen.keep(rows, FAR)


def _score(materials: Materials, chosen: Chosen) -> None:
    """The share with the best scores stays, of all or of each value of a column."""
    options = materials.options
    assert options.keep is not None
    scores = _scores(materials, chosen)
    parts = {None: chosen.left} if options.each is None else _parts(materials.values(options.each, "each"), chosen.left)
    kept = []
    for rows in parts.values():
        known = rows[~np.isnan(scores[rows])]
        count = max(round(options.keep * len(rows)), 1)
        kept.append(best_rows(scores, known, count, options.order == "lowest", order(chosen.rows, options.seed, 0)))
    left = chosen.left
    chosen.value[left] = scores[left]
    chosen.reason[left[np.isnan(scores[left])]] = UNKNOWN
    chosen.keep(np.concatenate(kept) if kept else np.empty(0, np.int64), LOW)


def _scores(materials: Materials, chosen: Chosen) -> Scores:
    """(n,) what is asked for by `by`."""
    options = materials.options
    assert options.by is not None
    if options.by == "random":
        scores = np.empty(chosen.rows)
        scores[order(chosen.rows, options.seed, 1)] = np.arange(chosen.rows)
        return scores
    if options.by == "target":
        return chosen.value.copy()
    if options.by == "typicality":
        numbers, x = materials.vectors
        here = np.isin(numbers, chosen.left)
        return typicality(numbers[here], x[here], chosen.rows, options.typicality_neighbours)
    if options.by == "pair":
        path = materials.needed("by").path
        return pair_cosines(*pair_columns(path))
    return as_numbers(materials.values(options.by, "by"), options.by)


def pair_columns(path: Path) -> tuple[Embeddings, Embeddings]:
    """The two columns of embeddings of a file. UserError where it has another number of them."""
    names = embedding_columns(path)
    if len(names) != 2:
        raise UserError(f"by: found pair, but '{path}' has embeddings of {', '.join(names) or 'none'}, expected two")
    one, other = (open_embeddings(path, name, "embeddings") for name in names)
    return one, other


def _balance(materials: Materials, chosen: Chosen) -> None:
    """As many rows of each value stay as the rarest has, or as is asked for; which ones is drawn."""
    options = materials.options
    assert options.balance is not None
    values = materials.values(options.balance, "balance")
    parts = _parts(values, chosen.left)
    chosen.reason[[row for row in chosen.left.tolist() if values[row] in MISSING]] = UNKNOWN
    if not parts:
        raise UserError(f"balance: column '{options.balance}' says nothing of the rows that are left")
    count = options.balance_to or min(map(len, parts.values()))
    place = np.empty(chosen.rows, np.int64)
    place[order(chosen.rows, options.seed, 2)] = np.arange(chosen.rows)
    kept = [rows[np.argsort(place[rows], kind="stable")[:count]] for rows in parts.values()]
    chosen.keep(np.concatenate(kept), SURPLUS)


def _parts(values: list[Any], rows: Labels) -> dict[Hashable, Labels]:
    """Value -> those of the rows that have it; rows without one are in none."""
    found: dict[Hashable, list[int]] = {}
    for row in rows.tolist():
        if values[row] not in MISSING:
            found.setdefault(values[row], []).append(row)
    return {value: np.array(of, np.int64) for value, of in found.items()}


def write_selection(materials: Materials, chosen: Chosen, output: Path) -> dict[str, Any]:
    """Write the file. Returns {"rows", "kept", "reasons": {reason: rows}}. RunError where it cannot be written."""
    import pyarrow as pa

    source, embeddings = materials.source, materials.embeddings
    of = None if embeddings is None else embeddings.about.get("columns")
    about = {**sketch(source, of or source.column_names), "select": _asked(materials.options)}
    more = {"of": pa.array(chosen.of, mask=chosen.of < 0)}
    more["value"] = pa.array(chosen.value.astype(np.float32), mask=np.isnan(chosen.value))
    write_reasons(source, chosen.reason.tolist(), about, more, output)
    reasons = dict(Counter(chosen.reason.tolist()).most_common())
    return {"rows": chosen.rows, "kept": reasons.pop(KEPT), "reasons": reasons}


def write_reasons(
    source: Dataset, reasons: list[str], about: dict[str, Any], more: dict[str, pa.Array], output: Path
) -> None:
    """The file of a selection: the number of each row, the columns that tell rows apart, the reason, what `more` names.
    RunError where it cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = id_columns(source)
    plain = source.with_format(None).select_columns(names) if names else None
    data: dict[str, Any] = {"row": pa.array(range(len(source)), pa.int64())}
    data |= {} if plain is None else {name: pa.array(plain[name]) for name in names}
    data[REASON] = pa.array(reasons).dictionary_encode()
    table = pa.table({**data, **more})
    try:
        with whole_file(output) as partial:
            pq.write_table(table.cast(with_about(table.schema, about)), partial)
    except OSError as error:
        raise RunError(f"could not write {output}: {one_line(error)}") from error


def _asked(options: SelectConfig) -> dict[str, Any]:
    """What was asked for beyond the rows, for whoever finds the file."""
    from ..options import changed

    own = set(vars(options)) - set(SelectConfig.__mro__[1].__annotations__)
    return {name: getattr(options, name) for name in sorted(own) if changed(options, name)}
