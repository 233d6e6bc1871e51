"""The model card: `README.md` of a model folder, from `hub_cards/model_card.md`.

It says what was trained, on what, how, and how well beside its baselines; and nothing about the user's machine: of
every path only the last part is shown.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import RunError, UserError
from ..evaluation.table import markdown_table, remarks
from ..files import whole_file
from ..modality.columns import further_columns
from ..models.options import HEADLESS
from ..models.privacy import public, public_path, without_secrets
from ..recipe.config import OPTIMIZERS

if TYPE_CHECKING:
    from ..evaluation.evaluate import Report
    from ..evaluation.tasks import Metric
    from ..models.options import TowerConfig
    from ..recipe.config import Recipe
    from ..recipe.mixture import MixConfig

PACKAGES = ("mmssl", "torch", "transformers", "accelerate", "datasets", "numpy")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(kw_only=True)
class Facts:
    """What only the run knows; everything may be left out of the card.

    Attributes:
        samples: rows of the training data.
        presence: modality -> rows that have it.
        broken_samples: what was left out, in a line (`Quarantine.summary()`).
        steps: optimiser steps.
        seen: samples that went through the model, epochs counted.
        seconds: of training.
        loss: the last logged loss and its parts.
        health: the last measured `health/` and `probe/` values.
        health_samples: on how many training samples they were measured.
        guard: what the collapse guard did, a line each.
        parameters: how many numbers the model has.
        trainable: how many of them were trained.
        processes: how many it ran on.
        device: what it ran on.
        fingerprint: of the data (`mmssl.data.fingerprint`).
        mixture: where several data are mixed, name -> (rows, None of a stream; share of the samples).
        picture: name of the file beside the card that shows the run.
        pictures: of what the model sees, name of a file beside the card -> what it shows.
        python: its version; by default this process's.
        versions: package -> version; by default this process's.
    """

    samples: int | None = None
    presence: dict[str, int] = field(default_factory=dict)
    broken_samples: str = ""
    steps: int | None = None
    seen: int | None = None
    seconds: float | None = None
    loss: dict[str, float] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)
    health_samples: int = 0
    guard: list[str] = field(default_factory=list)
    parameters: int | None = None
    trainable: int | None = None
    processes: int = 1
    device: str | None = None
    fingerprint: dict[str, object] = field(default_factory=dict)
    mixture: dict[str, tuple[int | None, float]] = field(default_factory=dict)
    picture: str | None = None
    pictures: dict[str, str] = field(default_factory=dict)
    python: str = field(default_factory=platform.python_version)
    versions: dict[str, str] = field(default_factory=lambda: software_versions())


def software_versions() -> dict[str, str]:
    """Versions of the packages that matter for a repetition; those not installed are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hub_dataset(path: str) -> str | None:
    """The Hub id that a data path is, or None for a file, a folder or built-in data."""
    if ":" in path or Path(path).exists() or not _HUB_ID.fullmatch(path):
        return None
    return None if Path(path).suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow") else path


def declared_license(path: str) -> str | None:
    """The licence that the README.md in a data folder declares, as data sets on the Hub do, or None."""
    from ..options import plainyaml

    place = Path(path.partition(":")[2] or path)
    readme = (place if place.is_dir() else place.parent) / "README.md"
    if path.startswith("builtin:") or not readme.is_file() or not (place.is_dir() or place.is_file()):
        return None
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        said = plainyaml.parse(head[1], str(readme)) if head else None
    except UserError:  # its header is no YAML: it declares nothing
        return None
    declared = said.get("license") if isinstance(said, dict) else None
    text = ", ".join(map(str, declared)) if isinstance(declared, list) else None if declared is None else str(declared)
    return text if text is None else " ".join(text.split())[:200]  # one line of our own card


def write_card(folder: str | Path, recipe: Recipe, report: Report | None, facts: Facts | Mapping[str, Any]) -> Path:
    """Write `folder`/README.md and return its path.

    Args:
        folder: of the model.
        recipe: what it was trained by.
        report: what `evaluate` returned, None or empty when there was no evaluation.
        facts: `Facts`, or a mapping of its fields (TypeError for others).

    Raises:
        RunError: the file cannot be written.
    """
    facts = facts if isinstance(facts, Facts) else Facts(**facts)
    text = card_text(recipe, report, facts)
    path = Path(folder) / "README.md"
    try:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"could not write the model card {path}: {error}") from error
    return path


def card_text(recipe: Recipe, report: Report | None, facts: Facts) -> str:
    """The whole card: YAML metadata and Markdown."""
    from ..files import shipped_folder
    from ..options import plainyaml
    from ..options.schema import to_dict

    template = Template((shipped_folder("hub_cards") / "model_card.md").read_text(encoding="utf-8"))
    names = list(recipe.modalities)
    body = template.substitute(
        title=without_secrets(recipe.name) or "mmssl model",
        description=without_secrets(recipe.description.strip()) or "No description was given.",
        modalities=" and ".join(names),
        version=__version__,
        usage=_usage(names),
        data=_data(recipe, facts),
        training=_training(recipe, facts),
        curves=f"![loss and health over the steps of the run]({facts.picture})" if facts.picture else "",
        pictures=_pictures(facts),
        recipe=plainyaml.dump(public(to_dict(recipe))).rstrip(),
        scores=_scores(report),
        limits=_limits(recipe, report, facts),
    )
    return f"---\n{metadata(recipe, report)}\n---\n\n{body}"


def metadata(recipe: Recipe, report: Report | None) -> str:
    """The card's YAML header: library, tags, data set, base models, and the scores as a `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    types = sorted({part.type for part in recipe.modalities.values()})
    objectives = sorted({part.type for part in recipe.objectives.values()})
    source = public_path(recipe.evaluation.path or recipe.data.path)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=source,
            dataset_name=source,
            dataset_split=(report or {}).get("split", {}).get("test"),
            metric_type=name.rsplit("/", 1)[-1].replace(" ", "_"),
            metric_name=name,
            metric_value=round(float(metric["model"]), 4),
        )
        for task, metrics in (report or {}).get("tasks", {}).items()
        for name, metric in metrics.items()
        if metric.get("model") is not None
    ]
    named = [hub_dataset(path) for path in (recipe.data.path, *(of.path for of in recipe.data.mix.values()))]
    origins = [tower.from_ for tower in recipe.model.towers.values() if tower.from_]
    bases = [origin for origin in origins if hub_dataset(origin)]
    data = ModelCardData(
        library_name="mmssl",
        license=None if recipe.model.license is None else without_secrets(recipe.model.license),
        tags=["mmssl", "self-supervised-learning", *types, *objectives],
        datasets=[name for name in named if name] or None,
        base_model=bases or None,
        model_name=recipe.name or "mmssl model",
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _usage(names: list[str]) -> str:
    arguments = ", ".join(f"{name}=[...]" for name in names)
    return "\n".join(
        [
            "import mmssl  # which teaches transformers this class",
            "from transformers import AutoModel, AutoProcessor",
            "",
            'model = AutoModel.from_pretrained("PATH_OR_ID")  # this folder, or its id on the Hub',
            'processor = AutoProcessor.from_pretrained("PATH_OR_ID")',
            f'output = model(**processor({arguments}, return_tensors="pt"))',
            f'output.embeddings["{names[0]}"]  # (B, E), normalised; output.tokens["{names[0]}"] is (B, n, D)',
        ]
    )


def _bullets(pairs: list[tuple[str, object]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in pairs if value not in (None, "", {}, []))


def _data(recipe: Recipe, facts: Facts) -> str:
    data = recipe.data
    name = f" ({data.name})" if data.name else ""
    presence = ", ".join(f"{modality} {count:,}" for modality, count in facts.presence.items())
    columns = ", ".join(f"{m} from {c if isinstance(c, str) else ', '.join(c)}" for m, c in data.columns.items())
    further = ", ".join(f"{name} as {modality}" for name, modality in further_columns(recipe.views).items())
    return _bullets(
        [
            ("Data", f"`{public_path(data.path)}`{name}, split `{data.split}`"),
            ("Source", None if data.source is None else without_secrets(data.source)),
            ("Licence of the data", without_secrets(data.license or declared_license(data.path) or "not stated")),
            *((f"Mixed in, `{mixed}`", _mixed(of)) for mixed, of in data.mix.items()),
            ("Shares of the samples", _shares(facts)),
            ("Samples", None if facts.samples is None else f"{facts.samples:,}"),
            ("Samples that have each modality", presence),
            ("Columns", columns),
            ("Read by the encoder of another column", further),
            ("Fingerprint", _fingerprint(facts)),
            ("Broken samples", facts.broken_samples),
        ]
    )


def _mixed(of: MixConfig) -> str:
    """Where data that are mixed in come from, and under which licence."""
    name = f" ({of.name})" if of.name else ""
    source = "" if of.source is None else f", from {without_secrets(of.source)}"
    licence = without_secrets(of.license or declared_license(of.path) or "not stated")
    return f"`{public_path(of.path)}`{name}, split `{of.split}`{source}, licence of the data: {licence}"


def _shares(facts: Facts) -> str:
    of = facts.mixture.items()
    return ", ".join(
        f"{name} {share:.1%}" + (f" ({rows:,} rows)" if rows is not None else "") for name, (rows, share) in of
    )


def _fingerprint(facts: Facts) -> str | None:
    if not facts.fingerprint:
        return None
    hashed, rows = facts.fingerprint["hashed"], facts.fingerprint["rows"]
    of = "all rows" if hashed == rows else f"the first {hashed:,} rows"
    others = f"; those of {', '.join(list(facts.mixture)[1:])} are in reproduction.json" if facts.mixture else ""
    return f"SHA-256 `{facts.fingerprint['sha256']}` of {of} (`mmssl reproduce` compares it{others})"


def _size(tower: TowerConfig) -> str:
    kind = "" if tower.trunk == "transformer" else f"{tower.trunk}, "
    heads = "" if tower.trunk in HEADLESS else f", {tower.heads} heads"
    return f"{kind}width {tower.width}, depth {tower.depth}{heads}"


def _label_columns(recipe: Recipe) -> str | None:
    """The columns beside the inputs that objectives learn from: what is measured by them is no surprise."""
    found = [name for part in recipe.objectives.values() for of in part.config.label_columns for name in of.columns]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(found)) or None


def _training(recipe: Recipe, facts: Facts) -> str:
    train = recipe.train
    objectives = ", ".join(f"{key} (weight {part.config.weight:g})" for key, part in recipe.objectives.items())
    towers = "; ".join(
        f"`{name}` " + (f"from `{public_path(t.from_)}`" if t.from_ else _size(t)) + (", frozen" if t.frozen else "")
        for name, t in recipe.model.towers.items()
    )
    size = None if facts.parameters is None else f"{facts.parameters:,}"
    if size and facts.trainable is not None and facts.trainable != facts.parameters:
        size += f", of which {facts.trainable:,} were trained"
    length = [f"{facts.steps:,} steps"] if facts.steps is not None else []
    length += [f"{facts.seen:,} samples seen"] if facts.seen is not None else []
    length += [f"{facts.seconds:,.0f} s"] if facts.seconds is not None else []
    length += [f"{facts.processes} processes" if facts.processes > 1 else "1 process"]
    length += [f"on {facts.device}"] if facts.device else []
    return _bullets(
        [
            ("Objectives", objectives),
            ("Columns learned from", _label_columns(recipe)),
            ("Masks", ", ".join(f"{key} ({part.type})" for key, part in recipe.masks.items())),
            ("Views", ", ".join(recipe.views)),
            ("Towers", towers),
            ("Shared embedding", f"{recipe.model.projection} wide" if recipe.model.projection else None),
            ("Parameters", size),
            ("Length", ", ".join(length)),
            (
                "Optimiser",
                f"{OPTIMIZERS[train.optimizer]}, peak learning rate {train.lr:g}, weight decay {train.weight_decay:g}, "
                f"batch {train.batch_size}, precision {train.mixed_precision}",
            ),
            ("Last loss", ", ".join(f"{name} {value:.4g}" for name, value in facts.loss.items())),
            ("Health at the end", _health(facts)),
            ("Collapse guard", "; ".join(facts.guard)),
            ("Seed", recipe.seed),
            ("Software", ", ".join([f"Python {facts.python}", *(f"{n} {v}" for n, v in facts.versions.items())])),
        ]
    )


def _health(facts: Facts) -> str:
    """Rank and spread of every modality's embeddings as last measured."""
    said = []
    for key, rank in facts.health.items():
        parts = key.split("/")
        if parts[0] == "health" and parts[-1] == "rankme":
            spread = facts.health.get(f"health/{parts[1]}/std_mean")
            said.append(f"{parts[1]} RankMe {rank:.3g}" + ("" if spread is None else f", spread {spread:.2g} of 1"))
    return f"{'; '.join(said)} (on {facts.health_samples:,} training samples)" if said else ""


def _scores(report: Report | None) -> str:
    if not report:
        return "No evaluation was run."
    if not report.get("tasks"):
        return "\n".join(["No score could be computed.", "", *(f"- {line}" for line in remarks(report))])
    split = report.get("split", {})
    head = (
        f"On {report.get('n_test', 0):,} samples of the split `{split.get('test')}`; probes were fitted on "
        f"{report.get('n_train', 0):,} samples of `{split.get('train')}`."
    )
    legend = (
        "`untrained` is the same architecture with random weights, `raw features` needs no encoder (pixels, word "
        "counts; between modalities a ridge regression), `chance` is the commonest class or a random order. Brackets "
        "hold 95 % intervals."
    )
    if any("start" in metric for metrics in report["tasks"].values() for metric in metrics.values()):
        legend += " `start` is what the run went on from: continued training has to beat that."
    return "\n\n".join([head, markdown_table(report), legend])


def _pictures(facts: Facts) -> str:
    """Each with what it shows, which is also there for who does not see it."""
    out = []
    for name, words in facts.pictures.items():
        said = without_secrets(words)
        alone = said.translate(dict.fromkeys(map(ord, "`[]")))
        out.append(f"![{alone}]({name})\n\n{said}")
    return "\n\n".join(out)


def _limits(recipe: Recipe, report: Report | None, facts: Facts) -> str:
    lines = [
        "It knows only what its training data shows, with that data's gaps and biases; check it on your own data.",
        "An embedding is no decision: fit and validate a head or a threshold before using it for one.",
    ]
    if recipe.data.limit is not None or (facts.samples or 10**9) < 10_000:
        lines.append("It was trained on little data; a larger pretrained model may serve better.")
    for task, metrics in (report or {}).get("tasks", {}).items():
        if task == "rankme":
            continue
        for name, metric in metrics.items():
            lines += _not_better(task, name, metric)
    return "\n".join(f"- {line}" for line in lines)


def _not_better(task: str, name: str, metric: Metric) -> list[str]:
    """A line for each baseline that the model does not beat: the card must not hide it."""
    titles = {"start": "what it went on from", "untrained": "its untrained twin", "raw": "raw features"}
    model, lower = metric.get("model"), name.endswith(("median rank", "ECE"))
    out = []
    for baseline, title in titles.items():
        value = metric.get(baseline)
        if model is not None and value is not None and (model >= value if lower else model <= value):
            # 1.0 against 1.0 is a task without room, no weakness
            if model != value or model != 1.0:
                out.append(f"{task}, {name}: it does not beat {title} ({model:.3g} against {value:.3g}).")
    return out


__all__ = ["Facts", "card_text", "metadata", "software_versions", "write_card"]
