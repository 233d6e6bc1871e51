"""Joint-embedding prediction: the latents of hidden patches from those of visible ones, within or across modalities.

The context encoder sees only the context's patches; a narrow predictor, asked with the coordinates of the targets,
says what the target encoder makes of them in the whole sample. The target encoder is an exponential moving average of
the context encoder (I-JEPA, Assran et al. 2023; V-JEPA, Bardes et al. 2024; ECG-JEPA, Weimann & Conrad 2024; T-JEPA,
Thimonier et al. 2025), or (`teacher: none`) the encoder itself, kept from collapse by a regulariser of its
embeddings: the SIGReg of LeJEPA (Balestriero & LeCun 2025; LeJEPA itself is a `loss` of `redundancy`) or variance and
covariance (VICReg, Bardes et al. 2022). The mask says which of these it is: `multi-block`, `time-blocks`,
`feature-subsets`, `regions`, `subgraphs`. Prefix tokens (CLS, registers, `[REG]`) are in every sequence and never a
target; `predictor.prefix` says whether the predictor sees them.

With `target_tower` the targets are those of another tower's modalities of the same sample, all their patches or those
that `target_mask` hides; samples count that have both. A teacher's targets do not train that tower: another objective
must, or it comes trained (`frozen`).

Example::

    masks: {blocks: {type: multi-block}}
    objectives:
      jepa: {tower: image, mask: blocks, predictor: {width: 64, depth: 2, heads: 4}}
      seen_to_heard: {type: jepa, tower: video, target_tower: audio}  # and one that trains audio, or it is pretrained
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import all_sum
from ..errors import UserError
from ..losses.latent import average_layers, latent_loss, normalised_latents
from ..losses.regularisers import covariance, deviations, directions, sigreg, variance
from ..masking.targets import united
from ..models.decoder import Decoder
from ..models.initialization import init_weights
from ..models.tower import Encoded, Tower
from ..options import changed
from ..patches import Patches, Split, gather
from .base import Loss, Objective
from .options.jepa import Config, PredictorConfig, RegulariserConfig
from .parts.between import found_in
from .parts.teacher import Momentum, Teacher, take_over

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

__all__ = ["JEPA", "Config", "PredictorConfig", "RegulariserConfig"]


class JEPA(Objective):
    """Latents of target patches predicted from the latents of context patches."""

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        c = config
        self.masks = list(c.mask) if isinstance(c.mask, list) else [c.mask]
        self.target_tower = c.target_tower or c.tower
        other = self.target_tower != c.tower
        # of another view without a mask, or with one of its own, the patches are not those of the context
        self.across = other or (c.target_view != c.view and (None in self.masks or c.target_mask is not None))
        self.relies_on = (self.target_tower,) if other and c.teacher == "ema" else ()
        source, target = model.tower(c.tower), model.tower(self.target_tower)
        self._refuse(c, source, target)
        self.names = list(target.modalities)
        for name in c.weights:
            if name not in self.names:
                raise UserError(
                    f"objective jepa: weights names modality '{name}', but tower '{self.target_tower}' has "
                    f"{', '.join(self.names)}"
                )
        p = c.predictor
        self.predictors = nn.ModuleDict()
        for name in self.names:
            others = {n: model.modality(n) for n in source.modalities if n != name or self.across}
            self.predictors[name] = Decoder(
                model.modality(name),
                source.width,
                target.width,
                p.width,
                p.depth,
                p.heads,
                others=others,
                positions=p,
                where=f"objective jepa: predictor of '{name}'",
            )
        init_weights(self.predictors)
        last = range(target.depth - c.average_layers + 1, target.depth + 1)
        self.layers = tuple(last) if c.average_layers > 1 else ()
        learns = c.teacher == "ema" and not target.frozen
        self.teacher = Teacher(target) if learns else None
        self.momentum = Momentum.of(c, None)
        self.teaches = (self.target_tower,) if learns and c.export != "student" else ()
        # a frozen tower is a teacher that stands still
        self.stops = learns or target.frozen or c.stop_gradient

    def _refuse(self, c: Config, source: Tower, target: Tower) -> None:
        if not self.across and (None in self.masks or not self.masks):
            raise UserError(
                "objective jepa: found no mask, expected one that says what is context and what a target, or another "
                "target_view, all of which is then predicted"
            )
        if not self.across and c.target_mask is not None:
            raise UserError(
                "objective jepa: found target_mask without another target_tower or target_view, where mask says both"
            )
        if not source.drops and self.masks != [None]:
            raise UserError(
                f"objective jepa: tower '{c.tower}' wraps a model that must see all its patches, so it cannot encode "
                f"the context of a mask alone; use a tower of mmssl's, or predict another target_tower without mask"
            )
        if target.single:
            raise UserError(
                f"objective jepa: tower '{self.target_tower}' gives one vector a sample, expected one a patch"
            )
        if c.average_layers > 1 and c.average_layers > target.depth:
            raise UserError(
                f"objective jepa: average_layers is {c.average_layers}, but tower "
                f"'{self.target_tower}' has {target.depth} blocks to average"
            )
        if not c.predictor.prefix and source.drops and not source.prefix_count:
            raise UserError(
                f"objective jepa: predictor.prefix: found false, which has no effect: tower '{c.tower}' has no prefix "
                "tokens"
            )
        for name in ("momentum", "forget", "schedule", "export"):
            if target.frozen and changed(c, name):
                raise UserError(
                    f"objective jepa: {name}: found {getattr(c, name)}, which has no effect: tower "
                    f"'{self.target_tower}' is frozen, so the teacher stands still"
                )
        free = c.teacher == "none" and not target.frozen
        if c.stop_gradient and not free:
            raise UserError("objective jepa: stop_gradient is for teacher: none; a teacher's targets have no gradient")
        if free:
            self._refuse_collapse(c)

    def _refuse_collapse(self, c: Config) -> None:
        """UserError where nothing keeps an encoder that is its own teacher from a constant embedding."""
        if c.regulariser.kind == "none" and not c.stop_gradient:
            raise UserError(
                "objective jepa: without a teacher a constant embedding is the best one; set regulariser: {kind: "
                "sigreg} or vicreg, or stop_gradient: true"
            )

    @property
    def separable(self) -> bool:
        """Without a regulariser, which is a statistic of all rows."""
        return self.config.regulariser.kind == "none"

    def counts(self, step: Step) -> dict[str, Tensor]:
        """`<number of the mask>.<modality>` -> the targets that are predicted."""
        found: dict[str, Tensor] = {}
        for number, mask in enumerate(self.masks):
            seen = step.present(self.config.tower, self.config.view, mask)
            for name, split in self._target_splits(step, mask).items():
                found[f"{number}.{name}"] = self._there(step, name, self._sets(step, name, split), seen)
        return found

    def forward(self, step: Step) -> Loss:
        """The weighted sum over modalities of the mean over masks, plus the regulariser where there is one."""
        c = self.config
        targets = self._encode_targets(step)
        losses: dict[str, list[Tensor]] = {}
        # what gets no gradient has none to get from the regulariser
        embedded = [] if self.stops else [targets]
        for number, mask in enumerate(self.masks):
            context = step.encode(c.tower, c.view, mask, "drop")
            embedded.append(context)
            for name, split in self._target_splits(step, mask).items():
                loss = self._loss(step, name, split, f"{number}.{name}", context, targets)
                losses.setdefault(name, []).append(loss)
        means = {name: torch.stack(found).mean() for name, found in losses.items()}
        total = torch.stack([c.weights.get(name, 1.0) * loss for name, loss in means.items()]).sum()
        parts = {name: loss.detach() for name, loss in means.items()} if len(means) > 1 else {}
        with torch.autocast(total.device.type, enabled=False):
            with torch.no_grad():
                seen = step.collected("targets", targets.pooled(), targets.present())
                if seen is not None:
                    parts["target_std"] = deviations(seen[0], seen[1], all_sum).mean()
            if c.regulariser.kind != "none":
                found = [self._regulariser(step, rows, valid) for e in embedded for rows, valid in self._rows(e)]
                penalty = torch.stack(found).mean()
                weight = c.regulariser.weight
                if weight is None:
                    weight = 0.05 if c.regulariser.kind == "sigreg" else 1.0
                parts |= {"prediction": total.detach(), c.regulariser.kind: penalty.detach()}
                total = total + weight * penalty
        return Loss(total=total, parts=parts)

    def _encode_targets(self, step: Step) -> Encoded:
        """The target encoder's view of the whole sample."""
        with torch.no_grad() if self.stops else contextlib.nullcontext():
            net = None if self.teacher is None else self.teacher.net
            # whole, without a mask: targets know what the context does not (I-JEPA, section 3)
            return step.encode(self.target_tower, self.config.target_view, net=net, layers=self.layers)

    def _target_splits(self, step: Step, mask: str | None) -> dict[str, Split]:
        """Of each modality with targets, the sets of them."""
        c = self.config
        if not self.across:
            splits = step.splits(c.tower, mask or "", c.view)
        elif c.target_mask is not None:
            splits = step.splits(self.target_tower, c.target_mask, c.target_view)
        else:
            splits = {name: _everything(step.patches(name, c.target_view)) for name in self.names}
        if not splits:
            raise UserError(f"objective jepa: its mask hides nothing of tower '{self.target_tower}'")
        return splits

    def _whole(self, step: Step, name: str) -> Patches:
        """The patches among which one modality's targets are."""
        return step.patches(name, self.config.target_view if self.across else self.config.view)

    def _sets(self, step: Step, name: str, split: Split) -> Split:
        """The target sets as they are predicted: apart or as one, and not without any place."""
        if self.config.predict == "together" and split.hide.shape[1] > 1:
            split = united(split, self._whole(step, name))
        return split if split.hide.shape[2] else dataclasses.replace(split, hide=F.pad(split.hide, (0, 1), value=-1))

    def _there(self, step: Step, name: str, split: Split, seen: Tensor) -> Tensor:
        """(B * M, m) the targets that count: a sample of which the context encoder saw nothing (`seen` (B,)) tells
        nothing of its targets."""
        index = split.hide.flatten(1)
        there = gather(self._whole(step, name).valid, index) & (self._at(step, name, index) >= 0) & seen[:, None]
        return there.unflatten(1, (split.hide.shape[1], -1)).flatten(0, 1)

    def _at(self, step: Step, name: str, index: Tensor) -> Tensor:
        """(B, k) index of targets as the target's view has them: it may be another column, and lack some."""
        c = self.config
        return index if self.across else found_in(step, name, c.target_view, index, c.view)

    def _loss(self, step: Step, name: str, split: Split, label: str, context: Encoded, targets: Encoded) -> Tensor:
        """Mean loss of one modality's targets over all processes; label: its name in `counts`."""
        c = self.config
        split = self._sets(step, name, split)
        hide, sets = split.hide, split.hide.shape[1]
        prediction = self._predict(name, hide, split.full, self._whole(step, name), context, split.keep)
        with torch.autocast(prediction.device.type, enabled=False):
            index = self._at(step, name, hide.flatten(1))
            wanted = self._latents(targets, name, index).unflatten(1, (sets, -1)).flatten(0, 1)
            score = latent_loss(prediction.float(), wanted, c.loss, c.beta)
            return step.mean(label, score, self._there(step, name, split, context.present()))

    def _predict(self, name: str, hide: Tensor, full: bool, whole: Patches, context: Encoded, keep: Tensor) -> Tensor:
        """(B * M, m, D) for target sets hide (B, M, m) of the patches `whole`."""
        batch, sets, width = hide.shape
        # a query is a place without content
        places = Patches(torch.zeros_like(whole.valid, dtype=torch.int64), whole.coords, whole.valid, whole.full)
        flat = places.take(hide.flatten(1), full)
        fold = (batch * sets, width)
        queries = Patches(flat.values.view(fold), flat.coords.view(*fold, -1), flat.valid.view(fold), flat.full)
        seen = context.tokens.items()
        others = {n: (tokens, context.patches[n]) for n, tokens in seen if n != name or self.across}
        if self.across:
            # nothing of the target's inputs is context: the predictor sees `others` alone
            keep = keep[:, :0]
            tokens, visible = context.prefix.new_zeros(batch, 0, context.prefix.shape[2]), places.take(keep, True)
        else:
            tokens, visible = context.tokens[name], context.patches[name]
        together = None
        if whole.links is not None:
            index = torch.cat([keep.repeat_interleave(sets, 0), hide.flatten(0, 1)], 1)
            together = whole.repeated(sets).take(index)
        predictor = self.predictors[name]
        assert isinstance(predictor, Decoder)
        prefix = context.prefix if self.config.predictor.prefix else context.prefix[:, :0]
        return predictor(prefix, tokens, visible, queries, together, others)

    def _latents(self, targets: Encoded, name: str, index: Tensor) -> Tensor:
        """(B, k, D) float32: what the predictor should say of the patches `index` (B, k)."""
        if self.layers:
            latents = average_layers([gather(targets.layers[layer][name], index).float() for layer in self.layers])
        else:
            latents = gather(targets.tokens[name], index).float()
        return normalised_latents(latents) if self.config.normalise_targets else latents

    def _rows(self, encoded: Encoded) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows (n, D) float32, valid (n,)) that are regularised."""
        on = self.config.regulariser.on
        if on != "tokens":
            yield encoded.pooled(), encoded.present()
        if on != "pooled":
            valid = torch.cat([encoded.patches[n].valid for n in encoded.tokens], 1).flatten()
            yield torch.cat(list(encoded.tokens.values()), 1).flatten(0, 1).float(), valid

    def _regulariser(self, step: Step, rows: Tensor, valid: Tensor) -> Tensor:
        r = self.config.regulariser
        if r.kind == "vicreg":
            return variance(rows, valid, all_sum) + r.covariance * covariance(rows, valid, all_sum)
        slices = directions(step.draws("sigreg"), rows.shape[1], r.slices)
        return sigreg(rows, slices, valid, all_sum, r.knots, r.bound)

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the teacher towards the target tower."""
        if self.teacher is not None:
            self.teacher.update(model.tower(self.target_tower), self.momentum.at(progress))

    def begin(self, steps: int | None) -> None:
        """Set the teacher's momentum by the length of the run."""
        self.momentum = Momentum.of(self.config, steps)

    def hand_over(self, model: MMSSLModel, tower: str) -> None:
        """The target tower's weights become the teacher's."""
        assert self.teacher is not None
        take_over(model.tower(tower), self.teacher.net)


def _everything(patches: Patches) -> Split:
    """All patches as one target set, none as context."""
    every = torch.arange(patches.count, device=patches.valid.device).expand_as(patches.valid)
    every = every.masked_fill(~patches.valid, -1)
    return Split(every[:, :0], every[:, None], patches.full)
