"""The study of `mmssl tune`: optuna's, in a file. All that knows optuna is here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..draws import key_of
from ..errors import UserError
from .scores import Scores
from .space import Space, Values, combination, count

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from .tune import Wanted

FILE = "study.log"
START = 4
"""Trials before any is given up for being behind."""


def load_optuna() -> Any:
    """optuna; UserError with what installs it."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"mmssl tune needs the package '{error.name}': pip install 'mmssl[tune]'") from None
    return optuna


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what optuna says of its own workings."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            # of a step that is reported again after a resume, and of features called experimental
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(folder: Path, wanted: Wanted) -> Study:
    """The study of a folder, which may be new."""
    optuna = load_optuna()
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    place = str(folder / FILE)
    with quiet():
        # the run's own lock keeps other processes away; one of a process that was killed must not keep us waiting
        backend = JournalFileBackend(place, lock_obj=JournalFileOpenLock(place))
        Path(f"{place}.lock").unlink(missing_ok=True)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=START) if wanted.prune else optuna.pruners.NopPruner()
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="tune",
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )


def next_trial(study: Study, wanted: Wanted) -> Trial | None:
    """The trial that was running when the study was stopped, or a new one; None: there are enough."""
    import optuna

    states = optuna.trial.TrialState
    with quiet():
        known = study.get_trials(deepcopy=False)
        number = len(known)
        going = [one for one in known if one.state == states.RUNNING]
        # seeded anew for each trial: what it draws must not depend on how many were drawn in this process
        number = going[0].number if going else number
        study.sampler = optuna.samplers.TPESampler(seed=key_of(wanted.seed, "trial", number), multivariate=True)
        if going:
            trial = optuna.trial.Trial(study, going[0]._trial_id)
        else:
            total = count(wanted.space)
            waiting = any(one.state == states.WAITING for one in known)  # killed between these two lines
            if not waiting and number >= min(wanted.trials, wanted.trials if total is None else total):
                return None
            if total is not None and not waiting:
                values = combination(wanted.space, number, key_of(wanted.seed, "order"))
                study.enqueue_trial({key: wanted.space[key].kept(value) for key, value in values.items()})
            trial = study.ask()
        return trial


def values_of(trial: Trial, space: Space) -> Values:
    """The values of a trial, drawn now or when it was begun."""
    with quiet():
        return {key: one.suggest(trial, key) for key, one in space.items()}


def tell(study: Study, trial: Trial, state: str, scores: Scores, facts: Mapping[str, Any], by: str) -> None:
    """Keep what became of a trial."""
    from optuna.trial import TrialState

    with quiet():
        trial.set_user_attr("scores", scores)
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}
        study.tell(trial.number, scores[by] if state == "complete" else None, states[state])
