"""A recipe to a trained model: data, preprocessors, model, objectives, the loop, the model folder, its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..distributed import lost_peers_told
from ..errors import RunError, UserError, one_line
from ..evaluation.evaluate import Report, evaluate
from ..evaluation.table import Scores, in_notebook
from ..files import write_whole
from ..hub.card import write_card
from ..hub.record import write_record
from ..modality.columns import further_columns, with_further
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.privacy import GONE, veiled
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import untrained_twin
from ..models.saving import save_model
from ..models.stock.targets import said_of_targets
from ..options.plainyaml import dump
from ..options.schema import to_dict
from ..recipe.config import Recipe
from ..saying import doing, say, speaker
from .building import TrainingData, build_model
from .choosing import Asked, refuse_placeholder
from .cutting import cuts_of
from .describing import describe
from .engine import make_parallel
from .facts import facts_of
from .feeding import Feed
from .leaving import nothing_left
from .lock import RunLock
from .loop import Loop
from .micro_batch import find_micro_batch, settled
from .mixture import Mixed, said_of
from .observers import Observer
from .preparing import Begun, begin, loop_of, processor_of, weighed
from .reporting import write_own
from .run_log import RunLog
from .starting import check_adapters
from .storing import store_outputs
from .trackers import end_training, track_settings


@dataclass(repr=False)
class Run:
    """What `pretrain` returns.

    Attributes:
        folder: of the run.
        model_folder: the Hugging Face folder in it.
        model, processor: as reloaded from `model_folder`.
        report: the scores (`evaluation.json`).
    """

    folder: Path
    model_folder: Path
    model: MMSSLModel
    processor: MMSSLProcessor
    report: Report = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}){chr(10) + repr(self.report) if self.report else ''}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return in_notebook(self.report, self.folder)


def pretrain(
    recipe: Recipe | str | Path | Mapping[str, object],
    *,
    output: str | Path | None = None,
    resume: bool | str = False,
    preset: str | None = None,
    **overrides: object,
) -> Run:
    """See `mmssl.api.pretrain`, which offers it."""
    if not isinstance(recipe, Recipe):
        return run_pretraining(Asked(recipe, overrides, preset), output=output, resume=resume)
    if overrides or preset:
        raise UserError("overrides and presets go with a recipe's name, path or dict, not with a Recipe object")
    return run_pretraining(recipe, output=output, resume=resume)


def run_pretraining(
    asked: Recipe | Asked,
    *,
    output: str | Path | None = None,
    resume: bool | str = False,
    watched_by: Sequence[Observer] = (),
) -> Run:
    """`pretrain`, of a recipe or of what somebody asks for, some of which may have to be chosen first.

    watched_by: further observers of the loop; they note before those that the recipe asks for.
    """
    with RunLog() as log, doing("pretraining"):
        recipe = asked if isinstance(asked, Recipe) else asked.recipe()
        refuse_placeholder(recipe)
        check_adapters(recipe.model, recipe.name)
        with RunLock() as lock, nothing_left(lock, log), lost_peers_told():
            parallel = make_parallel(recipe.train)
            begun = begin(asked, recipe, parallel, log, lock, output, resume)
            run, fault = _train(begun, watched_by)
        if fault is not None:
            complete = f"the model in {run.model_folder} is complete"
            raise RunError(f"{fault}; {complete}, --resume would train those steps again")
        return run


def _train(begun: Begun, watched_by: Sequence[Observer] = ()) -> tuple[Run, RunError | None]:
    """(the finished run, why its last checkpoint could not be written, if so)."""
    processor = processor_of(begun)
    begun = weighed(begun, processor)
    recipe, parallel, folder, mixture = begun.recipe, begun.parallel, begun.folder, begun.mixture
    accelerator, main = parallel.accelerator, parallel.accelerator.is_main_process
    loop, per_epoch, lengths = loop_of(begun, processor, watched_by)
    pretraining = loop.pretraining
    if main:
        describe(recipe, loop, begun.rows, begun.resume)
        if mixture is not None:
            say("\n".join(said_of(mixture, begun.opened.columns)))
        if not recipe.model.starts or pretraining.adapter is None:
            say(said_of_targets(pretraining.model, processor))
        write_config(folder / "config.yaml", settled(recipe))
    source, columns = begun.opened.source, begun.opened.columns
    stored = store_outputs(recipe, pretraining, processor, source, columns, accelerator, folder)
    inputs = with_further(processor.preprocessors, further_columns(recipe.views))
    cuts = cuts_of(pretraining, inputs, stored, recipe.seed)
    rows = source, columns, processor, accelerator
    batches = Feed(recipe, *rows, stored, lengths, mixture, begun.labels, cuts=cuts, by=begun.by, renewed=begun.renewed)
    said = find_micro_batch(loop, batches)
    if main and said is not None:
        say(said)
        write_config(folder / "config.yaml", settled(recipe))
    track_settings(accelerator, settled(recipe))
    fault = loop.run(batches, per_epoch)
    if recipe.train.keep_best_model:
        loop.keeper.take_best()
    with doing("putting the model together"):
        whole = parallel.whole(pretraining)
        end_training(accelerator)
    if not main:
        return Run(folder, folder / "model", whole.model, processor), fault
    loop.pretraining = whole
    return finish(recipe, loop, processor, begun.opened, mixture, fault), fault


def write_config(path: Path, recipe: Recipe) -> None:
    """Write the recipe with all its defaults; without passwords and tokens, which is said."""
    plain = to_dict(recipe)
    if veiled(plain) != plain:
        say(
            f"{path.name} keeps no passwords and tokens ({GONE} stands there): name the data again to read them from it"
        )
    _write(path, dump(veiled(plain)))


# ------------------------------------------------------------------------------------------------------------ finish


def finish(
    recipe: Recipe,
    loop: Loop,
    processor: MMSSLProcessor,
    opened: TrainingData,
    mixture: Mixed | None,
    fault: RunError | None,
) -> Run:
    """Write `model/`, reload it as a user would, evaluate that, write `evaluation.json`, `report.html`, and the card
    with its pictures.

    fault: why the last checkpoint could not be written, if so. RunError when the model cannot be written either.
    """
    model, folder = loop.pretraining.model, loop.folder
    target = folder / "model"
    adapter = loop.pretraining.adapter
    loop.pretraining.finish()
    try:
        with doing("writing the model"):
            if adapter is None:
                save_model(model, processor, target)
            else:
                adapter.save(processor, target)
            for name, objective in loop.pretraining.objectives.items():
                for modality, (maker, reads) in objective.makers().items():  # type: ignore[operator]
                    save_model(maker, reads, folder / "codes" / f"{name}-{modality}")
    except OSError as error:
        lost = f"; {fault}" if fault else "; nothing is lost"
        raise RunError(
            f"the model could not be written to {target}: {one_line(error)}{lost}; free some space and run the same "
            f"command with --output {folder} --resume"
        ) from error
    with doing("reading the model again"):
        reloaded, reprocessor = open_model(target)
    say(f"reloaded {target} through {'PEFT' if adapter else 'AutoModel and AutoProcessor'}")
    with doing("counting what it learned from"):
        facts = facts_of(loop, opened.source, opened.columns, mixture)

    def describe_model(report: Report) -> None:
        with doing("writing the card"):
            tell(report)

    def tell(report: Report) -> None:
        write_card(target, recipe, report, facts)
        write_record(target, recipe, report, facts.fingerprint, facts.versions, facts.device)

    report: Report = {}
    describe_model(report)  # the model has its card whatever becomes of the evaluation
    if recipe.evaluation.tasks != []:
        try:
            report = evaluate(
                reloaded,
                reprocessor.preprocessors,
                recipe.data,
                recipe.evaluation,
                columns=opened.columns,
                train_source=opened.source,
                untrained=untrained_twin(reloaded),
                start=build_model(recipe, processor) if recipe.model.starts else None,
            )
        except UserError as error:
            raise RunError(
                f"the evaluation failed: {one_line(error)}; the model in {target} is complete with its card, "
                f"`mmssl evaluate {folder}` measures it"
            ) from error
        _write(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
        describe_model(report)
        speaker.note(repr(Scores(report)))
    facts.pictures = write_own(recipe, loop, reloaded, reprocessor, opened)
    if facts.pictures:
        write_card(target, recipe, report, facts)
    return Run(folder, target, reloaded, reprocessor, Scores(report))


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
