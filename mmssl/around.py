"""What is done around a run, as functions: look at data and plan before it, cluster and choose rows.

`mmssl.api` has the run itself and what is done with its model; both are offered by `mmssl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .curation.asking import select_as
from .curation.clustering import cluster_as
from .curation.options import ClusterConfig, SelectConfig
from .data.given import given
from .looking.check import Checked, asked_of
from .looking.check import check as look_through
from .looking.init import Started
from .looking.init import init as begin
from .looking.options import InitConfig
from .looking.plan import Plan
from .looking.plan import plan as plan_run
from .recipe.loading import command_options
from .training.choosing import Asked

if TYPE_CHECKING:
    from .data.given import Data

Columns = Mapping[str, str | Sequence[str]]
"""Modality -> its column(s)."""


def flags(path: str | None, columns: Columns | None, **given: Any) -> dict[str, Any]:
    """What the commands have options of their own for, where it is given."""
    named = None if columns is None else {k: v if isinstance(v, str) else list(v) for k, v in columns.items()}
    found = {"path": path, "columns": named, **given}
    found = {key: list(value) if key == "tasks" and value is not None else value for key, value in found.items()}
    return {key: value for key, value in found.items() if value is not None}


def cluster(
    source: str | Path,
    output: str | Path,
    *,
    data: Data | None = None,
    columns: Columns | None = None,
    base: str | None = None,
    **options: object,
) -> dict[str, Any]:
    """Cluster rows by their embeddings, into a parquet file beside their ids; what `mmssl cluster` does.

    Args:
        source: a file of `mmssl embed`, or a model as for `evaluate`.
        output: the parquet file.
        data: of a model: as for `evaluate`.
        columns: modality -> its column(s), where the model does not know them.
        base: the model that an adapter belongs on, where it has moved.
        **options: e.g. `clusters=[1000, 100]`, `balanced=True`, `split="test"`.

    Returns:
        "rows", "clustered" (rows with an embedding), "levels" (of each: "clusters", "least", "most", "distance").
    """
    with given(data) as path:
        return cluster_as(source, command_options(ClusterConfig, options, flags(path, columns)), output, base)


def select(
    data: Data, output: str | Path, *, columns: Columns | None = None, base: str | None = None, **options: object
) -> dict[str, Any]:
    """Choose the rows of data that are worth training on, into a small file; what `mmssl select` does.

    Args:
        data: as for `evaluate`.
        output: the parquet file, which `data.select` of a recipe and `select` of other commands take.
        columns: modality -> its column(s); copies are told by these.
        base: the model that an adapter belongs on, where it has moved.
        **options: e.g. `embeddings="e.parquet"`, `drop_duplicates=0.98`, `near="target.parquet"`, `balance="label"`.

    Returns:
        "rows", "kept", "reasons" (why rows are left out -> how many).
    """
    with given(data) as path:
        return select_as(command_options(SelectConfig, options, flags(path, columns)), output, base)


def init(
    data: str | Path,
    output: str | Path = "recipe.yaml",
    *,
    goal: str | None = None,
    label: str | None = None,
    columns: Columns | None = None,
    force: bool = False,
    **options: object,
) -> Started:
    """Look at data and write a commented recipe for them; what `mmssl init` does.

    Args:
        data: a folder, file, glob, Hub id or builtin:NAME.
        output: the file of the recipe.
        goal: "retrieval", "classify" or "embed"; None: whatever the data allow.
        label: column of what is to be predicted.
        columns: modality -> its column(s), where looking would find others.
        force: replace a file that is there.
        **options: e.g. `name="motor"`, `split="train"`, `group="patient_id"`.
    """
    return begin(
        command_options(InitConfig, options, flags(str(data), columns, goal=goal, label=label)), output, force=force
    )


def check(
    data: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    *,
    every: bool = False,
    label: str | None = None,
    columns: Columns | None = None,
    **options: object,
) -> Checked:
    """Look through data for what is wrong with them; what `mmssl check` does for DATA and for RECIPE.

    Args:
        data: a folder, file, glob, Hub id or builtin:NAME; or a recipe: a .yaml file, the name of a shipped one, a
            mapping.
        output: folder of report.html and report.json; None: nothing is written.
        every: decode every row, and not a sample.
        label: column of what is to be predicted.
        columns: modality -> its column(s), where looking would find others.
        **options: e.g. `sample=200`, `name="motor"`, `workers=4`; of a recipe, beside `sample` and `workers`, changes
            of it, as for `pretrain`: `data={"path": "elsewhere"}`.
    """
    asked, recipe = asked_of(data, options, flags(None, columns, label=label))
    return look_through(asked, output, recipe=recipe, every=every)


def plan(
    recipe: str | Path | Mapping[str, Any], *, preset: str | None = None, steps: int = 6, **overrides: object
) -> Plan:
    """What a run will cost, from a few steps of it that are thrown away; what `mmssl plan` does.

    Args:
        recipe: as for `pretrain`.
        preset: size of a shipped recipe.
        steps: of the trial.
        **overrides: changes of the recipe, as for `pretrain`.
    """
    return plan_run(Asked(recipe, overrides, preset), steps)
