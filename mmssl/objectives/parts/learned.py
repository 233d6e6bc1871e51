"""`CodePart`: codes of a modality's patches, and how a run learns them: what is coded is made of the codes again.

As in VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937): a linear map brings what is coded to the width of the books,
gradients go straight through to it, a commitment term holds it near its codes, and a shallow decoder makes of the codes
of all patches what they are of. Books follow moving averages of what comes to them, or are trained by gradient
(`learned_by`). They start from k-means. A code that hardly anything comes to is set to something that came in the
batch, of a random choice that is the same for any number of processes (dead-code revival; Dhariwal et al. 2020, arXiv
2005.00341, section 3.1).

Shapes: B batch, N patches, F numbers of one, C books, W numbers that are coded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...distributed import gather_rows, global_sum
from ...masking.splits import patch_bits
from ...models.codes import Codes
from ...models.quantisers import Codebooks
from ...models.tower import key_mask, with_relations
from ...models.trunk import Trunk
from ...patches import Patches
from .topics import Topics

if TYPE_CHECKING:
    from ...modality import Modality
    from ..options.codes import CodeDecoderConfig, LearningOptions
    from ..step import Step


class CodeDecoder(nn.Module):
    """Codes (B, N, W) of all patches -> (B, N, F): with their positions through a trunk, and a linear map."""

    def __init__(self, modality: Modality, config: CodeDecoderConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_width, config.width)
        self.positions = modality.positions(config.width) if config.depth else None
        self.relations = modality.relations(config.heads) if config.depth else None
        self.trunk = Trunk(config.width, config.depth, config.heads) if config.depth else None
        self.head = nn.Linear(config.width, out_width)

    def forward(self, codes: Tensor, patches: Patches) -> Tensor:
        """patches: those that the codes are of."""
        x = self.project(codes)
        if self.trunk is not None and self.positions is not None:
            x = x + self.positions(patches.coords)
            bias = key_mask([patches.valid], patches.full, 0)
            if self.relations is not None:
                bias = with_relations(bias, [self.relations(patches)], [patches.count])
            x = self.trunk(x, bias)[0]
        predicted: Tensor = self.head(x)
        return predicted


class CodePart(nn.Module):
    """What has to do with the codes of one modality.

    Attributes:
        codes: give the ids.
        name: of the modality.
        samples: how many samples of the training data `fit` wants to see; 0: nothing is to be fitted.
        finished: the codes are another model's own, and nothing is fitted to them but topics.
        topics: of samples, by their codes; None where nobody asks for them.
        kept: the codes become a part of the model.
        where: what a message about an option of it begins with.
        learning: how the codes are learned in this run; None: they are not.
    """

    codes: Codes
    name: str
    where: str
    samples: int
    finished: bool
    topics: Topics | None
    kept: bool
    learning: LearningOptions | None = None
    decoder: CodeDecoder
    _seen: list[tuple[Tensor, ...]]

    def features(self, step: Step, view: str = "clean") -> Tensor:
        """(B, N, F) of all patches of this view: what `codes` are of."""
        raise NotImplementedError

    def error(self, step: Step, view: str, made: Tensor) -> Tensor:
        """(B, N) of what the decoder made of the codes (B, N, F) float32; of codes that are learned."""
        raise NotImplementedError

    def ids(self, step: Step, view: str = "clean") -> Tensor:
        """(B, N, C) int64 of all patches of this view, -1 where there is none."""
        return self.codes.ids(self.features(step, view), step.patches(self.name, view).valid)

    def learn_by(self, options: LearningOptions, modality: Modality, width: int) -> None:
        """Have the codes learned; width: F, what the decoder has to make."""
        self.learning = options
        self.decoder = CodeDecoder(modality, options.decoder, self.codes.quantiser.width, width)
        self._seen = []
        if self.trains_books:
            self.books().train_codes()

    @property
    def trains_books(self) -> bool:
        """Whether an optimiser moves the books."""
        by = None if self.learning is None else self.learning.learned_by
        return by == "gradient" and isinstance(self.codes.quantiser, Codebooks)

    def books(self) -> Codebooks:
        """The quantiser, of a kind that has books."""
        assert isinstance(self.codes.quantiser, Codebooks)
        return self.codes.quantiser

    def terms(self) -> list[str]:
        """Names of the losses of `learn`, all of which are means over the patches that exist."""
        return [] if self.learning is None else ["reconstruction", "commitment", *["books"] * self.trains_books]

    def learn(self, step: Step, view: str, name: Callable[[str], str] = str) -> tuple[Tensor, dict[str, Tensor]]:
        """(the sum of the losses by which the codes are learned; each of them, without gradient, by `terms`).

        Args:
            step: the batch.
            view: what is coded.
            name: what `step.mean` knows a term as.
        """
        assert self.learning is not None
        patches, codes = step.patches(self.name, view), self.codes
        x = codes.inward(self.features(step, view))
        found = codes.quantiser(x.flatten(0, 1))
        made = self.decoder(found.values.unflatten(0, x.shape[:2]), patches)
        valid = patches.valid
        with torch.autocast(made.device.type, enabled=False):
            each = {"reconstruction": self.error(step, view, made.float()), "commitment": found.distance}
            if self.trains_books:
                each["books"] = self.books().pull(x.detach().flatten(0, 1))
            means = {term: step.mean(name(term), value.view(valid.shape), valid) for term, value in each.items()}
            commitment = self.learning.commitment
            total = torch.stack([commitment * v if term == "commitment" else v for term, v in means.items()]).sum()
        if self.training and isinstance(codes.quantiser, Codebooks):
            self._note(step, x.detach().float(), patches)
        return total, {term: value.detach() for term, value in means.items()}

    def _note(self, step: Step, x: Tensor, patches: Patches) -> None:
        """Keep for `follow` what comes to each code, and of every sample a patch that could become one."""
        assert self.learning is not None
        if self.trains_books and not self.learning.revive:
            return
        draws, valid = step.draws("codes", self.name), patches.valid
        counts, sums = self.books().statistics(x[valid])
        place = patch_bits(patches, draws).masked_fill(~valid, -1).argmax(1)
        one = x[torch.arange(len(x), device=x.device), place]
        self._seen.append((counts, sums, one, valid.any(1), draws("revive").permutation()))

    def forget(self) -> None:
        """Forget what came to the codes, where any are learned."""
        self._seen = []

    @torch.no_grad()
    def follow(self) -> None:
        """Move books that follow averages to what came to them in the step, over all processes, and revive codes."""
        if self.learning is None or not self._seen:
            return
        counts, sums, ones, there = (list(each) for each in list(zip(*self._seen, strict=True))[:4])
        order, self._seen = self._seen[0][4], []
        count, total = global_sum(torch.stack(counts).sum(0)), global_sum(torch.stack(sums).sum(0))
        good = bool(count.sum() > 0) and bool(total.isfinite().all())  # one broken batch must not stay in the books
        if not good:
            return
        books, share = self.books(), count.shape[1] / count[0].sum()
        # counts are in shares of their mean, as those of k-means
        books.follow(count * share, total * share, self.learning.decay, moves=not self.trains_books)
        if self.learning.revive:
            rows, exist = gather_rows(torch.cat(ones)), gather_rows(torch.cat(there))
            books.revive(rows[order][exist[order]], self.learning.revive)
