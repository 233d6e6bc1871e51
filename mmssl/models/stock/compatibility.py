"""What a format asks of a recipe's options: checked before training (`model.compatible_with`) and before an export.

The same `Need`s serve both, so that what was trained with `compatible_with` is what can be exported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...modality import modality_config
from ...options.schema import Faults, field_names
from ...options.wording import show
from ..options import TowerConfig
from .contract import Format
from .formats import load_format
from .needs import Need, in_yaml

# -------------------------------------------------------------------------------------------------- a trained model


def obstacles(
    values: Mapping[str, Mapping[str, object]], needs: tuple[Need, ...], names: Mapping[str, str]
) -> list[str]:
    """A clause for each need that does not hold. values: part -> its options; names: part -> its path in a recipe."""
    out = []
    for one in needs:
        value = values[one.part].get(one.key)
        if one.key in values[one.part] and not one.holds(value):
            out.append(f"{names[one.part]}.{one.key}: found {in_yaml(value)}, expected {one.expected} ({one.why})")
    return out


# -------------------------------------------------------------------------------------------------------- a recipe


def apply_compatible_with(data: object, faults: Faults) -> None:
    """Set, in a recipe's plain data, what `model.compatible_with` asks for; add a fault for each contradiction."""
    model = data.get("model") if isinstance(data, dict) else None
    name = model.get("compatible_with") if isinstance(model, dict) else None
    if not isinstance(data, dict) or not isinstance(model, dict) or name is None:
        return
    try:
        if not isinstance(name, str):
            raise UserError(f"found {show(name)}, expected the name of a format")
        chosen = load_format(name)
    except UserError as error:
        faults.append(f"model.compatible_with: {error}")
        return
    seen: set[str] = set()
    for part in _parts(data, chosen):
        seen.add(part.type)
        _settle(part, chosen, str(name), faults)
    missing = [t for t in chosen.required if t not in seen]
    if missing or not seen:
        wanted = " and ".join(chosen.required) or " or ".join(chosen.needs)
        faults.append(
            f"model.compatible_with: found {name}, which takes a tower of {wanted}; this recipe has none"
            + (f" of {' or '.join(missing)}" if missing and seen else "")
        )


@dataclass
class _Asked:
    """A tower and one of its modalities in a recipe's plain data."""

    type: str
    paths: dict[str, str]
    given: dict[str, dict[str, object]]
    defaults: dict[str, dict[str, object]]


def _parts(data: dict[str, Any], chosen: Format) -> Iterator[_Asked]:
    towers, modalities = data["model"].get("towers"), data.get("modalities")
    if not isinstance(towers, dict) or not isinstance(modalities, dict):
        return
    for tower, spec in towers.items():
        if not isinstance(spec, dict):
            continue
        names = spec.get("modalities") or [tower]
        for name in names if isinstance(names, list) else []:
            options = modalities.get(name)
            kind = options.get("type", name) if isinstance(options, dict) else None
            if not isinstance(kind, str) or kind not in chosen.needs:
                continue
            assert isinstance(options, dict)
            yield _Asked(
                kind,
                {"tower": f"model.towers.{tower}", "modality": f"modalities.{name}", "model": "model"},
                {"tower": spec, "modality": options, "model": data["model"]},
                {"tower": _defaults(TowerConfig), "modality": _defaults(modality_config(kind)), "model": {}},
            )


def _defaults(cls: type) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, field in field_names(cls).items():
        if field.default is not dataclasses.MISSING:
            out[key] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            out[key] = field.default_factory()
    return out


def _settle(part: _Asked, chosen: Format, name: str, faults: Faults) -> None:
    for one in chosen.needs[part.type]:
        given, default = part.given[one.part], part.defaults[one.part].get(one.key)
        if one.part == "tower" and given.get("from") is not None:
            continue  # its architecture is its checkpoint's, and is checked once that is known
        if one.key in given:
            if not one.holds(given[one.key]):
                faults.append(
                    f"{part.paths[one.part]}.{one.key}: found {in_yaml(given[one.key])}, but model.compatible_with: "
                    f"{name} expects {one.expected} ({one.why})"
                )
        elif not one.holds(default):
            given[one.key] = one.put
