"""The options of `mmssl cluster` and `mmssl select`: `key=value` on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option, strict
from ..recipe.config import RowsConfig

NO_LABELS = "found a column, but clusters are of embeddings; `mmssl select --balance COLUMN` chooses by one"


@strict
@dataclass(kw_only=True)
class ClusterConfig(RowsConfig):
    """How rows are clustered by their embeddings; and which rows, where a MODEL makes these."""

    clusters: int | list[int] = option(
        100,
        min=1,
        max=10_000_000,
        help="how many, from fine to coarse: each level clusters the centres of the one before, so that they nest",
    )
    kind: str = option(
        "spherical", choices=("spherical", "plain"), help="centres by cosine, of length 1; or means, by distance"
    )
    balanced: bool = option(False, help="clusters of one size, to within one row")
    column: str | None = option(None, help="column of the embeddings; null: the only one that there is")
    iterations: int = option(50, min=1, max=100_000, help="passes over the rows at most; fewer where nothing moves")
    restarts: int = option(3, min=1, max=1_000, help="beginnings, of which the best one on the sample is gone on with")
    sample: int = option(
        50_000, min=1, max=10_000_000, help="rows, kept in memory, that the beginning is found on; any, the same ones"
    )
    seed: int = option(0, min=0, max=2**32 - 1, help="of the beginning, and of the sample")

    @property
    def levels(self) -> list[int]:
        """How many clusters, level by level."""
        return [self.clusters] if isinstance(self.clusters, int) else self.clusters

    REFUSED = {
        "label": NO_LABELS,
        "group": NO_LABELS,
        "shuffle_buffer": "found a buffer to shuffle in, but rows are embedded in their order",
        "fit_samples": "found samples to fit preprocessors on, but the model brings its own",
        "source": "found words for a card, but clustering writes none",
        "license": "found words for a card, but clustering writes none",
    }
