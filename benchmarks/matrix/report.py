"""RESULTS.md from the results in `results/` and the notes in `tried.yaml`; nothing in it is written by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl.options import plainyaml

from .cells import HERE, METRICS, OBJECTIVES, SEEDS, Cell, read_result

HEADER = (
    "data",
    "objective",
    "measure",
    "pretrained",
    "untrained",
    "raw features",
    "raw, boosted",
    "over untrained",
    "better in",
    "over raw",
    "better in",
    "kNN",
    "untrained kNN",
    "RankMe",
    "untrained RankMe",
    "readout",
    "steps",
    "CPU s",
)
TEXT_COLUMNS = 3
MARKS = ("<!-- matrix: written by python -m benchmarks.matrix --report -->", "<!-- /matrix -->")
Results = Mapping[tuple[str, int], dict[str, Any]]
"""(cell, seed) -> result."""

HEAD = """\
# Results: every modality, three objectives, real data

Written by `python -m benchmarks.matrix --report` from `benchmarks/matrix/results/`; do not edit. `python -m
benchmarks.matrix` runs what is missing. Each cell is a shipped recipe on a small public data set: small models and
short runs on one processor thread, so that the numbers compare arms and are no records.

**Arms.** The *pretrained* encoder, the *untrained* one (same architecture, same initial weights, read out in the same
way) and the modality's *raw features* without any encoder: pixels, mean frame and mean change, log spectrogram, one-hot
cells, band powers (EEG, ECG), SGC (graphs), word counts. All three are judged by the same logistic regression on
standardised frozen features; its regularisation is chosen on training rows only, by the reported metric. Raw features
may instead keep their common scale, chosen likewise; those of graphs (SGC) always do. *raw, boosted*: scikit-learn's
gradient boosting on them, its leaves chosen on a held-out fifth. *kNN*: 20 nearest neighbours by the cosine of
standardised features. Labels are used by these judges alone.

Values are means over seeds (of initialisation, data order, masks and views) ± their standard deviation; folds and
draws are the same for every seed and arm. *over untrained* and *over raw* are differences on the same test rows;
*better in* counts the seeds in which the 95 % interval of the difference (bootstrap over test rows, or over their
groups) lies above zero, and behind it those in which the difference does. RankMe (Garrido et al. 2023) is the effective
rank of the frozen features on the judged rows. CPU s is one pretraining run, data and start included.
"""


def load_results(cells: Sequence[Cell], folder: Path = HERE / "results", seeds: Sequence[int] = SEEDS) -> Results:
    """All results that are there, of the seeds of the matrix."""
    found = {(cell.name, seed): read_result(cell, seed, folder) for cell in cells for seed in seeds}
    return {key: value for key, value in found.items() if value is not None}


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, standard deviation of a sample: n - 1 in the denominator; None of a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def shown(values: Sequence[float], digits: int = 3, sign: bool = False) -> str:
    """`0.750 ± 0.012`; of a single value only that."""
    mean, deviation = spread(values)
    text = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation:.{digits}f}"


def gains(results: Sequence[Mapping[str, Any]], over: str = "untrained") -> list[float]:
    """Pretrained less another arm, of each seed."""
    return [r["scores"]["pretrained"] - r["scores"][over] for r in results]


def clear(results: Sequence[Mapping[str, Any]], over: str) -> str:
    """`2 (3) of 3`: in how many seeds the difference's interval lies above zero, and in how many the difference."""
    higher = f"({sum(gain > 0 for gain in gains(results, over))}) of {len(results)}"
    if not all("differences" in r for r in results):
        return f"? {higher}"
    return f"{sum(r['differences'][over][1] > 0 for r in results)} {higher}"


def listed(results: Sequence[Mapping[str, Any]], key: str, arm: str, digits: int = 3) -> str:
    """`shown` of one arm of all results; "-" where results of an earlier way to judge have none."""
    found = [r[key][arm] for r in results if arm in r.get(key, ())]
    return shown(found, digits) if len(found) == len(results) else "-"


def of_cell(results: Results, cell: Cell) -> list[dict[str, Any]]:
    return [result for (name, _), result in sorted(results.items()) if name == cell.name]


def state(cell: Cell, results: Sequence[Mapping[str, Any]]) -> str:
    """What must be said of a cell's results beside their numbers."""
    if not cell.shipped():
        return " (not shipped)"
    return " (recipe changed since)" if any(r["fingerprint"] != cell.fingerprint() for r in results) else ""


def better(results: Sequence[Mapping[str, Any]], over: str = "untrained") -> bool:
    """Whether the pretrained encoder is the better one in every seed, of at least two."""
    known = all(over in r["scores"] for r in results)
    return known and len(results) > 1 and all(gain > 0 for gain in gains(results, over))


def row(cell: Cell, results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The cells of one line of the table."""
    arms = [listed(results, "scores", arm) for arm in ("pretrained", "untrained", "raw", "boosting")]
    over = [
        text for arm in ("untrained", "raw") for text in (shown(gains(results, arm), sign=True), clear(results, arm))
    ]
    near = [listed(results, "knn", arm) for arm in ("pretrained", "untrained")]
    ranks = [listed(results, "rankme", arm, 1) for arm in ("pretrained", "untrained")]
    objective = cell.objective + state(cell, results)
    return (
        cell.data,
        objective,
        METRICS[cell.metric],
        *arms,
        *over,
        *near,
        *ranks,
        results[0].get("readout", "mean"),
        str(results[0]["steps"]),
        _mean([r["cpu_seconds"] for r in results if r["cpu_seconds"] is not None]),
    )


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.0f}" if values else "-"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    rule = "|" + "|".join("---" if i < text_columns else "---:" for i in range(len(header))) + "|"
    return ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(cells) + " |" for cells in rows)]


def how(cell: Cell, result: Mapping[str, Any]) -> str:
    """One line on a data set's protocol."""
    p, on = cell.protocol, f"{result['tested_on']:,} rows"
    if p["kind"] == "folds":
        apart = f", no `{p['group']}` on both sides" if "group" in p else ""
        text = f"cross-validation over all {on} in {result['folds']} folds{apart}"
    elif p["kind"] == "few":
        text = f"{p['labels']} labels, {p['draws']} draws of them, each tested on the same {on} of the test part"
    else:
        text = f"fitted on {result['fitted_on']:,.0f} rows of the training part, tested on {on} of the test part"
    seen = "recordings" if p["kind"] == "folds" else ""
    extra = "; pretraining saw (without labels) some of the rows that are tested on" if seen else ""
    return (
        f"- **{cell.data}** ({cell.modality}, label `{cell.label}`): {text}{extra}. "
        f"{METRICS[cell.metric]}, {result['chance']:.3f} without looking. "
        f"{result['width']} features (raw: {result['raw_width']:,})."
    )


def changed(changes: Mapping[str, Any]) -> str:
    """The overrides of a recipe as they are typed, in one line; empty where it is used as shipped."""
    found = [f"`{key}={value}`" for key, value in flat(changes)]
    return f" with {' '.join(found)}" if found else ""


def flat(changes: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """`{"train": {"steps": 3}}` as `("train.steps", "3")`, as the command line takes them."""
    out: list[tuple[str, str]] = []
    for key, value in changes.items():
        if isinstance(value, Mapping):
            out += flat(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return out


def report(cells: Sequence[Cell], results: Results, tried: Mapping[str, Sequence[str]], further: str = "") -> str:
    """The whole text of RESULTS.md. further: a section of another benchmark, put behind the summary."""
    lines, missing, unclear = [HEAD], [], []
    rows = []
    for cell in cells:
        of = of_cell(results, cell)
        if not of:
            missing.append(cell)
            continue
        rows.append(row(cell, of))
        if not better(of):
            unclear.append(cell)
    lines += [*table(HEADER, rows, TEXT_COLUMNS), ""]
    lines += summary(cells, results, unclear, missing)
    lines += [further, ""] if further else []
    lines += ["## How each data set is judged", ""]
    for data in dict.fromkeys(cell.data for cell in cells):
        with_result = [(c, of_cell(results, c)) for c in cells if c.data == data and of_cell(results, c)]
        if with_result:
            lines.append(how(with_result[0][0], with_result[0][1][0]))
    lines += ["", "## What each cell runs", ""]
    lines += [f"- **{cell.name}**: `{cell.recipe}`{changed(cell.set)}" for cell in cells]
    lines += ["", "## Tried", "", *tried_lines(cells, tried)]
    return "\n".join(lines).rstrip() + "\n"


def summary(cells: Sequence[Cell], results: Results, unclear: Sequence[Cell], missing: Sequence[Cell]) -> list[str]:
    """What the table says, counted."""
    have = [cell for cell in cells if of_cell(results, cell)]
    if not have:
        return ["No cell has been run yet.", ""]
    count = len(have) - len(unclear)
    lines = [f"In {count} of {len(have)} cells the pretrained encoder beats its untrained twin in every seed."]
    if unclear:
        names = ", ".join(f"`{cell.name}`" for cell in unclear)
        lines.append(f"Not in {names}: see below what was tried. Those recipes are starting points.")
    for arm, words in (("raw", "the linear probe of the raw features"), ("boosting", "boosting on the raw features")):
        won = [cell for cell in have if better(of_cell(results, cell), arm)]
        names = f": {', '.join(f'`{cell.name}`' for cell in won)}" if won else ""
        lines.append(f"In {len(won)} it is better than {words} in every seed{names}.")
    judged = [cell for cell in have if all("knn_differences" in r for r in of_cell(results, cell))]
    near = [c for c in judged if all(r["knn_differences"]["untrained"][0] > 0 for r in of_cell(results, c))]
    lines.append(f"By nearest neighbours it beats its twin in every seed in {len(near)} of {len(judged)}.")
    if len(judged) < len(have):
        names = ", ".join(f"`{cell.name}`" for cell in have if cell not in judged)
        lines.append(f"Of the short runs and the mean of tokens as before, not run again yet: {names}.")
    if missing:
        lines.append(f"Not run: {', '.join(f'`{cell.name}`' for cell in missing)}.")
    return [*lines, ""]


def tried_lines(cells: Sequence[Cell], tried: Mapping[str, Sequence[str]]) -> list[str]:
    """The notes of `tried.yaml`, in the order of the table."""
    lines = []
    for cell in cells:
        if cell.name in tried:
            lines += [f"**{cell.name}**", "", *(f"- {' '.join(note.split())}" for note in tried[cell.name]), ""]
    return lines


def short_table(cells: Sequence[Cell], results: Results) -> str:
    """The short table of docs/benchmarks: one line a data set, means over seeds, the untrained twin's in brackets; bold
    where the pretrained encoder is better than its twin in every seed (of several), and underlined where it is better
    than the linear probe of the raw features, too."""
    lines = []
    for data in dict.fromkeys(cell.data for cell in cells):
        of = [(cell, of_cell(results, cell)) for cell in cells if cell.data == data]
        first = next(((cell, have) for cell, have in of if have), None)
        if first is not None:
            raw = f"{statistics.fmean(r['scores']['raw'] for r in first[1]):.3f}"
            judged = [r["scores"]["boosting"] for _, have in of for r in have if "boosting" in r["scores"]]
            trees = f"{statistics.fmean(judged):.3f}" if judged else "-"
            what = f"{data} ({first[0].modality})"
            lines.append((what, METRICS[first[0].metric], *(_short(have) for _, have in of), raw, trees))
    return "\n".join(table(("data", "measure", *OBJECTIVES, "raw features", "raw, boosted"), lines, 2))


def _short(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "-"
    ours, theirs = (statistics.fmean(r["scores"][arm] for r in results) for arm in ("pretrained", "untrained"))
    mark = "**" if better(results) else ""
    over = f"<u>{ours:.3f}</u>" if better(results, "raw") else f"{ours:.3f}"
    return f"{mark}{over}{mark} ({theirs:.3f})"


def read_tried(path: Path = HERE / "tried.yaml") -> dict[str, list[str]]:
    return dict(plainyaml.read(path) or {}) if path.is_file() else {}
