"""The `Objective` contract and the look-up by name: name = file name in this folder, or a stranger's dotted module."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..errors import UserError
from ..options import idle_options
from ..schedules import RampConfig
from .options import ObjectiveConfig, objective_module

if TYPE_CHECKING:
    from ..models.codes import Codes
    from ..models.modeling_mmssl import MMSSLModel
    from ..models.processing_mmssl import MMSSLProcessor
    from .step import Step, Views


__all__ = ["Loss", "Objective", "ObjectiveConfig", "RampConfig", "Reconstruction", "load_objective"]


@dataclass(frozen=True)
class Reconstruction:
    """What an objective predicts of patches that it hid from the encoder.

    Attributes:
        index: (B, m) int64 which patches of the view they are, -1: none.
        prediction: (B, m, out), as the modality's `score` takes it.
        kind: of target; None: the modality's first.
        view: whose patches were to be predicted.
    """

    index: Tensor
    prediction: Tensor
    kind: str | None
    view: str


@dataclass
class Loss(ModelOutput):
    """What an objective gives.

    Attributes:
        total: the scalar to minimise.
        parts: named scalars for the log (detached).
        shares: see `gradient_shares`.
    """

    total: Tensor | None = None
    parts: dict[str, Tensor] | None = None
    shares: dict[str, Tensor] | None = None


class Objective(nn.Module):
    """A training objective. Owns its heads and teacher, not the model; written over patches, knows no modality.

    Built as `Objective(config, model)`; sizes are read off the model, which must not be kept as a submodule. Behind the
    model comes what was fitted of each of the config's `label_columns` that is a task.
    Raises UserError, with the reason, when the model's parts cannot do what the objective needs.

    relies_on: towers that give targets and get no gradient from this objective; a run warns when nothing trains them.
    """

    relies_on: tuple[str, ...] = ()
    asks_named: ClassVar[bool] = False
    """True where in training it asks for no views and towers but those that its config names, in options called `view`
    or `tower`, the plural of that, or ending so. Else (the default) readers give the view "clean" to every step, also
    where all others are cut."""

    @property
    def separable(self) -> bool:
        """True where the loss is made of `step.mean`s alone and `counts` is there, so that `train.accumulation` can ask
        for it part by part. Else (the default) it is asked for all rows of a step at once, which is exact for every
        loss; see `mmssl.objectives.accumulation`."""
        return False

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Name -> the `counts` that `forward` passes to `step.mean` under that name, found without any encoder."""
        raise NotImplementedError

    def __init__(self, config: ObjectiveConfig, model: MMSSLModel) -> None:
        super().__init__()
        self.config: Any = config
        for name, line in _idle(config):
            raise UserError(f"objective {type(self).__module__.rpartition('.')[2]}: {name}: {line}")

    def settle(self, views: Views) -> Views:
        """Called once, when the recipe's views are known and before anything is trained: what depends on them can be
        checked, and made. UserError for views that it cannot work with.

        Returns:
            Further views that it asks for, under names that no recipe has.
        """
        return {}

    def forward(self, step: Step) -> Loss:
        """The loss of one step.

        Args:
            step: the batch with its views, masks and model. Equal forwards of several objectives are done once in it.

        Returns:
            Means over the global batch (`step.mean`, `distributed.global_mean`), so that any number of processes trains
            the same.
        """
        raise NotImplementedError

    def constants(self) -> dict[str, float]:
        """Learned numbers that belong to the model's embeddings; they are kept in `MMSSLConfig` under these names."""
        return {}

    def looks(self, tower: str) -> Sequence[str] | None:
        """The views that it asks a tower's pooled output of, unmasked, where it asks for nothing else; none where it
        has nothing to do with the tower. None (the default): it may ask for anything."""
        return None

    @property
    def unfitted(self) -> int:
        """How many samples of the training data `fit` wants to see before the first step; 0: it has nothing to fit."""
        return 0

    def fit(self, steps: Callable[..., Iterable[Step]], seed: int) -> None:
        """Learn from the data what must be there before the first step, such as codebooks.

        Called in the first process alone, without gradient, once in a run: what `fitted` names goes to the others, and
        to a run that is resumed, through the run's folder.

        Args:
            steps: gives batches of training samples in the order in which training sees them, the same ones each time:
                `unfitted` of them, each once, or with `again=True` as often as there are too few, for views whose
                draws differ each time.
            seed: of the run.
        """

    def fitted(self) -> dict[str, nn.Module]:
        """Name -> module whose parameters and buffers `fit` sets."""
        return {}

    def keeps(self) -> dict[str, Codes]:
        """Modality -> codes that become a part of the model at the end of a run (`MMSSLModel.keep_codes`)."""
        return {}

    def makers(self) -> dict[str, tuple[MMSSLModel, MMSSLProcessor]]:
        """Modality -> another model that this run has made codes of, with them, and its processor: at the end it is
        written into the run's folder `codes/`, as a model of its own."""
        return {}

    def reconstructs(self, step: Step) -> dict[str, Reconstruction]:
        """Modality -> what it predicts of what it hid, for people to look at, in eval mode and without gradient; empty
        (the default) where it predicts nothing that a modality's `guess` could show."""
        return {}

    starts: tuple[str, ...] = ()
    """Names of the towers whose projection, with the statistics before it, `fit` sets."""
    teaches: tuple[str, ...] = ()
    """Names of the towers that it keeps an averaged teacher of, whose weights the model may get at the end."""

    def begin(self, steps: int | None) -> None:
        """Called before the first step of a run, also of a resumed one.

        Args:
            steps: of the whole run, where it begins with random weights; else None.
        """

    def hand_over(self, model: MMSSLModel, tower: str) -> None:
        """Give a tower that it `teaches` its teacher's weights. Called behind the last checkpoint of a run."""

    def discard(self) -> None:
        """Forget what forward noted for `after_step`: the step is done once more."""

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Called after every optimiser step with progress in (0, 1]: EMA, centres. State never changes in forward."""

    @torch.no_grad()
    def health(self, step: Step) -> dict[str, Tensor]:
        """Scalars that show whether the objective is alive, logged as `health/<objective>/<name>`; not its loss.

        Called now and then with the run's probe: a fixed sample of the training data, cut into rows as a batch is over
        processes, in eval mode. It must change nothing, and every value must be a mean over the rows of all processes
        (`distributed.global_mean`): the processes' values are averaged. Here: the agreement of every `Teacher` that
        holds towers with its students. Extend it with what an objective has (use of its codebook or its clusters):
        `return super().health(step) | {"codes": ...}`.
        """
        from .parts.teacher import Teacher, teacher_health

        found: dict[str, Tensor] = {}
        for name, module in self.named_modules():
            if isinstance(module, Teacher):
                found |= teacher_health(module, step, name)
        return found


def _idle(config: object, path: str = "") -> Iterator[tuple[str, str]]:
    """`idle_options` of a config and those nested in it, for who builds objectives in Python."""
    if not dataclasses.is_dataclass(config):
        return
    for name, line in idle_options(config):
        yield path + name, line
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            yield from _idle(item, f"{path}{field.name}." + (f"{key}." if key else ""))


def load_objective(name: str) -> tuple[type, type[Objective]]:
    """(Config, Objective class) of an objective: `mae` -> `mmssl.objectives.mae`; a dotted name is imported as is."""
    module_name = objective_module(name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"objective '{name}': {error}") from None
    found = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Objective) and c.__module__ == module.__name__
    ]
    if len(found) != 1 or not hasattr(module, "Config"):
        raise UserError(f"objective '{name}': {module_name} must hold one Objective and a dataclass named Config")
    return module.Config, found[0]
