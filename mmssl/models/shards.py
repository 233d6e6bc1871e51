"""Weights in several files: the index that names them is a stranger's, and transformers opens whatever it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..boundary import inside, read_json_object
from ..errors import UserError

INDEX = "model.safetensors.index.json"
WHERE = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "force_download")
"""What says where a repository on the Hub is, among the options of `from_pretrained`."""


def check_shards(origin: str, **options: Any) -> None:
    """UserError where the index of a model's weights names anything but safetensors in the model's own folder: files
    elsewhere on this machine, and pickles, which transformers would hand to torch.

    Args:
        origin: a folder, or an id on the Hub.
        options: of `from_pretrained`.
    """
    folder = Path(origin)
    if folder.is_dir():
        index = folder / (options.get("subfolder") or "") / INDEX
    else:
        found = _on_hub(origin, {key: options[key] for key in WHERE if options.get(key) is not None})
        if found is None:
            return
        index = Path(found)
    if not index.is_file():
        return
    what = f"{origin}: {INDEX}"
    named = read_json_object(index, what).get("weight_map")
    if not isinstance(named, dict):
        raise UserError(f"{what}: found no weight_map, expected the file of each tensor")
    for name in {str(name) for name in named.values()}:
        inside(index.parent, name, what)
        if not name.endswith(".safetensors"):
            raise UserError(f"{what}: found {name!r:.100}, expected the name of a .safetensors file")


def _on_hub(origin: str, where: dict[str, Any]) -> str | None:
    """The index of a repository, in the cache of the Hub's client; None where it has none, or cannot be reached."""
    from transformers.utils import cached_file

    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    try:
        return cached_file(origin, INDEX, **{f"_raise_exceptions_for_{key}": no for key, no in quiet.items()}, **where)
    except (OSError, ValueError):  # no such repository: for who loads it to say
        return None
