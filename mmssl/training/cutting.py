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
    wanted, whole = _reads(pretraining.views, asked, set(pretraining.model.config.modalities or {}))
    cutters: dict[str, Cutter[Any]] = {}
    for name, views in wanted.items():
        cutter = None if name in stored else preprocessors[name].cutter(views)
        if cutter is not None:
            cutter.whole = asked is None or name in whole or set(views) > set(cutter.views)
            cutters[name] = cutter
    return Cuts(seed, cutters) if cutters else None


def asked_views(pretraining: Pretraining) -> set[str] | None:
    """The views that the objectives may ask for, and those that they are made of; None: any."""
    found: set[str] = set()
    for objective in pretraining.objectives.values():
        looks: Any = [objective.looks(name) for name in pretraining.model.towers]  # type: ignore[operator]
        if None not in looks:
            found |= {view for look in looks for view in look}
        elif objective.asks_named:
            found |= set(named_views(objective.config))
        else:
            return None
    views = pretraining.views
    found |= {view for view in views if drawn_as(view) in found}
    while more := {source for view in found for source in _sources(views, view)} - found:
        found |= more
    return found


def named_views(config: object) -> Iterator[str]:
    """The views that an objective's config names, also in parts of it."""
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("view", "views") or field.name.endswith(("_view", "_views")):
            yield from [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
        for part in value.values() if isinstance(value, dict) else [value]:
            yield from named_views(part)


def _sources(views: Specs, view: str) -> Iterator[str]:
    """The views that one is made of."""
    for spec in views.get(view, {}).values():
        source = source_of(spec)
        if source is not None:
            yield source


def _reads(
    views: Specs, asked: Collection[str] | None, modalities: Collection[str]
) -> tuple[dict[str, dict[str, dict[str, Any]]], set[str]]:
    """(input -> view -> its options, of views that read it; inputs that are wanted as they came)."""
    reads: dict[str, dict[str, dict[str, Any]]] = {}
    whole: set[str] = set()
    for view in [CLEAN, *views] if asked is None else sorted(asked):
        for name in modalities:
            spec = views.get(view, {}).get(name) if view != CLEAN else None
            if spec is None or source_of(spec) == CLEAN:
                whole.add(name)
            elif source_of(spec) is None:
                column, options = spec.get(COLUMN, name), without_column(spec)
                if options:
                    reads.setdefault(column, {})[view] = options
                else:
                    whole.add(column)
    return reads, whole
