"""`mmssl reproduce`: run a model's card again and compare.

Beside the card lies `reproduction.json`: the recipe, a fingerprint of the data, the software, the hash of the weights
and every score. With the same software on the same kind of machine the weights come out equal bit for bit; otherwise
the scores have to lie within the intervals that were measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, UserError
from ..models.privacy import public

if TYPE_CHECKING:
    from ..recipe.config import Recipe

FILE = "reproduction.json"
VERSION = 1
TOLERANCE = 0.02
"""Largest difference of a score without an interval, as a share of the recorded value."""


def write_record(
    folder: Path,
    recipe: Recipe,
    report: Mapping[str, Any],
    data: Mapping[str, Any],
    versions: Mapping[str, str],
    device: str | None,
) -> Path:
    """Write `folder`/reproduction.json. data: what `mmssl.data.fingerprint` said of the training data."""
    from ..options.schema import to_dict

    record = {
        "version": VERSION,
        "recipe": public(to_dict(recipe)),
        "data": dict(data),
        "weights_sha256": weights_hash(folder),
        "scores": {
            f"{task}: {name}": {"value": metric["model"], "interval": metric.get("interval", {}).get("model")}
            for task, metrics in report.get("tasks", {}).items()
            for name, metric in metrics.items()
            if metric.get("model") is not None
        },
        "versions": dict(versions),
        "device": device,
    }
    path = folder / FILE
    try:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"could not write {path}: {error}") from error
    return path


def weights_hash(folder: Path) -> str:
    """SHA-256 over all tensors of a model folder in the order of their names, however they are sharded."""
    import torch
    from safetensors import safe_open

    where: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            where |= dict.fromkeys(file.keys(), path)
    digest = hashlib.sha256()
    for name in sorted(where):
        with safe_open(where[name], "pt") as file:
            tensor = file.get_tensor(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass
class Comparison:
    """What `reproduce` found. same_weights: bit for bit; rows: (score, recorded, now, agrees); notes: what differs in
    the software; folder: of the new run."""

    same_weights: bool
    rows: list[tuple[str, float, float | None, bool]]
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def reproduced(self) -> bool:
        return self.same_weights or (bool(self.rows) and all(agrees for *_, agrees in self.rows))

    def text(self) -> str:
        """The comparison in lines."""
        width = max([len(name) for name, *_ in self.rows], default=0)
        lines = [
            f"{name:{width}}  recorded {before:.4f}  now {'-' if now is None else f'{now:.4f}'}"
            f"  {'agrees' if agrees else 'DIFFERS'}"
            for name, before, now, agrees in self.rows
        ]
        weights = "weights: equal bit for bit" if self.same_weights else "weights: not the same bits"
        verdict = "reproduced" if self.reproduced else "NOT reproduced"
        return "\n".join([*lines, weights, *self.notes, verdict])


def compare(record: Mapping[str, Any], now: Mapping[str, Any], folder: Path | None = None) -> Comparison:
    """Two records: the published one and the new one."""
    rows = []
    for name, was in record["scores"].items():
        value = now["scores"].get(name, {}).get("value")
        rows.append((name, float(was["value"]), value, value is not None and _agree(was, float(value))))
    notes = [
        f"{package}: {old} then, {now['versions'].get(package, 'not installed')} now"
        for package, old in record["versions"].items()
        if now["versions"].get(package) != old
    ]
    if record.get("device") != now.get("device"):
        notes.append(f"device: {record.get('device')} then, {now.get('device')} now")
    return Comparison(record["weights_sha256"] == now["weights_sha256"], rows, notes, folder)


def _agree(was: Mapping[str, Any], value: float) -> bool:
    before = float(was["value"])
    if was.get("interval"):
        low, high = was["interval"]
        return bool(low <= value <= high)
    return math.isclose(before, value, rel_tol=TOLERANCE)


def read_record(model: str | Path) -> dict[str, Any]:
    """The record of a model folder, of the folder of a run, or of a Hub id; UserError when there is none."""
    folder = Path(model)
    places = [folder / FILE, folder / "model" / FILE]
    path = next((p for p in places if p.is_file()), None)
    if path is None and folder.exists():
        raise UserError(f"{model}: no {FILE}, expected the folder of a model that mmssl pretrained")
    try:
        if path is None:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(str(model), FILE))
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"version", "recipe", "data", "weights_sha256", "scores", "versions"} - set(record)
    except (OSError, ValueError) as error:  # the Hub client's errors are OSErrors or ValueErrors
        raise UserError(f"{model}: its {FILE} cannot be read ({' '.join(str(error).split())})") from error
    if missing or record["version"] != VERSION:
        lacks = f"lacks {', '.join(sorted(missing))}" if missing else f"is of version {record['version']}"
        raise UserError(f"{model}: its {FILE} {lacks}, expected version {VERSION} as mmssl pretrain writes it")
    return record
