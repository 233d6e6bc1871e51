"""Tokenizers: a tower whose tokens are brought to codes, of which a decoder makes the patches again.

The encoder sees all patches; each of its tokens goes through a linear map into a quantiser (`mmssl.models.quantisers`),
the codes through a shallow decoder, which predicts the modality's own target of every patch. As in VQ-VAE (van den Oord
et al. 2017): gradients go straight through, the books follow moving averages of what comes to them or are trained by
gradient (`learned_by`), and a commitment term holds tokens near their codes. BEiT's tokenizer (Bao et al. 2022) is one
of pixels, EEGFormer (Chen et al. 2024) one of spectra, with a transformer as encoder. The linear map and the books
become a part of the model: `mmssl embed --codes` writes the ids, and another recipe's `mae` predicts them (`codes: {of:
codes, from: THIS_RUN}`).

Books start from k-means of the untrained encoder's tokens. A code that hardly any token comes to is set to a token of
the batch, of a random choice that is the same for any number of processes (dead-code revival; Dhariwal et al. 2020,
arXiv 2005.00341, section 3.1).

Example::

    objectives:
      tokenizer: {tower: eeg, target: spectrum, size: 256, decoder: {depth: 2}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..distributed import gather_rows, global_sum
from ..errors import UserError, nearest
from ..masking.splits import patch_bits
from ..models.codes import Codes
from ..models.initialization import init_weights
from ..models.quantisers import Codebooks
from ..models.tower import key_mask, with_relations
from ..models.trunk import Trunk
from ..patches import Patches
from .base import Loss
from .options.tokenizer import CodeDecoderConfig, Config
from .parts.codes import Coded, CodePart, book_spec

if TYPE_CHECKING:
    from ..modality import Modality
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

__all__ = ["CodeDecoderConfig", "Config", "Tokenizer"]


class CodeDecoder(nn.Module):
    """Codes (B, N, F) of all patches -> (B, N, P): with their positions through a trunk, and a linear map."""

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


class TokenCodes(CodePart):
    """The codes of a tower's own tokens."""

    def __init__(self, config: Config, tower: str, name: str, width: int) -> None:
        super().__init__()
        self.finished, self.topics = False, None
        self.tower, self.name, self.kept, self.where = tower, name, True, "objective tokenizer: "
        scalar = config.kind == "scalar"
        self.samples = 0 if scalar else config.samples
        coded = len(config.levels) if scalar else config.width
        about = {"modality": name, "of": "tokens", "target": None, "layer": None, "width": coded}
        books = book_spec(config, coded, self.where)
        self.codes = Codes(about | books | {"numbers": width, "levels": list(config.levels) or None})

    def features(self, step: Step, view: str = "clean") -> Tensor:
        """The tower's output."""
        return step.encode(self.tower, view).tokens[self.name]


class Tokenizer(Coded):
    """A tower's tokens as codes, of which its patches are made again."""

    separable = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        tower = model.tower(config.tower)
        names = list(tower.modalities)
        if len(names) > 1:
            raise UserError(
                f"objective tokenizer: found tower '{config.tower}' of {', '.join(names)}, expected one of a single "
                f"modality: its codes must not depend on what others say"
            )
        self.name = names[0]
        modality = model.modality(self.name)
        kinds = modality.targets
        if config.target is not None and config.target not in kinds:
            raise UserError(
                f"objective tokenizer: target: found '{config.target}', expected one of {', '.join(kinds)}"
                f"{nearest(config.target, kinds)}"
            )
        self.part = TokenCodes(config, config.tower, self.name, tower.width)
        width = self.part.codes.quantiser.width
        self.decoder = CodeDecoder(modality, config.decoder, width, modality.pred_width(config.target))
        init_weights(nn.ModuleList([self.part, self.decoder]))
        if config.learned_by == "gradient" and config.kind != "scalar":
            self._books().train_codes()
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def counts(self, step: Step) -> dict[str, Tensor]:
        """All patches, under the names of both losses."""
        valid = step.patches(self.name, self.config.view).valid
        names = ["reconstruction", "commitment", *(["books"] if self._trains_books else [])]
        return dict.fromkeys(names, valid)

    @property
    def _trains_books(self) -> bool:
        return self.config.learned_by == "gradient" and self.config.kind != "scalar"

    def _books(self) -> Codebooks:
        quantiser = self.part.codes.quantiser
        assert isinstance(quantiser, Codebooks)
        return quantiser

    def forward(self, step: Step) -> Loss:
        """The modality's own score of what the decoder makes of the codes, and the commitment; logs both."""
        c = self.config
        patches, codes = step.patches(self.name, c.view), self.part.codes
        tokens = self.part.features(step, c.view)
        x = codes.inward(tokens)
        found = codes.quantiser(x.flatten(0, 1))
        predicted = self.decoder(found.values.unflatten(0, x.shape[:2]), patches)
        target = step.target(self.name, c.view, c.target)
        with torch.autocast(predicted.device.type, enabled=False):
            score = step.model.modality(self.name).score(predicted.float(), target, patches, c.target)
            made = step.mean("reconstruction", score, patches.valid)
            near = step.mean("commitment", found.distance.view(patches.valid.shape), patches.valid)
            total = made + c.commitment * near
            parts = {"reconstruction": made.detach(), "commitment": near.detach()}
            if self._trains_books:
                pull = self._books().pull(x.detach().flatten(0, 1)).view(patches.valid.shape)
                pulled = step.mean("books", pull, patches.valid)
                total, parts = total + pulled, parts | {"books": pulled.detach()}
        if self.training and not self._trains_books:
            self._note(step, x.detach().float(), patches)
        return Loss(total=total, parts=parts)

    def _note(self, step: Step, x: Tensor, patches: Patches) -> None:
        """Keep for `after_step` what comes to each code, and of every sample a patch that could become one."""
        quantiser = self.part.codes.quantiser
        if not isinstance(quantiser, Codebooks):
            return
        draws, valid = step.draws("codes", self.name), patches.valid
        counts, sums = quantiser.statistics(x[valid])
        place = patch_bits(patches, draws).masked_fill(~valid, -1).argmax(1)
        one = x[torch.arange(len(x), device=x.device), place]
        self._seen.append((counts, sums, one, valid.any(1), draws("revive").permutation()))

    def discard(self) -> None:
        """Forget what came to the codes."""
        self._seen = []

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the books to what came to them in the step, over all processes, and revive codes."""
        quantiser, c = self.part.codes.quantiser, self.config
        if not self._seen or not isinstance(quantiser, Codebooks):
            return
        counts, sums, ones, there = (list(each) for each in list(zip(*self._seen, strict=True))[:4])
        order, self._seen = self._seen[0][4], []
        count, total = global_sum(torch.stack(counts).sum(0)), global_sum(torch.stack(sums).sum(0))
        good = bool(count.sum() > 0) and bool(total.isfinite().all())  # one broken batch must not stay in the books
        if not good:
            return
        share = count.shape[1] / count[0].sum()  # counts are in shares of their mean, as those of k-means
        quantiser.follow(count * share, total * share, c.decay)
        if c.revive:
            rows, exist = gather_rows(torch.cat(ones)), gather_rows(torch.cat(there))
            quantiser.revive(rows[order][exist[order]], c.revive)
