"""`Pretraining`: the model once and its weighted objectives. What Accelerate wraps: one forward, one backward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..distributed import global_sum
from ..draws import Draws
from ..errors import UserError
from ..masking import mask_at
from ..modality import Batch
from ..modality.faults import view_faults
from ..models.modeling_mmssl import MMSSLModel
from .accumulation import Joined, draws_of
from .base import Loss, Objective
from .parts.teacher import LEFT, Momentum
from .step import Mask, Part, Step, Views

logger = logging.getLogger("mmssl")


class Pretraining(nn.Module):
    """A model with its objectives: what Accelerate wraps and the loop trains. Frozen towers get no gradient.

    Attributes:
        model: the product.
        objectives: name -> Objective, whose `config.weight` is its factor.
        views: the recipe's.
        masks: the recipe's.
        adapter: what writes the adapter that is trained, None for a whole model.
        started: the model goes on from weights that somebody trained.
        progress: share of the run that is done, which ramps go by; the loop sets it, and `begin` the number of steps.
    """

    adapter: Any = None
    started = False
    progress = 0.0
    steps = 1
    factors: torch.Tensor

    def __init__(
        self,
        model: MMSSLModel,
        objectives: Mapping[str, Objective],
        views: Views | None = None,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.views, self.masks = dict(views or {}), dict(masks or {})
        self._check_views()
        for objective in objectives.values():
            self.views |= objective.settle(self.views)
        self.kept = self._kept_teachers()
        self._warn_of_untrained()
        self.ramps = {n: o.config.ramp for n, o in objectives.items() if getattr(o.config, "ramp", None) is not None}
        if self.ramps:  # of the weights, in the order of `ramps`; a buffer, so that a checkpoint has them
            self.register_buffer("factors", self._factors())
        self.log_variances = self._variances()
        for tower in model.towers.values():
            if tower.frozen:
                tower.requires_grad_(False)

    def _variances(self) -> nn.ParameterDict:
        """Objective -> () logarithm of the variance that its loss is divided by, of those that learn it: first 0."""
        asked = [name for name, o in self.objectives.items() if getattr(o.config, "learn_weight", False)]
        if asked and len(self.objectives) == 1:
            raise UserError(
                f"objectives.{asked[0]}.learn_weight: found true, but there is no other objective to weigh it against"
            )
        return nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in asked})

    def _kept_teachers(self) -> dict[str, str]:
        """Tower -> the objective whose teacher's weights it gets at the end; UserError where two shall give theirs."""
        teaching: dict[str, dict[str, str | None]] = {}
        for name, module in self.objectives.items():
            objective: Any = module
            for tower in objective.teaches:
                teaching.setdefault(tower, {})[name] = objective.config.export
        kept = {}
        for tower, asked in teaching.items():
            sure = [name for name, export in asked.items() if export == "teacher"]
            if len(sure) > 1:
                raise UserError(
                    f"objectives.{sure[1]}.export: found teacher, but tower '{tower}' gets the weights of the teacher "
                    f"of objective '{sure[0]}'; expected student in one of them"
                )
            if sure or len(asked) == 1:
                kept[tower] = sure[0] if sure else next(iter(asked))
        return kept

    def _warn_of_untrained(self) -> None:
        """Say which towers give targets that nothing trains: fine when they are pretrained, noise when they are not."""
        trained: set[str] = set()
        for objective in self.objectives.values():
            config: Any = objective.config
            trained |= {getattr(config, "tower", None), *getattr(config, "towers", ())}  # type: ignore[arg-type]
        for name, objective in self.objectives.items():
            for tower in objective.relies_on:  # type: ignore[union-attr]
                if tower not in trained and not self.model.tower(tower).frozen:
                    logger.warning(
                        "objectives.%s: its targets come from tower '%s', which no objective trains; unless that tower "
                        "is pretrained they are noise: give it an objective, or set frozen: true",
                        name,
                        tower,
                    )

    def _check_views(self) -> None:
        for view, spec in self.views.items():
            faults: list[str] = []
            for name in spec:
                modality = self.model.modality(name)
                faults += view_faults((modality.views, modality.corruptible), self.views, view, name)
            if faults:
                raise UserError("\n".join(faults))

    def step(self, batch: Batch | Sequence[Batch], draws: Draws, part: Part | None = None) -> Step:
        """A batch as the objectives see it; several as one. draws: of all its rows."""
        if isinstance(batch, Mapping):
            masks = {name: mask_at(mask, self.progress, self.steps) for name, mask in self.masks.items()}
            step = Step(batch, self.model, self.views, masks, draws, part)
            step.progress, step.steps = self.progress, self.steps
            return step
        parts = zip(batch, draws_of(batch, draws), strict=True)
        step = Joined([self.step(one, own) for one, own in parts], draws, part)
        step.progress, step.steps = self.progress, self.steps
        return step

    @torch.no_grad()
    def counts(self, step: Step, names: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
        """Objective -> name -> () float32 or float64, what `Objective.counts` of these objectives sum to."""

        def total(count: torch.Tensor) -> torch.Tensor:
            return count.sum() if count.is_floating_point() else count.sum().float()

        found: Any = {name: self.objectives[name].counts(step) for name in names}  # type: ignore[operator]
        return {name: {key: total(count) for key, count in counts.items()} for name, counts in found.items()}

    def forward(
        self, batch: Batch | Sequence[Batch], draws: Draws, shares: bool = False, part: Part | None = None
    ) -> Loss:
        """The weighted sum of all objectives' losses and its parts, named `<objective>` and `<objective>.<part>`.

        Args:
            batch: the rows of this process, or the batches that make up all of them.
            draws: of these rows.
            shares: measure `gradient_shares` as well.
            part: which pass of an optimiser step this is, where it has several (`mmssl.objectives.accumulation`): the
                losses, parts and shares of all passes then add up to those of the step.
        """
        step = self.step(batch, draws, part)
        total: torch.Tensor | None = None
        parts: dict[str, torch.Tensor] = {}
        each: dict[str, torch.Tensor] = {}
        for name in self.objectives if part is None else part.asked:
            objective = self.objectives[name]
            if part is not None:
                part.objective = name
            loss = objective(step)
            last = part is None or part.last
            weight = self._weight(name)
            if isinstance(weight, torch.Tensor) and last:
                parts[f"{name}.weight"] = weight.detach()
            weighted = weight * loss.total
            if name in self.log_variances and last:  # once a step
                weighted = weighted + self.log_variances[name].float() / 2
            total = weighted if total is None else total + weighted
            each[name] = weighted
            parts[name] = loss.total.detach()
            parts |= {f"{name}.{part}": value.detach() for part, value in (loss.parts or {}).items()}
        # before the loss leaves: what lies between here and the encodings belongs to no process group
        return Loss(total=total, parts=parts, shares=self._shares(each, step) if shares else None)

    def _weight(self, name: str) -> float | torch.Tensor:
        """The factor of an objective's loss: () where it moves or is learned."""
        weight: Any = self.objectives[name].config.weight  # type: ignore[union-attr]
        if name in self.ramps:
            weight = weight * self.factors[list(self.ramps).index(name)]
        if name in self.log_variances:
            weight = weight * (-self.log_variances[name].float()).exp()
        factor: float | torch.Tensor = weight
        return factor

    def _shares(self, losses: Mapping[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor] | None:
        """`gradient_shares` of the optimiser step; None before its last pass."""
        squares: Squares = {} if step.part is None else step.part.held.setdefault("squares", {})
        add_squares(losses, step, squares)
        if step.part is not None and not step.part.final:
            return None
        return gradient_shares(squares, list(self.objectives))

    def look(self, work: Callable[[], None]) -> None:
        """Do `work`, which calls towers outside of a forward pass. Where a process holds a share of every tensor, they
        are put together around this call (`mmssl.training.parallel`)."""
        work()

    def begin(self, steps: int) -> None:
        """Tell every objective how many steps the run has to leave its random start behind; None where it has none: a
        trained start is worth keeping."""
        self.steps = steps
        for objective in self.objectives.values():
            objective.begin(None if self.started else steps)  # type: ignore[operator]
        self.kept = {t: n for t, n in self._kept_teachers().items() if not self._keeps_its_start(n, steps)}

    def _keeps_its_start(self, name: str, steps: int) -> bool:
        """Whether nobody asked for the weights of an objective's teacher, and too much of them is a random start."""
        objective: Any = self.objectives[name]
        return objective.config.export is None and self.left(name, steps) > LEFT

    def restart(self) -> None:
        """Ramps as at the start of a run, where weights of another one were loaded."""
        self.progress = 0.0
        if self.ramps:
            self.factors.copy_(self._factors())

    def left(self, name: str, steps: int) -> float:
        """How much of an objective's teacher will be its random start after so many steps; 0 without either."""
        objective: Any = self.objectives[name]
        momentum = getattr(objective, "momentum", None)
        if self.started or getattr(objective, "teacher", None) is None or not isinstance(momentum, Momentum):
            return 0.0
        return momentum.left(steps)

    def discard(self) -> None:
        """Tell every objective that the step whose forward it has seen is done once more."""
        for objective in self.objectives.values():
            objective.discard()  # type: ignore[operator]

    def finish(self) -> None:
        """Make the model what is kept of it: the weights of teachers, the constants of objectives."""
        for tower, owner in self.kept.items():
            self.objectives[owner].hand_over(self.model, tower)  # type: ignore[operator]
        for objective in self.objectives.values():
            for name, value in objective.constants().items():  # type: ignore[operator]
                setattr(self.model.config, name, value)
        for owner, objective in self.objectives.items():
            for modality, codes in objective.keeps().items():  # type: ignore[operator]
                self.model.keep_codes(f"{owner}-{modality}", codes)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Tell every objective that the optimiser has stepped, and move the ramped weights; progress in (0, 1]."""
        for objective in self.objectives.values():
            objective.after_step(self.model, progress)  # type: ignore[operator]
        self.progress = progress
        if self.ramps:
            self.factors.copy_(self._factors())

    def _factors(self) -> torch.Tensor:
        found = [ramp.factor(self.progress, self.steps) for ramp in self.ramps.values()]
        return torch.tensor(found, dtype=torch.float32)


Squares = dict[str, dict[str, torch.Tensor]]
"""Tower -> objective -> the squared norm of the gradient that it sends into the tower's encodings of this process."""


def add_squares(losses: Mapping[str, torch.Tensor], step: Step, squares: Squares) -> None:
    """Add to `squares` what these losses, of one pass, send into the encodings that the towers gave in it.

    losses: objective -> its weighted loss. Only the graph between the losses and the encodings is run through: no
    parameter gets a gradient, no hook of DDP is called. Gathers in it are collective: all processes call it together.
    """
    encodings = step.encodings()
    flat = [tensor for tensors in encodings.values() for tensor in tensors]
    for name, loss in losses.items() if flat else ():
        found = iter(
            torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
        )
        for tower, tensors in encodings.items():
            total = squares.setdefault(tower, {}).get(name, flat[0].new_zeros((), dtype=torch.float32))
            for encoding in tensors:
                gradient = next(found, None)
                if gradient is not None:
                    total = total + step.square(encoding, gradient)
            squares[tower][name] = total


def gradient_shares(squares: Squares, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Which objective pulls how hard at the encoders: shares of the gradients' norms, over all processes' rows.

    `<tower>/<objective>`: |d loss / d encodings of the tower|, over the sum of these norms of all objectives;
    `<objective>`: the same over the encodings of all towers at once. The encodings are what the tower gave in this step
    (`Step.encodings`), whichever view and mask an objective asked it for; those of one view and mask are the same
    tensors for all that named it. Each sums to 1, or is 0 where no objective has a gradient. A tower that a single
    objective trains is left out, and everything where there is a single objective.

    Args:
        squares: what `add_squares` found in the passes of the step.
        names: of all objectives.
    """
    if len(names) < 2 or not squares:
        return {}
    zero = torch.zeros_like(next(iter(next(iter(squares.values())).values())))
    table = torch.stack([torch.stack([found.get(name, zero) for found in squares.values()]) for name in names])
    # squared norms of the rows of all processes add up to that of the whole batch
    table = global_sum(table)
    out: dict[str, torch.Tensor] = {}
    for prefix, column in [("", table.sum(1)), *((f"{t}/", table[:, j]) for j, t in enumerate(squares))]:
        norm = column.sqrt()
        share = norm / norm.sum().clamp(min=torch.finfo(norm.dtype).tiny)
        if not prefix or int((norm > 0).sum()) > 1:
            out |= {f"{prefix}{name}": share[i] for i, name in enumerate(names)}
    return out
