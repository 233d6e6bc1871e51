"""How every option in mmssl is declared: a strict dataclass whose fields know their range.

`option()` is `dataclasses.field` with a range. The range is enforced twice by one validator: by huggingface_hub's
`@strict` when a config is built in Python, and by `mmssl.options.schema` when it is built from YAML, which reports
every fault at once with its dotted path. Modality packages and objectives declare their `Config` with it::

    @strict
    @dataclass(kw_only=True)
    class Config:
        patch: int = option(16, min=1, help="side of a patch in pixels")
        target: str = option("normalised", choices=("normalised", "pixels"))

An option that does something only along with another says so in its class, and a recipe that sets it in vain is
refused (`idle_options`)::

        NEEDS = (needs("momentum", "schedule", teacher="ema"),)
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from huggingface_hub.dataclasses import strict as hub_strict

__all__ = ["SET", "Needs", "changed", "idle_options", "needs", "not_resumable", "option", "strict"]

T = TypeVar("T")


def strict(cls: type[T]) -> type[T]:
    """huggingface_hub's `@strict`, which checks types at construction, made to see through
    `from __future__ import annotations` (it skips annotations that are strings) and to take whole numbers as floats."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        field.type = _checkable(hints[field.name])
    return hub_strict(cls)


def _checkable(kind: object) -> object:
    """The type as `hub_strict` should check it: float takes int, nested options and free values are left alone."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is float:
        return float | int
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_checkable(k) for k in args)]  # noqa: UP007
    if origin in (list, dict) and args:
        return origin[tuple(_checkable(k) for k in args)]
    return kind


def option(
    default: object = dataclasses.MISSING,
    *,
    factory: Any = dataclasses.MISSING,
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[object] | None = None,
    resumable: bool = False,
    local: bool = False,
    check: Callable[[Any], None] | None = None,
    pattern: str | None = None,
    help: str = "",
) -> Any:
    """A dataclass field with a declared range.

    `min`/`max` include their bound, `above`/`below` exclude it; `choices` lists all valid values. Bounds also hold
    for every number inside a tuple, list or dict of numbers. `None` passes when the field's type allows it.
    resumable: with another value, a resumed run is still the same run, or a longer one (`not_resumable`).
    check: a further condition; raises ValueError with what was found and what was expected.
    pattern: of texts, for editors: the regular expression that stands in the JSON schema for `check`.
    local: says where something is on this machine or what is written, not what is computed: with another value the
    result is the same, and `mmssl reproduce` takes it (`mmssl.options.schema.local_options`).
    """
    parts = []
    if min is not None:
        parts.append(f">= {_number(min)}")
    if above is not None:
        parts.append(f"> {_number(above)}")
    if max is not None:
        parts.append(f"<= {_number(max)}")
    if below is not None:
        parts.append(f"< {_number(below)}")
    if choices is not None:
        parts.append("one of " + ", ".join(map(repr, choices)))
    expected = " and ".join(parts)

    def one(value: object) -> None:
        if isinstance(value, (list, tuple)):
            for item in value:
                one(item)
            return
        if isinstance(value, dict):
            for item in value.values():
                one(item)
            return
        if value is None:
            return
        if choices is not None and value not in choices:
            raise ValueError(f"expected {expected}, got {value!r}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            inside = (
                (min is None or value >= min)
                and (max is None or value <= max)
                and (above is None or value > above)
                and (below is None or value < below)
            )
            if not inside:
                raise ValueError(f"expected {expected}, got {value!r}")

    def validator(value: object) -> None:
        one(value)

    bounds = {"minimum": min, "maximum": max, "exclusiveMinimum": above, "exclusiveMaximum": below}  # in JSON schema
    metadata: dict[str, object] = {"help": help, "expected": expected, "choices": choices, "bounds": bounds}
    metadata["resumable"] = resumable
    metadata["local"] = local
    metadata["pattern"] = pattern
    validators: list[Callable[[Any], None]] = [*([validator] if parts else []), *([check] if check else [])]
    if validators:
        metadata["validator"] = validators
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _number(bound: float) -> str:
    """Whole numbers with all their digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def not_resumable(config: Any) -> list[str]:
    """Names of the options of a config, or of its class, that make a resumed run another one when they change."""
    return [field.name for field in dataclasses.fields(config) if not field.metadata.get("resumable", False)]


# --------------------------------------------------------------------------------------------------- idle options

SET: Final = object()
"""In `needs`: any value but null, false, zero and the empty list."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """`options` have an effect only where `holds` of their config; it is the value of option `on` that decides."""

    options: tuple[str, ...]
    on: str
    holds: Callable[[Any], bool]
    words: str


def needs(*options: str, holds: Callable[[Any], bool] | None = None, **on: object) -> Needs:
    """`needs("sigma", loss="dclw")`: sigma has an effect with that loss only. A tuple lists several values, `SET` is
    any that is set. holds: the condition itself, where it is no such comparison; the value is then for the message.

    They stand in the tuple `NEEDS` of the config's class, which adds to those of its bases.
    """
    ((name, wanted),) = on.items()
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    key = name.removesuffix("_")
    words = key if wanted is SET else f"{key}: {' or '.join(map(str, values))}"
    if holds is not None:
        return Needs(options, name, holds, words)
    if wanted is SET:
        return Needs(options, name, lambda config: bool(getattr(config, name)), words)
    return Needs(options, name, lambda config: getattr(config, name) in values, words)


def changed(config: object, name: str) -> bool:
    """Whether an option has another value than its default. Who writes a default out is not told apart from who leaves
    it out: the resolved recipe of a run holds every option."""
    return bool(getattr(config, name) != _default(config, name))


def _default(config: Any, name: str) -> object:
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def idle_options(config: object) -> list[tuple[str, str]]:
    """(option, what is wrong with it) of every option that was changed in vain, without those of nested configs."""
    found: dict[str, str] = {}
    for cls in type(config).__mro__:
        for need in vars(cls).get("NEEDS", ()):
            if need.holds(config):
                continue
            for name in need.options:
                if changed(config, name):
                    other = _plain(getattr(config, need.on))
                    on = need.on.removesuffix("_")
                    line = f"found {_plain(getattr(config, name))}, which has no effect with {on}: {other}"
                    default = _default(config, name)
                    rest = "out" if dataclasses.is_dataclass(default) else f"at {_plain(default)}"
                    found.setdefault(name, f"{line}; it needs {need.words}, or to be left {rest}")
    return list(found.items())


def _plain(value: object) -> str:
    """A value in the recipe's words."""
    if value is None:
        return "null"
    if dataclasses.is_dataclass(value):
        return "options"
    return str(value).lower() if isinstance(value, bool) else str(value)
