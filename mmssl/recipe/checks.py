"""What must hold between the keys of a recipe: references, counts, shares. Faults are added, none is raised.

The recipe may be a draft (see `mmssl.options.schema`): what is `BAD` has been reported and is passed over here, so that
one run of the command shows everything that is wrong. What objectives can do with the modalities they are given is
checked later, by the objectives themselves.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import UserError, nearest, one_line
from ..modality import crossing_views, name_fault, view_kinds, view_options
from ..modality.columns import COLUMN, further_columns
from ..modality.faults import crossing_faults, view_faults
from ..models.options import HEADLESS, own_trunk
from ..options.schema import BAD, Draft, Faults, Part, yaml_name
from ..options.wording import show
from ..provenance import by_user
from ..schedules import HORIZON, Rate, schedule_faults
from .mixture import check_mixture
from .renewing import check_renewed
from .sampling import check_sampler

_LONGEST = 200
"""Characters of a recipe's name, of which the file system allows 255 bytes."""
_REFERENCE = re.compile(r"(?:.*_)?(tower|mask|view)s?")


def check_recipe(recipe: Any, faults: Faults) -> None:
    """Add every fault between keys."""
    _check_names(recipe, faults)
    _check_train(recipe.train, faults)
    _check_towers(recipe, faults)
    _check_views(recipe, faults)
    _check_objectives(recipe, faults)
    _check_shares(recipe, faults)
    _check_probe(recipe, faults)
    _check_best(recipe, faults)
    _check_masks(recipe, faults)
    modalities = _names(recipe.modalities)
    further = {} if recipe.views is BAD else further_columns(recipe.views)

    def known(name: object, where: str) -> None:
        if modalities is not None and name not in further:
            what = "modality, or name in a view's column:" if further else "modality"
            _reference(name, [*modalities, *further], what, where, faults)

    columns = _get(recipe.data, "columns")
    for name in columns if isinstance(columns, dict) else ():
        known(name, f"data.columns.{name}")
    check_mixture(recipe.data, known, faults)
    check_sampler(recipe.data, faults)
    check_renewed(recipe, faults)


def _get(part: object, name: str) -> Any:
    return BAD if part is BAD else getattr(part, name)


def _names(parts: object) -> Collection[str] | None:
    """The names defined in a section, or None when the section itself is unusable."""
    return list(parts) if isinstance(parts, Mapping) else None


def _reference(name: object, known: Collection[str], what: str, where: str, faults: Faults) -> None:
    if name not in known:
        choices = f"one of {', '.join(known)}" if known else f"a {what}, but the recipe names none"
        faults.append(f"{where}: found unknown {what} '{name}', expected {choices}{nearest(str(name), known)}")


def _check_names(recipe: Any, faults: Faults) -> None:
    """Names become module names, log keys and file names."""
    if recipe.name is not BAD and not _is_folder_name(recipe.name):
        faults.append(f"name: found {show(recipe.name)}, expected one that a folder can have: it names runs/NAME")
    towers = _get(recipe.model, "towers")
    sections = {"modalities": recipe.modalities, "model.towers": towers, "views": recipe.views}
    sections |= {"masks": recipe.masks, "objectives": recipe.objectives}
    for section, parts in sections.items():
        names = _names(parts)
        if names is None:
            continue
        if not names and section in ("modalities", "model.towers", "objectives"):
            faults.append(f"{section}: found none, expected at least one")
        for name in names:
            fault = name_fault(name, module=section not in ("views", "masks"))
            if fault:
                faults.append(f"{section}.{name}: {fault}")


def _is_folder_name(name: str) -> bool:
    odd = any(ord(c) < 32 or c in "/\\" for c in name) or name.startswith("~") or name.strip() in (".", "..")
    return not odd and len(name) <= _LONGEST


def _check_train(train: object, faults: Faults) -> None:
    steps, epochs = _get(train, "steps"), _get(train, "epochs")
    if BAD not in (steps, epochs) and (steps is None) == (epochs is None):
        found = "neither train.steps nor train.epochs" if steps is None else "both train.steps and train.epochs"
        faults.append(f"train.steps: found {found}, expected exactly one of them")
    batch, accumulation = _get(train, "batch_size"), _get(train, "accumulation")
    if BAD not in (batch, accumulation) and batch % accumulation:
        faults.append(f"train.batch_size: found {batch}, expected a multiple of train.accumulation = {accumulation}")
    faults += micro_batch_faults(_get(train, "micro_batch"), accumulation)
    lr, min_lr = _get(train, "lr"), _get(train, "min_lr")
    if BAD not in (lr, min_lr) and min_lr > lr:
        faults.append(f"train.min_lr: found {min_lr}, expected at most train.lr = {lr}")
    faults += rate_faults(train)
    betas = _get(train, "betas")
    if betas not in (BAD, None) and len(betas) != 2:
        faults.append(f"train.betas: found {show(betas)}, expected a list of 2")
    _check_guard(train, faults)


def rate_faults(train: Any) -> list[str]:
    """Lines of what does not go together in the learning rate."""
    schedule, warmup = _get(train, "schedule"), _get(train, "warmup")
    parts = (schedule, warmup, *(_get(train, name) for name in ("lr", "min_lr", "anneal", "steps")))
    if BAD in parts or isinstance(schedule, Draft):
        return []
    lines = [f"train.{line}" for line in schedule_faults(train)]
    after = getattr(train, "after", None)
    if after not in (None, BAD) and schedule.kind not in HORIZON and 0 < warmup < 1:
        lines = lines or [
            f"train.warmup: found {warmup:g}, a share of all steps, but train.after goes on behind a warm-up; "
            "expected its number of steps"
        ]
    if not lines and train.steps is not None:
        try:
            Rate(train, train.steps, int(after is not None))
        except UserError as error:
            lines.append(str(error))
    return lines


def micro_batch_faults(micro: object, accumulation: object) -> list[str]:
    """A line where both say how a batch is cut."""
    if BAD in (micro, accumulation) or micro is None or accumulation == 1:
        return []
    return [f"train.micro_batch: found {micro} and train.accumulation = {accumulation}, expected one of them"]


def _check_guard(train: object, faults: Faults) -> None:
    guard = _get(train, "guard")
    if guard is BAD or guard is None or _get(guard, "action") in (BAD, "warn"):
        return
    needed = ["health_every"] + (["save_every"] if guard.action == "rollback" else [])
    for key in needed:
        if _get(train, key) is None:
            faults.append(f"train.{key}: found null, expected a number: train.guard.action is '{guard.action}'")


def _check_masks(recipe: Any, faults: Faults) -> None:
    """A mask hides something: what is to be filled in would be nothing, with a loss of 0 for ever."""
    for name, part in (recipe.masks if isinstance(recipe.masks, Mapping) else {}).items():
        ratio = getattr(part.config, "ratio", None) if isinstance(part, Part) else None
        shares = list(ratio.values()) if isinstance(ratio, Mapping) else ratio if isinstance(ratio, list) else [ratio]
        if shares and all(share == 0 for share in shares):
            faults.append(f"masks.{name}.ratio: found {show(ratio)}, which hides nothing, expected a share above 0")


def _check_probe(recipe: Any, faults: Faults) -> None:
    """An online probe learns from labels."""
    every, label = _get(recipe.train, "probe_every"), _get(recipe.evaluation, "label")
    if every not in (BAD, None) and label is None:
        faults.append(f"train.probe_every: found {every}, but evaluation.label is null, expected a column of labels")


def _check_best(recipe: Any, faults: Faults) -> None:
    """What is best by something is measured."""
    key = _get(recipe.train, "keep_best")
    if key in (BAD, None) or key == "loss":
        return
    kind = str(key).partition("/")[0]
    if kind == "loss" and "/" in str(key):
        _check_part(recipe, key, faults)
    elif kind not in ("probe", "health"):
        expected = "loss, loss/PART, probe/MODALITY/TASK or health/..."
        faults.append(f"train.keep_best: found {show(key)}, expected {expected}")
    elif _get(recipe.train, f"{kind}_every") is None:
        faults.append(f"train.keep_best: found {show(key)}, but train.{kind}_every is null, expected a number of steps")


def _check_part(recipe: Any, key: str, faults: Faults) -> None:
    """Parts of the loss are those of objectives: `loss/clip`, `loss/clip.PART`."""
    objectives, name = _names(recipe.objectives), key.removeprefix("loss/").partition(".")[0]
    if objectives is not None and name not in objectives:
        expected = f"loss/ and one of {', '.join(objectives)}{nearest(name, objectives)}"
        faults.append(f"train.keep_best: found {show(key)}, expected {expected}")


def _check_shares(recipe: Any, faults: Faults) -> None:
    every, objectives = _get(recipe.train, "gradient_share_every"), _names(recipe.objectives)
    if every not in (BAD, None) and objectives is not None and len(objectives) == 1:
        faults.append(
            f"train.gradient_share_every: found {every}, which has no effect with a single objective "
            f"('{next(iter(objectives))}'); it needs two, or to be left at null"
        )


def _check_towers(recipe: Any, faults: Faults) -> None:
    towers, modalities = _get(recipe.model, "towers"), _names(recipe.modalities)
    if towers is BAD:
        return
    housed: set[str] = set()
    complete = True
    for name, tower in towers.items():
        where = f"model.towers.{name}"
        members = _get(tower, "modalities")
        if members is BAD:
            complete = False
        elif modalities is not None:
            housed.update(members or [name])
            if not members and name not in modalities:
                choices = f"a list of {', '.join(modalities)}{nearest(name, modalities)}"
                faults.append(f"{where}.modalities: found none and no modality called '{name}', expected {choices}")
            for member in members:
                _reference(member, modalities, "modality", f"{where}.modalities", faults)
        width, heads, origin = _get(tower, "width"), _get(tower, "heads"), _get(tower, "from_")
        # neither of these has heads, but for a learned query behind them
        trunk = _get(tower, "trunk")
        attends = not (trunk in HEADLESS or own_trunk(trunk)) or _get(tower, "pooling") == "attention"
        if own_trunk(trunk):
            faults.extend(_trunk_fault(trunk, where))
        if BAD not in (width, heads) and origin is None and attends and width % heads:
            faults.append(f"{where}.heads: found {heads}, expected a divisor of {where}.width = {width}")
    if modalities is not None and complete:
        for name in modalities:
            if name not in housed:
                faults.append(f"modalities.{name}: found in no tower, expected in the modalities of at least one")


def _trunk_fault(trunk: str, where: str) -> list[str]:
    """A line where the user's recipe names a trunk that cannot be imported."""
    module, _, name = trunk.rpartition(".")
    try:
        getattr(by_user(module), name)
    except (ImportError, AttributeError) as error:
        return [f"{where}.trunk: found '{trunk}', expected a class that can be imported: {one_line(error)}"]
    return []


def _check_views(recipe: Any, faults: Faults) -> None:
    if recipe.views is BAD:
        return
    modalities, accumulation = _names(recipe.modalities), _get(recipe.train, "accumulation")
    for view, specs in recipe.views.items():
        if view == "clean":
            faults.append("views.clean: found a view named 'clean', expected another name: it is the data as they are")
        if specs is BAD or modalities is None:
            continue
        for name, spec in specs.items():
            _reference(name, modalities, "modality", f"views.{view}.{name}", faults)
            part = recipe.modalities.get(name)
            if not isinstance(part, Part) or spec is BAD:
                continue
            wrong = view_faults(view_kinds(part.type), recipe.views, view, name, view_options(part.type), modalities)
            owner = further_columns(recipe.views).get(spec.get(COLUMN), name)
            if not wrong and owner != name:
                column = spec[COLUMN]
                wrong = [
                    f"views.{view}.{name}.column: found '{column}', which is read as {owner}, expected another name"
                ]
            if not wrong and accumulation is not BAD:
                wrong = crossing_faults(crossing_views(part.type), spec, f"views.{view}.{name}", accumulation)
            faults.extend(wrong)


def _check_objectives(recipe: Any, faults: Faults) -> None:
    """Fields of an objective's config named tower(s), mask(s), view(s), or ending so, refer to the recipe's names."""
    views = _names(recipe.views)
    known = {
        "tower": _names(_get(recipe.model, "towers")),
        "mask": _names(recipe.masks),
        "view": None if views is None else ["clean", *views],
    }
    if recipe.objectives is BAD:
        return
    for name, part in recipe.objectives.items():
        if not isinstance(part, Part) or part.config is BAD:
            continue
        for field, value in _items(part.config):
            match = _REFERENCE.fullmatch(field)
            if match is None or value is BAD or value is None:
                continue
            what = match.group(1)
            valid = known[what]
            for reference in [value] if isinstance(value, str) else value:
                if valid is not None and isinstance(reference, str):
                    _reference(reference, valid, what, f"objectives.{name}.{yaml_name(field)}", faults)


def _items(config: Any) -> list[tuple[str, Any]]:
    if isinstance(config, Draft):
        return list(vars(config).items())
    return [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
