"""Which views of a run readers cut out of its rows, and whether the view "clean" is wanted beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..data.cuts import Cuts
from ..masking.transforms import source_of
from ..modality import Preprocessor
from ..modality.columns import COLUMN, without_column
from ..modality.cutting import Cutter, drawn_as
from ..objectives.step import CLEAN

if TYPE_CHECKING:
    from ..objectives.pretraining import Pretraining

Specs = Mapping[str, Mapping[str, Mapping[str, Any]]]


def cuts_of(
    pretraining: Pretraining, preprocessors: Mapping[str, Preprocessor], stored: Collection[str], seed: int
) -> Cuts | None:
    """What readers cut for the steps of a run; None where they cut nothing.

    Args:
        pretraining: its views, and the objectives that ask for them.
        preprocessors: of each input: modalities, and further columns that views read.
        stored: modalities that are not read, as the outputs of their towers are known.
        seed: of the run.
    """
    asked = asked_views(pretraining)
    wanted, whole = _reads(pretraining.views, asked)
    cutters: dict[str, Cutter[Any]] = {}
    for name, views in wanted.items():
        cutter = None if name in stored else preprocessors[name].cutter(views)
        if cutter is not None:
            cutter.whole = name in whole or set(views) > set(cutter.views)
            cutters[name] = cutter
    return Cuts(seed, cutters) if cutters else None


def asked_views(pretraining: Pretraining) -> set[tuple[str, str]]:
    """(modality, view) of all that the objectives may ask for, and of what that is made of."""
    model, views = pretraining.model, pretraining.views
    found: set[tuple[str, str]] = set()
    for objective in pretraining.objectives.values():
        looks: Any = {tower: objective.looks(tower) for tower in model.towers}  # type: ignore[operator]
        if None in looks.values() and objective.asks_named:
            named = set(_named(objective.config, "view"))
            looks = dict.fromkeys(set(_named(objective.config, "tower")) & set(model.towers) or model.towers, named)
        elif None in looks.values():
            looks = dict.fromkeys(model.towers, {CLEAN, *views})
        found |= {
            (name, view) for tower, look in looks.items() for name in model.tower(tower).modalities for view in look
        }
    found |= {(name, view) for name in dict(found) for view in views if (name, drawn_as(view)) in found}
    while more := {(name, source) for name, view in found if (source := _source(views, name, view))} - found:
        found |= more
    return found


def _named(config: object, kind: str) -> Iterator[str]:
    """The views, or towers, that an objective's config names, also in parts of it."""
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in (kind, f"{kind}s") or field.name.endswith((f"_{kind}", f"_{kind}s")):
            yield from [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
        for part in value.values() if isinstance(value, dict) else [value]:
            yield from _named(part, kind)


def _source(views: Specs, name: str, view: str) -> str | None:
    """The view that one is made of, of modality `name`."""
    return source_of(views.get(view, {}).get(name, {}))


def _reads(views: Specs, asked: Collection[tuple[str, str]]) -> tuple[dict[str, dict[str, dict[str, Any]]], set[str]]:
    """(input -> view -> its options, of views that read it; inputs that are wanted as they came)."""
    reads: dict[str, dict[str, dict[str, Any]]] = {}
    whole: set[str] = set()
    for name, view in sorted(asked):
        spec = views.get(view, {}).get(name)
        if spec is None:
            whole.add(name)
        elif source_of(spec) is None:
            column, options = spec.get(COLUMN, name), without_column(spec)
            if options:
                reads.setdefault(column, {})[view] = options
            else:
                whole.add(column)
    return reads, whole
