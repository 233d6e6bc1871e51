"""`evaluate`: one model against its start, its untrained twin, raw features and chance, on held-out data.

Every row is decoded once and every encoder sees it once; the tasks share the features. A task that data or model do
not allow is left out of the report, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..data.choosing import choose_columns, no_inputs
from ..data.holding import alike
from ..errors import UserError, nearest
from ..modality import Preprocessor
from ..modality.columns import with_further
from ..recipe.evaluation import TASKS
from ..saying import doing
from .answers import Answers, by_group
from .held_out import Sources, files_of, open_sources, read_columns
from .measuring import Evaluation, Report, listed
from .retrieving import columns_of, further_of
from .rows import check_named

if TYPE_CHECKING:
    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel
    from ..recipe.config import DataConfig, EvaluationConfig

DEFAULT_TASKS = ("knn", "zero-shot", "retrieval", "rankme")


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
    read |= {c for own in preprocessors.values() for c in listed(own.own_columns())} - {config.label or "label"}
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
    report["notes"] += _know_rows(answers, sources, config, by)
    Evaluation(encoders, preprocessors, mapping, data, config, seed, sources, report, more, answers).run(wanted)
    if by is not None and answers.by is not None:
        report["by"] = {"column": by, "scores": {}}
        for (task, name), answer in answers.found.items():
            found = by_group(answer, answers.by)
            if found is not None:
                report["by"]["scores"].setdefault(task, {})[name] = found
    return report


def _know_rows(answers: Answers, sources: Sources, config: EvaluationConfig, by: str | None) -> list[str]:
    """Which rows are tested, whose they are, and what scores are told by; UserError where they lack that column.

    Returns what is to be said of groups on both sides of splits that the data bring.
    """
    said = []
    assert sources.test is not None
    answers.tested, answers.source = sources.tested, str(sources.split["test"])
    known = sources.test.column_names
    if config.group is None or config.group in known:
        answers.groups = alike(sources.test, config.group)
    if config.group in known and sources.train is not None and config.group in sources.train.column_names:
        learned = alike(sources.train, config.group)
        tested = {*(answers.groups or ())}
        both = 0 if sources.same_rows else len(tested & {*(learned or ())})
        if both:
            several = f"{both:,} of {len(tested):,}"
            said.append(f"group: {several} of the test rows' '{config.group}' are also among those learned from")
    if by is not None:
        if by not in known:
            raise UserError(f"by: the data has no column '{by}', it has {', '.join(known)}{nearest(by, known)}")
        answers.by = list(sources.test.with_format(None)[by])
    return said
