"""Weights in several files: the index that names them is a stranger's, and transformers opens whatever it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..boundary import inside, read_json_object
from ..errors import UserError

INDEX, CONFIG = "model.safetensors.index.json", "config.json"
WHERE = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "force_download")
"""What says where a repository on the Hub is, among the options of `from_pretrained`."""


def check_shards(origin: str, **options: Any) -> None:
    """UserError where an index of a model's weights names anything but safetensors in the model's own folder: files
    elsewhere on this machine, and pickles, which transformers would hand to torch.

    Looked at are the index of the variant that is asked for, and one that config.json names (`transformers_weights`).

    Args:
        origin: a folder, or an id on the Hub.
        options: of `from_pretrained`.
    """
    where = {key: options[key] for key in WHERE if options.get(key) is not None}
    variant, names = options.get("variant"), []
    names.append(INDEX if variant is None else INDEX.replace(".json", f".{variant}.json"))
    config = _found(origin, CONFIG, where)
    named = None if config is None else read_json_object(config, f"{origin}: {CONFIG}").get("transformers_weights")
    if isinstance(named, str) and named.endswith(".index.json"):
        names.append(named)
    for name in names:
        index = _found(origin, name, where)
        if index is not None:
            _check(index, f"{origin}: {name}")


def _check(index: Path, what: str) -> None:
    named = read_json_object(index, what).get("weight_map")
    if not isinstance(named, dict):
        raise UserError(f"{what}: found no weight_map, expected the file of each tensor")
    for name in {str(name) for name in named.values()}:
        inside(index.parent, name, what)
        if not name.endswith(".safetensors"):
            raise UserError(f"{what}: found {name!r:.100}, expected the name of a .safetensors file")


def _found(origin: str, name: str, where: dict[str, Any]) -> Path | None:
    """A file of a folder, or of a repository in the cache of the Hub's client; None where it has none, or where the
    Hub cannot be reached."""
    if Path(origin).is_dir():
        path = Path(origin) / (where.get("subfolder") or "") / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    try:
        found = cached_file(origin, name, **{f"_raise_exceptions_for_{key}": no for key, no in quiet.items()}, **where)
    except (OSError, ValueError):  # no such repository: for who loads it to say
        return None
    return None if found is None else Path(found)
