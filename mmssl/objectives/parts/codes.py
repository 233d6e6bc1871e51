"""`CodeTarget`: ids of a modality's patches as what a masked patch is predicted as, by cross-entropy.

Masked prediction of units (HuBERT, Hsu et al. 2021, arXiv 2106.07447; facebookresearch/fairseq, examples/hubert), of
visual tokens (BEiT, Bao et al. 2022, arXiv 2106.08254; microsoft/unilm, beit), of several residual codebooks (MERT, Li
et al. 2023, arXiv 2306.00107; yizhilll/MERT). The losses of several books are added, as HuBERT adds those of several
clusterings (its section II-D).

Shapes: B batch, N patches, n of them, C books, K codes of all books together, W numbers of a vector of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...distributed import global_sum
from ...errors import UserError, nearest
from ...masking.splits import patch_bits
from ...models.codes import Codes, flat
from ...models.initialization import init_weights
from ...models.opening import open_model
from ...models.quantisers import Codebooks, perplexity, use_of
from ..base import Objective
from .learned import CodePart
from .topics import Topics, bags_of

if TYPE_CHECKING:
    from ...models.modeling_mmssl import MMSSLModel
    from ...models.processing_mmssl import MMSSLProcessor
    from ..options.codes import BookOptions, CodesConfig, LearningOptions
    from ..step import Step

MOST_VECTORS = 200_000
"""Patches that k-means sees at most: of each sample the same number, at random places."""


class Coded(Objective):
    """An objective with parts that are `CodePart`s: their books are fitted, watched, and kept with the model."""

    asks_named = True

    def _codes(self) -> list[CodePart]:
        return [part for part in self.modules() if isinstance(part, CodePart)]

    @property
    def unfitted(self) -> int:
        """Samples that the books are fitted on."""
        return max((part.samples for part in self._codes()), default=0)

    def fit(self, steps: Callable[..., Iterable[Step]], seed: int) -> None:
        """k-means of what is coded, of a random choice of each sample's patches; then topics of the samples' codes."""
        parts = [part for part in self._codes() if part.samples]
        chosen: dict[CodePart, list[Tensor]] = {part: [] for part in parts if not part.finished}
        for step in steps() if chosen else ():
            for part, found in chosen.items():
                found.append(_some_vectors(part, step))
        for part, found in chosen.items():
            fit_books(part.codes.quantiser, torch.cat(found), seed, part.where)
        bags: dict[CodePart, list[Tensor]] = {part: [] for part in parts if part.topics is not None}
        for step in steps() if bags else ():
            for part, found in bags.items():
                found.append(bags_of(part.ids(step)[..., 0], part.codes.sizes[0]))
        for part, found in bags.items():
            assert part.topics is not None
            part.topics.fit(torch.cat(found), seed, part.where)

    def fitted(self) -> dict[str, nn.Module]:
        """The books, and the topics."""
        parts = self._codes()
        books: dict[str, nn.Module] = {p.name: p.codes.quantiser for p in parts if p.samples and not p.finished}
        return books | {f"{p.name}-topics": p.topics for p in parts if p.topics is not None}

    def keeps(self) -> dict[str, Codes]:
        """Codes of the model's own targets and tokens; those of another model stay with it."""
        return {part.name: part.codes for part in self._codes() if part.kept}

    def makers(self) -> dict[str, tuple[MMSSLModel, MMSSLProcessor]]:
        """Finished models whose tokens were coded, with these codes in place of others."""
        found = {}
        for part in self._codes():
            if isinstance(part, CodeTarget) and part.options.of == "tokens":
                part.origin.codes.clear()
                part.origin.config.codes = None
                part.origin.keep_codes(part.name, part.codes)
                found[part.name] = part.origin, part.reads
        return found

    def discard(self) -> None:
        """Forget what came to codes that are learned."""
        for part in self._codes():
            part.forget()

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the books that are learned to what came to them in the step, over all processes, and revive codes."""
        for part in self._codes():
            part.follow()

    @torch.no_grad()
    def health(self, step: Step) -> dict[str, Tensor]:
        """How the codes of each modality are used: `codes_use`."""
        found = super().health(step)
        for part in self._codes():
            ids = torch.cat([part.ids(piece).flatten(0, 1) for piece in step.pieces()])
            found |= {f"{part.name}/{what}": value for what, value in codes_use(ids, part.codes.sizes).items()}
        return found


class CodeTarget(CodePart):
    """Ids of the patches of one modality, and the score of a prediction of them.

    Attributes:
        width: numbers that a prediction has.
        origin: the finished model whose tokens or codes they are; frozen, without a copy of what it was trained by.
    """

    def __init__(self, options: CodesConfig, model: MMSSLModel, name: str, where: str) -> None:
        """Build it, or raise UserError; where: what messages begin with."""
        super().__init__()
        self.options, self.name, self.where = options, name, where
        self.origin: Any = None
        spec: dict[str, Any] | None = None
        if options.of == "target":
            spec = _target_spec(options, model, name, where)
        else:
            assert options.from_ is not None
            self.origin, self.reads = open_model(options.from_)
            self.origin.requires_grad_(False)
            _refuse_other(self.origin, model, name, f"{where}from: {options.from_}")
            if options.of == "tokens":
                spec = _token_spec(options, self.origin, name, where)
        self.codes = _own_codes(self.origin, name, f"{where}from: {options.from_}") if spec is None else Codes(spec)
        self.finished = options.of == "codes"
        self.samples = options.samples if options.fits else 0
        self.kept = options.of == "target"
        sizes, cosine = self.codes.sizes, options.similarity == "cosine"
        self.width = options.width * len(sizes) if cosine else sum(sizes)
        self.topics = None
        if options.topics is not None:
            self.topics = Topics(options.topics, sizes[0])
            self.topic_head = nn.Linear(model.tower(model.tower_of(name)).pooled_width, options.topics)
            init_weights(self.topic_head)
        self.embeddings = nn.ParameterList(nn.Parameter(torch.empty(size, options.width)) for size in sizes * cosine)
        for vectors in self.embeddings:
            nn.init.uniform_(vectors)  # as fairseq's label embeddings
        if options.learn is None:
            self.codes.requires_grad_(False)
        else:
            kinds, tokens = model.modality(name), self.codes.spec["numbers"]
            width = kinds.pred_width(options.target) if options.of == "target" else tokens
            self.learn_by(options.learn, kinds, width)
            init_weights(nn.ModuleList([self.codes, self.decoder]))

    def train(self, mode: bool = True) -> CodeTarget:
        """What gives labels is always in eval mode."""
        super().train(mode)
        if self.origin is not None:
            self.origin.train(False)
        return self

    def features(self, step: Step, view: str = "clean") -> Tensor:
        """Numbers of the target, or tokens."""
        if self.options.of == "target":
            return flat(step.target(self.name, view, self.options.target))
        return self.codes.features(self.origin, step.inputs(self.name, view), step.patches(self.name, view))

    def error(self, step: Step, view: str, made: Tensor) -> Tensor:
        """The modality's own score of its target; of tokens the mean squared error."""
        if self.options.of == "tokens":
            return (made - self.features(step, view)).square().mean(-1)
        kind, patches = self.options.target, step.patches(self.name, view)
        return step.model.modality(self.name).score(made, step.target(self.name, view, kind), patches, kind)

    def logits(self, prediction: Tensor) -> list[Tensor]:
        """prediction (B, n, width) float32 -> (B, n, size) of each book."""
        if not len(self.embeddings):
            return list(prediction.split(list(self.codes.sizes), -1))
        unit = [F.normalize(part, dim=-1) for part in prediction.chunk(len(self.embeddings), -1)]
        vectors = [F.normalize(v.float(), dim=-1) for v in self.embeddings]
        return [x @ v.T / self.options.temperature for x, v in zip(unit, vectors, strict=True)]

    def score(self, prediction: Tensor, ids: Tensor) -> Tensor:
        """(B, n) cross-entropy of prediction (B, n, width) float32 with ids (B, n, C), added over books; 0 at -1."""
        losses = [
            F.cross_entropy(logits.transpose(1, 2), ids[..., book], ignore_index=-1, reduction="none")
            for book, logits in enumerate(self.logits(prediction))
        ]
        return torch.stack(losses).sum(0)

    def topic_score(self, pooled: Tensor, ids: Tensor) -> Tensor:
        """(B,) cross-entropy of what is said of pooled outputs (B, V) with the topics of samples of these ids
        (B, N, C), by their first book."""
        assert self.topics is not None
        logits = self.topic_head(pooled)
        with torch.autocast(pooled.device.type, enabled=False):
            return F.cross_entropy(logits.float(), self.topics.of(ids[..., 0]), reduction="none")


def _some_vectors(part: CodePart, step: Step) -> Tensor:
    """(n, F) what some of the patches of a step, drawn for each sample, are coded by."""
    vectors, patches = part.codes.inward(part.features(step)).float(), step.patches(part.name)
    valid = patches.valid
    order = patch_bits(patches, step.draws("codes", part.name)).masked_fill(~valid, -1).argsort(1, descending=True)
    place = order[:, : max(MOST_VECTORS // part.samples, 1)]
    return vectors.gather(1, place[..., None].expand(-1, -1, vectors.shape[2]))[valid.gather(1, place)]


def fit_books(quantiser: nn.Module, x: Tensor, seed: int, where: str) -> None:
    """k-means of vectors x (n, F). A quantiser without books is left alone.

    seed: of k-means. where: what a message begins with. UserError where they are too few, or not finite.
    """
    if not isinstance(quantiser, Codebooks):
        return
    need = max(quantiser.sizes)
    if len(x) < need:
        raise UserError(f"{where}size: found {need} codes for {len(x):,} patches, expected fewer, or more samples")
    if not bool(x.isfinite().all()):
        raise UserError(f"{where}samples: found numbers to be coded that are not finite")
    quantiser.fit(x.cpu().numpy(), seed)


def codes_use(ids: Tensor, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Of ids (n, C) of all processes' patches (-1: none), means over books.

    - `codes_used`: share of a book's codes that occur, of as many as could (no more than there are patches).
    - `codes_perplexity`: exp of the entropy of their shares, over the same: 1 where all are used alike; a codebook has
      collapsed where it is near 0 (`train.guard.min_codes`).
    """
    counts = global_sum(use_of(ids[(ids >= 0).all(1)], sizes))
    most = torch.tensor([float(size) for size in sizes], device=ids.device).minimum(counts.sum(1)).clamp(min=1)
    return {"codes_used": ((counts > 0).sum(1) / most).mean(), "codes_perplexity": (perplexity(counts) / most).mean()}


def _target_spec(options: CodesConfig, model: MMSSLModel, name: str, where: str) -> dict[str, Any]:
    modality = model.modality(name)
    if modality.ids:
        raise UserError(f"{where}of: found modality '{name}', whose patches are ids already; leave its codes out")
    if options.target is not None and options.target not in modality.targets:
        kinds = modality.targets
        raise UserError(
            f"{where}target: found '{options.target}', expected one of {', '.join(kinds)}"
            f"{nearest(options.target, kinds)}"
        )
    about = {"modality": name, "of": "target", "target": options.target, "layer": None}
    return about | book_spec(options, options.learn, modality.pred_width(options.target), where)


def _token_spec(options: CodesConfig, origin: MMSSLModel, name: str, where: str) -> dict[str, Any]:
    tower = origin.tower(origin.tower_of(name))
    if options.layer is not None and options.layer > tower.depth:
        raise UserError(f"{where}layer: found {options.layer}, but the tower of {options.from_} has {tower.depth}")
    about = {"modality": name, "of": "tokens", "target": None, "layer": options.layer}
    return about | book_spec(options, options.learn, tower.width, where)


def book_spec(options: BookOptions, learned: LearningOptions | None, numbers: int, where: str) -> dict[str, Any]:
    """What `Codes.spec` says of a quantiser of so many numbers, and of how they are brought to the width of codes that
    are learned. UserError where those of others cannot be divided."""
    spec = {"numbers": numbers, "kind": options.kind, "size": options.size, "books": options.books}
    if learned is not None:
        scalar = options.kind == "scalar"
        width = len(learned.levels) if scalar else learned.width
        return spec | {"width": width, "levels": learned.levels if scalar else None}
    if options.kind == "product" and numbers % options.books:
        raise UserError(f"{where}books: found {options.books}, expected a divisor of the {numbers} numbers of a patch")
    return spec | {"width": None, "levels": None}


def _own_codes(origin: MMSSLModel, name: str, where: str) -> Codes:
    """The codes that a finished model has of a modality."""
    found = [codes for codes in origin.codes.values() if isinstance(codes, Codes) and codes.spec["modality"] == name]
    if len(found) != 1:
        has = f"{len(found)} of them" if found else "none"
        raise UserError(f"{where}: found {has}, expected a model that has codes of '{name}': one of a tokenizer")
    return found[0]


def _refuse_other(origin: MMSSLModel, model: MMSSLModel, name: str, where: str) -> None:
    """UserError where another model cuts a modality into other patches, or reads it otherwise."""
    theirs, mine = (m.config.modalities or {} for m in (origin, model))
    if name not in theirs:
        raise UserError(f"{where}: found modalities {', '.join(theirs)}, expected '{name}'")
    for key in {**mine[name], **theirs[name]}:
        if key != "type" and mine[name].get(key) != theirs[name].get(key):
            raise UserError(
                f"{where}: its modality '{name}' has {key} {theirs[name].get(key)!r:.60}, this recipe's "
                f"{mine[name].get(key)!r:.60}; expected the same, so that their patches are the same"
            )
