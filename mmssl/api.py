"""What the commands do, from Python: `evaluate`, `embed`, `export`, `report`, `push` beside `pretrain` and `finetune`.

Options are those of the commands, under the same names (`mmssl show evaluate`, `mmssl show embed`). Wrong input raises
`UserError`, a full disk and the like `RunError`, in one clear line each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .around import Columns, flags
from .data.given import given, is_rows
from .data.row_files import parquet_place
from .demonstrating.opening import demo_as
from .demonstrating.options import DemoConfig
from .demonstrating.serving import LOOPBACK, PORT, Page
from .evaluation.embedded_rows import embed as embed_rows
from .evaluation.options import EmbedConfig, EvaluateConfig
from .evaluation.own_run import with_rows
from .evaluation.table import Scores
from .exporting.writing import Exported, export_model
from .finetuning.compare import Comparison
from .finetuning.finetune import finetune as tune_head
from .finetuning.finishing import FinetuneRun
from .hub.push import Pushed
from .hub.push import push as send
from .judging.one import judge_model
from .judging.sets import read_sets
from .judging.suite import Suite, run_suite
from .models.locating import locate
from .models.opening import open_model
from .recipe.config import Recipe
from .recipe.loading import command_options
from .saying import doing
from .training import pretrain as trained
from .training.reporting import report as write_report
from .tuning.space import space_of
from .tuning.tune import Tuned, Wanted, run_tuning

if TYPE_CHECKING:
    from .data.given import Data


@dataclass(repr=False)
class Run(trained.Run):
    """A finished run, and what can be done with its model. See `mmssl.training.pretrain.Run`.

    Attributes:
        data: what it learned from, where that is an object in Python.
    """

    data: Data | None = None

    def evaluate(self, data: Data | None = None, **options: Any) -> Scores:
        """`mmssl.evaluate` of its model, by default on its own data."""
        return evaluate(self.model_folder, self.data if data is None else data, **options)

    def embed(self, output: str | Path | None = None, data: Data | None = None, **options: Any) -> dict[str, Any]:
        """`mmssl.embed` with its model, by default of its own data into `embeddings.parquet` of the run."""
        target = output or self.folder / "embeddings.parquet"
        return embed(self.model_folder, self.data if data is None else data, target, **options)

    def export(self, to: str, output: str | Path | None = None, **options: Any) -> Exported:
        """`mmssl.export` of its model, by default into `exported/FORMAT` of the run."""
        return export(self.model_folder, to, output or self.folder / "exported" / to, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> Pushed:
        """`mmssl.push` of its model."""
        return push(self.model_folder, repo_id, **options)

    def finetune(
        self, label: str | Sequence[str], data: Data | None = None, **options: Any
    ) -> FinetuneRun | Comparison:
        """`mmssl.finetune` of its model, by default on its own data; with `compare=True` beside what else there is."""
        rows = self.data if data is None else data
        found: FinetuneRun | Comparison = tune_head(self.model_folder, rows, label, **options)
        return found


def pretrain(
    recipe: Recipe | str | Path | Mapping[str, object],
    *,
    output: str | Path | None = None,
    resume: bool | str = False,
    preset: str | None = None,
    data: Data | Mapping[str, object] | None = None,
    **overrides: object,
) -> Run:
    """Pretrain as the recipe says; what `mmssl pretrain` does.

    It leaves the process as it found it. The command first calls `mmssl.training.process.prepare_process()`, which on
    some CPUs makes steps faster and the last bits of float32 products others; call it for the same speed and bits.

    Args:
        recipe: a Recipe, a path, the name of a shipped recipe, or a dict.
        output: the run's folder (default `runs/<name>`, numbered when taken).
        resume: go on from its last checkpoint; "auto": where there is one.
        preset: the size of a recipe that has several (`demo`, `small`, `base`); None: chosen and said.
        data: where the samples come from: a path, a Hub id, a `datasets` object, a DataFrame, a list of dicts, a dict
            of these by split; or the recipe's options for data, of which `path` may be any of these.
        **overrides: e.g. `train={"steps": 100}`.

    Returns:
        The run; in all processes but the first without its report.

    Raises:
        UserError: wrong input, in one clear line.
        RunError: a full disk, a loss that is not finite, in one clear line.
    """
    options: dict[str, object] = {}
    if isinstance(data, Mapping) and ("path" in data or not is_rows(data)):
        options = {str(key): value for key, value in data.items()}
    elif data is not None:
        options = {"path": data}
    rows = options.get("path")
    with given(rows) as path:
        if path is not None:
            options["path"] = path
        if options:
            overrides = {**overrides, "data": options}
        done = trained.pretrain(recipe, output=output, resume=resume, preset=preset, **overrides)
    return Run(**vars(done), data=None if rows is None or isinstance(rows, str | Path) else rows)


def tune(
    recipe: str | Path | Mapping[str, object],
    search: Mapping[str, object],
    *,
    trials: int = 20,
    by: str = "rankme",
    output: str | Path | None = None,
    resume: bool | str = False,
    samples: int = 5000,
    seed: int = 0,
    prune: bool = True,
    preset: str | None = None,
    **overrides: object,
) -> Tuned:
    """Run a recipe with several values, and choose among them, also without labels; what `mmssl tune` does.

    Args:
        recipe: a path, the name of a shipped recipe, or a dict.
        search: dotted key -> a list of values, or a range: "log(1e-4,1e-2)", "uniform(0.5,0.9)", "int(2,8)".
        trials: how many runs, together with those of a study that is gone on with.
        by: rankme, lidar, alpha-req, or probe, which needs a label.
        output: the study's folder (default `runs/tune-NAME`, numbered when taken).
        resume: go on with its study; "auto": where there is one.
        samples: training rows that the scores are computed on, the same for all trials.
        seed: of the search; the runs have the recipe's.
        prune: runs whose embeddings collapse, and by rankme those that fall behind, end early.
        preset: as for `pretrain`.
        **overrides: of all runs, e.g. `train={"steps": 100}`.

    Returns:
        The study, which shows itself as a table; `recipe` is the file of the best one.
    """
    wanted = Wanted(recipe, overrides, space_of(search), trials, by, samples, seed, prune, preset)
    return run_tuning(wanted, output=output, resume=resume)


def evaluate(
    model: str | Path,
    data: Data | None = None,
    *,
    label: str | None = None,
    tasks: Sequence[str] | None = None,
    columns: Columns | None = None,
    base: str | None = None,
    **options: object,
) -> Scores:
    """Measure a model on data, beside its untrained twin and the raw features; what `mmssl evaluate` does.

    Args:
        model: a model, a run, an adapter, a stock folder, a Hub id (see `mmssl.models.locating`).
        data: a folder, file, glob, Hub id, builtin:NAME, a `datasets` object, a DataFrame, a list of dicts, or a dict
            of these by split; None: what the model's run learned from.
        label: column of the labels.
        tasks: "knn", "linear", "zero-shot", "retrieval", "rankme", ...; None: all that model and data allow.
        columns: modality -> its column(s), where the model does not know them.
        base: the model that an adapter belongs on, where it has moved.
        **options: e.g. `split="validation"`, `limit=1000`, `k=10`.

    Returns:
        The report, a dict that shows itself as a table.
    """
    with given(data) as path:
        asked = command_options(EvaluateConfig, options, flags(path, columns, label=label, tasks=tasks))
        return judge_model(model, asked, base)


def evaluate_suite(
    models: Sequence[str | Path],
    data: Sequence[str],
    *,
    label: str | None = None,
    tasks: Sequence[str] | None = None,
    output: str | Path | None = None,
    resume: bool | str = False,
    base: str | None = None,
    **options: object,
) -> Suite:
    """Measure several models on several sets; what `mmssl evaluate A B --data X Y` does.

    Args:
        models: as for `evaluate`; differences between models are to the first.
        data: paths, Hub ids, builtin:NAME, or YAML files with the options of a set, or of several by name.
        label: column of the labels, where a YAML file says no other.
        tasks: None: linear, knn and boosting.
        output: the suite's folder (default `runs/suite`, numbered when taken).
        resume: take the cells that are there; "auto": where there are any.
        base: of adapters.
        **options: of all sets, as for `evaluate`.

    Returns:
        The suite, which shows itself as tables; `report` has all numbers, `broken` the cells that are lacking and why.
    """
    words = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    sets = read_sets(data, words, flags(None, None, label=label, tasks=tasks))
    return run_suite([str(model) for model in models], sets, output=output, resume=resume, base=base)


def embed(
    model: str | Path,
    data: Data | None,
    output: str | Path,
    *,
    columns: Columns | None = None,
    base: str | None = None,
    **options: object,
) -> dict[str, object]:
    """Write the embeddings of every sample to a parquet file; what `mmssl embed` does.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        output: the parquet file. One that an interrupted call left is gone on with.
        columns: modality -> its column(s), where the model does not know them.
        base: the model that an adapter belongs on, where it has moved.
        **options: e.g. `split="test"`, `limit=1000`.

    Returns:
        "rows", "present" (modality -> rows that have it), "bad" (what was broken), "resumed" (rows that were there).
    """
    with given(data) as path:
        return embed_as(model, command_options(EmbedConfig, options, flags(path, columns)), output, base)


def embed_as(model: str | Path, asked: EmbedConfig, output: str | Path, base: str | None = None) -> dict[str, Any]:
    """`embed`, with its options read."""
    parquet_place(output, asked.path)  # said now, not after the model is loaded
    found = locate(model)
    asked = with_rows(asked, found)
    with doing("loading the model"):
        opened, processor = open_model(found, base)
    return embed_rows(opened, processor.preprocessors, asked, output)


def export(
    model: str | Path, to: str, output: str | Path, *, tower: str | None = None, base: str | None = None
) -> Exported:
    """Write a model as a stock class that needs no mmssl, and prove it equal; what `mmssl export` does.

    Args:
        model: as for `evaluate`.
        to: a format, see `mmssl list formats`.
        output: a folder that is not there yet.
        tower: which one, where the model has several that would do.
        base: the model that an adapter belongs on, where it has moved; the two are merged.
    """
    return export_model(model, to, output, tower, base)


def demo(
    model: str | Path,
    data: Data | None = None,
    *,
    columns: Columns | None = None,
    base: str | None = None,
    host: str = LOOPBACK[0],
    port: int = PORT,
    **options: object,
) -> Page:
    """Serve a page that searches data by samples of any modality, and classifies them by words; `mmssl demo`.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        columns: modality -> its column(s), where the model does not know them.
        base: the model that an adapter belongs on, where it has moved.
        host: another address than this machine's own, which lets others in.
        port: 0: any that is free.
        **options: e.g. `split="test"`, `limit=1000`, `embeddings="e.parquet"`, `label="species"`.

    Returns:
        The page, being served: `.url`, `.wait()`, `.close()`; `with mmssl.demo(...) as page:` closes it at the end.
    """
    with given(data) as path:
        return demo_as(model, command_options(DemoConfig, options, flags(path, columns)), base, host, port)


def report(runs: str | Path | Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write one page of HTML about a run, or several to compare; what `mmssl report` does.

    Args:
        runs: folders of runs, finished or not, or of a model.
        output: the file; None: `report.html` in the folder of the run, of several in the working directory.

    Returns:
        The file.
    """
    return write_report([runs] if isinstance(runs, str | Path) else list(runs), output)


def push(
    model: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    base: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Publish a model or adapter folder on the Hub; what `mmssl push` does.

    Args:
        model: a folder of a model, an adapter, an export or a run.
        repo_id: NAME or OWNER/NAME.
        private: make the repository private.
        revision: push to this branch; it is made where there is none.
        message: of the commit.
        base: an id on the Hub by which others find the base of an adapter.
        dry_run: look at everything, send nothing.
    """
    return send(model, repo_id, private=private, revision=revision, message=message, dry_run=dry_run, base=base)
