"""docs/papers.yaml as a page: which paper runs how, what it was compared with, and what of it is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).resolve().parents[1] / "papers.yaml"
STATES = {"exact": "exact", "part": "in part", "none": "no"}
HEAD = """# Papers

The papers that mmssl is built on, and what of them runs. **Exact**: the mechanism equals an independent computation (a
formula in float64, a simulation, or a reference's own class), and runs under its name by the recipe or command given.
**In part**: it runs, and what is left out is said. `RECIPE` with changes below it: `mmssl pretrain RECIPE` with those
options."""


def read(file: Path = FILE) -> dict[int, dict[str, Any]]:
    """Number -> entry, in order."""
    entries: dict[int, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return dict(sorted(entries.items()))


def page() -> str:
    """The page: counts, a table, and the options that make a shipped recipe the paper's."""
    entries = read()
    counted = {state: sum(e["state"] == state for e in entries.values()) for state in STATES}
    counts = f"Of {len(entries)}: {counted['exact']} exact, {counted['part']} in part, {counted['none']} not."
    rows = [row(number, entry) for number, entry in entries.items()]
    table = ["| | paper | runs | by | compared with | left out |", "|---:|---|---|---|---|---|", *rows]
    changed = [options(entry) for entry in entries.values() if entry.get("set")]
    return "\n\n".join([HEAD, counts, "\n".join(table), "## Options", *changed]) + "\n"


def row(number: int, entry: dict[str, Any]) -> str:
    """A line of the table."""
    by = f"`{entry['command']}`" if "command" in entry else f"`{entry['base']}`" if "base" in entry else ""
    if entry.get("set"):
        by += f" [with](#{anchor(entry['paper'])})"
    cells = [
        str(number),
        entry["paper"],
        STATES[entry["state"]],
        by,
        *(entry.get(k, "") for k in ("against", "missing")),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def options(entry: dict[str, Any]) -> str:
    """What is changed in the shipped recipe."""
    text = yaml.safe_dump(entry["set"], sort_keys=False, default_flow_style=None, width=110).strip()
    return f"### {entry['paper']} {{#{anchor(entry['paper'])}}}\n\n`{entry['base']}` with:\n\n```yaml\n{text}\n```"


def anchor(name: str) -> str:
    """A heading's name in links."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
