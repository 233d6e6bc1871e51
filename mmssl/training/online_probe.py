"""A probe on labelled rows while a run trains: `probe/<modality>/knn` and `linear`, accuracies of what it is for (R2 of
a label that is an amount)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from accelerate import Accelerator

from ..data.loading import Loaded, evaluation_batches
from ..errors import UserError
from ..evaluation import tasks
from ..evaluation.amounts import by_amounts
from ..evaluation.checking import labelled_rows
from ..evaluation.embedding import embed_batches
from ..evaluation.rows import Labels, Numbers, present_columns
from ..modality import Preprocessor
from ..models.modeling_mmssl import MMSSLModel
from ..recipe.config import DataConfig, EvaluationConfig
from .engine import on_first
from .health import Columns, eagerly
from .observers import Measured, Moment, Observer

if TYPE_CHECKING:
    from ..data.loading import Source


class ProbeRows:
    """The labelled rows, decoded once.

    Attributes:
        train, test: to learn from, to test on.
        labels: of both.
        k, seed: of kNN and of the linear probe.
    """

    def __init__(
        self, train: Sequence[Loaded], test: Sequence[Loaded], labels: Labels | Numbers, k: int, seed: int
    ) -> None:
        self.train, self.test, self.labels, self.k, self.seed = train, test, labels, k, seed

    def measure(self, model: MMSSLModel, wanted: Sequence[str]) -> Measured:
        """`probe/<modality>/<task>` -> accuracy or R2, for the wanted ones of knn and linear."""
        train, test = (embed_batches({"model": model}, rows) for rows in (self.train, self.test))
        known = self.labels
        if isinstance(known, Numbers):
            features = tasks.Features(test, train, frozenset(), numbers=known)
        else:
            features = tasks.Features(test, train, frozenset(), known.test, known.train, alike=known.alike)
        out: Measured = {}
        for task in wanted:
            for name, metric in self._judged(task, features).items():
                modality, _, what = name.rpartition("/")
                if what in ("accuracy", "R2"):
                    out[f"probe/{modality}/{task}"] = metric["model"]
        return out

    def _judged(self, task: str, features: tasks.Features) -> tasks.Metrics:
        if features.numbers is not None:
            return by_amounts(task, features, self.k, (), self.seed)[0]
        return (tasks.knn(features, self.k) if task == "knn" else tasks.linear(features, self.seed))[0]


class OnlineProbe(Observer):
    """kNN or a linear probe every so many steps; the first process measures, all get its numbers.

    rows: the labelled rows, which the first process alone is given, or all where they look together.
    """

    name = "probe"

    def __init__(
        self,
        accelerator: Accelerator,
        model: MMSSLModel,
        *,
        every: int,
        wanted: Sequence[str],
        compiled: bool = False,
        together: bool = False,
    ) -> None:
        """What is measured, and when.

        Args:
            accelerator: the processes.
            model: what is probed.
            every: steps between measurements.
            wanted: knn, linear.
            compiled: the trunks are compiled.
            together: each process holds a share of the model, so that all embed the same rows.
        """
        self.accelerator, self.model, self.together = accelerator, model, together
        self.rows: ProbeRows | None = None
        self.every, self.wanted, self.compiled = every, wanted, compiled

    def due(self, moment: Moment) -> bool:
        """Every `every` steps."""
        return moment.step > 0 and moment.step % self.every == 0

    def look(self, moment: Moment) -> Measured:
        """The probes' scores. The first process measures, and the others wait for its numbers."""
        with eagerly(self.compiled):
            if self.together:
                mine = self._measure()
                return on_first(self.accelerator, lambda: mine)
            return on_first(self.accelerator, self._measure)

    def _measure(self) -> Measured:
        assert self.rows is not None
        return self.rows.measure(self.model, self.wanted)


def load_labelled(
    source: Source,
    preprocessors: Mapping[str, Preprocessor],
    columns: Columns,
    data: DataConfig,
    evaluation: EvaluationConfig,
    *,
    samples: int,
    seed: int,
) -> ProbeRows:
    """The labelled rows of `train.probe_every`.

    Args:
        source: the training data.
        preprocessors: modality -> its preprocessor.
        columns: modality -> its column(s).
        data: of the training.
        evaluation: where the held-out rows are, and the label.
        samples: rows to learn from; half as many test.
        seed: which ones.

    Raises:
        UserError: there are no labels or no held-out rows, with the reason.
    """
    learn, test_on = min(samples, evaluation.train_limit or samples), min(samples // 2, evaluation.limit or samples)
    found = labelled_rows(
        data, replace(evaluation, train_limit=learn, limit=test_on), source, seed, columns, preprocessors
    )
    if isinstance(found, str):
        raise UserError(f"train.probe_every: {found}; name the labels with evaluation.label or set it to null")
    test, learned, labels = found

    def read(rows: Source) -> list[Loaded]:
        there, _ = present_columns(rows, list(preprocessors), columns)
        chosen = {name: preprocessors[name] for name in there}
        return list(evaluation_batches(rows, chosen, there, batch_size=evaluation.batch_size, broken=data.broken))

    return ProbeRows(read(learned), read(test), labels, evaluation.k, seed)
