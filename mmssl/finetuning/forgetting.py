"""Making a model forget rows: what it makes of them leaves their places, what it makes of the others stays.

After Shen et al. 2024, "Label-Agnostic Forgetting" (LAF, arXiv 2404.00506): the features of forgotten rows leave where
forgotten rows lay for where the kept ones lie, and kept rows are held at their own features, against those of forgotten
rows (its representation alignment). In place of the paper's two autoencoders that say where either kind lies, `places`
stand for it: features that the model made of some rows of each kind before, with a kernel around each. Beside the
features stand the answers, as in SCRUB (Kurmanji et al. 2023, arXiv 2302.09880): of kept rows they stay, of forgotten
ones they move away, up to as unsure as chance. No label is used here.

Nothing about this is a proof that the rows have left no trace; see `mmssl.finetuning.forgetting_job` for what is
measured.

Shapes: B rows, D features, C classes, M places of either kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data.labels import LABEL
from ..modality import Inputs
from ..objectives.base import Loss, Objective
from .options import ForgettingConfig
from .supervised import Supervised
from .teaching import soft_losses

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from ..objectives.step import Step

Numbers = NDArray[np.float32]
Sample = tuple[Numbers, Numbers, bool]


class Before:
    """What the model made of each row, and whether it is forgotten; read in place of the label
    (`mmssl.data.stored.Stored`)."""

    def __init__(self, features: Numbers, answers: Numbers, gone: NDArray[np.bool_], there: NDArray[np.bool_]) -> None:
        """features (n, D), answers (n, C), gone (n,) bool, there (n,) bool: the row could be read."""
        self.features, self.answers, self.gone, self.there = features, answers, gone, there

    def read(self, index: int, choice: int = 0) -> Sample | None:
        """Of row `index`; None where nothing could be read."""
        if not self.there[index]:
            return None
        return self.features[index], self.answers[index], bool(self.gone[index])

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """{"features": (B, D), "answers": (B, C), "gone": (B,), "present": (B,)}; absent rows are zero."""
        none: Sample = (np.zeros_like(self.features[0]), np.zeros_like(self.answers[0]), False)
        parts = [none if sample is None else sample for sample in samples]
        return {
            "features": torch.from_numpy(np.stack([of[0] for of in parts])),
            "answers": torch.from_numpy(np.stack([of[1] for of in parts])),
            "gone": torch.tensor([of[2] for of in parts]),
            "present": torch.tensor([sample is not None for sample in samples]),
        }


def stay_losses(z: Tensor, own: Tensor, forgotten: Tensor, tau: float) -> Tensor:
    """(B,) of features z (B, D): -log of e^(cos(z, own) / tau) over itself and the same of all `forgotten` places
    (M, D); own (B, D): what the row's were before."""
    z, own, forgotten = (F.normalize(x, dim=-1) for x in (z, own, forgotten))
    to_own, to_others = (z * own).sum(1, keepdim=True) / tau, z @ forgotten.T / tau
    return torch.cat([to_own, to_others], 1).logsumexp(1) - to_own[:, 0]


def leave_losses(z: Tensor, kept: Tensor, forgotten: Tensor, tau: float) -> Tensor:
    """(B,) -log of the chance that features z (B, D) are of kept rows, by the densities of `kept` and `forgotten`
    places (M, D), both kinds being equally frequent; a kernel is e^(cosine / tau)."""
    z, kept, forgotten = (F.normalize(x, dim=-1) for x in (z, kept, forgotten))
    densities = [(z @ places.T / tau).logsumexp(1) - math.log(len(places)) for places in (kept, forgotten)]
    return F.softplus(densities[1] - densities[0])


def turn_losses(said: Tensor, before: Tensor) -> Tensor:
    """(B,) at most 0: minus the cross-entropy of answers (B, C) with the class that was answered before (B, C), up to
    log C, which is that of a guess."""
    lost = F.cross_entropy(said, before.argmax(1), reduction="none")
    return -lost.clamp(max=math.log(said.shape[1]))


class Forgetting(Objective):
    """Kept rows keep features and answers, forgotten ones lose both."""

    mean: Tensor
    scale: Tensor
    kept: Tensor
    forgotten: Tensor

    def __init__(
        self, plain: Supervised, said: ForgettingConfig, model: MMSSLModel, kept: Tensor, forgotten: Tensor
    ) -> None:
        """kept, forgotten: (M, D) features before, of rows of each kind."""
        super().__init__(plain.config, model)
        self.plain, self.said = plain, said
        everything = torch.cat([kept, forgotten]).float()
        # cosines of features that are nearly parallel, as of masked autoencoders, tell nothing apart
        mean, scale = everything.mean(0), everything.std(0, correction=0).clamp(min=1e-6)
        for name, value in (("mean", mean), ("scale", scale), ("kept", kept), ("forgotten", forgotten)):
            value = (value.float() - mean) / scale if name in ("kept", "forgotten") else value
            self.register_buffer(name, value, persistent=False)  # found again from the model that it began with

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The kept rows and the forgotten ones, as far as they can be read."""
        before, c = step.batch[LABEL], self.config
        seen = before["present"] & torch.stack([step.present(name, c.view) for name in c.towers]).any(0)
        return {"kept": seen & ~before["gone"], "gone": seen & before["gone"]}

    def forward(self, step: Step) -> Loss:
        """The mean over the global batch's kept rows, and `weight` times that over its forgotten rows."""
        counts, before, tau = self.counts(step), step.batch[LABEL], self.said.temperature
        features = self.plain.features(step, self.config.view)
        with torch.autocast(features.device.type, enabled=False):
            said = self.plain.head(features.float())
            z, own = ((x.float() - self.mean) / self.scale for x in (features, before["features"]))
            stay = stay_losses(z, own, self.forgotten, tau)
            answers = soft_losses("classification", said, before["answers"], 1.0)
            leave, turn = leave_losses(z, self.kept, self.forgotten, tau), turn_losses(said, before["answers"])
            kept = step.mean("kept", stay + answers, counts["kept"])
            gone = step.mean("gone", leave + turn, counts["gone"])
        parts = {"kept": kept.detach(), "forgotten": gone.detach()}
        return Loss(total=kept + self.said.weight * gone, parts=parts)
