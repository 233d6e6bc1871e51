"""Distilling regions: what each patch of a student's view is assigned to, by the teacher's patch that is most like it.

EsViT (Li et al. 2022; microsoft/esvit `DDINOLoss`), and what CMD (Bi et al. 2025; BiQiWHU/CMD) adds: all regions of a
view together are to say what the view does.

Shapes: B samples, n patches of a view, m of the teacher's, D width, K prototypes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...distributed import global_mean
from ...losses.distillation import soft_cross_entropy
from ...models.pooling import masked_mean
from ...models.tower import Encoded
from ...patches import gather
from .regions import nearest, unlike

Place = tuple[str, str]
"""(modality, view)."""


@dataclass(frozen=True)
class Seen:
    """A view's patches.

    Attributes:
        tokens: (B, n, D) what the tower made of them.
        assigned: (B, n, K) logits of the student, assignments of the teacher.
        valid: (B, n) bool.
    """

    tokens: Tensor
    assigned: Tensor
    valid: Tensor


def flattened(encoded: Mapping[str, Encoded]) -> tuple[Tensor, Tensor]:
    """(all tokens (R, D) of all views and modalities, which are valid (R,))."""
    every = [(e.tokens[name], e.patches[name].valid) for e in encoded.values() for name in e.tokens]
    return torch.cat([x.flatten(0, 1) for x, _ in every]), torch.cat([v.flatten() for _, v in every])


def seen(encoded: Mapping[str, Encoded], assigned: Tensor) -> dict[Place, Seen]:
    """The views' patches, given what all of `flattened` are assigned to (R, K)."""
    every = [(name, view, e) for view, e in encoded.items() for name in e.tokens]
    sizes = [e.tokens[name].shape[0] * e.tokens[name].shape[1] for name, _, e in every]
    found = {}
    for (name, view, e), rows in zip(every, assigned.split(sizes), strict=True):
        tokens = e.tokens[name]
        found[name, view] = Seen(tokens, rows.unflatten(0, tokens.shape[:2]), e.patches[name].valid)
    return found


def pairs(students: Mapping[Place, Seen], teachers: Mapping[Place, Seen]) -> Iterator[tuple[Seen, Seen]]:
    """Each view of the student with every other view of the teacher, of one modality."""
    for (name, view), own in students.items():
        for (other, wanted), theirs in teachers.items():
            if name == other and view != wanted:
                yield own, theirs


def region_loss(students: Mapping[Place, Seen], teachers: Mapping[Place, Seen], temperature: float) -> Tensor:
    """EsViT's (eq. 4): cross-entropy of each of the student's patches with the assignment of the teacher's patch whose
    token is most like its own, the mean over a sample's patches, then over samples and pairs of views."""
    means, counts = [], []
    for own, theirs in pairs(students, teachers):
        with torch.no_grad():
            chosen, match, found = nearest(unlike(own.tokens, theirs.tokens), own.valid, theirs.valid, None, None)
        each = soft_cross_entropy(gather(own.assigned, chosen), gather(theirs.assigned, match), temperature) * found
        means.append(each.sum(1) / found.sum(1).clamp(min=1))
        counts.append(found.any(1))
    return global_mean(torch.cat(means), torch.cat(counts))


def instance_loss(
    students: Mapping[Place, Seen], teachers: Mapping[Place, Seen], classes: Mapping[str, Tensor], temperature: float
) -> Tensor:
    """CMD's: a view is a bag of regions, whose mean assignment stands for it.

    Between levels, the divergence of a student view's own assignment from its bag's; within the level of regions, the
    cross-entropy of the student's bag with the teacher's of another view. Each is the mean over samples and views, and
    they are added. Bags are means: the authors' code sums them, and feeds `kl_div` what are no logarithms.

    classes: view -> (B, K) the student's logits of the whole view.
    """
    bags = {place: masked_mean(F.softmax(s.assigned / temperature, -1), s.valid) for place, s in students.items()}
    logs = {place: bag.clamp(min=torch.finfo(bag.dtype).tiny).log() for place, bag in bags.items()}
    between, within = [], []
    for (name, view), own in students.items():
        whole = F.log_softmax(classes[view] / temperature, -1)
        divergence = (whole.exp() * (whole - logs[name, view])).sum(-1)
        between.append((divergence, own.valid.any(1)))
        for (other, wanted), theirs in teachers.items():
            if name == other and view != wanted:
                bag = masked_mean(theirs.assigned, theirs.valid)
                within.append((-(bag * logs[name, view]).sum(-1), own.valid.any(1) & theirs.valid.any(1)))
    return _mean(between) + _mean(within)


def _mean(found: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    rows = list(found)
    return global_mean(torch.cat([values for values, _ in rows]), torch.cat([there for _, there in rows]))
