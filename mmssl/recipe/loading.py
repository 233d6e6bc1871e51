"""A recipe from a file, a shipped name or a dict, and back to YAML.

`load_recipe` finds it by path or by the name of a shipped recipe, merges overrides (`train.steps=500`), and reports
every fault of all of it at once (see `mmssl.options.schema` and `mmssl.recipe.checks`). `to_yaml` writes it back,
resolved.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from .. import provenance
from ..errors import UserError, nearest
from ..files import shipped_folder
from ..models.options import YOURS, own_trunk
from ..options import plainyaml
from ..options.schema import BAD, Faults, build, to_dict
from ..options.wording import show
from .config import DataConfig, EvaluationConfig, ModelConfig, Recipe, TrainConfig
from .continuing import begun_by, give_way, leave_behind, take_over
from .presets import take_preset

logger = logging.getLogger("mmssl")
NAMED = ("modalities", "model.towers", "views", "masks", "objectives", "data.columns", "data.mix")
"""Where the user names things: an override to null there takes the thing out."""

FLAGS = {
    "path": "--data",
    "columns": "--column",
    "label": "--label",
    "tasks": "--task",
    "peft": "--peft",
    "compare": "--compare",
    "unlabelled": "--unlabelled",
    "rounds": "--rounds",
    "forget": "--forget",
    "goal": "--goal",
    "preset": "--preset",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in ("embeddings", "beside", "drop_duplicates", "near", "keep", "by", "balance")
    },
}
"""The keys for which commands have an option of their own."""
T = TypeVar("T")


def recipe_names() -> list[str]:
    """Names of the shipped recipes; `examples/NAME` are settings for one public data set each. Files for launchers, in
    `accelerate/`, are none."""
    folder = shipped_folder("configs")
    names = [
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.glob("**/*.yaml")
        if path.parent.name != "accelerate"
    ]
    return sorted(names, key=lambda name: ("/" in name, name))


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe: a path that exists, else the shipped recipe of that name."""
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"recipe '{name}': found a folder, expected a .yaml file or the name of a shipped recipe")
    known = recipe_names()
    if name in known:
        return shipped_folder("configs") / f"{name}.yaml"
    if isinstance(name, Path) or path.suffix in (".yaml", ".yml") or os.sep in name:
        there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise UserError(f"recipe '{name}': no such file{nearest(path.name, there) or nearest(str(name), known)}")
    raise UserError(
        f"unknown recipe '{name}', expected a .yaml file or one of {', '.join(known)}{nearest(str(name), known)}"
    )


def load_recipe(
    config: str | Path | Mapping[str, object],
    overrides: Sequence[str] | Mapping[str, object] = (),
    *,
    own: bool = True,
    preset: str | None = None,
    choices: Mapping[str, object] | None = None,
) -> Recipe:
    """A validated recipe from a file, the name of a shipped one, or a dict.

    overrides: `["train.steps=500", ...]` with values in YAML, or `{"train.steps": 500, "data": {"path": "x"}}`. They
    are merged before anything is checked: mappings key by key, but one that gives a `type` replaces what was there.
    Null takes out a named thing (`objectives.mae=null`, see `NAMED`); elsewhere it is the value null.
    own: the user gives it, and its dotted types are imported; False: it comes with a model's folder, and they are only
    where the user has named them (`mmssl.provenance`).
    preset: the name of one of the recipe's presets; None: its body. choices: what was chosen for data and device,
    behind the preset and before the overrides. Raises one UserError with a line a fault.
    """
    data = plain_recipe(config)
    faults: Faults = []
    data = merge_overrides(data, take_preset(data, preset, faults), faults)
    data = merge_overrides(data, choices or {}, faults)
    merged = merge_overrides(copy.deepcopy(data), overrides, [])
    origin = begun_by(merged)
    if origin is not None:
        more = {"model.from": origin}
        overrides = {**overrides, **more} if isinstance(overrides, Mapping) else [*overrides, f"model.from={origin}"]
        merged = merge_overrides(merged, more, [])
    give_way(data, merged)
    leave_behind(data, merged)
    take_length(data, overrides)
    data = merge_overrides(data, overrides, faults)
    if not own:
        refuse_strange_types(data)
    take_over(data, faults)
    return _validate(data, faults)


@functools.cache
def say_once(line: str) -> None:
    """A warning that a process gives once, however often it reads the recipe."""
    logger.warning("%s", line)


def take_length(data: Mapping[str, object], overrides: Sequence[str] | Mapping[str, object]) -> None:
    """Where overrides say how long is trained in steps, the recipe's epochs give way, and the other way round."""
    train, given = data.get("train"), merge_overrides({}, overrides, []).get("train")
    if not isinstance(train, dict) or not isinstance(given, Mapping):
        return
    for asked, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(asked) is None or other in given or train.get(other) is None:
            continue
        say_once(f"train.{asked}={given[asked]} is taken in place of the recipe's train.{other}={train[other]}")
        train[other] = None


def plain_recipe(config: str | Path | Mapping[str, object]) -> dict[str, object]:
    """A recipe as it is written, unchecked; UserError where it is no mapping."""
    if isinstance(config, Mapping):
        return copy.deepcopy(dict(config))
    path = recipe_path(config)
    data = plainyaml.read(path)
    if not isinstance(data, dict):
        raise UserError(f"recipe '{config}': found {show(data)}, expected a mapping")
    data.setdefault("name", path.stem)
    return data


def _validate(data: Mapping[str, object], faults: Faults) -> Recipe:
    from .checks import check_recipe

    model = data.get("model")
    towers = model.get("towers") if isinstance(model, Mapping) else None
    parts = towers.values() if isinstance(towers, Mapping) else ()
    starts = [part.get("from", YOURS) for part in parts if isinstance(part, Mapping)]
    # the stock formats and torch are imported for recipes alone that name one
    if any(start != YOURS for start in starts):
        from ..models.stock.reading import apply_origins

        apply_origins(data, faults)
    if isinstance(model, Mapping) and "compatible_with" in model:
        from ..models.stock.compatibility import apply_compatible_with

        apply_compatible_with(data, faults)
    recipe = build(Recipe, data, "", faults, foreign=_section_of)
    if recipe is not BAD:
        check_recipe(recipe, faults)
    if faults:
        raise UserError("\n".join(faults))
    return recipe


def refuse_strange_types(data: Mapping[str, object]) -> None:
    """UserError where a recipe out of a model's folder names a type by a module that the user has not named.

    An unknown name without a dot is found, and named, when the recipe is checked: it is looked for among what is
    installed alone.
    """
    for section, word in (("modalities", "modality"), ("masks", "mask"), ("objectives", "objective")):
        parts = data.get(section)
        for name, part in parts.items() if isinstance(parts, Mapping) else ():
            kind = part.get("type", name) if isinstance(part, Mapping) else name
            if not isinstance(kind, str):
                continue
            where = f"{section}.{name}.type: {word} '{kind}'"
            if "." in kind:
                provenance.check(kind.rpartition(".")[0] if section == "masks" else kind, where)
            elif section == "modalities" and kind not in provenance.installed_names():
                provenance.check(f"mmssl_{kind}", where)
    for name, part in nested_types(data.get("masks"), "masks"):
        provenance.check(part.rpartition(".")[0], f"{name}: mask '{part}'")
    model = data.get("model")
    towers = model.get("towers") if isinstance(model, Mapping) else None
    for name, tower in towers.items() if isinstance(towers, Mapping) else ():
        trunk = tower.get("trunk") if isinstance(tower, Mapping) else None
        if own_trunk(trunk):
            module = str(trunk).rpartition(".")[0]
            if module.removeprefix("mmssl_") not in provenance.installed_names() or not module.startswith("mmssl_"):
                provenance.check(module, f"model.towers.{name}.trunk: '{trunk}'")


def nested_types(part: object, where: str) -> Iterable[tuple[str, str]]:
    """(where it stands, dotted name) of every type in a mapping, however deep: masks are made of masks."""
    for key, value in part.items() if isinstance(part, Mapping) else ():
        if key == "type" and isinstance(value, str) and "." in value:
            yield f"{where}.type", value
        yield from nested_types(value, f"{where}.{key}")


def _section_of(key: str) -> str | None:
    """What a key at the top level is that belongs into a section."""
    sections = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "evaluation": EvaluationConfig}
    found = [f"'{name}.{key}'" for name, cls in sections.items() if key in {f.name for f in fields(cls)}]
    return f"a key of a section (write {' or '.join(found)})" if found else None


def merge_overrides(
    data: dict[str, Any], overrides: Sequence[str] | Mapping[str, object], faults: Faults
) -> dict[str, Any]:
    """`data` with the overrides merged into it, in place; what is no override is added to `faults`."""
    for keys, value in _pairs(overrides, faults):
        _merge(data, keys, value, "", faults)
    return data


def merge_flags(data: dict[str, Any], flags: Mapping[str, object], faults: Faults) -> None:
    """Put what a command's own options say, key -> value, into `data`, in place; each key is said in one way only."""
    for key, value in flags.items():
        if key in data:
            faults.append(f"{key}: found it as an override beside {FLAGS[key]}, expected one of them")
        data[key] = value


def command_options(cls: type[T], words: Sequence[str] | Mapping[str, object], flags: Mapping[str, object]) -> T:
    """The options of a command, from its `key=value` words (or a mapping) and its own options (see `FLAGS`).

    Raises one UserError with a line a fault.
    """
    faults: Faults = []
    data = merge_overrides({}, words, faults)
    merge_flags(data, flags, faults)
    options: T = build(cls, data, "", faults)
    if faults:
        raise UserError("\n".join(faults))
    return options


def _pairs(overrides: Sequence[str] | Mapping[str, object], faults: Faults) -> Iterable[tuple[list[str], object]]:
    """(keys of the dotted path, value) of each override."""
    if isinstance(overrides, Mapping):
        yield from ((str(path).split("."), copy.deepcopy(value)) for path, value in overrides.items())
        return
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            faults.append(f"override '{text}': expected key.path=value")
            continue
        try:
            yield keys, plainyaml.parse(value, f"override '{path}'")
        except UserError as error:
            faults.append(str(error))


def _merge(node: dict[str, Any], keys: list[str], value: Any, path: str, faults: Faults) -> None:
    """Put `value` at `keys` below `node`.

    Mappings are merged key by key; everything else is replaced, and so is a part whose `type` the value gives: the old
    type's options would not fit the new one.
    """
    key, rest = keys[0], keys[1:]
    where = f"{path}.{key}" if path else key
    if value is None and not rest and path in NAMED:
        if key not in node:
            faults.append(f"{where}: found nothing of that name to take out{nearest(key, node)}")
        node.pop(key, None)
    elif not rest and not (isinstance(value, Mapping) and isinstance(node.get(key), dict) and "type" not in value):
        node[key] = value
    else:
        below = node.get(key)
        if below is None:
            below = node[key] = {}
        if not isinstance(below, dict):
            faults.append(f"{where}: found {show(below)}, expected a mapping: an override names '{rest[0]}' below it")
            return
        for name, item in [(rest, value)] if rest else [([str(k)], v) for k, v in value.items()]:
            _merge(below, name, item, where, faults)


def to_yaml(recipe: Recipe) -> str:
    """The recipe with all its defaults as YAML, for `config.yaml` of a run; `load_recipe` reads it back the same."""
    return plainyaml.dump(to_dict(recipe))
