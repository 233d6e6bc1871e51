"""What a user names: a thing that lies here, or one on the Hub; and what is said of a name that is neither.

A misspelt name is answered here, with the nearest of those that lie beside it. The Hub is asked for what looks like an
id alone, and where it cannot be reached only its cache is looked into: its clients try five times, for half a minute
each.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .errors import UserError, nearest

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SECONDS = 3.0
"""That the Hub has to answer the first knock."""
_PROXIES = ("https_proxy", "http_proxy", "all_proxy")


def refuse_misspelt(name: str, what: str, beside: Sequence[str | Path] = (".",)) -> None:
    """Raise UserError where a name of which nothing lies here is no id on the Hub, or nearly that of a thing here.

    Args:
        name: as the user wrote it.
        what: it is, and where it was said, for the message: "data.path: no such file or folder".
        beside: folders in which a thing may lie that he means by its bare name.
    """
    path = Path(name).expanduser()
    owner = Path(path.parts[0]) if len(path.parts) > 1 else None
    below = owner is not None and owner.is_dir()  # "runs/image_ma": the owner of an id is no folder here
    places = [path.parent] if owner is not None else [Path(place) for place in beside]
    hint = nearest(path.name, [entry for place in places if place.is_dir() for entry in os.listdir(place)])
    if below or not _ID.fullmatch(name):
        there = path.parent if path.parent.is_dir() else None
        lacking = "" if there is not None or owner is None else f" (there is no folder '{path.parent}')"
        raise UserError(f"{what}: '{name}'{lacking}{hint}")
    if hint and owner is None:
        raise UserError(f"{what}: '{name}'{hint} (what is on the Hub has an owner: OWNER/NAME)")


def reachable() -> bool:
    """Whether the Hub, or what `HF_ENDPOINT` names in its place, answers at all; behind a proxy that is not known."""
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return True
    from huggingface_hub import constants

    where = urlsplit(constants.ENDPOINT)
    port = where.port or (80 if where.scheme == "http" else 443)
    try:
        with socket.create_connection((where.hostname or "", port), timeout=_SECONDS):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def asking_the_hub() -> Iterator[None]:
    """Within it, the clients of a Hub that cannot be reached look into their caches only, as with `HF_HUB_OFFLINE`."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or reachable():
        yield
        return
    modules = [constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]
