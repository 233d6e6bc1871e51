"""Text as patches: the `Modality` that knows tokens. Shapes: B batch, N tokens (padded), V vocabulary, D width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import modality as base
from mmssl.draws import Draws
from mmssl.modality import Inputs, MaskToken, Preprocessor
from mmssl.modality.places import Places, by_number
from mmssl.modality.shown import Shown, Words, flags, rows
from mmssl.models.positions import LearnedGrid, SinCos
from mmssl.patches import Patches

from .options import View


class Modality(base.Modality):
    """A patch is a token, its value the token's id. Special tokens are `fixed`: no mask hides them."""

    ids = True
    targets = ("ids",)
    views = View.names()
    readouts = ("mean",)
    coordinates = ("token [tokens]", "word [words], -1 for special tokens")

    def __init__(self, width: int, vocab_size: int, max_length: int, positions: str = "sincos") -> None:
        """Make the parameters.

        Args:
            width: D.
            vocab_size: V.
            max_length: tokens of the longest text, for learned positions.
            positions: "sincos" or "learned".
        """
        super().__init__()
        self.vocab_size, self.max_length, self.position_kind = vocab_size, max_length, positions
        self.table = nn.Embedding(vocab_size, width)
        self.mask = MaskToken(width)
        self.position = self.positions(width)
        # Embeddings start at 0.02. Sine-cosine positions are 35 times larger and would drown them, so they are scaled
        # as in the paper that introduced both (Vaswani et al. 2017, section 3.4). Learned positions start at 0.02 too.
        self.scale = math.sqrt(width) if positions == "sincos" else 1.0

    def patchify(self, inputs: Inputs) -> Patches:
        """Coordinates are the token's and the word's number, counted from 0."""
        ids = inputs["input_ids"]
        valid = (
            inputs["attention_mask"].bool() if "attention_mask" in inputs else torch.ones_like(ids, dtype=torch.bool)
        )
        if "present" in inputs:
            valid = valid & inputs["present"][:, None]
        token = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        coords = torch.stack([token, inputs.get("word_ids", token)], dim=-1).to(torch.float32)
        fixed = inputs.get("special_tokens_mask")
        return Patches(ids, coords, valid, fixed=None if fixed is None else fixed.bool())

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """Ids (B, N) with the masks and word numbers of `like`."""
        return like | {"input_ids": values}

    def axes(self) -> tuple[float, ...]:
        """Places are counted in tokens."""
        return (1.0,)

    def positions(self, width: int) -> nn.Module:
        """Of the token's number alone: sine-cosine, or a learned table of max_length rows."""
        return SinCos(width, 1) if self.position_kind == "sincos" else LearnedGrid(width, (self.max_length,))

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """The token's vector and its position."""
        tokens = self.table(patches.values) * self.scale
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        # in float32 under autocast, in the model's own precision otherwise
        return (tokens + self.position(patches.coords)).to(self.table.weight.dtype)

    def pred_width(self, kind: str | None = None) -> int:
        """V."""
        self.kind(kind)
        return self.vocab_size

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N) int64 the tokens' ids."""
        self.kind(kind)
        return inputs["input_ids"]

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) cross-entropy, in nats, of logits pred (B, n, V) with ids target (B, n)."""
        self.kind(kind)
        entropy = F.cross_entropy(pred.flatten(0, 1), target.flatten(), reduction="none")
        return entropy.view(target.shape)

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """Leave words out (their tokens become invalid). Special tokens stay, and of the other words of a text at least
        one.

        Args:
            inputs: texts.
            draws: random numbers of the B samples.
            spec: options of `View`.
        """
        drop = View.build(spec).drop
        if drop == 0:
            return inputs
        patches = self.patchify(inputs)
        count = patches.count
        special = torch.zeros_like(patches.valid) if patches.fixed is None else patches.fixed
        words = patches.coords[..., 1].to(torch.int64).clamp(min=0)
        # drawn by word number: all tokens of a word share its fate, whatever the padding
        size = max(count, int(self.max_length))
        drawn = draws("drop").uniform(size).to(words.device).gather(1, words.clamp(max=size - 1))
        ordinary = patches.valid & ~special
        luckiest = drawn.masked_fill(~ordinary, -1.0).amax(1, keepdim=True)
        keep = special | (drawn >= drop) | (drawn == luckiest)
        mask = patches.valid & keep
        return inputs | {"attention_mask": mask.to(torch.int64)}

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Token by token: a view leaves words out and moves none."""
        return by_number(patches)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return self.vocab_size

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, V) float32: log(1 + how often each token occurs), special tokens left out."""
        patches = self.patchify(inputs)
        counted = patches.valid if patches.fixed is None else patches.valid & ~patches.fixed
        counts = torch.zeros(patches.batch, self.vocab_size, device=patches.values.device)
        return counts.scatter_add_(1, patches.values, counted.to(torch.float32)).log1p()

    def guess(self, pred: Tensor, patches: Patches, kind: str | None = None) -> Tensor | None:
        """The likeliest token."""
        self.kind(kind)
        return pred.argmax(-1)

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The tokens that are there, as the tokenizer writes them; special ones are left out."""
        valid = self.patchify(inputs)
        ordinary = valid.valid if valid.fixed is None else valid.valid & ~valid.fixed
        found: list[Shown | None] = []
        for row, (there, ids) in enumerate(rows(inputs, "input_ids")):
            kept = ordinary[row].cpu().numpy()
            mask = flags(hidden, "input_ids", row)
            words: list[str] = reader.pieces(ids[kept].tolist())  # type: ignore[attr-defined]
            found.append(Words(words, None if mask is None else mask[kept].tolist()) if there and words else None)
        return found
