"""The options of `mmssl init` and `mmssl check`, without torch: the words for data, and what is looked for in them."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option, strict
from ..recipe.config import RowsConfig

GOALS = ("retrieval", "classify", "embed")
LABEL = "column of what is to be predicted: no input, the encoder is judged by it; null: by its name, and said"
GROUP = "column (patient, speaker) whose rows stay on one side of every split"


@strict
@dataclass(kw_only=True)
class InitConfig(RowsConfig):
    """Which data `mmssl init` looks at, and what the encoder is for."""

    label: str | None = option(None, help=LABEL)
    group: str | None = option(None, help=GROUP)
    goal: str | None = option(
        None,
        choices=GOALS,
        help="what the encoder is for: to find what belongs together (retrieval), to classify with some labels "
        "(classify), for vectors of everything (embed); null: whatever the data allow",
    )
    preset: str | None = option(None, help="size of the model: demo, small or base; null: by the rows and the device")

    @property
    def data(self) -> dict[str, object]:
        """What the recipe's `data` has of these, where it is not the default."""
        from dataclasses import fields

        from ..options.schema import to_dict

        mine, usual = to_dict(self), to_dict(RowsConfig())
        names = [field.name for field in fields(RowsConfig)]
        return {name: mine[name] for name in names if name != "columns" and mine[name] != usual[name]}


@strict
@dataclass(kw_only=True)
class CheckConfig(InitConfig):
    """Which data `mmssl check` looks at, and how closely."""

    sample: int = option(
        1000, min=1, max=1_000_000_000, help="rows of each split that are decoded; with --all every one is"
    )
