"""YAML as people mean it: PyYAML's safe loader with the scalars of YAML 1.2 and no silent loss.

PyYAML follows YAML 1.1, where `1e-4` is text, `no` is false (so `mixed_precision: no` would not be 'no'), `010` is
8, `1:30` is 90, `2024-01-01` is a date, and the second of two equal keys silently wins. Here `1e-4` is a number,
only `true` and `false` are truth values, the rest is what it looks like, and a repeated key is an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError

LONGEST = 1 << 19
"""Characters of a recipe: the longest that mmssl ships has 6,000."""
MOST_NODES = 100_000
KEPT = 1 << 14
"""Characters up to which a text that was read is remembered."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the table of implicit scalars below, and without repeated keys."""

    # Their own table, not the parent's, which is shared with every user of PyYAML.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                problem = f"the key '{key}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes a text which only YAML 1.2 takes for a number: `1e5`."""

    yaml_implicit_resolvers = {first: list(table) for first, table in yaml.SafeDumper.yaml_implicit_resolvers.items()}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text; quoted where it holds one of Unicode's line ends, which YAML would fold into a blank."""
    ends = any(end in text for end in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if ends else None)


_Dumper.add_representer(str, _represent_text)


def parse(text: str, source: str) -> Any:
    """The value of a YAML text. UserError naming `source`, line and column when it is no YAML."""
    if len(text) > LONGEST:
        raise UserError(f"{source}: found {len(text):,} characters, expected a recipe: at most {LONGEST:,}")
    try:
        return _unshared(_value(text) if len(text) < KEPT else _value.__wrapped__(text))
    except _TooLarge:
        raise UserError(f"{source}: not valid YAML: its aliases (*name) stand for over {MOST_NODES:,} values") from None
    except RecursionError:
        raise UserError(f"{source}: not valid YAML: an anchor (&) that holds itself, or too many levels") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UserError(f"{source}{where}: not valid YAML: {problem}") from None
    except UserError:
        raise
    except ValueError as error:  # a tag that does not fit its value, e.g. `!!int x`
        raise UserError(f"{source}: not valid YAML: {error}") from None


@functools.lru_cache(maxsize=128)  # all that are shipped; a run reads its recipe five times, at 25 ms each
def _value(text: str) -> object:
    """What a text says; its lists and mappings are for `_unshared` alone to read."""
    loader = _Loader(text)  # a SafeLoader
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_NODES:
            raise _TooLarge
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _TooLarge(Exception):
    """A node stands for more values than `MOST_NODES`."""


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node is, each alias counted as what it stands for: a page of them can stand for billions."""
    if id(node) in known:
        if not known[id(node)]:
            raise RecursionError  # it holds itself
        return known[id(node)]
    known[id(node)] = 0
    below = node.value if isinstance(node, yaml.CollectionNode) else []
    parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
    known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _unshared(value: object) -> object:
    """A copy in which what several aliases (*name) stand for is several things: changing one leaves the others."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def read(path: Path) -> Any:
    """The value in a YAML file. UserError when it cannot be read or is no YAML."""
    try:
        if path.stat().st_size > 4 * LONGEST:
            raise UserError(f"{path}: found {path.stat().st_size:,} bytes, expected a recipe: at most {4 * LONGEST:,}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#x} at {error.start}"
        raise UserError(f"{path}: found {found}, expected UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse(text, str(path))


def dump(data: object) -> str:
    """Plain data as YAML text that `parse` and any other YAML reader understand alike."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )  # a SafeDumper


def in_one_line(value: object) -> str:
    """Plain data as YAML on one line, however long."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"), default_flow_style=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
