"""What a fine-tuning trains and is measured by: a `Job` says which objective, what a look at the validation rows is,
and what the report holds. Everything else is the same for all of them, in `mmssl.finetuning.finetune`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from ..data.loading import Loaded, evaluation_batches
from ..data.workers import types_of, workers_for
from ..evaluation.tasks import Metrics
from ..modality import Preprocessor
from ..models.modeling_mmssl import MMSSLModel
from ..models.processing_mmssl import MMSSLProcessor
from ..objectives.base import Objective
from .options import FinetuneConfig
from .partition import Examples, Partition
from .unlabelled import Learned

VIEW = "training"


def towers_of(model: MMSSLModel, modalities: Sequence[str]) -> list[str]:
    """The towers of these modalities, in the model's order."""
    wanted = {model.tower_of(name) for name in modalities}
    return [name for name in model.towers if name in wanted]


class Job:
    """The contract. `objective` is built once, before the adapter is put in; so are the baselines."""

    encoder: MMSSLModel
    processor: MMSSLProcessor
    options: FinetuneConfig
    rows: Partition
    towers: list[str]
    title: str

    def learned(self) -> Learned:
        """What is trained on."""
        return Learned(self.rows.train.source)

    def objective(self) -> Objective:
        """The objective that is trained, built for `self.encoder`; UserError where the options do not fit the task."""
        raise NotImplementedError

    def inputs(self) -> tuple[dict[str, Preprocessor], dict[str, str | list[str]]]:
        """(preprocessors, columns) of a training batch."""
        names = list(self.rows.columns)
        return {name: self.processor.preprocessors[name] for name in names}, dict(self.rows.columns)

    def look(self) -> tuple[float, float]:
        """(loss, score) on the validation rows."""
        raise NotImplementedError

    def restored(self, step: int) -> None:
        """The best weights, those of `step`, were put back."""

    def write(self, folder: Path) -> None:
        """What belongs beside the encoder."""

    def leave(self, folder: Path) -> None:
        """What belongs into the folder of the run, beside the model."""

    def report(self, folder: Path) -> dict[str, Metrics]:
        """The `tasks` of evaluation.json, from what was saved in `folder`."""
        raise NotImplementedError

    def extra_targets(self) -> list[str]:
        """Modules outside the towers that get an adapter as well."""
        return []

    def extra_saved(self) -> list[str]:
        """Modules outside the towers that are trained whole beside an adapter."""
        return []

    def trained_when_linear(self) -> list[nn.Module]:
        """Parts of the model that `--peft linear` trains."""
        return []

    def workers(self, beside_a_step: bool = False) -> int:
        """How many processes read the rows; see `mmssl.data.workers`."""
        return workers_for(self.options.workers, types_of(self.encoder.config.modalities), beside_a_step)

    def batches(self, part: Examples, preprocessors: Mapping[str, Preprocessor]) -> Iterator[Loaded]:
        """Batches of `part` in their order, for looking and measuring: no augmentation, nothing shuffled or dropped."""
        columns = {**self.rows.columns}
        o = self.options
        return evaluation_batches(
            part.source, preprocessors, columns, batch_size=o.eval_batch_size, workers=self.workers(), broken=o.broken
        )
