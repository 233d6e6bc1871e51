"""Views that are made of other views, whatever the modality: corrupted (`mmssl.masking.corruption`) and transformed
(`mmssl.masking.transforms`) ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import UserError
from ...masking.corruption import Corruption, corrupt
from ...masking.transforms import Transform, transformed
from ...modality.cutting import variant_name
from ...options.schema import load

if TYPE_CHECKING:
    from ...modality import Inputs
    from ..step import Step


@dataclass(frozen=True)
class Derived:
    """inputs: of the view; hit: (B, N, P) bool, which numbers of its patches were overwritten, of a corrupted one."""

    inputs: Inputs
    hit: Tensor | None = None


def is_derived(spec: Mapping[str, Any]) -> bool:
    """Whether a view's options for a modality make it of another view."""
    return "corrupt" in spec or "transform" in spec


def changed(
    view: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any], known: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """A view (modality -> its options) with some options of `augment` changed, of the modalities that have them: known,
    modality -> names. One that is made of another view stays as it is."""
    return {
        name: {**spec, **{k: v for k, v in changes.items() if k in known[name] and not is_derived(spec)}}
        for name, spec in view.items()
    }


def variants(
    views: Mapping[str, Mapping[str, Mapping[str, Any]]],
    names: Sequence[str],
    changes: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Name -> view, of the variants of these views (`Step.variant`) as `changed` makes them."""
    return {variant_name(view, changes): changed(views[view], changes, known) for view in names}


@torch.no_grad()
def derive(step: Step, name: str, view: str) -> Derived:
    """A derived view of modality `name`."""
    spec, draws = step.views[view][name], step.draws("view", view, name)
    modality = step.model.modality(name)
    if "transform" in spec:
        options = load(Transform, spec["transform"])
        inputs, key, axes = modality.raster(step.inputs(name, options.view))
        return Derived(inputs | {key: transformed(inputs[key].float(), axes, options.drawn(draws), options)})
    spoiled = load(Corruption, spec["corrupt"])
    inputs, key, axes = modality.raster(step.inputs(name, spoiled.view))
    x, hit = corrupt(inputs[key].float(), axes, draws, spoiled)
    marked = hit.to(x.dtype).masked_fill(x.isnan(), torch.nan)
    return Derived(inputs | {key: x}, modality.patchify(inputs | {key: marked}).values > 0.5)


def each_of(views: Mapping[str, Mapping[str, Mapping[str, Any]]], view: str, where: str) -> dict[str, Any]:
    """Name -> view, for each transformation of a transformed view the one in which all samples are transformed by it.

    where: the option that names the view, for the UserError where it transforms nothing, several modalities, or always
    alike.
    """
    found = [name for name, spec in views[view].items() if "transform" in spec]
    if len(found) != 1 or len(views[view]) > 1:
        raise UserError(f"{where}: found '{view}', expected a view that transforms one modality and does nothing else")
    spec = views[view][found[0]]["transform"]
    options = load(Transform, spec)
    if options.number is not None:
        raise UserError(f"{where}: found '{view}', which is always transformed alike, expected transform.number: null")
    numbered = ({found[0]: {"transform": {**spec, "number": number}}} for number in range(options.count))
    return {f"{view}.{number}": one for number, one in enumerate(numbered)}


def unmoved(spec: Mapping[str, Any], where: str) -> str:
    """The view that a derived view is made of, whose patches lie where its own do; UserError for a transformed one."""
    if "transform" in spec:
        raise UserError(f"{where}.transform: found where places of patches are compared, which it moves; expected none")
    return load(Corruption, spec["corrupt"]).view


def transform_of(views: Mapping[str, Mapping[str, Mapping[str, Any]]], view: str, name: str) -> tuple[str, Transform]:
    """(the view that transforms modality `name`, how) of this view or of those that it is made of; KeyError: none."""
    spec = views[view][name]
    if "transform" in spec:
        return view, load(Transform, spec["transform"])
    return transform_of(views, load(Corruption, spec["corrupt"]).view, name)
