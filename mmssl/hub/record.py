"""`mmssl reproduce`: run a model's card again and compare.

Beside the card lies `reproduction.json`: the recipe, a fingerprint of the data, the software, the hash of the weights
and every score. With the same software on the same kind of machine the weights come out equal bit for bit; otherwise
the scores have to lie within the intervals that were measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, UserError
from ..models.privacy import public

if TYPE_CHECKING:
    from ..evaluation.evaluate import Report
    from ..recipe.config import Recipe

FILE = "reproduction.json"
VERSION = 1
TOLERANCE = 0.02
"""Largest difference of a score without an interval, as a share of the recorded value."""


def write_record(
    folder: Path,
    recipe: Recipe,
    report: Report,
    data: Mapping[str, object],
    versions: Mapping[str, str],
    device: str | None,
) -> Path:
    """Write `folder`/reproduction.json. data: what `mmssl.data.fingerprint` said of the training data."""
    from ..options.schema import to_dict

    record = {
        "version": VERSION,
        "recipe": public(to_dict(recipe)),
        "data": dict(data),
        "weights_sha256": folder_hash(folder),
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


def folder_hash(folder: Path) -> str:
    """The `weights_hash` of a model folder, however its safetensors are sharded."""
    from safetensors.torch import load_file

    from ..models.saving import weights_hash

    files = sorted(folder.glob("*.safetensors"))
    return weights_hash(pair for path in files for pair in load_file(path).items())


@dataclass
class Comparison:
    """What `reproduce` found.

    Attributes:
        same_weights: bit for bit.
        rows: (score, recorded, now, agrees).
        notes: what differs in the software.
        folder: of the new run.
    """

    same_weights: bool
    rows: list[tuple[str, float, float | None, bool]]
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def reproduced(self) -> bool:
        """The same bits, or every recorded score agrees; no scores at all are no agreement."""
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
    """The record of a MODEL (see `mmssl.models.locating`); UserError when there is none, or it is damaged."""
    from ..models.locating import WORDS, fetched, locate, read_json

    place = str(model)
    if fetched(place, FILE) is None:  # a record alone, without its weights, would do
        try:
            found = locate(model)
        except UserError as error:
            raise UserError(f"{error}; there is no {FILE} of a run either") from error
        place = found.place
        if found.file(FILE) is None:
            what = WORDS[found.kind]
            raise UserError(f"{model}: {what} without {FILE}, expected a model that mmssl pretrain wrote")
    record = read_json(place, FILE)
    missing = {"version", "recipe", "data", "weights_sha256", "scores", "versions"} - set(record)
    if missing or record["version"] != VERSION:
        lacks = f"lacks {', '.join(sorted(missing))}" if missing else f"is of version {record['version']}"
        raise UserError(f"{model}: its {FILE} {lacks}, expected version {VERSION} as mmssl pretrain writes it")
    if not isinstance(record["data"], dict) or not {"rows", "sha256"} <= set(record["data"]):
        raise UserError(f"{model}: its {FILE} is damaged: data: expected rows and sha256")
    mix = record["data"].get("mix", {})
    if not isinstance(mix, dict) or not all(isinstance(of, dict) for of in mix.values()):
        raise UserError(f"{model}: its {FILE} is damaged: data.mix: expected an object of each of the data")
    if not isinstance(record["data"]["rows"], int | None) or not isinstance(record["data"]["sha256"], str):
        raise UserError(f"{model}: its {FILE} is damaged: data: expected a count of rows and a hash")
    if not isinstance(record["recipe"], dict) or not isinstance(record["versions"], dict):
        raise UserError(f"{model}: its {FILE} is damaged: expected objects as recipe and versions")
    scores = record["scores"]
    if not isinstance(scores, dict) or not all(_is_score(score) for score in scores.values()):
        raise UserError(f"{model}: its {FILE} is damaged: scores: expected a value, and an interval of two, of each")
    return record


def _is_score(score: object) -> bool:
    if not isinstance(score, dict) or not isinstance(score.get("value"), int | float):
        return False
    interval = score.get("interval")
    numbers = isinstance(interval, list) and len(interval) == 2 and all(isinstance(x, int | float) for x in interval)
    return interval is None or numbers
