"""`mmssl finetune MODEL --forget ROWS`: the job of making a model forget training rows, and what is measured of that.

Measured beside each other: the model as it came (`start`), the one that forgot (`finetuned`) and, where one is named,
one that was retrained without the rows (`retrained`): accuracy and loss on forgotten rows, on kept ones and on rows
never seen, and how well the loss tells forgotten rows from those never seen (`membership/auroc`, the attack of Yeom et
al. 2018, arXiv 1709.01604; 0.5 is not at all). None of this is a guarantee: another attack may find more. What
guarantees something is a training without the rows; `kept.parquet` in the folder of the run is the selection for it.

The step whose weights are kept is the one where the forgotten rows are lost as much as rows never seen are (SCRUB's
rewinding, Kurmanji et al. 2023, arXiv 2302.09880); where whole classes are forgotten, where their chance is least; each
with what the kept rows lose added.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.labels import LABEL, Target
from ..data.sampler import order
from ..errors import UserError
from ..evaluation.differences import resamples
from ..evaluation.scoring import Array, auroc
from ..evaluation.tasks import Metric, Metrics, metric
from ..models.locating import locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import device_of
from ..objectives.base import Objective
from .forgetting import Before, Forgetting
from .jobs import VIEW
from .named_rows import ALIKE, FORGOTTEN, UNSEEN, Named, open_named, parts_of
from .options import FinetuneConfig
from .partition import Examples, taken
from .scores import RESAMPLES, measure
from .supervised import TaskHead, make_objective
from .supervised_job import Features, SupervisedJob
from .task import TaskModel, load_task
from .unlabelled import Learned

LOOKED, MEASURED = 300, 5_000
"""Rows of each kind that a look and the report see at most, always the same ones."""
NEVER = 20.0
"""How far a class that a retrained model does not know stands below its least likely one, in logits."""
Answers = dict[str, tuple[Array, Array]]
"""Name of a model -> (logits (n, C), labels (n,)) of the rows that all of them can read."""


@dataclass
class ForgettingJob(SupervisedJob):
    """A supervised job whose rows are kept or forgotten.

    Attributes:
        named: which rows.
        came: what MODEL was fine-tuned to; None: an encoder, whose head is a probe of all training rows.
        against: what was trained without the rows.
    """

    named: Named | None = None
    came: TaskModel | None = None
    against: TaskModel | None = None
    _before: tuple[MMSSLModel, TaskHead] | None = None
    _kept_loss: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.came is not None:
            self.kept = copy.deepcopy(self.came.head.kept)
        assert self.named is not None and self.rows.validation is not None
        self.parts = parts_of(self.named)
        stop = {"to stop by": self.rows.validation, **self.parts}
        self.looked = {name: self.some(stop[name], LOOKED) for name in ("to stop by", "kept", FORGOTTEN)}
        self.title = f"{self.title}, {len(self.parts[FORGOTTEN]):,} rows forgotten ({self.named.text})"

    def some(self, part: Examples, most: int) -> Examples:
        """So many rows of it, always the same ones."""
        return taken(part, np.sort(order(len(part), self.options.seed, 7)[:most])) if len(part) > most else part

    def prepare(self) -> None:
        """Features of the training rows by the encoder as it came; no further probes are fitted."""
        if self.known is None:
            found = self.features(self.rows.labelled, {"model": self.encoder})
            self.known = Features({"model": found.of["model"]}, found.present)

    def objective(self) -> Objective:
        """`Forgetting`, with the head that came or a probe of all training rows."""
        assert self.named is not None
        view = VIEW if self.options.augment else "clean"
        task, outputs = self.target.task, self.target.outputs
        self._task = make_objective(self.encoder, task, self.towers, outputs, view, kept=self.kept)
        self.prepare()
        assert self.known is not None
        if self.came is None:
            self._task.start(self.start_probe())
        else:
            self._task.head = copy.deepcopy(self.came.head)
        self._before = copy.deepcopy(self.encoder), copy.deepcopy(self._task.head)
        self._kept_loss = self._lost("kept")[0]
        said, x = self.options.forgetting, self.known.of["model"]
        rows = order(len(x), self.options.seed, 8)
        rows = rows[self.known.present.numpy()[rows]]
        gone = self.named.gone[rows]
        kept, forgotten = (x[rows[of][: said.places].tolist()] for of in (~gone, gone))
        if not len(kept) or not len(forgotten):
            raise UserError("--forget: none of the forgotten rows, or none of the others, can be read")
        return Forgetting(self._task, said, self.encoder, kept, forgotten)

    def learned(self) -> Learned:
        """Kept and forgotten rows, which come equally often together."""
        assert self.known is not None and self._before is not None and self.named is not None
        x, gone, head = self.known.of["model"], self.named.gone, self._before[1]
        with torch.no_grad():
            answers = head(x.to(device_of(head))).float().cpu()
        told = Before(x.numpy(), answers.numpy(), gone, self.known.present.numpy())
        weights = np.where(gone, (~gone).sum() / gone.sum(), 1.0)
        return Learned(self.rows.train.source, {LABEL: told}, weights)

    def _lost(self, name: str) -> tuple[float, float, float]:
        """(mean loss, mean chance of the label, accuracy) of some rows of a kind."""
        part = self.looked[name]
        logits, present = self.logits(part, self.encoder, self.task.head)
        assert part.labels is not None
        y = part.labels[present]
        losses = F.cross_entropy(logits[present], y, reduction="none")
        right = logits[present].argmax(1) == y
        return float(losses.mean()), float((-losses).exp().mean()), float(right.float().mean())

    def look(self) -> tuple[float, float]:
        """(how far from forgotten, accuracy on kept rows); see the head of this module."""
        assert self.named is not None
        (gone, chance, _), (kept, _, right) = self._lost(FORGOTTEN), self._lost("kept")
        far = chance if self.named.whole_classes else abs(gone - self._lost("to stop by")[0])
        return far + max(kept - self._kept_loss, 0.0), right

    def restored(self, step: int) -> None:
        """Nothing is fitted anew: step 0 is the model as it came."""

    def leave(self, folder: Path) -> None:
        """`kept.parquet`: all rows but the named ones, for a training without them."""
        assert self.named is not None
        self.named.write_kept(folder / "kept.parquet")

    def report(self, folder: Path) -> dict[str, Metrics]:
        """What the saved model, the one that came and a retrained one make of forgotten, kept and unseen rows."""
        models = {"finetuned": load_task(folder)}
        if self.against is not None:
            models["retrained"] = self.against
        found = {name: self._answers(self.some(part, MEASURED), models) for name, part in self.parts.items()}
        out: Metrics = {}
        for name, answers in found.items():
            out |= _scores(name, answers, self.options.seed)
        unseen = found.get(ALIKE, found[UNSEEN])
        out["membership/auroc"] = _membership(found[FORGOTTEN], unseen, self.options.seed)
        answers, train = found[UNSEEN], self.rows.train.labels
        assert train is not None
        logits = {name: torch.from_numpy(said) for name, (said, _) in answers.items()}
        truth, prefix = torch.from_numpy(answers["finetuned"][1]), "+".join(self.rows.columns) + "/"
        tuned = measure(self.target, logits, truth, train, None, prefix, self.options.seed)
        return {"fine-tuned": tuned, "forgetting": out}

    def _answers(self, part: Examples, models: Mapping[str, TaskModel]) -> Answers:
        assert self._before is not None and part.labels is not None
        came, there = self.logits(part, *self._before)
        said: dict[str, Tensor] = {}
        for name, model in models.items():
            model.model.to(device_of(self.encoder))  # type: ignore[arg-type]
            model.head.to(device_of(self.encoder))
            readers = {n: model.processor.preprocessors[n] for n in model.modalities}
            pairs = [model.logits(loaded.batch) for loaded in self.batches(part, readers)]
            said[name] = as_target(torch.cat([of.float().cpu() for of, _ in pairs]), model.target, self.target)
            there = there & torch.cat([of.cpu() for _, of in pairs])
        y = part.labels[there].numpy()
        return {name: (of[there].numpy(), y) for name, of in {**said, "start": came}.items()}


def as_target(logits: Tensor, theirs: Target, ours: Target) -> Tensor:
    """(n, C) answers by our classes; one that the other model does not know is never what it says."""
    if theirs.classes == ours.classes:
        return logits
    out = (logits.min(1, keepdim=True).values - NEVER).repeat(1, ours.outputs)
    for place, known in enumerate(theirs.classes):
        out[:, ours.classes.index(known)] = logits[:, place]
    return out


def _losses(answers: tuple[Array, Array]) -> Array:
    logits, y = (torch.from_numpy(of) for of in answers)
    return F.cross_entropy(logits, y, reduction="none").double().numpy()


def _metric(values: dict[str, float], draws: dict[str, list[float]], n: int) -> Metric:
    beside = {name: value for name, value in values.items() if name != "start"}
    spans = {name: np.nanpercentile(of, [2.5, 97.5]).tolist() for name, of in draws.items()}
    return {**beside, **metric({"start": values["start"]}, n, share=False), "interval": spans}


def _scores(kind: str, answers: Answers, seed: int) -> Metrics:
    """Accuracy and mean loss on rows of one kind."""
    n = len(next(iter(answers.values()))[1])
    if not n:
        return {}
    drawn = list(resamples(n, None, seed, RESAMPLES))
    per_row = {
        "accuracy": {name: (of.argmax(1) == y).astype(float) for name, (of, y) in answers.items()},
        "loss": {name: _losses(pair) for name, pair in answers.items()},
    }
    return {
        f"{kind}/{score}": _metric(
            {name: float(of.mean()) for name, of in rows.items()},
            {name: [float(of[at].mean()) for at in drawn] for name, of in rows.items()},
            n,
        )
        for score, rows in per_row.items()
    }


def _membership(forgotten: Answers, unseen: Answers, seed: int) -> Metric:
    """How well a low loss tells forgotten rows from others; 0.5: not at all."""
    values, draws, n = {}, {}, 0
    for name in forgotten:
        lost = [_losses(of[name]) for of in (forgotten, unseen)]
        score, member = -np.concatenate(lost), np.repeat([True, False], [len(lost[0]), len(lost[1])])
        values[name], n = auroc(score, member), len(score)
        draws[name] = [auroc(score[at], member[at]) for at in resamples(n, None, seed, RESAMPLES)]
    return _metric(values, draws, n)


def forgetting_job(
    path: str,
    encoder: MMSSLModel,
    processor: MMSSLProcessor,
    options: FinetuneConfig,
    rule: Mapping[str, object] | None = None,
) -> ForgettingJob:
    """The job of `--forget`. UserError for rows or models that it cannot be done with."""
    came = load_task(path) if locate(path).task else None
    label = options.label_columns
    if came is not None:
        if label and label != came.target.columns:
            known = ",".join(came.target.columns)
            raise UserError(f"--label: found {','.join(label)}, but the model was fine-tuned on {known}")
        label = came.target.columns
        options = replace(options, label=label, modalities=options.modalities or came.modalities)
    elif not label:
        raise UserError("--label: found none, expected the column of the labels: a probe of it says what is forgotten")
    against = None if options.forgetting.against is None else load_task(options.forgetting.against)
    named = open_named(label, processor.preprocessors, options, rule, None if came is None else came.target)
    target = named.rows.target
    assert target is not None
    if against is not None:
        _refuse_other(against, target, named)
    more: dict[str, Any] = {"named": named, "came": came, "against": against}
    return ForgettingJob(encoder, processor, options, named.rows, **more)


def _refuse_other(against: TaskModel, target: Target, named: Named) -> None:
    theirs, where = against.target, "forgetting.against"
    if theirs.task != target.task or theirs.columns != target.columns:
        found = f"{theirs.task} of {','.join(theirs.columns)}"
        raise UserError(f"{where}: found {found}, expected {target.task} of {','.join(target.columns)}")
    strange = [name for name in theirs.classes if name not in target.classes]
    if strange:
        raise UserError(f"{where}: it knows the class {strange[0]!r}, which the training rows do not have")
    for name in against.modalities:
        if name not in named.rows.columns:
            raise UserError(f"{where}: it reads '{name}', which takes no part, {', '.join(named.rows.columns)} do")
