"""`evaluate`: one model against its start, its untrained twin, raw features and chance, on held-out data.

Every row is decoded once and every encoder sees it once; the tasks share the features. A task that data or model do
not allow is left out of the report, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.choosing import choose_columns, no_inputs
from ..data.holding import alike
from ..data.quarantine import refuse_share
from ..data.workers import types_of, workers_for
from ..errors import UserError, nearest, one_line
from ..modality import Preprocessor
from ..modality.columns import with_further
from ..models.running import device_of
from ..recipe.evaluation import TASKS
from ..saying import doing
from . import further as others
from . import tasks
from .amounts import TASKS as AMOUNTS
from .amounts import by_amounts
from .answers import Answers, by_group
from .embedding import Embedded, embed_source, refuse_diverged
from .held_out import Sources, files_of, open_outside, open_sources, read_columns
from .leaks import binned, refuse_label, telling_columns
from .linking import linking
from .prompting import zero_shot
from .retrieving import Retrieving, columns_of, further_of, there
from .robustness import corrupted, robustness, views_of
from .rows import Labels, Numbers, check_named, class_names, present_columns, read_labels, subset
from .subsets import Scorecard, joint_groups, subsets_of
from .zero_shot import prompts

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel
    from ..recipe.config import DataConfig, EvaluationConfig

DEFAULT_TASKS = ("knn", "zero-shot", "retrieval", "rankme")
PROBED = ("knn", "linear", "attentive", "labels", "ood", "subsets", "selective", "linking", "robustness")
"""Tasks that need what the encoders make of the training rows."""
PAIRED = ("retrieval", "ranking", "subsets")

Report = dict[str, Any]


def evaluate(
    model: MMSSLModel,
    preprocessors: Mapping[str, Preprocessor],
    data: DataConfig,
    config: EvaluationConfig,
    *,
    untrained: MMSSLModel | None = None,
    start: MMSSLModel | None = None,
    columns: Mapping[str, str | list[str]] | None = None,
    train_source: Source | None = None,
    seed: int = 0,
    further: Mapping[str, str] | None = None,
    answers: Answers | None = None,
    by: str | None = None,
) -> Report:
    """Run the tasks of `config` and return a report of JSON values.

    {"tasks": {task: {metric: {"model", "start", "untrained", "raw", "chance", "n", ...}}}, "skipped": {task: reason},
    "notes": [...], "n_test", "n_train", "split": {"test", "train"}, "bad": {"test", "train"}, "settings": {...}}.
    A metric is `<modality>/<name>` or `<modality>-><modality>/<name>`; a value that does not exist is None.

    Args:
        untrained: the same architecture with random weights; None leaves its column empty.
        start: what the model went on from, where it did not begin with random weights: what continued training has to
            beat.
        columns: modality -> column(s), default `data.columns`, and then each that is named there has to be in
            the data.
        train_source: the opened training split of `data`, where the caller has it already.
        seed: of the subsets and of the linear probe's held-out rows.
        further: name -> modality, further columns that retrieval compares beside those that the model was trained on.
        answers: gets what was right row by row.
        by: a column by whose values scores are told; they are `report["by"]`.

    Raises UserError for an unknown task, data or a split that does not exist (a missing split `test` that nobody asked
    for leaves the tasks out instead), a label column that does not exist, class names that do not fit the labels, and
    data without any of the model's modalities.
    """
    wanted = DEFAULT_TASKS if config.tasks is None else tuple(dict.fromkeys(config.tasks))
    for task in wanted:
        if task not in TASKS:
            known = ", ".join(TASKS)
            raise UserError(f"evaluation.tasks: unknown task '{task}', expected {known}{nearest(task, TASKS)}")
    report: Report = {"tasks": {}, "skipped": {}, "notes": [], "n_test": 0, "n_train": 0, "split": {}, "bad": {}}
    report["settings"] = {"k": config.k, "templates": list(config.templates), "seed": seed}
    if not wanted:
        return report
    more = further_of(preprocessors, further or {})
    named = {**columns_of(preprocessors, more, data.columns), **(data.columns if columns is None else columns)}
    read = read_columns(config, named, preprocessors)
    read |= {c for own in preprocessors.values() for c in _listed(own.own_columns())} - {config.label or "label"}
    files = files_of(data, with_further(preprocessors, more), named)
    with doing("opening the rows to measure on"):
        sources = open_sources(data, config, seed, train_source, read, getattr(model.config, "held_out", None), files)
    report["split"], report["notes"] = sources.split, sources.notes
    if sources.test is None:
        reason = f"the data has no split '{config.split}' to test on"
        report["skipped"] = {task: reason for task in wanted if task != "rankme"}
        wanted = tuple(task for task in wanted if task == "rankme")
        if not wanted or sources.train is None:
            report["skipped"].update(dict.fromkeys(wanted, reason))
            return report
        sources.test = sources.train  # RankMe needs no held-out rows
        sources.split["test"] = sources.split["train"]
        report["notes"].append(f"rankme: measured on rows of the training split, because {reason}")
    mapping = data.columns if columns is None else columns
    if columns is None:
        check_named(sources.test, [*preprocessors, *more], data.columns)
        group = no_inputs(config.label, config.group, sources.test)
        chosen, said = choose_columns(preprocessors, named, sources.test, group)
        mapping = {**named, **chosen}
        report["notes"] += said
    given = {"model": model, "start": start, "untrained": untrained}
    encoders = {name: encoder for name, encoder in given.items() if encoder is not None}
    answers = Answers() if answers is None else answers
    _know_rows(answers, sources, config, by)
    _Evaluation(encoders, preprocessors, mapping, data, config, seed, sources, report, more, answers).run(wanted)
    if by is not None and answers.by is not None:
        report["by"] = {"column": by, "scores": {}}
        for (task, name), answer in answers.found.items():
            found = by_group(answer, answers.by)
            if found is not None:
                report["by"]["scores"].setdefault(task, {})[name] = found
    return report


def _know_rows(answers: Answers, sources: Sources, config: EvaluationConfig, by: str | None) -> None:
    """Which rows are tested, whose they are, and what scores are told by; UserError where they lack that column."""
    assert sources.test is not None
    answers.tested, answers.source = sources.tested, str(sources.split["test"])
    known = sources.test.column_names
    if config.group is None or config.group in known:
        answers.groups = alike(sources.test, config.group)
    if config.group in known and sources.train is not None and config.group in sources.train.column_names:
        learned = alike(sources.train, config.group)
        answers.on_both = 0 if sources.same_rows else len({*(answers.groups or ())} & {*(learned or ())})
    if by is not None:
        if by not in known:
            raise UserError(f"by: the data has no column '{by}', it has {', '.join(known)}{nearest(by, known)}")
        answers.by = list(sources.test.with_format(None)[by])


def _listed(columns: str | Sequence[str] | None) -> list[str]:
    return [] if columns is None else [columns] if isinstance(columns, str) else list(columns)


class _Evaluation:
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
        self.corrupted = views_of(config.corruptions, types)
        self.retrieving = Retrieving(encoders, preprocessors, further, config.batch_size, seed, data.broken)
        self.labels, self.numbers, self.no_labels = self._labels()

    def _labels(self) -> tuple[Labels | None, Numbers | None, str]:
        """The classes of the rows, or their amounts, or the reason why there are neither."""
        config = self.config
        found, reason = read_labels(self.test, self.sources.train, config.label, config.group, config.label_task)
        if found is None:
            return None, None, reason
        refuse_label(config.label, self.columns)
        where = [name for name, of in self.columns.items() if found.column in _listed(of)]
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
            change = partial(corrupted, model=self.model, views=self.corrupted, view=view, seed=self.seed)
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
        if task in ("knn", "linear", "boosting", "attentive", "labels", "selective", "linking", "robustness"):
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
        if len(self.columns) + (len(self.beside) if task in ("retrieval", "ranking") else 0) < 2 and task in PAIRED:
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
            "retrieval": self._retrieval,
            "ranking": lambda: self._retrieval(ranked=True),
            "subsets": lambda: Scorecard(found, self.model, config.k).run(),
            "labels": lambda: others.label_shares(found, config.label_shares, seed),
            "separability": lambda: others.separable(found.test, seed),
            "selective": lambda: others.selective(found, seed),
            "linking": lambda: linking(found, config.linking_weight, seed),
            "cka": lambda: others.alike_to(found.test),
            "robustness": self._robustness,
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

    def _ood(self) -> tuple[tasks.Metrics, dict[str, str]]:
        config = self.config
        read = read_columns(config, {**self.columns, **self.mapping})
        files = files_of(self.data, self.preprocessors, self.mapping)
        rows, _ = subset(open_outside(self.data, config, read, files), config.limit, self.seed)
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

    def _retrieval(self, ranked: bool = False) -> tuple[tasks.Metrics, dict[str, str]]:
        features = self.features
        if self.beside:
            features = self.retrieving.beside(features, self.test, self.sources.train, self.beside)
        return self.retrieving.run(features, self.test, {**self.columns, **self.beside}, ranked)
