"""Options of codes: ids of patches as targets, and what makes ids. See `mmssl.models.quantisers` and `.parts.codes`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ...errors import UserError
from ...options import SET, Needs, changed, needs, option, strict

MOST_CODES = 1 << 20
BOOKS = ("vector", "residual", "product")
"""Kinds of quantisers that have books of vectors."""


@strict
@dataclass(kw_only=True)
class BookOptions:
    """Books of vectors that are codes."""

    kind: str = option(
        "vector",
        choices=(*BOOKS, "scalar"),
        help="one book; books that each code what the ones before leave over; a book for each part of the vector; or, "
        "of codes that are learned, every number rounded to one of `levels` (FSQ)",
    )
    size: int = option(256, min=2, max=MOST_CODES, help="codes of a book")
    books: int = option(1, min=1, max=256, help="how many books")
    samples: int = option(
        2048, min=1, max=1_000_000_000, help="training samples that k-means is fitted on before the first step"
    )

    def __post_init__(self) -> None:
        if (self.kind == "vector") != (self.books == 1) and self.kind != "scalar":
            wanted = "1, or kind: residual or product" if self.kind == "vector" else "2 or more, or kind: vector"
            raise UserError(f"books: found {self.books} with kind: {self.kind}, expected {wanted}")


@strict
@dataclass(kw_only=True)
class CodeDecoderConfig:
    """What makes a patch of codes; shallow, so that the codes have to say what is there."""

    width: int = option(128, min=1, max=65_536, help="its width")
    depth: int = option(2, min=0, max=1_024, help="its blocks; 0: a linear map of each code alone")
    heads: int = option(4, min=1, max=1_024, help="its attention heads, a divisor of its width")

    NEEDS = (needs("heads", depth=SET),)

    def __post_init__(self) -> None:
        if self.depth and self.width % self.heads:
            raise UserError(f"heads: found {self.heads}, expected a divisor of width = {self.width}")


@strict
@dataclass(kw_only=True)
class LearningOptions:
    """How codes are learned in a run: what is coded is made of them again."""

    levels: list[int] = option(
        factory=list, min=2, max=4_096, help="of scalar: of each number, e.g. [8, 5, 5, 5]: 1,000 codes"
    )
    width: int = option(32, min=1, max=65_536, help="numbers that a token or a target is brought to before it is coded")
    learned_by: str = option(
        "averages",
        choices=("averages", "gradient"),
        help="how books learn: they follow moving averages of what comes to them, or are trained as all else, by their "
        "distance to that (VQ-VAE's second term)",
    )
    commitment: float = option(0.25, min=0, max=1_000_000, help="weight of the distance of what is coded to its code")
    decay: float = option(
        0.9,
        min=0,
        below=1,
        help="of the moving averages of what comes to a code; 0.99 in VQ-VAE, for runs of 10^5 steps",
    )
    revive: float = option(
        0.1,
        min=0,
        below=1,
        help="a code that fewer come to than this share of the mean is set to one that came in the batch; 0: never",
    )
    decoder: CodeDecoderConfig = option(factory=CodeDecoderConfig, help="what makes patches of the codes")

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("decay", learned_by="averages, or revive", holds=lambda c: c.learned_by == "averages" or c.revive > 0),
    )


OF_BOOKS = ("width", "commitment", "learned_by", "decay", "revive")
"""Options of learning that a scalar quantiser has nothing of."""


def check_learned(books: BookOptions, learned: LearningOptions) -> None:
    """UserError where the kind of the codes and how they are learned do not go together."""
    if books.kind == "scalar" and (not learned.levels or math.prod(learned.levels) > MOST_CODES):
        raise UserError(f"levels: found {learned.levels}, expected numbers that make at most {MOST_CODES:,} codes")
    if books.kind == "product" and learned.width % books.books:
        raise UserError(f"books: found {books.books}, expected a divisor of width = {learned.width}")


@strict
@dataclass(kw_only=True)
class CodesConfig(BookOptions):
    """Codes as what is predicted of a hidden patch."""

    of: str = option(
        "target",
        choices=("target", "tokens", "codes"),
        help="k-means of a target of the modality's own (pixels, mel frames, spectra); of the tokens of a finished "
        "model, `from`; or the codes that such a model has learned",
    )
    learn: LearningOptions | None = option(
        None, help="the codes of targets or tokens are learned in this run, beside what predicts them; null: by k-means"
    )
    target: str | None = option(None, help="of which kind of target; null: the modality's first")
    from_: str | None = option(None, local=True, help="the finished model: a model folder, a run or a Hub id")
    layer: int | None = option(
        None, min=1, max=1_024, help="the block of its tower whose tokens are coded; null: its output"
    )
    similarity: str = option(
        "dot",
        choices=("dot", "cosine"),
        help="what a code's logit is: a linear map, or the cosine to a learned vector of the code, over `temperature`",
    )
    width: int = option(256, min=1, max=65_536, help="of these vectors")
    temperature: float = option(0.1, above=0, max=1_000, help="of these cosines")
    topics: int | None = option(
        None,
        min=2,
        max=65_536,
        help="have a sample's topic classified, too, one of so many that LDA finds in its bag of codes (HuBERTopic)",
    )
    topic_weight: float = option(0.1, above=0, max=1_000_000, help="weight of that loss")
    visible: float = option(0.0, min=0, max=1_000_000, help="weight of the loss of the patches that are not hidden")

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("target", of="target"),
        needs("from_", of=("tokens", "codes")),
        needs("layer", of="tokens"),
        needs("learn", "kind", "size", "books", of=("target", "tokens")),
        needs("size", "books", kind=BOOKS),
        needs("samples", of="target or tokens, with books, or topics", holds=lambda c: c.fits),
        needs("topic_weight", topics=SET),
        needs("width", "temperature", similarity="cosine"),
    )

    @property
    def fits(self) -> bool:
        """Whether something is fitted before the first step."""
        return self.topics is not None or (self.of != "codes" and self.kind != "scalar")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of != "target" and self.from_ is None:
            raise UserError(f"from: found none with of: {self.of}, expected the finished model")
        if self.learn is None:
            if self.kind == "scalar":
                raise UserError("kind: found scalar, which k-means has nothing of, expected `learn` with it")
            return
        scalar = self.kind == "scalar"
        for name in OF_BOOKS if scalar else ("levels",):
            if changed(self.learn, name):
                raise UserError(
                    f"learn.{name}: found {getattr(self.learn, name)}, which has no effect with kind: {self.kind}; it "
                    f"needs kind: {' or '.join(BOOKS) if scalar else 'scalar'}"
                )
        check_learned(self, self.learn)
