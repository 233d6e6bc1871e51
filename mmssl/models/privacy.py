"""Nothing of the user's machine leaves it: paths are cut before they go into a card, a config or a processor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

TOKENS = {
    "a Hugging Face token": r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt)-[A-Za-z0-9_-]{20,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}|\bya29\.[0-9A-Za-z_-]{20,}|\bGOCSPX-[0-9A-Za-z_-]{20,}",
    "a Slack token": r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}|hooks\.slack\.com/services/T\w+/B\w+/\w+",
    "an AWS key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
    "an API key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a Weights & Biases key": r"WANDB_API_KEY\W{1,4}[0-9a-f]{40}",
    "a web token (JWT)": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    "a bearer token": r"(?i)\bauthorization\W{1,4}(?:bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
"""What it is -> how it looks: tokens that are known by their form."""
SECRET_KEY = r"(?:token|secret|passw(?:or)?d|pwd|api[_-]?key|apikey|auth|credential|signature|sig|key)"
URL_SECRET = (
    r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:\"'<>]*:[^\s/@\"'<>]+@"
    rf"|[?&;#](?i:[\w.-]*{SECRET_KEY}[\w.-]*)=[^\s&\"'<>]{{4,}}"
)
"""A user's password, or the value of a key that sounds like a secret, in an address."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")


def without_secrets(text: str) -> str:
    """A text as it may be shown: addresses in it without user, password, query and fragment, no tokens."""
    text = _URL.sub(lambda found: _bare(found[0]), text)
    for pattern in TOKENS.values():
        text = re.sub(pattern, "(taken out)", text)
    return text


GONE = "***"
"""What stands in an address in place of a password or a token."""
_KEYED = re.compile(rf"[?&;#](?i:[\w.-]*{SECRET_KEY}[\w.-]*)=")


def hidden(text: str) -> str:
    """A text as it may be said on the user's own machine: as it is, but for tokens and, in addresses, user, password
    and a query with a key that sounds like a secret, in whose place stands `GONE`."""
    if "://" in text:
        text = _URL.sub(lambda found: "::".join(map(_veiled, found[0].split("::"))), text)  # zip://FILE::https://...
    for pattern in TOKENS.values():
        text = re.sub(pattern, GONE, text)
    return text


def _veiled(url: str) -> str:
    scheme, there, rest = url.partition("://")
    if not there:
        return url
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = place.rpartition("@")
    if at and (":" in user or scheme.startswith("http")):
        rest = GONE + rest[len(user) :]
    if _KEYED.search(rest):
        rest = re.split(r"[?#;&]", rest, maxsplit=1)[0] + f"?{GONE}"
    return f"{scheme}://{rest}"


def veiled(value: Any) -> Any:
    """`value` (JSON-like) with every string as `hidden` has it."""
    if isinstance(value, Mapping):
        return {key: veiled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [veiled(item) for item in value]
    return hidden(value) if isinstance(value, str) else value


def is_veiled(address: str) -> bool:
    """Whether something was taken out of an address, which nothing can be read from then."""
    return "://" in address and (f"://{GONE}@" in address or f"?{GONE}" in address)


def _bare(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # a port that is no number, a bracket too many
        return url.partition("://")[0] + "://(taken out)"
    if not parts.hostname:
        return url.partition("?")[0].partition("#")[0]
    end = re.search(r"[.,;:)\]]*$", url)
    rest = "" if end is None or not (parts.query or parts.fragment) else end[0]
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}{rest}"


def public_path(path: str) -> str:
    """What may be shown of a path: nothing above its last part; of a URL neither user nor query.

    A name (`builtin:digits`, a Hub id, a recipe's relative path without `..`) is shown as it is.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    if scheme and scheme[1] != "file":
        return _bare(path)
    if scheme:
        path = path[len("file://") :]
    prefix = re.match(r"[a-z][a-z0-9_]+:(?=.)", path)  # a modality's own kind of file: graph:FILE
    if prefix:
        return prefix[0] + public_path(path[prefix.end() :])
    windows, posix = PureWindowsPath(path), PurePosixPath(path)
    if windows.drive or "\\" in path:
        return windows.name or "(a local folder)"
    if posix.is_absolute() or path.startswith("~") or ".." in posix.parts:
        name = posix.name
        return name if name and name != ".." and not name.startswith("~") else "(a local folder)"
    return path


def public(value: object) -> Any:
    """`value` (JSON-like) with every string that is a path of somebody's machine cut by `public_path`."""
    if isinstance(value, Mapping):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if isinstance(value, str):
        return without_secrets(public_path(value) if _is_path(value) else value)
    return value


def _is_path(text: str) -> bool:
    start = r"([a-z][a-z0-9_]+:)?([/~]|\.\.[/\\])|[A-Za-z]:[\\/]|\\\\|[A-Za-z][A-Za-z0-9+.-]*://"
    return bool(re.match(start, text)) or "/../" in text
