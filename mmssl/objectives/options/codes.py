"""Options of codes: ids of patches as targets, and what makes ids. See `mmssl.models.quantisers` and `.parts.codes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UserError
from ...options import SET, Needs, needs, option, strict

MOST_CODES = 1 << 20


@strict
@dataclass(kw_only=True)
class BookOptions:
    """Books of vectors that are codes."""

    kind: str = option(
        "vector",
        choices=("vector", "residual", "product"),
        help="one book; books that each code what the ones before leave over; or a book for each part of the vector",
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
class CodesConfig(BookOptions):
    """Codes as what is predicted of a hidden patch."""

    of: str = option(
        "target",
        choices=("target", "tokens", "codes"),
        help="k-means of a target of the modality's own (pixels, mel frames, spectra); of the tokens of a finished "
        "model, `from`; or the codes that such a model has learned",
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
        needs("kind", "size", "books", of=("target", "tokens")),
        needs("samples", of="target or tokens, or topics", holds=lambda c: c.of != "codes" or c.topics is not None),
        needs("topic_weight", topics=SET),
        needs("width", "temperature", similarity="cosine"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of != "target" and self.from_ is None:
            raise UserError(f"from: found none with of: {self.of}, expected the finished model")
