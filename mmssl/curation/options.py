"""The options of `mmssl cluster` and `mmssl select`: `key=value` on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import SET, needs, option, strict
from ..recipe.config import RowsConfig
from ..recipe.renewing import STANDARDISE, KMeansOptions

NO_LABELS = "found a column, but clusters are of embeddings; `mmssl select --balance COLUMN` chooses by one"


@strict
@dataclass(kw_only=True)
class ClusterConfig(RowsConfig, KMeansOptions):
    """How rows are clustered by their embeddings; and which rows, where a MODEL makes these."""

    kind: str = option(
        "spherical",
        choices=("spherical", "plain", "neighbours"),
        help="centres by cosine, of length 1; means, by distance; or few rows, each other's nearest (mined pairs)",
    )
    column: str | None = option(None, help="column of the embeddings; null: the only one that there is")
    nearest: int = option(5, min=1, max=10_000, help="nearest rows of other instances, among which each is the other's")
    least: float = option(0.0, min=-1, max=1, help="cosine that they have at least")
    instance: str | None = option(
        None, help="a column: rows of one value (a track, a patient) belong together already; null: each is alone"
    )
    most: int = option(2, min=2, max=1_000_000, help="instances that are joined at most")
    seed: int = option(0, min=0, max=2**32 - 1, help="of the beginning, and of the sample")
    domain: str | None = option(
        None,
        help="a column (site, device): in place of clusters, classes that are not as frequent in each of its values",
    )
    domain_classes: int | None = option(
        None, min=2, max=1_000, help="of these: how many, at most as many as domains (domain)"
    )

    NEEDS = (
        needs("domain_classes", domain=SET),
        needs("nearest", "least", "instance", "most", kind="neighbours"),
        needs(
            "clusters", "balanced", "iterations", "restarts", "sample", "seed", "search", kind=("spherical", "plain")
        ),
    )

    REFUSED = {
        "label": NO_LABELS,
        "group": NO_LABELS,
        "shuffle_buffer": "found a buffer to shuffle in, but rows are embedded in their order",
        "fit_samples": "found samples to fit preprocessors on, but the model brings its own",
        "source": "found words for a card, but clustering writes none",
        "license": "found words for a card, but clustering writes none",
    }


SCORES = ("typicality", "pair", "target", "random")
"""Scores of `--by` that are computed; any other word is a column."""


@strict
@dataclass(kw_only=True)
class SelectConfig(RowsConfig):
    """Which rows of data are kept. The steps come in this order, each on what the ones before have left: copies go,
    then what is far from a target, then what scores low, then what is too frequent."""

    embeddings: str | None = option(
        None, local=True, help="of the rows: a file of `mmssl embed`, or a model that makes them first"
    )
    beside: str | None = option(
        None, local=True, help="a parquet with a row a row, as of `mmssl cluster`, whose columns may be named"
    )
    column: str | None = option(None, help="column of the embeddings; null: the only one that there is")
    standardise: bool = option(False, help=STANDARDISE)
    drop_duplicates: float | bool = option(
        False,
        min=0,
        max=1,
        help="leave out copies of earlier rows: true: what holds the same; a cosine: also what is at least so alike",
    )
    within: str | None = option(None, help="a column: rows are compared with those alone that have the same value")
    near: str | None = option(
        None,
        local=True,
        help="keep what is near to these data: embeddings of the same model, or the data themselves where one is named",
    )
    near_split: str = option("train", help="the split of the target that rows are to be near to, where it is data")
    near_clusters: int = option(100, min=1, max=1_000_000, help="centres of the target's rows; at most as many as rows")
    near_stop: float = option(
        0.95, min=0, max=1, help="rows are taken in rounds until one's mean similarity is below this share of another's"
    )
    near_reference: int = option(20, min=1, max=1_000_000, help="which round that is, counted from 1")
    near_rows: int | None = option(None, min=1, max=1_000_000_000, help="rows to take at most; null: until the stop")
    near_classes: str | None = option(
        None, help="a column: in place of rounds, keep the classes that rows of the target are nearest to most often"
    )
    near_predicted: str | None = option(
        None,
        help="a column of the file at `near`: the class that a model of the source takes each row of the target for: "
        "classes are counted by it, in place of by nearest embeddings",
    )
    near_share: float = option(0.5, above=0, max=1, help="of the classes that are kept")
    keep: float | None = option(None, above=0, max=1, help="share of the rows that is kept")
    by: str | None = option(
        None, help="a column of numbers, of the data or of a file; or typicality, pair, target or random"
    )
    order: str = option("highest", choices=("highest", "lowest"), help="which scores are kept")
    each: str | None = option(None, help="a column: the share is kept of each of its values")
    typicality_neighbours: int = option(20, min=1, max=10_000, help="that typicality is the inverse mean distance of")
    balance: str | None = option(None, help="a column: as many rows are kept of each of its values")
    balance_to: int | None = option(
        None, min=1, max=1_000_000_000, help="how many at most; null: as many as the rarest value has"
    )
    seed: int = option(0, min=0, max=2**32 - 1, help="of what is drawn: among equal scores, and within a value")

    NEEDS = (
        needs("within", drop_duplicates=SET),
        needs("near_split", "near_clusters", "near_stop", "near_reference", "near_rows", "near_classes", near=SET),
        needs("near_share", "near_predicted", near_classes=SET),
        needs("by", "order", "each", keep=SET),
        needs("typicality_neighbours", by="typicality"),
        needs("balance_to", balance=SET),
    )
    REFUSED = {
        "label": "found a column, but `balance` and `by` say what a column does",
        "group": "found a column, but `balance` and `by` say what a column does",
        "shuffle_buffer": "found a buffer to shuffle in, but rows are looked at in their order",
        "fit_samples": "found samples to fit preprocessors on, but the model brings its own",
        "source": "found words for a card, but choosing writes none",
        "license": "found words for a card, but choosing writes none",
    }
