"""What a recipe with presets leaves open: its size, and the values that follow the data and the device.

Whatever the user sets stays as he set it. Everything that is chosen is said, with its reason, and stands resolved in
the run's `config.yaml`; `chosen.json` beside it keeps the choice, so that `--resume` goes on with the same one wherever
it runs. Several processes do as the first one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.loading import read_rows
from ..errors import RunError, UserError, one_line
from ..files import whole_file
from ..modality import load_modality, select
from ..modality.table import label_name
from ..recipe.config import Recipe
from ..recipe.loading import load_recipe, plain_recipe
from ..recipe.presets import DEMO, YOURS, is_set, presets_of, set_by
from .building import Columns, flat
from .device import Device

if TYPE_CHECKING:
    from ..data.loading import Source

KEPT = "chosen.json"
LOOKED_AT = 16
"""Samples whose size is looked at."""
FEW, MANY = 2_000, 100_000
"""Samples below which a ViT-S has too little to learn from, and from which on a ViT-B is worth its time."""
BIG = 20 << 30
"""Bytes of a GPU that a ViT-B is trained on."""


@dataclass
class Choice:
    """What was chosen.

    Attributes:
        preset: its name.
        values: dotted key -> value.
        reasons: a line each, for the user.
    """

    preset: str
    values: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def add(self, key: str, value: object, why: str) -> None:
        """One more value."""
        self.values[key] = value
        self.reasons.append(f"{key}={value}: {why}")


@dataclass(frozen=True)
class Asked:
    """A recipe as the user asked for it.

    Attributes:
        config: a path, the name of a shipped recipe, or a dict.
        overrides: his changes.
        preset: the one that he wants; None: choose.
    """

    config: str | Path | Mapping[str, Any]
    overrides: Sequence[str] | Mapping[str, object] = ()
    preset: str | None = None

    def recipe(self, choice: Choice | None = None) -> Recipe:
        """The recipe, with what was chosen; UserError with a line a fault."""
        if choice is None:
            return load_recipe(self.config, self.overrides, preset=self.preset)
        return load_recipe(self.config, self.overrides, preset=choice.preset, choices=choice.values)

    def given(self, more: Mapping[str, object]) -> Asked:
        """The same with further overrides, behind the user's."""
        own = self.overrides
        if isinstance(own, Mapping):
            return replace(self, overrides={**own, **more})
        return replace(self, overrides=[*own, *(f"{key}={json.dumps(value)}" for key, value in more.items())])

    @property
    def presets(self) -> list[str]:
        """The names of the recipe's presets; none: it is taken as it is written."""
        return presets_of(plain_recipe(self.config))


def refuse_placeholder(recipe: Recipe) -> None:
    """UserError where a recipe still waits for the user's data."""
    if recipe.data.path == YOURS and not Path(YOURS).exists():
        raise UserError(
            f"data.path: found none, expected your data: mmssl pretrain {recipe.name or 'RECIPE'} data.path=FOLDER "
            "(a folder, a file, or the id of a data set on the Hub)"
        )


# ---------------------------------------------------------------------------------------------------------- choosing


def choose(asked: Asked, source: Source, columns: Columns, device: Device, world: int = 1) -> Choice:
    """The preset, unless the user named it, and the values that he did not set.

    Args:
        asked: what he asked for.
        source: the training data.
        columns: modality -> its column(s).
        device: what is trained on.
        world: number of processes.
    """
    count = len(source) if hasattr(source, "__len__") else None
    preset, why = _preset(asked.preset, asked.presets, count, device)
    choice = Choice(preset, reasons=[f"preset {preset}: {why}"])
    recipe, given = asked.recipe(choice), set_by(asked.overrides)
    if count is not None and not is_set("train.batch_size", given):
        batch = fitting_batch(recipe.train.batch_size, count, world * recipe.train.accumulation)
        if batch != recipe.train.batch_size:
            choice.add("train.batch_size", batch, f"of {count:,} samples, so that an epoch has several steps")
    if recipe.evaluation.label is None and not is_set("evaluation.label", given):
        label = label_name(source.column_names or ())
        if label is not None and label not in flat(columns.values()):
            choice.add("evaluation.label", label, "the data has this column; the encoder is judged by it, not trained")
    if recipe.model.from_ is None:  # else the preprocessing is the model's
        for name in recipe.modalities:
            _fit_modality(choice, recipe, name, columns[name], source, given)
    return choice


def _preset(wanted: str | None, known: Sequence[str], count: int | None, device: Device) -> tuple[str, str]:
    """(its name, why)."""
    others = ", ".join(name for name in known if name != DEMO)
    if wanted is not None:
        return wanted, "as asked for"
    if device.kind != "cuda":
        return DEMO, f"minutes without a GPU; larger: --preset {others}"
    best = DEMO
    if count is None or count >= FEW:
        best = "base" if (count is None or count >= MANY) and device.memory >= BIG else "small"
    samples = "a stream of samples" if count is None else f"{count:,} samples"
    chosen = best if best in known else known[-1] if best == "base" else DEMO
    return chosen, f"{samples} on a GPU of {device.memory / 2**30:.0f} GiB; others: --preset {others}"


def fitting_batch(wanted: int, count: int, parts: int = 1) -> int:
    """A batch size for `count` samples: at most `wanted`, and so small that an epoch has four steps, where it can.

    It is a multiple of `parts` (processes times accumulation), and a power of two of them.
    """
    if count >= 4 * wanted:
        return wanted
    batch = parts
    while batch * 2 <= wanted and batch * 8 <= count:
        batch *= 2
    return min(max(batch, 2 * parts if count >= 2 * parts else parts), wanted)


def _fit_modality(
    choice: Choice, recipe: Recipe, name: str, column: str | list[str], source: Source, given: set[str]
) -> None:
    """Options of one modality that its own samples call for, all or none, and what in the views goes with them."""
    part = recipe.modalities[name]
    rows = read_rows(source, [column] if isinstance(column, str) else column, LOOKED_AT, recipe.seed)
    values = [value for row in rows if (value := select(row, column)) is not None]
    try:
        found, why = load_modality(part.type).Preprocessor(part.config).suggest(values) if values else ({}, "")
    except UserError as error:
        raise UserError(f"modalities.{name}: {error}") from error
    if any(is_set(f"modalities.{name}.{key}", given) for key in found):
        return
    for key, value in found.items():
        choice.values[f"modalities.{name}.{key}"] = value
    if found:
        said = ", ".join(f"{key}={value}" for key, value in found.items())
        choice.reasons.append(f"modalities.{name}: {said}: {why}")
    size, patch = found.get("size"), found.get("patch")
    if size is not None and patch is not None and isinstance(part.config.size, int):
        for view, specs in recipe.views.items():
            crop = specs.get(name, {}).get("crop_size")
            if isinstance(crop, int):
                patches = max(round(crop / part.config.size * size / patch), 2)
                choice.values[f"views.{view}.{name}.crop_size"] = patches * patch


# ------------------------------------------------------------------------------------------------- kept, and told of


def kept_choice(folder: Path) -> Choice | None:
    """What a run was started with; None where it says nothing of it."""
    path = folder / KEPT
    if not path.is_file():
        return None
    try:
        return Choice(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--resume: {path} is damaged ({one_line(error)}); without it the choice is made anew"
        ) from error


def keep(choice: Choice, folder: Path) -> None:
    """Write `chosen.json`; RunError where that is not possible."""
    try:
        with whole_file(folder / KEPT) as partial:
            partial.write_text(json.dumps(asdict(choice), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder / KEPT} could not be written: {one_line(error)}") from error


def told(choice: Choice, recipe: Recipe, count: int | None) -> Iterator[str]:
    """Lines for the user: what was chosen and why, and how often the data will be seen."""
    yield from (f"chosen: {reason}" for reason in choice.reasons)
    if count and recipe.train.steps is not None:
        epochs = recipe.train.steps * recipe.train.batch_size / count
        short = "" if epochs >= 2 else "; train.epochs=10 would see them more often"
        yield f"{recipe.train.steps:,} steps of {recipe.train.batch_size} see each sample {epochs:.3g} times{short}"
