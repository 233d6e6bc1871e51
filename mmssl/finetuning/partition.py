"""Which rows a fine-tuning trains on, looks at and is measured on."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import limits
from ..data.choosing import no_inputs
from ..data.holding import Rule, alike, held_rows
from ..data.kinds import Files
from ..data.labels import Encoded, Target, encode_all, make_target, read_columns, stack
from ..data.listing import whole_of
from ..data.row_files import kept_among, selected
from ..data.sampler import order
from ..data.selection import limited
from ..data.sources import open_source
from ..data.splits import Fold, parts_of, strata, take_share, without
from ..data.windows import Windows
from ..errors import NoSplit, UserError
from ..evaluation.embedded_rows import words_of
from ..evaluation.leaks import refuse_label, telling_columns
from ..evaluation.rows import find_columns
from ..modality import Preprocessor
from .options import FinetuneConfig
from .unlabelled import open_unlabelled

if TYPE_CHECKING:
    from datasets import Dataset

    from ..modality import Preprocessor

logger = logging.getLogger("mmssl")
Modalities: TypeAlias = Mapping[str, Preprocessor]
"""Name -> preprocessor of the model's modalities."""


@dataclass
class Examples:
    """Some rows, and what is known of them.

    Attributes:
        source: map-style rows.
        labels: (n,) int64 or (n, C) float32, None without a label.
        groups: a name a row, where asked for.
        numbers: (n,) of the rows in the split that they were taken from; None: not known.
    """

    source: Dataset
    labels: Tensor | None = None
    groups: list[Hashable] | None = None
    numbers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def alike(self) -> list[Hashable] | None:
        """See `mmssl.data.holding.alike`: of one group, else of one recording."""
        return alike(self.source, None) if self.groups is None else self.groups


@dataclass
class Partition:
    """What is trained on, looked at and measured on.

    Attributes:
        train: the rows that are trained on.
        validation: what early stopping looks at; None: there is none.
        test: what is measured on.
        labelled: the training rows with those to stop by that were taken from them: all that a baseline may learn from.
        trained: the numbers of the `train` rows among them.
        pool: rows of the training split, the fraction not taken.
        columns: modality -> column(s).
        target: what the label is; None without one.
        split: what the parts are called.
        notes: what a reader must know.
        held: how the test rows were held out; None: they are a split.
        folds: with few labels, numbers of the `labelled` rows to learn from and to choose on; then all are trained on.
        unlabelled: rows that are learned from without their labels; None: none are.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    labelled: Examples
    trained: NDArray[np.int64]
    pool: int
    columns: dict[str, str | list[str]]
    target: Target | None
    split: dict[str, str]
    notes: list[str] = field(default_factory=list)
    held: Rule | None = None
    folds: list[Fold] = field(default_factory=list)
    unlabelled: Dataset | None = None

    def of(self, fold: Fold) -> Partition:
        """The rows of one fold: to train on, and to look at."""
        trained, held = fold
        train, validation = taken(self.labelled, trained), taken(self.labelled, held)
        return replace(self, train=train, validation=validation, trained=trained, folds=[])


def open_split(options: FinetuneConfig, split: str, modalities: Modalities, whole: bool = False) -> Dataset:
    """One split of the data of the options as a source, with their `limit`, for these modalities to read.

    Raises UserError where there is none.
    """
    limits.apply(options.limits)
    words = set(words_of(modalities, options.columns)) - set(options.label_columns)
    assert options.path is not None, "the run's own, where none was named"
    opened = open_source(
        options.path,
        name=options.name,
        split=split,
        limit=None if whole or (options.select is not None and split == options.split) else options.limit,
        words=words,
        fetch=options.fetch,
        reading=options.reading,
        files=Files(modalities, options.columns, Windows(options.windows, options.stride)),
    )
    if whole or split != options.split or options.select is None:
        return cast("Dataset", opened)
    return cast("Dataset", limited(selected(opened, options.select), options.limit))


@dataclass
class Pool:
    """The rows with a known label, of which those to measure on are held out.

    Attributes:
        train: what labels are taken from.
        test: what is measured on.
        columns: modality -> column(s).
        target: what the label is; None without one.
        test_name: what the test rows are called.
        notes: what a reader must know.
        held: how the test rows were held out; None: they are a split.
        rows: those of `train`, with those whose label is not known.
    """

    train: Examples
    test: Examples
    columns: dict[str, str | list[str]]
    target: Target | None
    test_name: str
    notes: list[str]
    held: Rule | None
    rows: Dataset

    def telling(self, part: Examples) -> list[str]:
        """What is to be said of columns that tell the label of these rows."""
        if self.target is None or self.target.task != "classification" or part.labels is None:
            return []
        return telling_columns(part.source, self.columns, part.labels.tolist())

    def strata(self) -> NDArray[np.float64]:
        """(n, C) how much of each label a row of `train` has."""
        return counts_of(self.train, self.target)


def load_partition(
    label: Sequence[str], modalities: Modalities, options: FinetuneConfig, rule: Mapping[str, object] | None = None
) -> Partition:
    """Open the data, read the labels, and share the rows out; the arguments are those of `open_pool`."""
    pool = open_pool(label, modalities, options, rule)
    drawn = _share_of_labels(pool.train, pool.target, options)
    labelled = taken(pool.train, drawn)
    pool.notes += pool.telling(labelled)
    shared = share_out(pool, labelled, modalities, options)
    if options.unlabelled is not None:
        shared.unlabelled = open_unlabelled(pool, without(len(pool.train), drawn), modalities, options)
    return shared


def open_pool(
    label: Sequence[str],
    modalities: Modalities,
    options: FinetuneConfig,
    rule: Mapping[str, object] | None = None,
    target: Target | None = None,
) -> Pool:
    """Open the data, read the labels, and hold out the test rows.

    Args:
        label: columns of the labels; empty: rows without labels.
        modalities: the model's, with their preprocessors.
        options: which rows, and how they are shared out.
        rule: how the model's training held rows out, as its config has it: they stay so where the data are those.
        target: what the label is, where that is known already.
    """
    source = open_split(options, options.split, modalities)
    without_these = no_inputs(label, options.group, source)
    columns, said = find_columns(source, modalities, options.columns, options.modalities, without_these)
    for one in label:
        refuse_label(one, columns, "--label")
    target = make_target(source, label, options.task) if label and target is None else target
    if options.group is not None:
        read_columns(source, [options.group], "group")
    everything = _examples(source, target, options.group, np.arange(len(source)))
    train, test, name, held, rows = _test(everything, source, target, options, modalities, rule)
    notes = [*said, *([] if held is None else [f"the data has no split to test on: held out are {held.text}"])]
    if options.group is not None and train.groups is not None and test.groups is not None:
        shared = ({str(g) for g in train.groups} & {str(g) for g in test.groups}) - {"None"}
        if shared:
            notes.append(f"group: {len(shared)} values of '{options.group}' are in training and test rows alike")
            logger.warning("%s: the test scores flatter", notes[-1])
    return Pool(train, test, columns, target, name, notes, held, rows)


def share_out(pool: Pool, labelled: Examples, modalities: Modalities, options: FinetuneConfig) -> Partition:
    """Rows to stop by, taken from the labelled ones (or a split of their own), and the rest to train on.

    Of few labels all are trained on, and `folds` of them say how.
    """
    folds = _folds(pool, labelled, options)
    if folds:
        options = replace(options, validation_share=0.0)
    trained, validation, shown = _validation(labelled, pool.target, options, modalities)
    train = taken(labelled, trained)
    _enough(train, pool.target)
    return Partition(
        train,
        validation,
        pool.test,
        labelled,
        trained,
        len(pool.train),
        pool.columns,
        pool.target,
        {
            "train": options.split,
            "validation": f"{len(folds)} folds of the training rows" if folds else shown,
            "test": pool.test_name,
        },
        pool.notes,
        pool.held,
        folds,
    )


def _examples(source: Dataset, target: Target | None, group: str | None, rows: NDArray[np.int64]) -> Examples:
    """The rows of `source` whose label is known."""
    encoded: list[Encoded | None] = [] if target is None else encode_all(source, target)
    if target is not None:
        rows = np.array([r for r in rows if encoded[r] is not None], np.int64)
    groups = None if group is None else read_columns(source, [group], "group")[group]
    chosen = source if len(rows) == len(source) else source.select(rows)
    labels = None if target is None or not len(rows) else stack([encoded[r] for r in rows], target)
    return Examples(chosen, labels, None if groups is None else [groups[r] for r in rows], rows)


def taken(part: Examples, rows: NDArray[np.int64]) -> Examples:
    """These rows of it, in this order; all of them are the part as it is."""
    if len(rows) == len(part):
        return part
    labels = None if part.labels is None else part.labels[rows.tolist()]
    groups = None if part.groups is None else [part.groups[r] for r in rows]
    return Examples(part.source.select(rows), labels, groups, None if part.numbers is None else part.numbers[rows])


def counts_of(part: Examples, target: Target | None) -> NDArray[np.float64]:
    """(n, C) how much of each label a row has; one column of ones without labels."""
    if target is None or part.labels is None:
        return np.ones((len(part), 1))
    return strata(target.task, part.labels.numpy(), target.outputs)


def _share(part: Examples, target: Target | None, share: float, seed: int) -> NDArray[np.int64]:
    return take_share(counts_of(part, target), share, part.groups, seed)


def _test(
    everything: Examples,
    source: Dataset,
    target: Target | None,
    options: FinetuneConfig,
    modalities: Modalities,
    rule: Mapping[str, Any] | None,
) -> tuple[Examples, Examples, str, Rule | None, Dataset]:
    """(training rows, test rows, what the latter are called, how they were held out where they are no split,
    training rows with those whose label is not known).

    everything: the rows of `source` with a label.
    """
    if options.test is not None:
        if options.test == options.split:
            raise UserError(f"test: found '{options.test}', the split that is trained on; expected another one")
        try:
            judged = open_split(options, options.test, modalities)
        except NoSplit:
            if options.test != "test":
                raise
        else:
            part = _examples(judged, target, options.group, np.arange(len(judged)))
            if not len(part):
                raise UserError(f"test: no row of split '{options.test}' has a label that the training rows have")
            return everything, part, options.test, None, source
    # drawn from all rows, whatever the limit: the same ones that pretraining and evaluation hold out
    rows = open_split(options, options.split, modalities, whole=True)
    windows = whole_of(rows.column_names)  # those of one recording stay together
    chosen = Rule(tuple(options.label_columns), options.group or windows, options.test_share)
    kept = None if rule is None else Rule(**{**rule, "label": tuple(rule["label"])})
    if kept is not None and kept.of(rows) and options.group in (None, kept.group):
        chosen = kept
    held = held_rows(rows, chosen)
    rest = kept_among(rows, options.select, without(len(rows), held))
    if options.limit is not None and options.limit < len(held):
        held = held[np.sort(order(len(held), 0, 0)[: options.limit])]
    test = _examples(rows, target, options.group, held) if len(held) else everything
    if options.limit is not None and options.limit < len(rest):
        rest = rest[np.sort(order(len(rest), 0, 0)[: options.limit])]
    train = _examples(rows, target, options.group, rest)
    if not len(held) or not len(test) or not len(train):
        raise UserError(f"test_share: {len(everything)} rows are too few to hold out a part; name a split with test=")
    used = Rule(chosen.label, chosen.group, chosen.share, len(rows))
    return train, test, f"{used.share:g} of {options.split}", used, rows.select(rest)


def _share_of_labels(train: Examples, target: Target | None, options: FinetuneConfig) -> NDArray[np.int64]:
    """Numbers of the rows whose labels are used."""
    share = options.fraction
    assert not isinstance(share, list) and not isinstance(options.labels, list), "several are of a comparison"
    if options.labels is not None:
        if options.labels > len(train):
            raise UserError(f"labels: found {options.labels}, but only {len(train)} training rows have a label")
        share = options.labels / len(train)
    return np.arange(len(train)) if share is None or share >= 1 else _share(train, target, share, options.seed)


def _validation(
    train: Examples, target: Target | None, options: FinetuneConfig, modalities: Modalities
) -> tuple[NDArray[np.int64], Examples | None, str]:
    """(numbers of the rows of `train` that are left, rows for early stopping or None, what the latter are called)."""
    if options.validation is not None:
        if options.validation in (options.split, options.test):
            raise UserError(f"validation: found '{options.validation}', which is trained on or tested on already")
        source = open_split(options, options.validation, modalities)
        part = _examples(source, target, options.group, np.arange(len(source)))
        if not len(part):
            raise UserError(f"validation: no row of split '{options.validation}' has a label")
        return np.arange(len(train)), part, options.validation
    # windows of one recording are alike, and a model that has seen some is not stopped by the others
    # another seed than that of `fraction`, whose draw this one must not repeat
    held = take_share(counts_of(train, target), options.validation_share, train.alike, options.seed + 1)
    if not len(held) or len(held) == len(train):
        return np.arange(len(train)), None, "none"
    return without(len(train), held), taken(train, held), f"{options.validation_share:g} of the training rows"


def _folds(pool: Pool, labelled: Examples, options: FinetuneConfig) -> list[Fold]:
    """Of few labels the folds to choose by; none where rows to stop by are named, or none are wanted."""
    named = options.validation is not None or options.validation_share == 0
    if pool.target is None or named or len(labelled) > options.few:
        return []
    # those of one recording, patient or speaker are alike, as in `_validation`; another seed than that of `fraction`
    return parts_of(counts_of(labelled, pool.target), options.folds, labelled.alike, options.seed + 1)


def _enough(train: Examples, target: Target | None) -> None:
    if len(train) < 2:
        raise UserError(f"data: {len(train)} training rows are left, expected at least two")
    if target is not None and target.task == "classification":
        assert train.labels is not None
        seen = train.labels.unique().tolist()
        if len(seen) < 2:
            only = target.classes[seen[0]]
            raise UserError(
                f"--label: the {len(train)} training rows that are left all have the label {only!r}; "
                "use more of them (fraction, labels)"
            )
