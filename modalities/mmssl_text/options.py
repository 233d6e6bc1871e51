"""Options of the text modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.modality.view import View as Base
from mmssl.options import option, strict


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for text."""

    tokenizer: str | None = option(None, help="folder or Hub id of a tokenizer; null: train SentencePiece on the data")
    vocab_size: int | None = option(
        None,
        min=260,
        max=1_000_000,
        help="pieces to train at most, 256 bytes among them; null: as many as the corpus has, about 4000 at most",
    )
    model_type: str = option("bpe", choices=("bpe", "unigram", "word", "char"), help="kind of SentencePiece model")
    max_length: int = option(64, min=1, max=1_000_000, help="tokens of a text; what is longer is cut off")
    lowercase: bool = option(False, help="turn texts into lower case first")
    special_tokens: bool = option(False, help="put the tokenizer's special tokens around; no mask hides them")
    attend_padding: bool = option(False, help="fill every text up to max_length and attend to that, as SigLIP does")
    positions: str = option(
        "sincos", choices=("sincos", "learned"), help="fixed sines and cosines of the place, or a learned table"
    )


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view."""

    drop: float = option(0.0, min=0, below=1, help="probability that a word is left out")
