"""What `mmssl select` is asked for: opened, and looked at before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .. import limits
from ..data.row_files import about_of, parquet_place, read_values, refuse_nested, refuse_others
from ..data.sources import open_source
from ..errors import UserError, nearest
from .embeddings import (
    Embedder,
    Embeddings,
    embeddings_beside,
    is_embeddings,
    made_embeddings,
    open_embeddings,
    standardise,
)
from .options import SCORES, SelectConfig
from .selecting import Materials, choose, compared_columns, pair_columns, write_selection

if TYPE_CHECKING:
    from datasets import Dataset


def select_as(options: SelectConfig, output: str | Path, base: str | None = None) -> dict[str, Any]:
    """`mmssl select`: choose rows, and write the file. See `write_selection`.

    Raises UserError for what does not go together, before anything is computed, or where no row would be left.
    """
    o = options
    place = parquet_place(output, o.path, o.embeddings, o.beside, o.near)
    refuse_options(options)
    materials = gathered(options, place, base)
    refuse_columns(materials)
    return write_selection(materials, choose(materials), place)


def refuse_options(options: SelectConfig) -> None:
    """UserError for options that do not go together, or do nothing."""
    o = options
    if o.path is None:
        raise UserError("--data: found none, expected a folder, file, glob, Hub id or builtin:NAME")
    for name in ("limit", "streaming"):
        if getattr(o, name):
            raise UserError(f"{name}: found {getattr(o, name)}, but a selection is about all rows of a split")
    if o.drop_duplicates is False and o.near is None and o.keep is None and o.balance is None:
        raise UserError("select: found no step, expected one of --drop-duplicates, --near, --keep with --by, --balance")
    if o.keep is not None and o.by is None:
        raise UserError(f"keep: found {o.keep:g} without a score, expected --by COLUMN or {', '.join(SCORES)}")
    if o.by == "target" and (o.near is None or o.near_classes is not None):
        raise UserError("by: found target, but no target is named, expected --near TARGET, without near_classes")
    if o.near_predicted is not None and o.near is not None and not is_embeddings(o.near):
        raise UserError(f"near: found '{o.near}', expected a parquet with the column '{o.near_predicted}'")
    by_embeddings = o.near is not None and o.near_predicted is None
    wants = {"near": by_embeddings, "by": o.by in ("typicality", "pair")}
    wants["drop_duplicates"] = not isinstance(o.drop_duplicates, bool)
    for name, has_need in wants.items():
        if has_need and o.embeddings is None:
            raise UserError(f"{name}: found {getattr(o, name)} without embeddings, expected --embeddings FILE|MODEL")
    if by_embeddings and not is_embeddings(cast("str", o.near)) and is_embeddings(cast("str", o.embeddings)):
        raise UserError(
            f"near: found '{o.near}', which is no file of embeddings, expected one, or a MODEL at --embeddings"
        )


def gathered(options: SelectConfig, place: Path, base: str | None) -> Materials:
    """The rows, and the embeddings of them and of the target, made where a MODEL is named. UserError where a file
    belongs to other rows, or was made by another model."""
    limits.apply(options.limits)
    named, near = options.embeddings, None if options.near_predicted is not None else options.near
    rows = replace(options, select=None)
    embeddings: Embeddings | None = None
    if named is None or is_embeddings(named):
        opened = open_source(
            cast("str", options.path),
            name=options.name,
            split=options.split,
            fetch=options.fetch,
            reading=options.reading,
        )
        if named is not None:
            embeddings = open_embeddings(named, options.column, "embeddings")
    else:
        if near is not None and not is_embeddings(near):  # said now, not after all rows are embedded
            Embedder(named, of_target(options), base)
        embeddings, opened = made_embeddings(named, rows, embeddings_beside(place), options.column, base)
    source = cast("Dataset", opened)
    if embeddings is not None:
        refuse_others(embeddings.path, embeddings.about, source, "embeddings")
    target: Embeddings | None = None
    if near is not None and is_embeddings(near):
        target = open_embeddings(near, options.column, "near")
    elif near is not None:
        beside = place.with_name(f"{place.stem}.target.parquet")
        target, _ = made_embeddings(cast("str", named), of_target(options), beside, options.column, base)
    if embeddings is not None and target is not None:
        refuse_other_model(embeddings, target)
    if options.standardise:
        if embeddings is None:
            raise UserError("standardise: found true without embeddings, expected --embeddings FILE|MODEL")
        standardise(embeddings, *([] if target is None else [target]))
    return Materials(source, options, embeddings, target)


def of_target(options: SelectConfig) -> SelectConfig:
    """The same of the data that rows are to be near to."""
    return replace(options, select=None, path=options.near, split=options.near_split, name=None)


def refuse_other_model(one: Embeddings, other: Embeddings) -> None:
    """UserError where two files were made by different models, as their widths or the hashes of the weights say."""
    weights = [of.about.get("made", {}).get("weights") for of in (one, other)]
    if one.wide() != other.wide():
        said = f"has embeddings of {other.width} values, '{one.path}' of {one.width}"
    elif None not in weights and weights[0] != weights[1]:
        said = f"was made by another model than '{one.path}'"
    else:
        return
    raise UserError(f"near: '{other.path}' {said}; expected embeddings of one model")


def refuse_columns(materials: Materials) -> None:
    """UserError for a column that is not there."""
    options = materials.options
    if options.near_predicted is not None:
        about_of(cast("str", options.near), "near")
        materials.predicted = read_values(cast("str", options.near), options.near_predicted, "near_predicted")
    for option in ("within", "each", "balance", "near_classes", "by"):
        name = getattr(options, option)
        if name is None or (option == "by" and name in SCORES):
            continue
        try:
            values = materials.values(name, option)
        except UserError as error:
            if option != "by" or "found no column" not in str(error):
                raise
            raise UserError(f"{error}; or {', '.join(SCORES)}{nearest(name, SCORES)}") from None
        if option != "by":
            refuse_nested(values, name, option)
    if options.drop_duplicates is not False:
        compared_columns(materials)
    if options.by == "pair":
        pair_columns(materials.needed("by").path)
