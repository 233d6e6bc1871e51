"""The data sets of a suite, each with its options: a path, or a YAML file that says more of one or of several."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.options import EvaluateConfig
from ..options import plainyaml
from ..options.schema import BAD, Faults, build
from ..options.wording import show
from ..recipe.loading import merge_flags, merge_overrides

TASKS = ("linear", "knn", "boosting")
"""What is measured where nobody says."""


def read_sets(data: Sequence[str], words: Sequence[str], flags: Mapping[str, object]) -> dict[str, EvaluateConfig]:
    """Name -> options of each set; what a YAML file says of a set goes before the words that are said of all.

    Args:
        data: paths, ids on the Hub, builtin:NAME, or YAML files: the options of one set, with its `path`, or a mapping
            of names to such options.
        words: `key=value` of all sets.
        flags: what the command's own options say.

    Raises:
        UserError: a line a fault.
    """
    faults: Faults = []
    common = merge_overrides({}, words, faults)
    merge_flags(common, flags, faults)
    found: dict[str, EvaluateConfig] = {}
    for name, own in _named(data, faults):
        before = len(faults)
        options = merge_overrides(copy.deepcopy(common), own, faults)
        if options.get("tasks") is None:
            options["tasks"] = list(TASKS)
        built = build(EvaluateConfig, options, "", faults)
        faults[before:] = [f"{name}: {fault}" for fault in faults[before:]]
        if built is not BAD:
            found[unlike(name, found)] = built
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))
    return found


def _named(data: Sequence[str], faults: Faults) -> list[tuple[str, dict[str, Any]]]:
    out: list[tuple[str, dict[str, Any]]] = []
    for path in data:
        if not path.endswith((".yaml", ".yml")):
            out.append((short(path), {"path": path}))
            continue
        if not Path(path).is_file():
            faults.append(f"--data {path}: no such file")
            continue
        held = plainyaml.read(Path(path))
        if not isinstance(held, dict) or not held:
            faults.append(
                f"--data {path}: found {show(held)}, expected a file with the options of a set, or of several"
            )
        elif "path" in held:
            out.append((Path(path).stem, held))
        else:
            for name, own in held.items():
                if isinstance(own, dict) and "path" in own:
                    out.append((str(name), own))
                else:
                    faults.append(f"--data {path}: {name}: found {show(own)}, expected options with a path")
    return out


def short(path: str) -> str:
    """What a set or a model is called in a table: the last part of its path that says something."""
    parts = [part for part in path.replace("builtin:", "").rstrip("/").split("/") if part and "*" not in part]
    names = [part for part in parts if part not in ("model", ".", "..")] or ["data"]
    name = names[-1]
    return name.rpartition(".")[0] or name if name.rpartition(".")[2].isalpha() and "." in name else name


def unlike(name: str, known: Mapping[str, object]) -> str:
    """The name, with a number where it is taken."""
    if name not in known:
        return name
    return next(f"{name}-{number}" for number in range(2, len(known) + 3) if f"{name}-{number}" not in known)
