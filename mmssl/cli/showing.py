"""What `mmssl show` prints: every option with type, default, range, help and when it has an effect; a recipe, resolved;
the JSON schema of a recipe. `all_options` is the same for who writes pages of them (docs/).
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curation.options import ClusterConfig, SelectConfig
from ..demonstrating.options import DemoConfig
from ..errors import UserError, nearest
from ..evaluation.options import EmbedConfig, EvaluateConfig
from ..finetuning.options import FinetuneConfig
from ..masking import load_mask, mask_names
from ..masking.corruption import Corruption
from ..masking.transforms import Transform
from ..modality import modality_config, modality_names, modality_package
from ..modality.columns import COLUMN
from ..models.options import AdapterConfig, TowerConfig
from ..objectives.options import ObjectiveConfig, objective_config, objective_module, objective_names
from ..options.describing import REQUIRED, Described, about, default_of, docstring, in_line, options_of
from ..options.json_schema import DRAFT, Schema, Schemas
from ..options.schema import Part, field_names, to_dict
from ..recipe.config import DataConfig, EvaluationConfig, GuardConfig, ModelConfig, Recipe, TrainConfig
from ..recipe.loading import load_recipe, plain_recipe, recipe_names, to_yaml
from ..recipe.presets import DEMO, presets_of

SECTIONS: dict[str, type] = {
    "recipe": Recipe,
    "data": DataConfig,
    "model": ModelConfig,
    "towers": TowerConfig,
    "adapter": AdapterConfig,
    "objectives": ObjectiveConfig,
    "train": TrainConfig,
    "guard": GuardConfig,
    "evaluation": EvaluationConfig,
    "corrupt": Corruption,
    "transform": Transform,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "embed": EmbedConfig,
    "demo": DemoConfig,
    "cluster": ClusterConfig,
    "select": SelectConfig,
}
"""Topics of their own -> their options; `objectives` is what all of them have."""

KINDS = {
    "modalities": (modality_names, modality_config),
    "views": (modality_names, lambda name: getattr(modality_package(name), "View", None)),
    "masks": (mask_names, load_mask),
    "objectives": (objective_names, objective_config),
}
"""`KIND.NAME`: the shipped names of a kind, and the options of one (or of anybody's, by its dotted path)."""


COLUMN_OF_A_VIEW = Described(
    COLUMN,
    "text or null",
    "null",
    "",
    "a further column of data.columns, read in place of the modality's own: a text's answer, the next frame",
)
"""What every modality's views have beside their own options (`mmssl.modality.columns`)."""


@dataclass(frozen=True)
class Topic:
    """What `mmssl show NAME` is about.

    Attributes:
        name: "train", "objectives.jepa", "views.image".
        about: plain text, from the docstring; the first line says what it is.
        options: in the order of their declaration, those of nested options behind their own.
    """

    name: str
    about: str
    options: tuple[Described, ...]


def all_options() -> Iterator[Topic]:
    """Every topic that mmssl ships."""
    for name in topic_names():
        yield topic(name)


def topic_names() -> list[str]:
    """The names of all topics: sections first, then `KIND.NAME`."""
    names = list(SECTIONS)
    for kind, (shipped, _) in KINDS.items():
        names += [f"{kind}.{name}" for name in shipped() if _options_of_kind(kind, name) is not None]
    return names


def topic(name: str) -> Topic:
    """One topic; UserError naming the nearest one."""
    if name in SECTIONS:
        cls = SECTIONS[name]
        return Topic(name, about(cls), tuple(options_of(cls)))
    kind, _, inner = name.partition(".")
    if kind in KINDS and inner:
        found = _options_of_kind(kind, inner)
        if found is None:
            raise UserError(f"show: modality '{inner}' says nothing of the options of its views")
        text = docstring(objective_module(inner)) if kind == "objectives" else about(found)
        further = (COLUMN_OF_A_VIEW,) if kind == "views" else ()
        return Topic(name, text, (*options_of(found), *further))
    raise UserError(f"unknown topic '{name}'{nearest(name, topic_names())}")


def _options_of_kind(kind: str, name: str) -> type | None:
    load: Any = KINDS[kind][1]
    found: type | None = load(name)
    return found


# ------------------------------------------------------------------------------------------------------------- text


def show(name: str, overrides: list[str], defaults: bool = False, preset: str | None = None) -> str:
    """The text of `mmssl show NAME`: a topic's options, or a recipe as YAML.

    Args:
        name: a topic, the name of a shipped recipe, or a .yaml file.
        overrides: changes of the recipe, `key.path=value`.
        defaults: with every option of the recipe, not only those that differ from their defaults.
        preset: a size of the recipe; None: its body.
    """
    kind, _, inner = name.partition(".")
    if name in SECTIONS or (kind in KINDS and inner and not Path(name).is_file()):
        if overrides or preset:
            found = overrides[0] if overrides else "--preset"
            raise UserError(f"show: found {found}, expected no overrides and no preset: '{name}' is no recipe")
        return topic_text(topic(name))
    if name in KINDS:
        raise UserError(f"show: found '{name}', expected one of them, {name}.NAME, e.g. {name}.{KINDS[name][0]()[0]}")
    if name not in recipe_names() and not Path(name).suffix:
        known = [*topic_names(), *recipe_names()]
        hint = nearest(name, known)
        raise UserError(
            f"show: unknown '{name}', expected a recipe (see `mmssl list recipes`), one of {', '.join(SECTIONS)}, or "
            f"{', '.join(f'{kind}.NAME' for kind in KINDS)}{hint}"
        )
    recipe, known = load_recipe(name, overrides, preset=preset), presets_of(plain_recipe(name))
    shown = (to_yaml(recipe) if defaults else brief_yaml(recipe)).rstrip("\n")
    said = f"# preset {preset or DEMO} of {', '.join(known)} (--preset); what data and device call for is not in yet\n"
    return f"{said if known else ''}{shown}"


def topic_text(shown: Topic) -> str:
    """A topic as lines of at most 120 columns."""
    lines = [shown.name, ""]
    lines += [*shown.about.splitlines(), ""] if shown.about else []
    for one in shown.options:
        kind = one.type + (f", {one.range}" if one.range else "")
        default = one.default if one.default == REQUIRED else f"default {one.default}"
        indent = "  " * one.key.count(".")
        lines.append(f"{indent}{one.key}  ({kind}; {default})")
        help = [one.help] if one.help else []
        help += ["has an effect only with " + ", and ".join(one.needs)] if one.needs else []
        for text in help:
            lines += textwrap.wrap(
                text, 116 - len(indent), initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    "
            )
    return "\n".join(lines).rstrip("\n")


def brief_yaml(recipe: Recipe) -> str:
    """A recipe without the options that stand at their defaults, as YAML from which it is read the same."""
    from ..options import plainyaml

    return plainyaml.dump(_brief(recipe))


def _brief(value: object) -> Any:
    if isinstance(value, Part):
        return {"type": value.type, **_brief(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        there = {key: (getattr(value, f.name), f) for key, f in field_names(type(value)).items()}
        return {key: _brief(v) for key, (v, f) in there.items() if default_of(f) != _plain(v)}
    if isinstance(value, dict):
        return {key: _brief(item) for key, item in value.items()}
    return to_dict(value)


def _plain(value: object) -> str:
    return "{}" if _brief(value) == {} else in_line(to_dict(value))


# ----------------------------------------------------------------------------------------------------------- schema


def recipe_schema() -> Schema:
    """The JSON schema of a recipe's file. What a model gives that it goes on from (`model.from`) may be left out."""
    schemas = Schemas()
    root = schemas.of_class(Recipe)
    goes_on = {"properties": {"model": {"required": ["from"]}}, "required": ["model"]}
    root["required"].remove("modalities")
    model = schemas.defs["recipe.config.ModelConfig"]
    model["required"].remove("towers")
    model["anyOf"] = [{"required": ["towers"]}, {"required": ["from"]}]
    views = [_views(schemas, name) for name in modality_names() if _options_of_kind("views", name) is not None]
    changes = {"type": "object", "additionalProperties": {"type": "object"}}
    root["properties"]["presets"] = {"description": "name -> changes of the recipe, see --preset", **changes}
    root["allOf"] = [{"anyOf": [{"required": ["modalities"]}, goes_on]}, *views]
    return {"$schema": DRAFT, "title": "mmssl recipe", **root, "$defs": dict(sorted(schemas.defs.items()))}


def _views(schemas: Schemas, name: str) -> Schema:
    """The views of a modality that is called as its type is."""
    view: Any = _options_of_kind("views", name)
    options = schemas.reference(f"view.{name}", view)
    column = {"type": ["string", "null"], "default": None, "description": COLUMN_OF_A_VIEW.help}
    schemas.defs[f"view.{name}"]["properties"][COLUMN] = column
    for kind, cls in (("corrupt", Corruption), ("transform", Transform)) if view.corruptible else ():
        derived = {
            "type": "object",
            "properties": {kind: schemas.reference(kind, cls)},
            "required": [kind],
            "additionalProperties": False,
        }
        options = {"if": {"required": [kind]}, "then": derived, "else": options}
    named = {"properties": {name: {"not": {"required": ["type"]}}}, "required": [name]}
    return {
        "if": {"properties": {"modalities": named}, "required": ["modalities"]},
        "then": {"properties": {"views": {"additionalProperties": {"properties": {name: options}}}}},
    }
