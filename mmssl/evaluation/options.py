"""The options of `mmssl evaluate` and `mmssl embed`: `key=value` on the command line, in the words of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option, strict
from ..recipe.config import SPLIT, DataConfig, EvaluationConfig, RowsConfig


@strict
@dataclass(kw_only=True)
class EvaluateConfig(RowsConfig, EvaluationConfig):
    """What is measured (a recipe's `evaluation`) on which rows (`RowsConfig`).

    The rows that probes learn from are the split `train` of the same data.
    """

    split: str = option("test", help=SPLIT)
    further: dict[str, str] = option(
        factory=dict,
        help="name of a further column -> modality that it is of: retrieval compares it, beside those that the model "
        "was trained on (question and answer); --column NAME=COLUMN, where it is called otherwise",
    )

    by: str | None = option(
        None, help="column (sex, region, device) by whose values scores are told, too, with the disparity between them"
    )

    @property
    def data(self) -> DataConfig:
        """Where the rows come from that probes learn from, and how all are read."""
        assert self.path is not None, "--data sets it"
        return DataConfig(
            path=self.path,
            name=self.name,
            columns=self.columns,
            windows=self.windows,
            stride=self.stride,
            streaming=self.streaming,
            workers=self.workers,
            max_bad=self.max_bad,
            fetch=self.fetch,
            limits=self.limits,
            broken=self.broken,
            header=self.header,
            encoding=self.encoding,
            texts=self.texts,
        )


@strict
@dataclass(kw_only=True)
class EmbedConfig(RowsConfig):
    """Which rows are embedded: those of a recipe's `data` that do anything here."""

    codes: bool = option(
        False, help="write the ids of the patches, too, of a model that has codes: <modality>_codes, lists of numbers"
    )

    REFUSED = {
        "label": "found a column of labels, but embeddings need none; `id` and the row's number tell the rows apart",
        "group": "found a column of groups, but all rows are embedded; groups are for `mmssl finetune`",
        "shuffle_buffer": "found a buffer to shuffle in, but rows are embedded in their order",
        "fit_samples": "found samples to fit preprocessors on, but the model brings its own",
        "source": "found words for a card, but embedding writes none",
        "license": "found words for a card, but embedding writes none",
    }
