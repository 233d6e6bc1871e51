"""The folder of a fine-tuning: its options, and what of them changed where it is gone on with."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..errors import UserError
from ..files import write_whole
from ..models.privacy import veiled
from ..options import not_resumable
from ..options.plainyaml import dump, parse, read
from ..options.schema import to_dict, yaml_name
from ..recipe.config import LoopConfig
from ..training.engine import changes, on_first, warn_of
from ..training.lock import RunLock
from .options import FinetuneConfig

LENGTH = ("steps", "epochs")
"""Options with which a run may go on, but not what is put together from several: its parts would not be alike."""


def start_folder(accelerator: Accelerator, folder: Path, options: FinetuneConfig, resume: bool, lock: RunLock) -> None:
    """Make and lock it by the first process, and keep the options in `config.yaml`; where it is gone on with, warn."""

    def start() -> None:
        kept = folder / "config.yaml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(folder)
            if resume and kept.is_file():  # written anew once the checkpoint is found to fit
                _warn_of_changes(read(kept), veiled(to_dict(options)))
                return
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None
        write_options(folder, options_text(options))

    on_first(accelerator, start)


def options_text(options: FinetuneConfig) -> str:
    """What `config.yaml` holds: the options, without passwords and tokens."""
    return dump(veiled(to_dict(options)))


def fixed_options(options: FinetuneConfig, free: Set[str] = frozenset()) -> dict[str, Any]:
    """Name -> value of the options that have to be the same for results to be of one run, as JSON has them.

    free: which may differ, too.
    """
    plainly = to_dict(options)
    names = [name for name in map(yaml_name, not_resumable(FinetuneConfig)) if name not in free | {"train", "path"}]
    fixed = {name: plainly[name] for name in [*names, "patience"]}
    of_loop = [*map(yaml_name, not_resumable(LoopConfig)), *LENGTH]
    return fixed | {f"train.{name}": plainly["train"][name] for name in of_loop}


def write_options(folder: Path, text: str) -> None:
    """Write `config.yaml`. UserError where it cannot be written."""
    try:
        write_whole(folder / "config.yaml", text)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Options that make the resumed run another one than that which was started."""
    now = parse(dump(now), "config.yaml")  # as what was written is read
    loop = changes(LoopConfig, before.get("train", {}), now["train"], "train.")
    said = {"train", "rates"} if "train.lr" in loop else {"train"}  # one rate that is named is both
    warn_of([name for name in changes(FinetuneConfig, before, now) if name not in said] + loop)
