"""Seeded damage: of bytes, of values nested in JSON and YAML, of the chunks of a PNG. Same number, same damage."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from typing import Any

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
DEEP = 2_000


def damaged(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Bytes with one to four faults, half of them in the first 512, where headers lie."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not out:
            break
        at = rng.randrange(min(len(out), 512)) if rng.random() < 0.5 else rng.randrange(len(out))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTERESTING) & ((1 << 8 * width) - 1)
            out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + rng.randint(1, 64)]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif kind == 6:
            out[at : at + 16] = rng.randbytes(16)
        else:
            out[at : at + 32] = (other or data)[: rng.randint(1, 32)]
    return bytes(out)


def damaged_text(text: str, rng: random.Random) -> str:
    """As `damaged`, of text: also digits for other digits, and signs that mean something."""
    out = list(text)
    for _ in range(rng.choice((1, 1, 2))):
        if not out:
            break
        at = rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            digits = [i for i, c in enumerate(out) if c.isdigit()]
            if digits:
                out[rng.choice(digits)] = rng.choice("0123456789-.e")
        elif kind == 1:
            out[at] = rng.choice("{}[]:,'\"&*!|>%@`#-\t\n\0\x85 ~/\\")
        elif kind == 2:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        elif kind == 4:
            del out[at:]
        else:
            out[at:at] = rng.choice(
                ("9" * 400, "&a [*a]", "!!python/object:os.system", "1e999", "\ufeff", "<<: *a", "- " * 50)
            )
    return "".join(out)


def odd_value(rng: random.Random) -> Any:
    """A value that nobody expects."""
    deep: Any = 0
    for _ in range(DEEP if rng.random() < 0.05 else 20):
        deep = [deep]
    return rng.choice(
        (
            None, True, False, 0, -1, 1, 10**9, 2**63, 2**64 + 1, -(10**30), 1e308, -0.0, 1e-320, float("nan"),
            float("inf"), "", "x", "../../x", "/etc/passwd", "theirs.evil", "a" * 10_000, "\0", "\ud800", "1e-4", [],
            {}, [1], [[1], 2], {"x": 1}, {"type": "theirs.evil"}, ["a", "b"], [0] * 1000, {"": None}, deep,
        )
    )  # fmt: skip


def damaged_tree(data: Any, rng: random.Random) -> Any:
    """Nested dicts and lists with one to three values changed, taken out, renamed or put elsewhere."""
    out = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(out))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(7)
        if kind == 6 and isinstance(holder[key], int | float):
            holder[key] = rng.choice((holder[key] + 1, holder[key] * 2, -holder[key], holder[key] / 2))
        elif kind <= 2:
            holder[key] = odd_value(rng)
        elif kind == 3:
            del holder[key]
        elif kind == 4 and isinstance(holder, dict):
            holder[rng.choice(("x", "type", "", "../x", f"{key}_"))] = holder.pop(key)
        else:
            other, name = rng.choice(places)
            holder[key] = copy.deepcopy(other[name]) if _has(other, name) else odd_value(rng)
    return out


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any, depth: int = 0) -> Any:
    if depth > 30:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield value, key
            yield from _places(item, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value[:50]):
            yield value, index
            yield from _places(item, depth + 1)


def damaged_json(text: bytes, rng: random.Random) -> bytes:
    """A JSON file: mostly its values, sometimes its bytes."""
    if rng.random() < 0.2:
        return damaged(text, rng)
    try:
        return json.dumps(damaged_tree(json.loads(text), rng)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 100_000


def damaged_png(data: bytes, rng: random.Random) -> bytes:
    """A PNG: one chunk's content changed and its checksum made right again, or plain damage."""
    if rng.random() < 0.4:
        return damaged(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    chunks[number] = (kind, damaged(content, rng))
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    body = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + b"".join(body)


def damaged_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its header's values, its length, or its bytes."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return damaged(data[: 8 + length], rng) + data[8 + length :]
    head = damaged_json(data[8 : 8 + length], rng)
    size = len(head) if rng.random() < 0.8 else rng.choice((0, 1, len(head) + 8, 1 << 40, (1 << 64) - 1))
    return size.to_bytes(8, "little") + head + data[8 + length :]
