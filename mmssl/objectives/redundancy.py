"""Redundancy reduction between views: Barlow Twins, Mixed Barlow Twins, VICReg, LeJEPA, MSBReg. No negatives.

Barlow Twins (Zbontar et al. 2021): the cross-correlation of two views' embeddings is to be the identity. Mixed Barlow
Twins (Bandara et al. 2023): besides, inputs mixed linearly are to correlate as linearly mixed embeddings do; one share
is drawn uniformly for each batch, partners are a permutation of the global batch's present samples, and patches are
mixed number by number, so the modality must have numbers on a grid. VICReg (Bardes et al. 2022): views agree, every
dimension keeps its spread, dimensions are uncorrelated. Statistics are those of the global batch and count samples
only that have both sides.

LeJEPA (Balestriero & LeCun 2025): of any number of sides, each is pulled to the mean of the sample's global ones, and
SIGReg makes the projections of each side a standard normal: (1 - l) times the one and l times the other, without
predictor, teacher or stopped gradient. Across towers the mean is of all of a sample's sides, whatever modality they
are of. The distance counts samples that have two sides, SIGReg every side that is there. MSBReg (arXiv 2207.03552): the
mean is that of an averaged teacher's embeddings, directions are compared, covariances are to be the identity, and each
sample is pulled a little to a random direction, drawn anew each step. Either may have the other's regulariser.

Example::

    objectives:
      barlow: {type: redundancy, towers: [image], views: [a, b]}
      mixed: {type: redundancy, towers: [ecg], views: [a, b], loss: mixed_barlow}
      vicreg: {type: redundancy, towers: [image, text], loss: vicreg}
      masked: {type: redundancy, towers: [eeg], masks: [some, others], loss: vicreg}
      lejepa: {type: redundancy, towers: [image], views: [g1, g2, l1, l2], global_views: [g1, g2], loss: lejepa}
      msbreg: {type: redundancy, towers: [image], views: [a, b, c, d], loss: msbreg}
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import all_sum, gather_padded, gather_rows, global_mean, rank
from ..draws import Draws
from ..errors import UserError
from ..losses.redundancy import barlow_twins, centroid, mixed_barlow_twins, teachers_centroid, vicreg
from ..losses.regularisers import brownian, directions, sigreg, whitening
from ..models.initialization import init_weights
from ..patches import Patches, gather
from .base import Loss, Objective
from .options.redundancy import Config
from .parts.heads import Head
from .parts.sides import Pair, Side, Sides
from .parts.teacher import Momentum, Teacher, take_over

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step


class Redundancy(Objective):
    """Embeddings of a sample's sides agree, and no dimension repeats another."""

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.sides = Sides(config, model, "redundancy")
        if config.loss == "mixed_barlow":
            self._refuse(config, model)
        self.heads = nn.ModuleDict({name: Head.of(model.tower(name).pooled_width, config) for name in config.towers})
        init_weights(self.heads)
        if config.loss in ("lejepa", "msbreg"):
            self.sides.check_groups(
                config.global_views, self.heads, f"{config.loss} pulls all sides of a sample to one mean"
            )
        self.teacher: Teacher[Any] | None = Teacher(self._student(model)) if config.loss == "msbreg" else None
        self.momentum = Momentum.of(config, None)
        self.teaches = tuple(config.towers) if self.teacher is not None and config.export != "student" else ()

    def _student(self, model: MMSSLModel) -> nn.ModuleDict:
        towers = nn.ModuleDict({name: model.tower(name) for name in self.config.towers})
        return nn.ModuleDict({"towers": towers, "heads": self.heads})

    def _refuse(self, config: Config, model: MMSSLModel) -> None:
        if self.sides.across or config.mask is not None or config.masks is not None:
            raise UserError(
                "objective redundancy: mixed_barlow mixes the whole inputs of two views of one tower, found "
                f"towers {config.towers}, pairs {config.pairs}, masks {config.masks or config.mask}"
            )
        for tower in config.towers:
            for name in model.tower(tower).modalities:
                if model.modality(name).ids or model.modality(name).has_links:
                    what = "ids" if model.modality(name).ids else "links"
                    raise UserError(f"objective redundancy: mixed_barlow mixes numbers, modality '{name}' has {what}")

    def forward(self, step: Step) -> Loss:
        """The mean over the pairs of sides, of LeJEPA and MSBReg over the groups of them; logs the terms of each."""
        if self.config.loss in ("lejepa", "msbreg"):
            return self._groups(step)
        across, within = self.sides.plan(step)
        embeddings: dict[Side, tuple[Tensor, Tensor]] = {}
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for pair in across + within:
            for side in pair:
                if side not in embeddings:
                    embeddings[side] = self._embed(step, side)
            label = f"{pair[0].label}-{pair[1].label}"
            losses[label], terms = self._pair(step, pair, *(embeddings[side] for side in pair))
            more = len(across + within) > 1
            parts |= {f"{label}.{term}" if more else term: value for term, value in terms.items()}
            parts |= {label: losses[label].detach()} if more else {}
        return Loss(total=torch.stack(list(losses.values())).mean(), parts=parts)

    def _embed(self, step: Step, side: Side) -> tuple[Tensor, Tensor]:
        """(projections (B, D) float32, present (B,)) of a side."""
        pooled, present = self.sides.pooled(step, side)
        return self.heads[side.tower](pooled, present).float(), present

    def _groups(self, step: Step) -> Loss:
        """The loss of LeJEPA or MSBReg, over the sides of each tower or of all of them."""
        c = self.config
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        groups = self.sides.groups(step)
        for group in groups:
            found = [self._embed(step, side) for side in group]
            device = found[0][0].device
            leading = torch.tensor([self.sides.leads(step, side, c.global_views) for side in group], device=device)
            z, there = torch.stack([z for z, _ in found]), torch.stack([v for _, v in found])
            targets = None if self.teacher is None else torch.stack([self._teach(step, side) for side in group])
            with torch.autocast(device.type, enabled=False):
                spread = self._spread(step, z, there)
                if targets is None:
                    distance = centroid(z, there, leading, all_sum)
                    totals.append((1 - c.sigreg_weight) * distance + c.sigreg_weight * spread)
                    terms = {"invariance": distance, c.spread_by: spread}
                else:
                    distance = teachers_centroid(z, targets, there, leading, all_sum)
                    motion = global_mean(brownian(z, self._motion(step, z)), there)
                    totals.append(distance + c.regulariser_weight * spread + c.brownian_weight * motion)
                    terms = {"centroid": distance, c.spread_by: spread, "brownian": motion}
            label = f"{group[0].tower}." if len(groups) > 1 else ""
            parts |= {f"{label}{name}": value.detach() for name, value in terms.items()}
        return Loss(total=torch.stack(totals).mean(), parts=parts)

    def _spread(self, step: Step, z: Tensor, there: Tensor) -> Tensor:
        """SIGReg or whitening of the sides' embeddings z (V, B, D), each side by itself. MSBReg compares directions:
        embeddings are brought to the length that white ones have."""
        c = self.config
        if c.spread_by == "sigreg":
            slices = directions(step.draws("sigreg"), z.shape[-1], c.slices)
            each = [
                sigreg(rows, slices, valid, all_sum, c.knots, c.bound) for rows, valid in zip(z, there, strict=True)
            ]
        else:
            z = z if self.teacher is None else z.shape[-1] ** 0.5 * F.normalize(z, dim=-1)
            each = [whitening(rows, valid, all_sum) for rows, valid in zip(z, there, strict=True)]
        return torch.stack(each).mean()

    def _motion(self, step: Step, z: Tensor) -> Tensor:
        """(B, D) a random direction of length 1 for each sample, the same for all its sides."""
        return F.normalize(step.draws("brownian").normal(z.shape[-1]).to(z), dim=-1)

    def _teach(self, step: Step, side: Side) -> Tensor:
        """(B, D) what the teacher makes of a side."""
        assert self.teacher is not None
        with torch.no_grad():
            pooled, present = self.sides.pooled(step, side, self.teacher.net["towers"][side.tower])
            target: Tensor = self.teacher.net["heads"][side.tower](pooled, present)
        return target.float()

    def _pair(
        self, step: Step, pair: Pair, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        z_a, z_b, valid = a[0], b[0], a[1] & b[1]
        mixed = self._mixed(step, pair, z_b, valid) if c.loss == "mixed_barlow" else None
        with torch.autocast(z_a.device.type, enabled=False):
            if mixed is not None:
                other, z_m, share = mixed
                views = (z_a, z_b, other, z_m.float())
                loss, term = mixed_barlow_twins(views, share, valid, c.off_diagonal, c.mixing_weight, all_sum)
                return loss, {"mixing": term.detach()}
            if c.loss == "barlow":
                return barlow_twins(z_a, z_b, valid, c.off_diagonal, all_sum), {}
            return vicreg(z_a, z_b, valid, (c.invariance, c.variance, c.covariance), all_sum)

    def _mixed(self, step: Step, pair: Pair, z_b: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(other samples' embeddings in view b, embeddings of the mixed inputs, the share of the own input)."""
        a, b = pair
        draws = step.draws("mixing", a.view, b.view, a.tower)
        share = dataclasses.replace(draws("share"), rows=1, first=0).uniform()[0]
        partner = partners(draws, gather_rows(valid))[rank() * len(valid) :][: len(valid)]

        @torch.no_grad()
        def make() -> dict[str, Patches]:
            return {
                name: mix(step.patches(name, a.view), step.patches(name, b.view), partner, share)
                for name in step.model.tower(a.tower).modalities
            }

        pooled, _ = step.pooled_of(a.tower, ("mixing", a.view, b.view), make, self.config.cache_rows)
        return gather_rows(z_b)[partner], self.heads[a.tower](pooled, valid), share

    def begin(self, steps: int | None) -> None:
        """Set the teacher's momentum by the length of the run."""
        self.momentum = Momentum.of(self.config, steps)

    def hand_over(self, model: MMSSLModel, tower: str) -> None:
        """The tower's weights become the teacher's."""
        assert self.teacher is not None
        take_over(model.tower(tower), self.teacher.net["towers"][tower])

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the teacher towards the student."""
        if self.teacher is not None:
            self.teacher.update(self._student(model), self.momentum.at(progress))


def partners(draws: Draws, valid: Tensor) -> Tensor:
    """(m,) a permutation of the valid (m,) rows of the global batch; other rows keep themselves."""
    order = draws.permutation()
    out = torch.arange(len(valid), device=valid.device)
    out[valid.nonzero()[:, 0]] = order[valid[order]]
    return out


def mix(a: Patches, b: Patches, partner: Tensor, share: Tensor) -> Patches:
    """share * a + (1 - share) * b[partner], number by number; partner: (B,) rows of all processes.

    Patches are mixed with the one at the same coordinates, wherever in its row it stands; where the partner has none,
    or lacks the number, it counts as 0. What a lacks stays missing.
    """
    values, coords, valid = (gather_padded(x)[partner] for x in (b.values, b.coords, b.valid))
    if coords.shape != a.coords.shape or not bool((coords == a.coords).all()):
        same = (a.coords[:, :, None] == coords[:, None]).all(-1) & valid[:, None]  # (B, N, M)
        at, found = same.to(torch.uint8).argmax(-1), same.any(-1)
        values, valid = gather(values, at), found
    other = values.nan_to_num(0.0) * valid[..., None]
    return a.replace(values=share * a.values + (1 - share) * other)
