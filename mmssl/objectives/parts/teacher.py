"""`Teacher`: an exponential moving average of a module, for JEPA targets and self-distillation.

Only what is trained is averaged and stored: parameters that were frozen when the teacher was made, and those of a
frozen tower, are the student's own tensors, once in memory. With adapters on a frozen backbone the teacher therefore
costs the adapters alone.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...distributed import global_mean, global_sum
from ...models.tower import Tower
from ...schedules import moved

if TYPE_CHECKING:
    from ...models.modeling_mmssl import MMSSLModel
    from ..options.teacher import TeacherOptions
    from ..step import Step

M = TypeVar("M", bound=nn.Module)


class Teacher(nn.Module, Generic[M]):
    """`teacher.net` is the averaged twin of `student`; it never gets a gradient and always stays in eval mode.

    An objective keeps it as a submodule, so that it is stored with the checkpoint, and calls `update` in
    `after_step`. BYOL (Grill et al. 2020) and MoCo (He et al. 2020) introduced it.
    """

    def __init__(self, student: M) -> None:
        super().__init__()
        frozen = [m for m in student.modules() if isinstance(m, Tower) and m.frozen]  # its gradient is off only later
        shared = {id(p): p for p in student.parameters() if not p.requires_grad}
        shared |= {id(p): p for tower in frozen for p in tower.parameters()}
        self.net: M = copy.deepcopy(student, dict(shared))
        self._shared = {name for name, p in self.net.named_parameters() if id(p) in shared}
        for name, parameter in self.net.named_parameters():
            if name not in self._shared:
                parameter.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher[M]:
        """Always eval mode: no dropout in targets."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """average = momentum * average + (1 - momentum) * student, over all trained parameters at once; buffers that
        are numbers (running statistics) are copied."""
        theirs = dict(student.named_parameters())
        own = [(name, p) for name, p in self.net.named_parameters() if name not in self._shared]
        if own:
            torch._foreach_lerp_([p for _, p in own], [theirs[name].detach() for name, _ in own], 1 - momentum)
        for mine, other in zip(self.net.buffers(), student.buffers(), strict=True):
            mine.copy_(other)

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        """Without what is the student's own, which a checkpoint holds already."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for name in self._shared:
            state.pop(f"{prefix}net.{name}", None)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: object) -> None:
        for name, parameter in self.net.named_parameters():
            if name in self._shared:
                state_dict.setdefault(f"{prefix}net.{name}", parameter.detach())
        super()._load_from_state_dict(state_dict, prefix, *rest)


USUAL = (0.996, 1.0)
"""First and last momentum of I-JEPA, V-JEPA, DINO and BYOL, whose runs have 10^5 steps and more."""
LEFT = 0.05
"""How much of its start a teacher may keep."""


@dataclasses.dataclass(frozen=True)
class Momentum:
    """How a teacher's momentum goes over a run.

    Attributes:
        first: momentum of the first step.
        last: of the last.
        shape: "linear" (I-JEPA, V-JEPA) or half a "cosine" (BYOL, DINO).
    """

    first: float
    last: float
    shape: str

    @classmethod
    def of(cls, config: TeacherOptions, steps: int | None) -> Momentum:
        """As the options say. Without a momentum of theirs it is the usual one, lowered where the run is so short that
        more than `LEFT` of the start would be left after the share `forget` of it.

        steps: of the run; None where they are not known: then it is the usual one.
        """
        if config.momentum is not None:
            return cls(config.momentum[0], config.momentum[1], config.schedule)
        first, last = USUAL
        if steps is not None:
            # what is left after the share s of T steps is exp(-(1 - first) T a): a is the ramp's mean height times s
            s = config.forget
            area = s - s * s / 2 if config.schedule == "linear" else s / 2 + math.sin(math.pi * s) / (2 * math.pi)
            first = max(min(first, 1 + math.log(LEFT) / (steps * area)), 0.0)
        return cls(first, last, config.schedule)

    def at(self, progress: float) -> float:
        """The momentum at that share of the run."""
        return moved(self.first, self.last, progress, self.shape)

    def left(self, steps: int) -> float:
        """How much of the teacher at the end of so many steps is its start."""
        return math.prod(self.at((step + 1) / steps) for step in range(steps))


@torch.no_grad()
def take_over(student: nn.Module, teacher: nn.Module) -> None:
    """Give the student the teacher's weights and running statistics, where they are not one tensor anyway."""
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        parameter.copy_(theirs[name])
    for mine, other in zip(student.buffers(), teacher.buffers(), strict=True):
        mine.copy_(other)


def spread(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, D) of the rows `valid` (B,) of all processes: centred on their mean (B, D), and the square root of the mean
    over dimensions of the variance of the L2-normalised rows, times sqrt(D): 1 for directions spread evenly over the
    sphere, 0 when all rows are one (SimSiam, Chen & He 2021, section 4.1)."""
    rows = valid[:, None].expand_as(x)
    mean = global_columns(x.float(), rows)
    unit = F.normalize(x.float(), dim=-1)
    variance = global_columns((unit - global_columns(unit, rows)).square(), rows)
    return x.float() - mean, variance.sum().sqrt()


def global_columns(x: Tensor, rows: Tensor) -> Tensor:
    """(D,) means of x (B, D) where `rows` (B, D) is set, over all processes; zeros if nothing counts."""
    count = global_sum(rows.float().sum(0))
    return global_sum(torch.where(rows, x, 0.0).sum(0)) / count.clamp(min=1)


@torch.no_grad()
def teacher_health(teacher: Teacher[Any], step: Step, name: str = "teacher") -> dict[str, Tensor]:
    """How a teacher's towers see the clean view against the students: scalars over the rows of all processes.

    `<name>/agreement`: mean cosine of the pooled states of teacher and student, each centred on its own mean, so that
    it is about what tells samples apart (0 too when either has collapsed); `<name>/spread`: `spread` of the teacher's
    pooled states. With several towers the tower's name comes behind.
    """
    nets = [m for m in teacher.net.modules() if isinstance(m, Tower)]
    found: dict[str, Tensor] = {}
    for net in nets:
        tower = next(n for n in step.model.towers if list(step.model.tower(n).modalities) == list(net.modalities))
        theirs, ours = step.encode(tower, net=net), step.encode(tower)
        valid = ours.present()
        (a, std), (b, _) = spread(theirs.pooled(), valid), spread(ours.pooled(), valid)
        cosine = F.cosine_similarity(a, b, dim=-1)
        tail = f"/{tower}" if len(nets) > 1 else ""
        found |= {f"{name}/agreement{tail}": global_mean(cosine, valid), f"{name}/spread{tail}": std}
    return found


class Taught:
    """What an objective does with a `teacher` of modules named towers, heads and the like, or with None.

    Attributes:
        teacher: its `net` is a `ModuleDict` as `student` gives it, with `towers` in it.
        momentum: how it follows.
    """

    teacher: Teacher[Any] | None
    momentum: Momentum
    config: Any

    def student(self, model: MMSSLModel) -> nn.ModuleDict:
        """What the teacher is the average of."""
        raise NotImplementedError

    def begin(self, steps: int | None) -> None:
        """Set the teacher's momentum by the length of the run."""
        self.momentum = Momentum.of(self.config, steps)

    def hand_over(self, model: MMSSLModel, tower: str) -> None:
        """The tower's weights become the teacher's, and those of its projection, where the teacher has one."""
        assert self.teacher is not None
        net = self.teacher.net
        take_over(model.tower(tower), net["towers"][tower])
        if "projections" in net and tower in net["projections"]:
            take_over(model.projections[tower], net["projections"][tower])

    def follow(self, model: MMSSLModel, progress: float) -> None:
        """Move the teacher towards the student."""
        if self.teacher is not None:
            self.teacher.update(self.student(model), self.momentum.at(progress))
