"""Health: what the embeddings of a fixed probe look like while a run trains, without labels.

The probe is a random, fixed sample of the training data in the clean view, the same rows at every measurement. Each
modality is encoded alone in eval mode without gradients, as an evaluation would, and nothing of the training changes:
its random numbers are functions of (seed, step), and every module goes back to the mode it was in. Written to
metrics.jsonl, over the n rows of the probe that have the modality:

- `health/<modality>/rankme`: RankMe (Garrido et al. 2023) of the pooled states, before any projection; at most
  min(n, width), and only comparable at the same n (`train.health_samples`, far below the paper's 25,600).
- `health/<modality>/std_mean`, `std_min`: standard deviation of the L2-normalised (projected) embeddings over samples,
  mean and least over dimensions, times sqrt(dimensions): 1 for directions spread evenly over the sphere, 0 when all
  embeddings are one (SimSiam, Chen & He 2021, arXiv 2011.10566, section 4.1).
- `health/<modality>/norm`: mean L2 norm of the pooled states.
- `health/<a>-<b>/gap`: distance between the centroids of the normalised embeddings of two modalities over the samples
  that have both (Liang et al. 2022, arXiv 2203.02053, section 4.2), where their embeddings are equally wide.
- `health/<objective>/<name>`: what an objective says of itself (`Objective.health`): agreement with its teacher, use of
  its codebook or clusters.
- `probe/<modality>/knn`, `linear`: accuracy on labelled rows, see `OnlineProbe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..data.loading import Loaded, evaluation_batches
from ..distributed import gather_rows
from ..draws import Draws, key_of
from ..errors import UserError
from ..evaluation import tasks
from ..evaluation.embedding import embed_batches
from ..evaluation.evaluate import labelled_rows
from ..evaluation.rank import rankme
from ..evaluation.rows import Labels, present_columns, subset
from ..modality import Batch, Preprocessor
from ..models.running import evaluating
from ..objectives.pretraining import Pretraining
from ..recipe.config import Recipe, TrainConfig
from .engine import on_first

Columns = Mapping[str, str | list[str]]


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {n: {k: v.to(device, non_blocking=True) for k, v in inputs.items()} for n, inputs in batch.items()}


def measures(pooled: Tensor, embeddings: Tensor) -> dict[str, float | None]:
    """rankme and norm of pooled states (n, D), std_mean and std_min of normalised embeddings (n, E); n at least 2.

    All None where a number is not finite.
    """
    if not bool(torch.isfinite(pooled).all() and torch.isfinite(embeddings).all()):
        return dict.fromkeys(("rankme", "std_mean", "std_min", "norm"))
    spread = embeddings.double().std(0, correction=0) * embeddings.shape[1] ** 0.5
    return {
        "rankme": rankme(pooled),
        "std_mean": float(spread.mean()),
        "std_min": float(spread.min()),
        "norm": float(pooled.double().norm(dim=1).mean()),
    }


def modality_gap(a: Tensor, b: Tensor) -> float:
    """Distance between the centroids of normalised embeddings a and b (n, E)."""
    return float((a.double().mean(0) - b.double().mean(0)).norm())


class Watch:
    """Measures the health of a run, all processes together; every process gets the first one's numbers.

    chunks: this process's rows of the probe, in parts as large as a micro-batch, equally many in all processes. online:
    the labelled rows, in the first process only.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        pretraining: Pretraining,
        settings: TrainConfig,
        seed: int,
        chunks: Sequence[Loaded],
        online: OnlineProbe | None = None,
    ) -> None:
        self.accelerator, self.pretraining, self.settings, self.seed = accelerator, pretraining, settings, seed
        self.chunks, self.online = chunks, online
        self.samples = sum(chunk.size for chunk in chunks) * accelerator.num_processes

    def measure(self, step: int, now: bool) -> dict[str, float | None]:
        """What is due after this step. now: health is due in any case (`train.health_every` unless that is null)."""
        if self.settings.compile:  # shapes and modes of its own: nothing is gained by compiling for them
            with torch.compiler.set_stance("force_eager"):
                return self._measure(step, now)
        return self._measure(step, now)

    def _measure(self, step: int, now: bool) -> dict[str, float | None]:
        s = self.settings
        out: dict[str, float | None] = {}
        if s.health_every and (now or step % s.health_every == 0):
            out |= {f"health/{name}": value for name, value in self._health().items()}
        if s.probe_every and step % s.probe_every == 0:
            out |= on_first(self.accelerator, self._online)
        return out

    def _online(self) -> dict[str, float | None]:
        assert self.online is not None
        return self.online.measure(self.pretraining.model)

    def _health(self) -> dict[str, float | None]:
        accelerator, model = self.accelerator, self.pretraining.model
        rows: dict[tuple[str, str], list[Tensor]] = {}
        said: dict[str, list[Tensor]] = {}
        with evaluating([self.pretraining]):
            for number, chunk in enumerate(self.chunks):
                batch = to_device(chunk.batch, accelerator.device)
                output = model.encode_batch(batch, alone=True)
                for kind in ("pooled", "embeddings", "present"):
                    for name, value in output[kind].items():
                        rows.setdefault((kind, name), []).append(value)
                first = accelerator.process_index * chunk.size
                total = chunk.size * accelerator.num_processes
                key = key_of(self.seed, "health", number)
                step = self.pretraining.step(batch, Draws(key, chunk.size, first, total, accelerator.device))
                for name, objective in self.pretraining.objectives.items():
                    for what, value in objective.health(step).items():  # type: ignore[operator]
                        said.setdefault(f"{name}/{what}", []).append(value.float() * total / self.samples)
            whole = {key: gather_rows(torch.cat(parts)) for key, parts in rows.items()}
            values = torch.stack([torch.stack(parts).sum() for parts in said.values()]) if said else torch.zeros(0)
            values = accelerator.reduce(values, "mean") if said else values
        numbers: list[Any] = [_numbers(whole) | _plain(dict(zip(said, values.tolist(), strict=True)))]
        if accelerator.num_processes > 1:
            broadcast_object_list(numbers)
        result: dict[str, float | None] = numbers[0]
        return result


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}


def _numbers(rows: Mapping[tuple[str, str], Tensor]) -> dict[str, float | None]:
    """The measures of every modality and pair from all processes' rows, (kind, modality) -> (n, ...)."""
    out: dict[str, float | None] = {}
    there = {name: value for (kind, name), value in rows.items() if kind == "present"}
    for name, present in there.items():
        if int(present.sum()) > 1:
            found = measures(rows["pooled", name][present].float(), rows["embeddings", name][present].float())
            out |= {f"{name}/{what}": value for what, value in found.items()}
    for a, b in combinations(there, 2):
        both, x, y = there[a] & there[b], rows["embeddings", a], rows["embeddings", b]
        if bool(both.any()) and x.shape[1] == y.shape[1]:
            out |= _plain({f"{a}-{b}/gap": modality_gap(x[both], y[both])})
    return out


class OnlineProbe:
    """kNN or linear probe on labelled rows, decoded once: what the run is for, while it trains (first process only)."""

    def __init__(
        self, train: Sequence[Loaded], test: Sequence[Loaded], labels: Labels, wanted: Sequence[str], k: int, seed: int
    ) -> None:
        self.train, self.test, self.labels, self.wanted, self.k, self.seed = train, test, labels, wanted, k, seed

    def measure(self, model: Any) -> dict[str, float | None]:
        """`probe/<modality>/<task>` -> accuracy."""
        train, test = (embed_batches({"model": model}, rows) for rows in (self.train, self.test))
        features = tasks.Features(test, train, frozenset(), self.labels.test, self.labels.train)
        out: dict[str, float | None] = {}
        for task in self.wanted:
            found, _ = tasks.knn(features, self.k) if task == "knn" else tasks.linear(features, self.seed)
            accuracy = {n.removesuffix("/accuracy"): m["model"] for n, m in found.items() if n.endswith("/accuracy")}
            out |= {f"probe/{name}/{task}": value for name, value in accuracy.items()}
        return out


def load_probe(
    source: Any, preprocessors: Mapping[str, Preprocessor], columns: Columns, recipe: Recipe, rank: int, world: int
) -> list[Loaded]:
    """This process's rows of the probe: at most `train.health_samples` of the training data, the same in each run; of
    a stream the first ones."""
    train = recipe.train
    rows, _ = subset(source, train.health_samples, recipe.seed, buffer=0)
    part = train.batch_size // train.accumulation
    mine: list[int] = []
    for start in range(0, len(rows) // world * world, part):
        size = min(part, len(rows) // world * world - start) // world
        mine += range(start + rank * size, start + (rank + 1) * size)
    chosen = rows.select(mine)
    return list(evaluation_batches(chosen, preprocessors, dict(columns), batch_size=part // world))


def load_online(
    source: Any, preprocessors: Mapping[str, Preprocessor], columns: Columns, recipe: Recipe
) -> OnlineProbe:
    """The labelled rows of `train.probe_every`: `train.probe_samples` to learn from, half as many to test on.

    Raises UserError, with the reason, where there are no labels or no held-out rows.
    """
    train, config = recipe.train, recipe.evaluation
    n = train.probe_samples
    small = replace(config, train_limit=min(n, config.train_limit or n), limit=min(n // 2, config.limit or n))
    found = labelled_rows(recipe.data, small, source, recipe.seed)
    if isinstance(found, str):
        raise UserError(f"train.probe_every: {found}; name the labels with evaluation.label or set it to null")
    test, learned, labels = found

    def read(rows: Any) -> list[Loaded]:
        there, _ = present_columns(rows, list(preprocessors), columns)
        chosen = {name: preprocessors[name] for name in there}
        return list(evaluation_batches(rows, chosen, there, batch_size=config.batch_size))

    return OnlineProbe(read(learned), read(test), labels, train.probe_tasks, config.k, recipe.seed)
