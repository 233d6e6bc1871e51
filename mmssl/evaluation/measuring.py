"""One evaluation under way: rows, labels and features, read once and shared by the tasks, which run in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.quarantine import refuse_share
from ..data.workers import types_of, workers_for
from ..errors import UserError, one_line
from ..modality import Preprocessor
from ..models.running import device_of
from ..saying import doing
from . import further as others
from . import tasks
from .amounts import TASKS as AMOUNTS
from .amounts import by_amounts
from .answers import Answers
from .backdoor import VIEW, backdoor, poisoned_rows, target_of, trigger_of, with_poison
from .conditional import check_column, conditional, look_alikes, numbered_values, values_of
from .embedding import Embedded, embed_source, refuse_diverged, shared_space
from .held_out import Sources, files_of, open_outside, read_columns
from .leaks import binned, refuse_label, telling_columns
from .linking import linking
from .prompting import zero_shot
from .retrieving import Measure, Retrieving, columns_of, there
from .robustness import corrupted, robustness, views_of
from .rows import Labels, Numbers, class_names, present_columns, read_labels, subset
from .subsets import Scorecard, joint_groups, subsets_of
from .zero_shot import prompts

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel
    from ..recipe.config import DataConfig, EvaluationConfig

LABELLED = ("knn", "linear", "attentive", "labels", "selective", "linking", "robustness", "backdoor", "conditional")
PROBED = (*LABELLED, "ood", "subsets")
"""Tasks that need what the encoders make of the training rows."""
PAIRED = ("retrieval", "ranking", "look-alikes", "subsets")

Report = dict[str, Any]


def listed(columns: str | Sequence[str] | None) -> list[str]:
    return [] if columns is None else [columns] if isinstance(columns, str) else list(columns)


class Evaluation:
    """The state of one `evaluate`: rows, labels and features, read once and shared by the tasks."""

    def __init__(
        self,
        encoders: Mapping[str, MMSSLModel],
        preprocessors: Mapping[str, Preprocessor],
        mapping: Mapping[str, str | list[str]],
        data: DataConfig,
        config: EvaluationConfig,
        seed: int,
        sources: Sources,
        report: Report,
        further: Mapping[str, str],
        answers: Answers,
    ) -> None:
        self.encoders, self.preprocessors, self.mapping, self.data = encoders, preprocessors, mapping, data
        self.config = config
        self.model = encoders["model"]
        self.seed, self.sources, self.report, self.answers = seed, sources, report, answers
        assert sources.test is not None
        self.test = sources.test
        self.columns, lacking = present_columns(self.test, list(preprocessors), mapping)
        if not self.columns:
            reasons = "; ".join(f"{name}: {why}" for name, why in lacking.items())
            raise UserError(f"data.columns: the data to evaluate on has none of the model's modalities ({reasons})")
        report["notes"] += [f"{name}: not evaluated, {why}" for name, why in lacking.items()]
        beside = columns_of(preprocessors, further, mapping)
        self.beside = there(self.test, {n: of for n, of in beside.items() if further[n] in self.columns})
        types = {name: str(spec["type"]) for name, spec in (self.model.config.modalities or {}).items()}
        self.corrupted, self.trigger = views_of(config.corruptions, types), trigger_of(config, types)
        self.retrieving = Retrieving(encoders, preprocessors, further, config.batch_size, seed, data.broken)
        self.labels, self.numbers, self.no_labels = self._labels()
        for option in ("condition", "look_alikes"):
            check_column(self.test, getattr(config, option), option)
        if self.labels is not None and config.backdoor_class is not None:
            target_of(config.backdoor_class, self.labels)

    def _labels(self) -> tuple[Labels | None, Numbers | None, str]:
        """The classes of the rows, or their amounts, or the reason why there are neither."""
        config = self.config
        found, reason = read_labels(self.test, self.sources.train, config.label, config.group, config.label_task)
        if found is None:
            return None, None, reason
        refuse_label(config.label, self.columns)
        where = [name for name, of in self.columns.items() if found.column in listed(of)]
        if where:
            return None, None, f"the label '{found.column}' is also an input of {where[0]}"
        auto = config.label_task == "auto"
        if isinstance(found, Labels):
            self.report["notes"] += [found.doubtful] if auto and found.doubtful else []
            return found, None, ""
        if auto:
            self.report["notes"].append(f"{found.said}: judged by R2, not as classes (label_task)")
        return None, found, f"{found.said}, and it tells classes apart; {', '.join(AMOUNTS)} judge numbers, by R2"

    def run(self, wanted: Sequence[str]) -> None:
        """Embed what the tasks need, then run them in turn."""
        reasons = {task: self._reason(task) for task in wanted}
        self.report["skipped"].update({task: reason for task, reason in reasons.items() if reason})
        possible = [task for task in wanted if not reasons[task]]
        if not possible:
            return
        self.subsets, self.tokens = "subsets" in possible, "attentive" in possible
        self.outside = self._open_outside() if "ood" in possible else None  # what is not there is said first
        test = self._embed(self.test, self.columns, "test", self.encoders)
        train, columns = None, {}
        if self.sources.train is not None and set(possible) - {"rankme", "separability", "cka"}:
            probes = set(PROBED) & set(possible)
            columns = present_columns(self.sources.train, list(self.preprocessors), self.mapping)[0]
            # between modalities only the raw features' ridge map learns from these rows
            train = self._embed(self.sources.train, columns, "train", self.encoders if probes else {})
        labels, numbers = self.labels, self.numbers
        known = None if labels is None or labels.train is None else labels.train.tolist()
        if numbers is not None and numbers.train is not None:
            known = binned(numbers.train.tolist())
        if known is not None and self.sources.train is not None:
            self.report["notes"] += telling_columns(self.sources.train, columns, known)
        self.features = tasks.Features(
            test,
            train,
            frozenset(name for name in self.columns if self.model.modality(name).ids),
            None if labels is None else labels.test,
            None if labels is None else labels.train,
            {} if train is None else self.retrieving.spoken(self.sources.train, columns, train),
            None if labels is None else labels.alike,
            memory=self.answers.memory,
            numbers=numbers,
        )
        if "cka" in possible:
            self.answers.pooled = others.compared_rows(test)
        for task in possible:
            try:
                with doing(f"measuring {task}"):
                    metrics, skipped = self._task(task)
            except UserError as error:  # what the others measured is not lost by it
                metrics, skipped = {}, {task: one_line(error)}
            self.answers.take(task, self.features.answers)
            if metrics:
                self.report["tasks"][task] = metrics
                self.report["notes"] += [f"{task}: {name} left out, {why}" for name, why in skipped.items()]
            else:
                why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
                self.report["skipped"][task] = why or "no modality to run it on"

    def _embed(
        self,
        source: Dataset,
        columns: Mapping[str, str | list[str]],
        what: str,
        encoders: Mapping[str, MMSSLModel],
        view: str | None = None,
    ) -> Embedded:
        """Features of all rows, as they are or as a corruption has them."""
        total, change = len(source), None
        if view is not None:
            views = {**self.corrupted, **self.trigger}
            change = partial(corrupted, model=self.model, views=views, view=view, seed=self.seed)
        with doing(f"embedding the {what} rows" + ("" if view is None else f", {view}"), total) as advance:
            embedded = embed_source(
                encoders,
                self.preprocessors,
                source,
                columns,
                describe=self.model,
                batch_size=self.config.batch_size,
                workers=workers_for(self.data.workers, types_of(self.model.config.modalities)),
                broken=self.data.broken,
                progress=advance,
                groups=self._groups(columns) if self.subsets and view is None else (),
                tokens=self.tokens and what != "ood" and view is None,
                change=change,
            )
        self.report[f"n_{what}"] = total
        broken = len({bad.index for bad in embedded.bad})
        refuse_share(embedded.bad, broken, total, self.data.max_bad, "max_bad")
        refuse_diverged(embedded, what)
        self.report["bad"][what] = broken
        return embedded

    def _groups(self, columns: Mapping[str, str | list[str]]) -> list[tuple[str, ...]]:
        """The modalities that share a tower, in every subset."""
        found = {group for subset in subsets_of(list(columns)) for group in joint_groups(self.model, subset)}
        return sorted(group for group in found if len(group) > 1)

    def _text(self) -> str | None:
        """The model's first modality that a prompt can be given to."""
        return next((name for name in self.preprocessors if self.retrieving.reads_text(name)), None)

    def _reason(self, task: str) -> str | None:
        """Why a task cannot be run, before anything is embedded; None when it can."""
        if task == "ood":
            return None if self.config.ood else "it needs other data to tell from the held-out rows (evaluation.ood)"
        if task == "robustness" and not self.corrupted:
            return "it needs views for corruptions (evaluation.corruptions)"
        if task == "conditional" and self.config.condition is None:
            return "it needs a column whose values are asked for (evaluation.condition)"
        if task == "backdoor" and not self.trigger[VIEW]:
            return "it needs a view for its trigger, which only images have of themselves (evaluation.backdoor)"
        if task in (*LABELLED, "boosting"):
            judge = self.labels or (self.numbers if task in AMOUNTS else None)
            if judge is None:
                return self.no_labels
            if judge.train is None:
                return f"the training rows have no column '{judge.column}'"
            return "the test rows are the training rows" if self.sources.same_rows else None
        if task == "zero-shot":
            text = self._text()
            if text is None:
                return "the model has no text modality"
            if set(self.columns) <= {text}:
                return f"the data has no modality beside '{text}'"
            if self.labels is None:
                return self.no_labels
            named = self._names(self.labels)
            return named if isinstance(named, str) else None
        if len(self.columns) + (len(self.beside) if task in PAIRED[:3] else 0) < 2 and task in PAIRED:
            return "it needs data with at least two of the model's modalities"
        return None

    def _names(self, labels: Labels) -> tuple[list[str], list[int]] | str:
        return class_names(labels, self.test, self.sources.train, self.config.classes)

    def _task(self, task: str) -> tuple[tasks.Metrics, dict[str, str]]:
        found, config, seed = self.features, self.config, self.seed
        if self.numbers is not None and task in AMOUNTS:
            return by_amounts(task, found, config.k, config.label_shares, seed)
        run: dict[str, Callable[[], tuple[tasks.Metrics, dict[str, str]]]] = {
            "knn": lambda: tasks.knn(found, config.k),
            "linear": lambda: tasks.linear(found, seed),
            "boosting": lambda: tasks.boosting(found, seed),
            "attentive": lambda: tasks.attentive(found, seed, device_of(self.model)),
            "zero-shot": self._zero_shot,
            "retrieval": lambda: self._retrieval(tasks.retrieval),
            "ranking": lambda: self._retrieval(tasks.ranked),
            "look-alikes": self._look_alikes,
            "conditional": self._conditional,
            "subsets": lambda: Scorecard(found, self.model, config.k).run(),
            "labels": lambda: others.label_shares(found, config.label_shares, seed),
            "separability": lambda: others.separable(found.test, seed),
            "selective": lambda: others.selective(found, seed),
            "linking": lambda: linking(found, config.linking_weight, seed),
            "cka": lambda: others.alike_to(found.test),
            "robustness": self._robustness,
            "backdoor": self._backdoor,
            "ood": self._ood,
            "rankme": lambda: tasks.rank_me(found.test, bool(getattr(self.model.config, "projection", None))),
        }
        return run[task]()

    def _robustness(self) -> tuple[tasks.Metrics, dict[str, str]]:
        found = {}
        for view, spec in self.corrupted.items():
            columns = {name: column for name, column in self.columns.items() if name in spec}
            if columns:
                found[view] = self._embed(self.test, columns, "test", self.encoders, view)
        return robustness(self.features, found, self.seed)

    def _backdoor(self) -> tuple[tasks.Metrics, dict[str, str]]:
        labels, config, train, found = self.labels, self.config, self.sources.train, self.features
        assert labels is not None and labels.train is not None and train is not None and found.train is not None
        target = target_of(config.backdoor_class, labels)
        rows = poisoned_rows(labels.train, target, config.backdoor_share, self.seed)
        columns = {name: column for name, column in self.columns.items() if name in self.trigger[VIEW]}
        some = train.select(rows.tolist())
        poisoned = self._embed(some, columns, "poisoned", self.encoders, VIEW) if len(rows) else None
        triggered = self._embed(self.test, columns, "test", self.encoders, VIEW)
        trained = replace(found, train=with_poison(found.train, rows, poisoned))
        return backdoor(trained, triggered, target, config.k, self.seed)

    def _open_outside(self) -> Source:
        read = read_columns(self.config, {**self.columns, **self.mapping})
        return open_outside(self.data, self.config, read, files_of(self.data, self.preprocessors, self.mapping))

    def _ood(self) -> tuple[tasks.Metrics, dict[str, str]]:
        config = self.config
        assert self.outside is not None
        rows, _ = subset(self.outside, config.limit, self.seed)
        columns = present_columns(rows, list(self.columns), self.mapping)[0]
        if not columns:
            wanted = ", ".join(f"{name} ({column})" for name, column in self.columns.items())
            raise UserError(f"evaluation.ood: '{config.ood}' has none of the model's modalities, expected {wanted}")
        outside = self._embed(rows, columns, "ood", self.encoders)
        return others.out_of_distribution(self.features, outside, config.k)

    def _zero_shot(self) -> tuple[tasks.Metrics, dict[str, str]]:
        labels, text = self.labels, self._text()
        assert labels is not None and text is not None
        named = self._names(labels)
        assert not isinstance(named, str)
        names, numbers = named
        self.report["settings"]["classes"] = names
        spoken = self.retrieving.texts(text, prompts(names, self.config.templates), self.encoders)
        # -1 looks up the last entry: unknown stays unknown
        y: Tensor = torch.tensor([*numbers, -1])[labels.test]
        templates = len(self.config.templates)
        return zero_shot(self.features, text, spoken, templates, y, self.config.temperature)

    def _conditional(self) -> tuple[tasks.Metrics, dict[str, str]]:
        config, column = self.config, str(self.config.condition)
        names, test, train = numbered_values(values_of(self.test, column), values_of(self.sources.train, column))
        text, spoken = self._text(), {}
        if text is not None:
            found = self.retrieving.texts(text, prompts(names, config.templates), self.encoders)
            spoken = {name: (text, found) for name in self.columns if shared_space(self.model, name, text)}
        how = (config.gallery, config.condition_weight, self.seed)
        return conditional(self.features, (test, train), spoken, len(config.templates), *how)

    def _look_alikes(self) -> tuple[tasks.Metrics, dict[str, str]]:
        config, column = self.config, self.config.look_alikes
        values = None if column is None else values_of(self.test, column)
        return self._retrieval(partial(look_alikes, size=config.gallery, values=values, seed=self.seed))

    def _retrieval(self, measure: Measure) -> tuple[tasks.Metrics, dict[str, str]]:
        features = self.features
        if self.beside:
            features = self.retrieving.beside(features, self.test, self.sources.train, self.beside)
        return self.retrieving.run(features, self.test, {**self.columns, **self.beside}, measure)
