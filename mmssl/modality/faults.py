"""What is wrong with a name or a view of a recipe: one check for who reads the recipe and for who builds the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import nearest
from ..masking.corruption import corruption_faults
from ..masking.transforms import source_of, transform_faults
from ..options.schema import build
from .columns import COLUMN, without_column

TAKEN = frozenset(
    (
        "T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double "
        "dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu "
        "items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters "
        "parameters pop register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
        "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
        "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
        "register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to "
        "to_empty train training type update values xpu zero_grad"
    ).split()
)
"""Attributes of torch's `ModuleDict`, which therefore can hold no module of such a name; without importing torch."""

DERIVED = {"corrupt": ("corrupted", corruption_faults), "transform": ("transformed", transform_faults)}
"""Option of a view that is made of another view -> (what it is called, what finds its faults)."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


def name_fault(name: object, module: bool = True) -> str | None:
    """What is wrong with the name of a part: it becomes a file's name, a log's key, and a module's (`module`)."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return f"found the name {shown}, expected letters, digits, '_' and '-', at most 100"
    if module and name in TAKEN:
        return f"found the name '{name}', expected one that torch does not use itself"
    return None


def view_faults(
    kinds: tuple[Sequence[str], bool],
    views: Mapping[str, Mapping[str, Mapping[str, object]]],
    view: str,
    name: str,
    options: type | None = None,
    modalities: Collection[str] = (),
) -> list[str]:
    """One line for each fault of what `views` says of modality `name` in `view`.

    Args:
        kinds: (names of its options, whether it has corrupted views): `view_kinds`, or of the module itself.
        views: view name -> modality name -> options, as in the recipe.
        view: the view that is looked at.
        name: the modality's name in the recipe.
        options: declares their types and ranges (`view_options`), where its package does.
        modalities: the names of all, which no further column may have.
    """
    spec, where = views[view][name], f"views.{view}.{name}"
    if COLUMN in spec:
        faults = column_faults(spec, modalities, name, where)
        spec = without_column(spec)
        if faults or not spec:
            return faults
    known, corruptible = kinds
    for kind, (adjective, faults_of) in DERIVED.items():
        if kind in spec:
            if not corruptible:
                return [f"{where}.{kind}: this modality has no {adjective} views"]
            return faults_of(spec, where) + _source_faults(kind, views, view, name)
    if options is not None:
        return augment_faults(options, spec, where)
    choices = f"one of {', '.join(known)}" if known else f"none: modality '{name}' has no augmented views"
    return [
        f"{where}.{key}: found an unknown key, expected {choices}{nearest(key, known)}"
        for key in spec
        if key not in known
    ]


def _source_faults(
    kind: str, views: Mapping[str, Mapping[str, Mapping[str, object]]], view: str, name: str
) -> list[str]:
    """What is wrong with the view that a derived view is made of: it is there, of another kind, and not made of it."""
    found = source_of(views[view][name])
    where = f"views.{view}.{name}.{kind}.view"
    if found not in (None, "clean") and found not in views:
        known = f"one of clean, {', '.join(views)}{nearest(str(found), views)}"
        return [f"{where}: found unknown view '{found}', expected {known}"]
    seen = [view]
    while found is not None and found != "clean" and found in views:
        spec = views[found].get(name) if isinstance(views[found], Mapping) else None
        spec = spec if isinstance(spec, Mapping) else {}
        if found in seen or kind in spec:
            return [f"{where}: found the {DERIVED[kind][0]} view '{found}', expected one that is not"]
        seen.append(found)
        found = source_of(spec)
    return []


def column_faults(spec: Mapping[str, Any], modalities: Collection[str], name: str, where: str) -> list[str]:
    """What is wrong with the further column that a view of modality `name` reads, one line each."""
    column = spec[COLUMN]
    fault = name_fault(column, module=False)
    if fault is not None:
        return [f"{where}.{COLUMN}: {fault}; data.columns.NAME says which column of the data a name stands for"]
    if column == name:
        return [f"{where}.{COLUMN}: found '{column}', the modality's own column, which every view reads; leave it out"]
    if column in modalities:
        return [f"{where}.{COLUMN}: found '{column}', which is a modality, expected another name"]
    for kind in DERIVED:
        if kind in spec:
            return [f"{where}.{COLUMN}: found beside '{kind}', expected it in a view of its own that {kind}.view names"]
    return []


def augment_faults(options: type, spec: object, where: str) -> list[str]:
    """One line for each fault of the options of an augmentation, against the class that declares them."""
    faults: list[str] = []
    build(options, spec, where, faults)
    return faults


def crossing_faults(crossing: Sequence[str], spec: Mapping[str, object], where: str, accumulation: int) -> list[str]:
    """One line for each option of a view that takes from other rows, where `train.accumulation` cuts the batch.

    Args:
        crossing: `crossing_views` of the modality, or its module's `crossing`.
        spec: the options of one view of it.
        where: their place in the recipe.
        accumulation: parts of a batch.
    """
    if accumulation == 1:
        return []
    return [
        f"{place}: takes from other rows of the batch, which train.accumulation = {accumulation} cuts into parts; "
        "leave that at 1 (train.gradient_checkpointing and an objective's cache_rows save memory, too)"
        for place in crossing_places(crossing, spec, where)
    ]


def crossing_places(crossing: Sequence[str], spec: Mapping[str, object], where: str) -> list[str]:
    """The options of a view that take from other rows; see `crossing_faults`."""
    found = [f"{where}.{key}" for key in crossing if spec.get(key)]
    corruption = spec.get("corrupt")
    if isinstance(corruption, Mapping) and "other" in (corruption.get("fill") or ()):
        found.append(f"{where}.corrupt.fill: other")
    return found
