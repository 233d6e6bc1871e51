"""What is searched: `key=[a,b]`, `key=log(1e-4,1e-2)`, `key=uniform(0.5,0.9)`, `key=int(2,8)`; other words stay fixed.

A study whose values are all of a finite number goes through their combinations in a random order and takes none twice;
one with a range of numbers is optuna's.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..options import plainyaml
from ..options.wording import show
from ..recipe.loading import load_recipe

if TYPE_CHECKING:
    from optuna.trial import Trial

KINDS = ("log", "uniform", "int")
RANGE = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")
EXPECTED = "expected [value, value, ...], uniform(low,high), log(low,high) or int(low,high)"
TRIED = 64
"""Combinations up to which each is checked before the first trial; of more, each value beside the first of others."""

Values = dict[str, Any]
"""Dotted key -> value."""


@dataclass(frozen=True)
class Choice:
    """Any of some values, of whatever kind."""

    values: tuple[Any, ...]

    @property
    def tried(self) -> tuple[Any, ...]:
        """The values that say whether all would do."""
        return self.values

    @property
    def finite(self) -> tuple[Any, ...] | None:
        """All values."""
        return self.values

    def suggest(self, trial: Trial, key: str) -> Any:
        """One of them; the study keeps it as JSON, since it may be a list or a mapping."""
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in self.values]))

    def kept(self, value: Any) -> Any:
        """A value as the study keeps it."""
        return json.dumps(value)

    def read(self, kept: Any) -> Any:
        """The inverse of `kept`."""
        return None if kept is None else json.loads(kept)

    def __str__(self) -> str:
        return json.dumps(list(self.values))


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included. kind: log, uniform, int."""

    kind: str
    low: float
    high: float

    @property
    def tried(self) -> tuple[Any, ...]:
        """The bounds."""
        return (self.low, self.high)

    @property
    def finite(self) -> range | None:
        """All values of whole numbers; None: there is no end of them."""
        return range(int(self.low), int(self.high) + 1) if self.kind == "int" else None

    def suggest(self, trial: Trial, key: str) -> Any:
        """What the study draws."""
        if self.kind == "int":
            return trial.suggest_int(key, int(self.low), int(self.high))
        return trial.suggest_float(key, self.low, self.high, log=self.kind == "log")

    def kept(self, value: Any) -> Any:
        """A value as the study keeps it."""
        return value

    def read(self, kept: Any) -> Any:
        """The inverse of `kept`."""
        return kept

    def __str__(self) -> str:
        return f"{self.kind}({self.low:g},{self.high:g})"


Space = dict[str, Choice | Range]


def read_space(words: Sequence[str]) -> tuple[list[str], Space]:
    """(words that stay as they are in all trials, key -> what it is searched over).

    Raises one UserError with a line a fault: what is no key=value, an empty list, a range that is none.
    """
    fixed: list[str] = []
    searched: dict[str, object] = {}
    faults: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key:
            faults.append(f"'{word}': found no key=value, {EXPECTED} behind a key")
        elif key in searched or any(known.partition("=")[0] == key for known in fixed):
            faults.append(f"{key}: found it twice, expected it once")
        elif text.lstrip().startswith("[") and text.strip() != "[]":  # an empty list is a value, nothing to choose from
            try:
                searched[key] = plainyaml.parse(text, key)
            except UserError as error:
                faults.append(one_line(error))
        elif RANGE.fullmatch(text):
            searched[key] = text
        else:
            fixed.append(word)
    return fixed, space_of(searched, faults)


def space_of(searched: Mapping[str, object], faults: list[str] | None = None) -> Space:
    """What is searched, from lists and from texts such as `log(1e-4,1e-2)`; UserError with a line a fault, together
    with those that were found before."""
    faults, space = [] if faults is None else faults, {}
    for key, value in searched.items():
        try:
            space[key] = _one(value)
        except ValueError as error:
            faults.append(f"{key}: {error}")
    if faults:
        raise UserError("\n".join(faults))
    if not space:
        raise UserError(f"mmssl tune: found no key to search over; {EXPECTED}, e.g. train.lr=log(1e-4,1e-2)")
    return space


def _one(value: object) -> Choice | Range:
    """ValueError with what was found and expected."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError(f"found an empty list, {EXPECTED}")
        if len({json.dumps(one, default=str) for one in value}) < len(value):
            raise ValueError(f"found a value twice in {show(value)}, expected each once")
        return Choice(tuple(value))
    found = RANGE.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[1] not in KINDS:
        raise ValueError(f"found {show(value)}, {EXPECTED}")
    kind, bounds = found[1], [plainyaml.parse(part, "") for part in found[2].split(",")]
    numbers = [b for b in bounds if isinstance(b, (int, float)) and not isinstance(b, bool) and math.isfinite(b)]
    if len(bounds) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(f"found '{value}', expected two numbers in it, the smaller one first")
    if kind == "log" and numbers[0] <= 0:
        raise ValueError(f"found '{value}', expected numbers above 0 for a logarithm")
    if kind == "int" and any(number != int(number) for number in numbers):
        raise ValueError(f"found '{value}', expected whole numbers")
    return Range(kind, *(int(n) if kind == "int" else float(n) for n in numbers))


def tried_values(space: Space, most: int) -> list[Values]:
    """What is tried before the first trial: all combinations, or where they are more than `most`, each value beside the
    first of the others."""
    keys = list(space)
    tried = [space[key].tried for key in keys]
    if math.prod(map(len, tried)) <= most:
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*tried)]
    first = {key: values[0] for key, values in zip(keys, tried, strict=True)}
    others = [{**first, key: value} for key, values in zip(keys, tried, strict=True) for value in values[1:]]
    return [first, *others]


def check_space(config: Any, fixed: Mapping[str, object] | Sequence[str], space: Space, preset: str | None) -> None:
    """UserError with a line a fault, where the recipe does not take a key or a value of it."""
    faults: dict[str, None] = {}
    for values in tried_values(space, TRIED):
        try:
            load_recipe(config, together(fixed, values), preset=preset)
        except UserError as error:
            faults |= dict.fromkeys(str(error).split("\n"))
    if faults:
        raise UserError("\n".join(faults))


def together(fixed: Mapping[str, object] | Sequence[str], values: Values) -> Mapping[str, object] | list[str]:
    """Overrides with the values of one trial behind those of all."""
    if isinstance(fixed, Mapping):
        return {**fixed, **values}
    return [*fixed, *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())]


# ------------------------------------------------------------------------------------------------------- combinations


def count(space: Space) -> int | None:
    """How many combinations there are; None: there is no end of them."""
    all_values = [one.finite for one in space.values()]
    return None if any(v is None for v in all_values) else math.prod(len(v) for v in all_values if v is not None)


def combination(space: Space, number: int, seed: int) -> Values:
    """The combination of trial `number`, of finitely many: each is once in the random order of a seed."""
    total = count(space)
    assert total is not None and number < total
    place = next(itertools.islice(_shuffled(total, seed), number, None))
    values: Values = {}
    for key, one in space.items():
        known = one.finite
        assert known is not None
        place, at = divmod(place, len(known))
        values[key] = known[at]
    return values


def _shuffled(total: int, seed: int) -> Iterator[int]:
    """0..total-1 in a random order, of which no more is made than is asked for (Fisher and Yates)."""
    moved: dict[int, int] = {}
    rng = random.Random(seed)
    for at in range(total):
        chosen = rng.randrange(at, total)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.get(at, at)
