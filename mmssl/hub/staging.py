"""An adapter folder as it may be published: its base by the name that others know it by, no path of this machine.

Beside the weights two files say what an adapter belongs on: PEFT's `adapter_config.json` and `mmssl_adapter.json`.
Locally they hold a folder, relative to the adapter's. That helps nobody elsewhere, and may say where a user's home is.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path, PurePosixPath

from ..boundary import read_json_object
from ..errors import UserError
from ..models.adapter_files import read_spec
from ..models.foreign import split_origin
from ..models.locating import ADAPTER, PEFT_CONFIG
from ..models.opening import load_base
from ..options import plainyaml


def stage_adapter(folder: Path, scratch: Path, base: str | None) -> tuple[Path, list[str]]:
    """A copy of the adapter in `folder` to be published, made in `scratch`, and what its user must know.

    base: the Hub id of its base; it is fetched and compared with the weights that the adapter was trained on. Without
    one, a base that is a folder stays a relative path that holds no more than lies beside the adapter.
    UserError when `base` is another model, or the folder is no adapter of ours.
    """
    spec = read_spec(folder)
    target = scratch / folder.resolve().name
    shutil.copytree(folder, target, symlinks=True, ignore=shutil.ignore_patterns(".cache"))
    config = read_json_object(target / PEFT_CONFIG, f"push: {PEFT_CONFIG}")
    notes: list[str] = []
    if base is not None:
        load_base(folder, spec, base)
        spec["base"] = spec["base_path"] = config["base_model_name_or_path"] = base
        _name_in_card(target / "README.md", base)
    elif spec["base_path"] is not None and _is_local(folder, spec["base_path"]):
        spec["base_path"] = _beside(spec["base_path"])
        config["base_model_name_or_path"] = None
        notes.append(
            f"its base '{spec['base']}' is a folder of this machine; others name theirs with --base when they "
            f"load it. Push the base too and name it here: --base OWNER/NAME"
        )
    spec["origins"] = {tower: _origin(folder, origin) for tower, origin in spec["origins"].items()}
    (target / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (target / ADAPTER).write_text(json.dumps(spec, indent=2) + "\n")
    return target, notes


def _is_local(folder: Path, name: str) -> bool:
    return name.startswith((".", "/", "~")) or (folder / name).exists()


def _beside(name: str) -> str:
    """The path `name` where it is relative and leads to a neighbour of the adapter or of its run, else its last part
    alone: folders on a longer way may be named after people and projects."""
    parts = [part for part in PurePosixPath(name).parts if part != ".."]
    inner = parts[:-1] if parts[-1:] == ["model"] else parts
    if len(inner) <= 1 and not name.startswith(("/", "~")):
        return name
    return f"../{inner[-1]}"


def _origin(folder: Path, origin: str) -> str:
    prefix, path = split_origin(origin)
    return prefix + _beside(path) if _is_local(folder, path) else origin


def _name_in_card(card: Path, base: str) -> None:
    """The base in the card's metadata, by which the Hub shows the two together, and in its lines of Python."""
    from huggingface_hub.repocard import metadata_load, metadata_save
    from yaml import YAMLError

    if not card.is_file():
        return
    head = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    if head is not None:
        plainyaml.parse(head[1], "push: README.md")  # it is no bomb of aliases
    try:
        data = metadata_load(card) or {}
    except (ValueError, YAMLError) as error:
        raise UserError(f"push: README.md: its metadata cannot be read ({' '.join(str(error).split())})") from None
    metadata_save(card, {**data, "base_model": base})
    card.write_text(card.read_text(encoding="utf-8").replace('from_pretrained("BASE")', f'from_pretrained("{base}")'))
