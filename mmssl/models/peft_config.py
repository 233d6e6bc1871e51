"""What `adapter_config.json` in a stranger's folder may ask of PEFT, and what not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..boundary import read_json_object
from ..errors import UserError
from .adapters import type_names

PEFT_ELSEWHERE = ("megatron_config", "megatron_core", "loftq_config", "layer_replication")
"""Keys of `adapter_config.json` by which PEFT imports a module or builds other layers than the base has."""
PEFT_DEFAULTS: tuple[object, ...] = ("megatron.core", {}, None, False)
PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")
MOST_RANK = 1 << 14
MOST_REPEATS = 3


def check_peft_config(folder: Path, file: str) -> None:
    """UserError unless `adapter_config.json` is one that PEFT builds from the base and the adapter's weights alone."""
    where = f"{folder}: its {file}"
    config = read_json_object(folder / file, where)
    kinds = {name.upper() for name in type_names()} | {"LORA", "IA3"}
    if config.get("peft_type") not in kinds:
        raise UserError(f"{where}: found the type {config.get('peft_type')!r:.60}, expected one that fits an encoder")
    for key in PEFT_ELSEWHERE:
        if config.get(key) not in PEFT_DEFAULTS:
            raise UserError(f"{where}: found {key} {config[key]!r:.60}, expected none in an adapter of mmssl")
    rank = config.get("r", 1)
    if isinstance(rank, int) and not 0 <= rank <= MOST_RANK:
        raise UserError(f"{where}: found the rank {rank}, expected 0 to {MOST_RANK}")
    patterns = [config[key] for key in PATTERNS if isinstance(config.get(key), str)]
    for key in ("rank_pattern", "alpha_pattern"):
        patterns += list(config[key]) if isinstance(config.get(key), dict) else []
    for pattern in patterns:
        if not is_tame(pattern):
            raise UserError(f"{where}: found the pattern {pattern!r:.60}, expected one that is searched for in no time")


def is_tame(pattern: str) -> bool:
    """Whether a regular expression takes no time on names of modules: few repeats without an end, none within another
    one, and none over alternatives."""
    import re._parser as parser

    repeats = 0

    def walk(parts: Any, repeated: bool) -> bool:
        nonlocal repeats
        for kind, value in parts:
            name = str(kind)
            if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
                endless = value[1] > 16
                repeats += endless
                if repeated and (endless or value[1] > 1) or not walk(value[2], repeated or value[1] > 1):
                    return False
            elif name == "BRANCH":
                if repeated or not all(walk(branch, repeated) for branch in value[1]):
                    return False
            elif name in ("SUBPATTERN", "ATOMIC_GROUP"):
                if not walk(value[-1] if name == "SUBPATTERN" else value, repeated):
                    return False
            elif name in ("ASSERT", "ASSERT_NOT"):
                if not walk(value[1], repeated):
                    return False
            elif name.startswith("GROUPREF"):
                return False
        return True

    try:
        return len(pattern) <= 100_000 and walk(parser.parse(pattern), False) and repeats <= MOST_REPEATS
    except (re.error, RecursionError, OverflowError):
        return False
