"""The options of `mmssl demo`: `key=value` on the command line, in the words of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option, strict
from ..recipe.config import RowsConfig
from ..recipe.evaluation import check_templates

MOST_ROWS = 5000
"""Rows that are embedded where nobody says how many."""
NO_CARD = "found words for a card, but the demo writes none"


@strict
@dataclass(kw_only=True)
class DemoConfig(RowsConfig):
    """Which rows are searched, and what is said of them."""

    label: str | None = option(None, help="column that rows are called by; null: found as `mmssl evaluate` does")
    templates: list[str] = option(
        factory=lambda: ["{}"], check=check_templates, help="sentences that one's own words are put into at first"
    )
    embeddings: str | None = option(
        None, local=True, help="parquet of `mmssl embed`, by this model of these rows; written where there is none"
    )

    REFUSED = {
        "group": "found a column of groups, but all rows are searched",
        "shuffle_buffer": "found a buffer to shuffle in, but rows are searched in their order",
        "fit_samples": "found samples to fit preprocessors on, but the model brings its own",
        "source": NO_CARD,
        "license": NO_CARD,
    }
