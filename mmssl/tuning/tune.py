"""`mmssl tune`: one recipe, several values, an ordinary run each, and the one that scores best, also without labels.

The study is optuna's, in a file beside the runs. What a trial is made of is a function of (seed, its number, the trials
before it), so that a study that was killed and goes on is the one that never stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, TimeUp, UserError, nearest, one_line, out_of_memory
from ..evaluation.rows import label_column, read_labels
from ..models.privacy import veiled
from ..options.schema import to_dict
from ..recipe.config import Recipe
from ..recipe.loading import load_recipe
from ..saying import doing, say, told, unsaid
from ..training.building import open_training_data
from ..training.choosing import Asked, kept_choice, refuse_placeholder
from ..training.engine import check_state, goes_on, not_of_data, run_folder
from ..training.lock import RunLock
from ..training.pretrain import Run, run_pretraining, write_config
from ..training.ready import ready
from .scores import BY, Judge, Scores
from .space import Space, Values, check_space, count, together, tried_values
from .study import load_optuna, next_trial, open_study, tell, values_of
from .table import plain, rows_of, write_csv
from .watching import Watch

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

BEGUN = 8
"""Combinations up to which a run of each is begun before the first trial; of more, of each value."""
STATE, TRIALS, BEST, TABLE = "tune.json", "trials", "best.yaml", "trials.csv"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a study.

    Attributes:
        config, fixed, preset: the recipe and what is changed in it in all trials.
        space: key -> what it is searched over.
        trials: how many, together with those that are there.
        by: what the best one is best by, see `BY`.
        samples: training rows that the scores are computed on.
        seed: of the search; trials have the recipe's.
        prune: trials may end early.
    """

    config: str | Path | Mapping[str, Any]
    fixed: Sequence[str] | Mapping[str, object]
    space: Space
    trials: int = 20
    by: str = "rankme"
    samples: int = 5000
    seed: int = 0
    prune: bool = True
    preset: str | None = None

    def asked(self, values: Values) -> Asked:
        """The recipe of one trial. At its end RankMe alone is measured, where anything is to be: what is held out of
        the data stays held out, and a label says nothing of the trial."""
        recipe = load_recipe(self.config, together(self.fixed, values), preset=self.preset)
        tasks = {"evaluation.tasks": [] if recipe.evaluation.tasks == [] else ["rankme"]}
        return Asked(self.config, together(together(self.fixed, values), tasks), self.preset)


@dataclass
class Tuned:
    """A study.

    Attributes:
        folder: of it.
        best: number of the best trial.
        values: its values.
        recipe: file of the recipe with them.
        trials: one dict a trial, as `trials.csv` has them.
    """

    folder: Path
    best: int
    values: Values
    recipe: Path
    trials: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        return plain(self.trials, self.best)


def run_tuning(wanted: Wanted, *, output: str | Path | None = None, resume: bool | str = False) -> Tuned:
    """Search; go on with a study where `resume` says so. All that can be wrong is refused before the first trial.

    Raises:
        UserError: wrong input, a line a fault; optuna is not installed.
        RunError: no trial came to its end, or the disk is full; TimeUp: `train.time_limit` of a trial is over.
    """
    load_optuna()
    recipe = _checked(wanted)
    name = f"tune-{recipe.name or 'run'}"
    goes = goes_on(name, output, resume)
    folder = not_of_data(run_folder(name, output, goes), recipe.data.path)
    if not goes:
        try_values(wanted)
    existed = folder.exists()
    with RunLock() as lock, doing("trials", _total(wanted)) as advance:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(folder)
            if goes and not (folder / STATE).is_file():
                raise UserError(f"--resume: there is no study in {folder}")
            check_state(folder / STATE, _state(wanted, recipe), goes, "study", "trials")
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None
        except UserError:
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        study = open_study(folder, wanted)
        while (trial := next_trial(study, wanted)) is not None:
            advance(trial.number)
            _run(study, trial, wanted, folder)
            write_csv(folder / TABLE, rows_of(study, wanted))
        return _finish(study, wanted, folder)


# ------------------------------------------------------------------------------------------------- before any trial


def _checked(wanted: Wanted) -> Recipe:
    """The recipe of the first values that are tried; UserError for all that would stop every trial."""
    if wanted.by not in BY:
        raise UserError(f"--by: found '{wanted.by}', expected one of {', '.join(BY)}{nearest(wanted.by, BY)}")
    for name, least in (("trials", 1), ("samples", 20)):
        if getattr(wanted, name) < least:
            raise UserError(f"--{name}: found {getattr(wanted, name)}, expected at least {least}")
    if not 0 <= wanted.seed < 2**32:
        raise UserError(f"--seed: found {wanted.seed}, expected >= 0 and <= {2**32 - 1}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"mmssl tune: found {os.environ['WORLD_SIZE']} processes, expected one")
    check_space(wanted.config, wanted.fixed, wanted.space, wanted.preset)
    first = {key: one.tried[0] for key, one in wanted.space.items()}
    recipe = load_recipe(wanted.config, together(wanted.fixed, first), preset=wanted.preset)
    refuse_placeholder(recipe)
    if wanted.by == "lidar" and not (any(recipe.views.values()) or recipe.masks):
        raise UserError("--by lidar: the recipe has neither views nor masks, by whose differences LiDAR judges")
    if recipe.data.streaming:
        raise UserError(
            "--by: found data.streaming, expected data whose rows can be drawn; the scores need the same rows"
        )
    with doing(f"opening {recipe.data.path}"):
        source = open_training_data(wanted.asked(first).recipe()).source
    if wanted.by == "probe":
        label = label_column(source, recipe.evaluation.label)[0]
        task = recipe.evaluation.label_task
        found, reason = read_labels(source, None, label, task=task) if label is not None else (None, "")
        if found is None:
            raise UserError(f"--by probe: {reason or 'the data have no labels that are known'}; name them with --label")
    return recipe


def try_values(wanted: Wanted) -> None:
    """Begin a run of each value up to its first step, and throw it away. UserError with the values that none could be
    made of: as the third trial they would be found when two have been paid for."""
    values = tried_values(wanted.space, BEGUN)
    say(f"trying {len(values)} values of the search, up to the first step of each")
    faults: dict[str, str] = {}
    for one in told(values, "trying the values", len(values)):
        try:
            with unsaid(), ready(wanted.asked(one)):
                pass
        except UserError as error:
            faults.setdefault(one_line(error), shown(one))
    if faults:
        raise UserError("\n".join(f"{where}: {error}" for error, where in faults.items()))


def shown(values: Values) -> str:
    """`train.lr=0.001 model.towers.image.depth=2`."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def _state(wanted: Wanted, recipe: Recipe) -> dict[str, Any]:
    """What has to be the same for trials to be of one study, as JSON has it."""
    plainly = veiled(to_dict(recipe))  # with the first values that are tried
    space = {key: str(one) for key, one in wanted.space.items()}
    asked = {"by": wanted.by, "seed": wanted.seed, "samples": wanted.samples, "prune": wanted.prune}
    state: dict[str, Any] = json.loads(json.dumps({"recipe": plainly, "space": space, **asked}))
    return state


# ------------------------------------------------------------------------------------------------------ trial by trial


def _run(study: Study, trial: Trial, wanted: Wanted, folder: Path) -> None:
    """Train and judge one trial, and tell the study. What ends the trial alone is kept as its reason."""
    values, began = values_of(trial, wanted.space), time.perf_counter()
    place = folder / TRIALS / f"{trial.number:03d}"
    say(f"trial {trial.number} ({trial.number + 1} of {_total(wanted)}): {shown(values)}")
    state, scores, reason = _outcome(trial, wanted, values, place)
    facts = {"seconds": round(time.perf_counter() - began, 1), "reason": reason}
    tell(study, trial, state, scores, facts, wanted.by)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)  # the model is complete; a study would fill the disk
    said = reason if reason is not None else ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    say(f"trial {trial.number}: {state}, {said}")


def _outcome(trial: Trial, wanted: Wanted, values: Values, place: Path) -> tuple[str, Scores, str | None]:
    """(complete, pruned or fail; the scores; why it did not come to its end)."""
    watch: Watch | None = None
    try:
        asked = wanted.asked(values)
        if wanted.prune:
            watch = Watch(trial, wanted.by, asked.recipe().train.guard)
        run = run_pretraining(asked, output=place, resume="auto", watched_by=[] if watch is None else [watch])
        scores = _judged(run, wanted)
        if wanted.by in scores:
            return "complete", scores, None
        return "fail", scores, f"{wanted.by} is not defined for it"
    except TimeUp:
        raise  # the study goes on with it
    except (UserError, RunError) as error:
        if watch is not None and watch.reason is not None:
            return "pruned", {}, watch.reason
        return "fail", {}, one_line(error)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return "fail", {}, f"out of memory ({one_line(error, 200)})"


def _judged(run: Run, wanted: Wanted) -> Scores:
    recipe = load_recipe(run.folder / "config.yaml")
    label = recipe.evaluation.label
    if label is None and wanted.by == "probe":
        label = label_column(open_training_data(recipe).source, None)[0]
    return Judge(wanted.samples, wanted.seed, label)(recipe, run.model, run.processor)


def _total(wanted: Wanted) -> int:
    total = count(wanted.space)
    return wanted.trials if total is None else min(total, wanted.trials)


# --------------------------------------------------------------------------------------------------------------- end


def _finish(study: Study, wanted: Wanted, folder: Path) -> Tuned:
    """Write `best.yaml` and the table."""
    found = rows_of(study, wanted)
    write_csv(folder / TABLE, found)
    complete = [row for row in found if row["state"] == "complete"]
    if not complete:
        reasons = "; ".join(dict.fromkeys(str(row["reason"]) for row in found))
        raise RunError(f"none of {len(found)} trials came to its end: {reasons}")
    best = max(complete, key=lambda row: (row[wanted.by], -row["trial"]))  # of equal ones the first
    number = int(best["trial"])
    values = {key: best[key] for key in wanted.space}
    asked = Asked(wanted.config, together(wanted.fixed, values), wanted.preset)
    choice = kept_choice(folder / TRIALS / f"{number:03d}")
    write_config(folder / BEST, asked.recipe(choice))
    return Tuned(folder, number, values, folder / BEST, found)
