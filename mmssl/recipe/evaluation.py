"""The section `evaluation` of a recipe: what is measured at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..options import option, strict

TASKS = (
    "knn",
    "linear",
    "boosting",
    "attentive",
    "zero-shot",
    "retrieval",
    "ranking",
    "conditional",
    "look-alikes",
    "rankme",
    "labels",
    "separability",
    "selective",
    "linking",
    "robustness",
    "backdoor",
    "cka",
    "ood",
    "subsets",
)
LABEL_TASKS = ("auto", "classification", "regression")
SPLIT = "which rows of the data: one of its splits"


def check_templates(templates: Sequence[str]) -> None:
    """ValueError for none at all, or one without a place for the class's name."""
    if not templates:
        raise ValueError("found none, expected at least one sentence with {} for the class's name")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"found '{template}', expected {{}} in it, for the class's name")


def check_classes(classes: Sequence[str] | None) -> None:
    """ValueError for an empty list, or a name twice."""
    if classes is None:
        return
    if not classes:
        raise ValueError("found none, expected a name for each class, or null")
    twice = next((name for name in classes if list(classes).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"found '{twice}' twice, expected another name for each class")


@strict
@dataclass(kw_only=True)
class EvaluationConfig:
    """What is measured at the end, on held-out data."""

    path: str | None = option(None, local=True, help="other data to measure on; default: data.path")
    name: str | None = option(None, help="its configuration; default: data.name")
    split: str = option("test", help=SPLIT)
    label: str | None = option(
        None, help="column of the label: of classes, or of numbers (knn, linear, boosting, labels)"
    )
    label_task: str = option(
        "auto",
        choices=LABEL_TASKS,
        help="what the label is; auto: by what it holds, words and few numbers being classes, prices and the like not",
    )
    group: str | None = option(None, help="column (patient, speaker) whose rows stay on one side of every split")
    test_share: float = option(0.2, min=0, below=1, help="share of the rows, where the data have no split to test on")
    tasks: list[str] | None = option(None, choices=TASKS, help="null: all that data and model allow; []: none")
    classes: list[str] | None = option(
        None, check=check_classes, help="class names for zero-shot, in the order of the labels"
    )
    templates: list[str] = option(
        factory=lambda: ["{}"], check=check_templates, help="sentences that a class name is put into"
    )
    k: int = option(20, min=1, max=1_000_000, help="neighbours of kNN")
    temperature: float | None = option(
        None, above=0, max=1_000, help="of zero-shot probabilities: adds ECE and the Frechet mean"
    )
    linking_weight: float = option(
        0.5, min=0, max=1, help="of the task `linking`: of the first modality where two are pooled, w a + (1 - w) b"
    )
    condition: str | None = option(
        None, help="of the task `conditional`: column whose value a query asks for, beside its sample"
    )
    condition_weight: float = option(
        0.5, min=0, max=1, help="of `conditional`: w of the sample, w sample + (1 - w) condition"
    )
    look_alikes: str | None = option(
        None, help="of the task `look-alikes`: column by whose values candidates are alike; null: by their raw features"
    )
    gallery: int = option(10, min=2, max=10_000, help="candidates of a query of `conditional` and `look-alikes`")
    label_shares: list[float] = option(factory=lambda: [0.01, 0.1, 1.0], above=0, max=1, help="of the task `labels`")
    corruptions: dict[str, list[dict[str, dict[str, Any]]]] = option(
        factory=dict,
        help="of the task `robustness`: name -> views by rising severity, a list of: modality -> options of its view",
    )
    backdoor: dict[str, dict[str, Any]] = option(
        factory=dict,
        help="of the task `backdoor`: modality -> options of the view that is its trigger; {}: trigger 100 of images",
    )
    backdoor_class: str | int | None = option(
        None,
        min=-1_000_000_000_000,
        max=1_000_000_000_000,
        help="label that the trigger is planted in, and is to be taken for; null: the first class",
    )
    backdoor_share: float = option(
        0.01, min=0, max=1, help="share of the training rows that carry it, all of that class; 0: none does"
    )
    ood: str | None = option(None, local=True, help="other data, to be told from the held-out rows by the task `ood`")
    ood_split: str = option("train", help="its split")
    limit: int | None = option(None, min=1, max=1_000_000_000, help="rows to measure on")
    select: str | None = option(None, local=True, help="a file of `mmssl select`: measure on the rows that it keeps")
    train_limit: int | None = option(5000, min=1, max=1_000_000_000, help="rows that the probes learn from")
    batch_size: int = option(256, min=1, max=1_000_000, help="samples that are embedded at a time")

    REFUSED = {
        "columns": "found columns, but a recipe's evaluation reads those of data.columns",
        "workers": "found workers, but a recipe's evaluation has those of data.workers",
        "max_bad": "found max_bad, but a recipe's evaluation has that of data.max_bad",
        "streaming": "found streaming, but a recipe's evaluation reads as data.streaming says",
    }
