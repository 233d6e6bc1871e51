"""Self-distillation between views and of masked patches: DINO, iBOT, EsViT, KoLeo, multi-crop and Gram anchoring.

A student learns to assign each view to the prototypes that an averaged teacher assigns another view of the same sample
to (DINO, Caron et al. 2021), each masked patch to those that the teacher, who sees it, gives it (iBOT, Zhou et al.
2022), each patch of a view to those of the teacher's most similar patch of another (`region_weight`: EsViT, Li et al.
2022), and all patches of a view together (`instance_weight`: CMD, Bi et al. 2025). The teacher sees global views only,
the student local ones too (multi-crop, SwAV). Collapse is kept away by centring and sharpening, or by Sinkhorn-Knopp
(DINOv2, Oquab et al. 2023), which is balanced over the global batch. KoLeo spreads the features of a batch; Gram
anchoring (DINOv3, Simeoni et al. 2025) keeps the similarities between a sample's patches as an earlier teacher had
them, which may come from a model (`gram.from`) and see larger pictures (`gram.views`). Written over views: any modality
that has them can take part.

Example::

    views:
      g1: {image: {crop_scale: [0.4, 1.0], flip: 0.5}}
      g2: {image: {crop_scale: [0.4, 1.0], flip: 0.5, solarize: 0.2}}
      l1: {image: {crop_scale: [0.1, 0.4], crop_size: 16}}
    masks: {blocks: {type: block, ratio: 0.3}}
    objectives:
      dino: {type: distillation, tower: image, global_views: [g1, g2], local_views: [l1], masks: [blocks],
             koleo_weight: 0.1, gram: {weight: 2.0, first: 3000, every: 1000}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import gather_rows, global_mean, global_sum, rank
from ..errors import UserError, nearest
from ..losses.distillation import centred_softmax, gram_mse, koleo, sinkhorn, soft_cross_entropy
from ..models.initialization import init_weights
from ..models.tower import Encoded, Tower
from ..patches import Patches, gather
from ..schedules import moved
from .base import Loss, Objective
from .options.distillation import Config, GramConfig, HeadConfig
from .parts import regional
from .parts.derived import variants
from .parts.prototypes import PrototypeHead
from .parts.teacher import Momentum, Teacher, take_over

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step, Views

__all__ = ["Config", "Distillation", "GramConfig", "HeadConfig"]


class Distillation(Objective):
    """Student views against other teacher views, masked patches against the teacher's."""

    asks_named = True
    progress: Tensor
    steps: Tensor
    class_centre: Tensor
    patch_centre: Tensor

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self._refuse(config, model)
        tower = model.tower(config.tower)
        masks = config.masks * (len(config.global_views) if len(config.masks) == 1 else 1)
        self.mask_of = dict(zip(config.global_views, masks, strict=False))
        own = config.patch_head if (masks and config.patch_weight) or config.regional else None
        self.heads = nn.ModuleDict()
        if config.class_weight or own is None:
            self.heads["class"] = _head(config.head, tower.pooled_width)
        if own is not None:
            self.heads["patch"] = _head(own, tower.width)
        init_weights(self.heads)
        self.teacher = Teacher(tower)
        self.teacher_heads = Teacher(self.heads)
        self.momentum = Momentum.of(config, None)
        self.teaches = (config.tower,) if config.export != "student" else ()
        self.gram_teacher = self._gram_teacher(config, tower) if config.gram is not None else None
        self.options_of = {name: model.modality(name).views for name in model.config.modalities or {}}
        self.register_buffer("progress", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("class_centre", torch.zeros(config.head.prototypes))
        self.register_buffer("patch_centre", torch.zeros((config.patch_head or config.head).prototypes))
        if config.regional:
            self.register_buffer("region_centre", torch.zeros((config.patch_head or config.head).prototypes))
        self._host: tuple[int, float] | None = None
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def settle(self, views: Views) -> Views:
        """As `Objective.settle`: the larger pictures of `gram.views`."""
        gram, names = self.config.gram, self.config.global_views
        return variants(views, names, gram.views, self.options_of) if gram is not None and gram.views else {}

    def _refuse(self, c: Config, model: MMSSLModel) -> None:
        tower, names = model.tower(c.tower), list(model.tower(c.tower).modalities)
        views = [*c.global_views, *c.local_views]
        if set(views) != {"clean"} and not any(model.modality(n).views for n in names):
            raise UserError(
                f"objective distillation: views {views} of tower '{c.tower}', but none of its modalities "
                f"({', '.join(names)}) has augmented views; distil masked patches alone with global_views: [clean], "
                f"masks and class_weight: 0"
            )
        for view in views:
            if views.count(view) > 1:
                raise UserError(f"objective distillation: view '{view}' is named {views.count(view)} times")
        if (c.class_weight or c.region_weight) and len(views) < 2:
            raise UserError(
                f"objective distillation: views are compared, found only {views}; name two, "
                f"or set class_weight: 0 to distil masked patches alone"
            )
        if not c.class_weight and not c.region_weight and not (c.masks and c.patch_weight):
            raise UserError(
                "objective distillation: neither views (class_weight, region_weight) nor masked patches (masks, "
                "patch_weight) are learnt from"
            )
        if c.masks and not tower.replaces:
            raise UserError(
                f"objective distillation: tower '{c.tower}' wraps a model that takes no mask token; leave masks out"
            )
        if c.gram is not None and c.gram.tokens != "all" and not c.masks:
            raise UserError(f"objective distillation: gram.tokens is '{c.gram.tokens}', but there are no masks")

        if c.gram is not None and c.gram.views and "clean" in c.global_views:
            raise UserError("objective distillation: gram.views changes augmented views, found global view 'clean'")
        for key in c.gram.views if c.gram is not None else ():
            if not any(key in model.modality(n).views for n in names):
                known = sorted({option for n in names for option in model.modality(n).views})
                raise UserError(
                    f"objective distillation: gram.views: found '{key}', expected options of the views of tower "
                    f"'{c.tower}': {', '.join(known)}{nearest(key, known)}"
                )

    @staticmethod
    def _gram_teacher(c: Config, tower: Tower) -> Teacher[Tower]:
        """A copy of the tower, or with `gram.from` the tower of that name of another model."""
        if c.gram is None or c.gram.from_ is None:
            return Teacher(tower)
        from ..models.opening import open_model

        other, _ = open_model(c.gram.from_)
        if c.tower not in other.towers:
            raise UserError(
                f"objective distillation: gram.from: {c.gram.from_} has tower {', '.join(other.towers)}, expected "
                f"'{c.tower}'"
            )
        found = other.tower(c.tower)
        shapes = [{n: p.shape for n, p in net.named_parameters()} for net in (found, tower)]
        if list(found.modalities) != list(tower.modalities) or (c.gram.first is not None and shapes[0] != shapes[1]):
            raise UserError(
                f"objective distillation: gram.from: tower '{c.tower}' of {c.gram.from_} is no copy of this one "
                f"(modalities, sizes); expected a copy, or first: null and the same modalities"
            )
        return Teacher(found)

    # --------------------------------------------------------------------------------------------------------- state

    def _now(self) -> tuple[int, float]:
        """(optimiser steps done, progress), read off the device once after a start or a resume."""
        if self._host is None:
            self._host = int(self.steps), float(self.progress)
        return self._host

    def _load_from_state_dict(self, *args: object) -> None:
        self._host = None
        super()._load_from_state_dict(*args)

    def _temperature(self) -> float:
        """The teacher's, rising linearly."""
        c, (_, progress) = self.config, self._now()
        low, high = c.teacher_temperature
        return high if progress >= c.temperature_warmup else moved(low, high, progress / c.temperature_warmup, "linear")

    def begin(self, steps: int | None) -> None:
        """Set the teacher's momentum by the length of the run."""
        self.momentum = Momentum.of(self.config, steps)

    def hand_over(self, model: MMSSLModel, tower: str) -> None:
        """The tower's weights become the teacher's."""
        take_over(model.tower(tower), self.teacher.net)

    def discard(self) -> None:
        """Forget the outputs that centres would move towards."""
        self._sums = {}

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move teachers towards students, centres towards the step's outputs, the Gram teacher when it is due."""
        c = self.config
        momentum = self.momentum.at(progress)
        self.teacher.update(model.tower(c.tower), momentum)
        self.teacher_heads.update(self.heads, momentum)
        for name, (rows, count) in self._sums.items():
            centre = self.get_buffer(f"{name}_centre")
            good = (count > 0) & rows.isfinite().all()  # one broken batch must not stay in the average
            centre.lerp_(torch.where(good, rows / count.clamp(min=1), centre), 1 - c.centre_momentum)
        self._sums = {}
        steps = self._now()[0] + 1
        self._host = steps, progress
        self.steps.fill_(steps)
        self.progress.fill_(progress)
        if self.gram_teacher is not None:
            if _due(c.gram, steps):
                # momentum 0: a copy of the teacher as it is now
                self.gram_teacher.update(self.teacher.net, 0.0)

    # ---------------------------------------------------------------------------------------------------------- loss

    def forward(self, step: Step) -> Loss:
        """The weighted sum of the losses that are on: class, patch, region, instance, KoLeo, Gram; logs each, and the
        health."""
        c = self.config
        _refuse_equal_views(c, step)
        students = {v: step.encode(c.tower, v, self.mask_of.get(v), "replace") for v in c.global_views}
        students |= {v: step.encode(c.tower, v) for v in c.local_views}
        with torch.no_grad():
            teachers = {v: step.encode(c.tower, v, net=self.teacher.net) for v in c.global_views}
        losses: dict[str, tuple[float, Tensor]] = {}
        health: dict[str, Tensor] = {}
        if c.class_weight:
            loss, health = self._between_views(students, teachers)
            losses["class"] = c.class_weight, loss
        if c.masks and c.patch_weight:
            losses["patch"] = c.patch_weight, self._masked_patches(step, students, teachers)
        if c.regional:
            losses |= self._regions(students, teachers)
        if c.koleo_weight:
            losses["koleo"] = c.koleo_weight, self._spread([students[v] for v in c.global_views])
        if c.gram is not None:
            losses["gram"] = c.gram.weight, self._anchored(step, students)
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        return Loss(total=total, parts={n: loss.detach() for n, (_, loss) in losses.items()} | health)

    def _frozen(self) -> bool:
        return self._now()[1] < self.config.freeze_prototypes

    def _targets(self, kind: str, logits: Tensor, valid: Tensor) -> Tensor:
        """The teacher's assignments (n, K) of rows with these logits; keeps their sum for the centre."""
        c = self.config
        if c.targets == "sinkhorn":
            return sinkhorn(logits, self._temperature(), valid, total=global_sum)
        rows, count = global_sum((logits * valid[:, None]).sum(0)), global_sum(valid.sum().float())
        if self.training:
            before = self._sums.get(kind)
            # the centre moves in `after_step`: within a step all rows are centred alike
            self._sums[kind] = (rows, count) if before is None else (rows + before[0], count + before[1])
        return centred_softmax(logits, self.get_buffer(f"{kind}_centre"), self._temperature())

    def _between_views(
        self, students: Mapping[str, Encoded], teachers: Mapping[str, Encoded]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """DINO's loss over all pairs of a student's view and another view of the teacher; what the log should show."""
        c = self.config
        logits = {v: self.heads["class"](e.pooled(), self._frozen()) for v, e in students.items()}
        present = torch.cat([e.present() for e in teachers.values()])
        with torch.no_grad():
            theirs = self.teacher_heads.net["class"](torch.cat([e.pooled() for e in teachers.values()]))
            target = self._targets("class", theirs, present)
            of = dict(zip(teachers, target.chunk(len(teachers)), strict=True))
        rows, counts = [], []
        for view, own in logits.items():
            for other, wanted in of.items():
                # a view with itself would be no task (DINO, Caron et al. 2021, algorithm 1)
                if view != other:
                    rows.append(soft_cross_entropy(own, wanted, c.student_temperature))
                    counts.append(students[view].present() & teachers[other].present())
        with torch.no_grad():
            entropy = global_mean(-torch.special.xlogy(target, target).sum(1), present)
            share = global_sum((target * present[:, None]).sum(0)) / global_sum(present.sum().float()).clamp(min=1)
            # the perplexity of the mean assignment: K where all are used alike, 1 where one has won
            used = (-torch.special.xlogy(share, share).sum()).exp()
        return global_mean(torch.cat(rows), torch.cat(counts)), {"entropy": entropy, "prototypes_used": used}

    def _masked_patches(self, step: Step, students: Mapping[str, Encoded], teachers: Mapping[str, Encoded]) -> Tensor:
        """iBOT's loss: the mean over a sample's hidden patches, then over samples (of each modality and view)."""
        c = self.config
        own, theirs, valid = [], [], []
        for view, mask in self.mask_of.items():
            for name, split in step.splits(c.tower, mask, view).items():
                hide = split.hide.flatten(1)
                own.append(gather(students[view].tokens[name], hide))
                theirs.append(gather(teachers[view].tokens[name], hide))
                valid.append(step.patches(name, view).take(hide, split.full).valid)
        if not own:
            raise UserError(f"objective distillation: masks {c.masks} hide nothing of tower '{c.tower}'")
        sizes = [v.shape for v in valid]
        head = "patch" if "patch" in self.heads else "class"
        flat = torch.cat([v.flatten() for v in valid])
        with torch.no_grad():
            seen = self.teacher_heads.net[head](torch.cat([x.flatten(0, 1) for x in theirs]))
            target = self._targets("patch", seen, flat)
        logits = self.heads[head](torch.cat([x.flatten(0, 1) for x in own]), self._frozen())
        each = soft_cross_entropy(logits, target, c.student_temperature) * flat
        means, counts = [], []
        for loss, there in zip(each.split([b * m for b, m in sizes]), valid, strict=True):
            count = there.sum(1)
            means.append(loss.view(there.shape).sum(1) / count.clamp(min=1))
            counts.append(count > 0)
        return global_mean(torch.cat(means), torch.cat(counts))

    def _regions(
        self, students: Mapping[str, Encoded], teachers: Mapping[str, Encoded]
    ) -> dict[str, tuple[float, Tensor]]:
        """The losses of EsViT and CMD that are on, with their weights."""
        c, head = self.config, "patch" if "patch" in self.heads else "class"
        own = regional.seen(students, self.heads[head](regional.flattened(students)[0], self._frozen()))
        with torch.no_grad():
            tokens, valid = regional.flattened(teachers)
            target = self._targets("region", self.teacher_heads.net[head](tokens), valid)
        theirs, losses = regional.seen(teachers, target), {}
        if c.region_weight:
            losses["region"] = c.region_weight, regional.region_loss(own, theirs, c.student_temperature)
        if c.instance_weight:
            whole = {v: self.heads["class"](e.pooled(), self._frozen()) for v, e in students.items()}
            losses["instance"] = c.instance_weight, regional.instance_loss(own, theirs, whole, c.student_temperature)
        return losses

    def _spread(self, encoded: list[Encoded]) -> Tensor:
        """KoLeo among the samples of the global batch, within each view, averaged over views."""
        rows, counts = [], []
        for e in encoded:
            pooled, present = e.pooled(), e.present()
            with torch.autocast(pooled.device.type, enabled=False):
                x = F.normalize(pooled.float(), dim=-1)
                keys, valid = gather_rows(x), gather_rows(present)
                own = torch.arange(len(x), device=x.device) + rank() * len(x)
                rows.append(koleo(x, keys, own, valid))
                counts.append(present & (valid.sum() > 1))
        return global_mean(torch.cat(rows), torch.cat(counts))

    def _anchored(self, step: Step, students: Mapping[str, Encoded]) -> Tensor:
        """The Gram loss of every global view and modality; 0, without a forward of its teacher, before there is one."""
        c, (steps, _) = self.config, self._now()
        assert self.gram_teacher is not None
        if c.gram.from_ is None and steps < c.gram.first:
            return self.steps.new_zeros((), dtype=torch.float32)
        rows, counts = [], []
        for view in c.global_views:
            with torch.no_grad():
                theirs = step.variant(view, c.gram.views) if c.gram.views else view
                fixed = step.encode(c.tower, theirs, net=self.gram_teacher.net)
            splits = step.splits(c.tower, self.mask_of[view], view) if c.gram.tokens != "all" else {}
            for name, tokens in students[view].tokens.items():
                patches = step.patches(name, view)
                there = patches.valid
                if c.gram.tokens != "all":
                    hide = splits[name].hide if name in splits else torch.full((patches.batch, 1), -1).to(there.device)
                    hidden = patches.hidden_by(hide)
                    there = there & (hidden if c.gram.tokens == "masked" else ~hidden)
                with torch.autocast(tokens.device.type, enabled=False):
                    wanted = _resized(fixed.tokens[name].float(), step.patches(name, theirs), patches, name)
                    rows.append(gram_mse(tokens.float(), wanted, there, c.gram.clamp))
                counts.append(there.any(1))
        return global_mean(torch.cat(rows), torch.cat(counts))


def _resized(tokens: Tensor, own: Patches, to: Patches, name: str) -> Tensor:
    """tokens (B, N, D) of the patches `own` on a grid of rows and columns, brought to the grid of `to`: by bicubic
    interpolation without antialiasing, as in DINOv3."""
    if own.grid == to.grid and own.count == to.count:
        return tokens
    flat = [p.grid is not None and len(p.grid) == 2 and p.count == p.grid[0] * p.grid[1] for p in (own, to)]
    if not all(flat) or own.grid is None:
        raise UserError(
            f"objective distillation: gram.views: patches of '{name}' lie on {own.grid} and {to.grid}, expected rows "
            "and columns, or views of one size"
        )
    picture = tokens.transpose(1, 2).unflatten(2, own.grid)
    return F.interpolate(picture, size=to.grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def _due(gram: GramConfig, steps: int) -> bool:
    """Whether the Gram teacher is taken after so many steps."""
    if gram.first is None:
        return False
    after = steps - gram.first
    if after <= 0 or gram.every is None:
        return after == 0
    return after % gram.every == 0 and (gram.renewals is None or after // gram.every <= gram.renewals)


def _head(config: HeadConfig, width: int) -> PrototypeHead:
    return PrototypeHead(
        width, config.hidden, config.bottleneck, config.prototypes, config.layers, config.unit_prototypes
    )


def _refuse_equal_views(c: Config, step: Step) -> None:
    """Two views that leave all of the tower's modalities as they are would be one: nothing to compare."""
    if not c.class_weight and not c.region_weight:
        return
    names = list(step.model.tower(c.tower).modalities)
    plain = [v for v in [*c.global_views, *c.local_views] if v == "clean" or not any(n in step.views[v] for n in names)]
    if len(plain) > 1:
        raise UserError(
            f"objective distillation: views {', '.join(plain)} change no modality of tower '{c.tower}' "
            f"({', '.join(names)}), so they are the same"
        )
