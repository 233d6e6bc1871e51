"""`data.renewed`: columns that the model in training gives its rows, and gives anew every so many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..options import Needs, needs, option, strict
from ..options.schema import BAD, Draft, Faults

STANDARDISE = (
    "number by number, over the rows, before embeddings are compared: where all cosines are near 1, as of a masked "
    "autoencoder's"
)


@strict
@dataclass(kw_only=True)
class KMeansOptions:
    """How embeddings are clustered, wherever that is done."""

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
    standardise: bool = option(False, help=STANDARDISE)
    iterations: int = option(50, min=1, max=100_000, help="passes over the rows at most; fewer where nothing moves")
    restarts: int = option(3, min=1, max=1_000, help="beginnings, of which the best one on the sample is gone on with")
    sample: int = option(
        50_000, min=1, max=10_000_000, help="rows, kept in memory, that the beginning is found on; any, the same ones"
    )

    search: str = option(
        "products",
        choices=("products", "faiss"),
        help="what finds the nearest centre: products with all of them, in float64; or faiss, in float32 and on all "
        "cores, for very many (needs mmssl[faiss])",
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("search", balanced=False),)

    @property
    def levels(self) -> list[int]:
        """How many clusters, level by level."""
        return [self.clusters] if isinstance(self.clusters, int) else self.clusters


@strict
@dataclass(kw_only=True)
class RenewedConfig(KMeansOptions):
    """Columns `cluster` and `distance` (of further levels `cluster_2`, `distance_2` ...) that the model in training
    gives the rows by clustering what it makes of them, for `data.sampler` and for what objectives call a column."""

    every: int | None = option(None, min=1, max=1_000_000_000, help="steps between two clusterings; null: one alone")
    first: int = option(
        0,
        min=0,
        max=1_000_000_000,
        help="the step of the first one: before it no row has a value, and rows come in the plain order",
    )
    stages: bool = option(
        False, help="cluster tells rows apart by the clusters of all times so far together, not by the last ones alone"
    )
    of: str | None = option(None, help="modality whose embeddings are clustered; null: the only one")

    NEEDS = (needs("stages", holds=lambda config: config.every is not None, every="a number"),)


def level_names(levels: int) -> list[tuple[str, str]]:
    """(column of the clusters, column of the distances) of each level, from fine to coarse."""
    return [("cluster", "distance")] + [(f"cluster_{n}", f"distance_{n}") for n in range(2, levels + 1)]


def check_renewed(recipe: Any, faults: Faults) -> None:
    """Add a fault where the data are streams or several, or the modality is unknown."""
    data = recipe.data
    if data is not BAD and data.beside not in (BAD, None) and (data.streaming is True or data.mix not in (BAD, {})):
        faults.append(
            f"data.beside: found '{data.beside}', which has a row for each row of one data set; expected neither "
            "streaming nor data.mix"
        )
    renewed = BAD if data is BAD else data.renewed
    if renewed is BAD or renewed is None or isinstance(renewed, Draft):
        return
    if data.streaming is True:
        faults.append("data.renewed: found it beside streaming, whose rows have no numbers; expected streaming: false")
    if data.mix not in (BAD, {}):
        faults.append("data.renewed: found it beside data.mix; expected the rows of one data set")
    modalities = recipe.modalities
    if not isinstance(modalities, dict) or renewed.of is BAD:
        return
    if renewed.of is None and len(modalities) > 1:
        faults.append(f"data.renewed.of: found null, expected one of {', '.join(modalities)}")
    if renewed.of is not None and renewed.of not in modalities:
        faults.append(f"data.renewed.of: found '{renewed.of}', expected one of {', '.join(modalities)}")
