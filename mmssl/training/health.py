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
  its codes (`<modality>/codes_used`, `codes_perplexity`, see `mmssl.objectives.parts.codes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..data.loading import Loaded, evaluation_batches
from ..distributed import gather_rows
from ..draws import Draws, key_of
from ..evaluation.rank import rankme
from ..evaluation.rows import subset
from ..modality import Preprocessor
from ..models.running import evaluating, to_device
from ..objectives.pretraining import Pretraining
from ..recipe.config import LoopConfig
from .observers import Measured, Moment, Observer

if TYPE_CHECKING:
    from ..data.loading import Source
    from ..data.stored import Stored

Columns = Mapping[str, str | list[str]]


def eagerly(compiled: bool) -> AbstractContextManager[object]:
    """Where trunks are compiled: not for what looks at them, whose shapes and modes are others' than training's."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def measures(pooled: Tensor, embeddings: Tensor) -> Measured:
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


class Health(Observer):
    """Measures the health of a run, all processes together; every process gets the first one's numbers."""

    name = "health"

    def __init__(
        self,
        accelerator: Accelerator,
        pretraining: Pretraining,
        chunks: Sequence[Sequence[Loaded]],
        *,
        every: int,
        seed: int,
        at_saves: bool = False,
        compiled: bool = False,
    ) -> None:
        """What is measured, and when.

        Args:
            accelerator: the processes.
            pretraining: the model and its objectives.
            chunks: this process's rows of the probe, as many as a step has at a time, in parts as large as a
                micro-batch; equally many in all processes.
            every: steps between measurements; the last step is always measured.
            seed: of the draws that objectives make for their own health.
            at_saves: a checkpoint must know whether it is healthy.
            compiled: the trunks are compiled.
        """
        self.accelerator, self.pretraining, self.chunks = accelerator, pretraining, chunks
        self.every, self.seed, self.at_saves, self.compiled = every, seed, at_saves, compiled
        self.samples = sum(part.size for chunk in chunks for part in chunk) * accelerator.num_processes

    def due(self, moment: Moment) -> bool:
        """Every `every` steps and after the last; with every checkpoint where something judges those."""
        now = moment.last or (moment.saves and self.at_saves)
        return moment.step > 0 and (now or moment.step % self.every == 0)

    def look(self, moment: Moment) -> Measured:
        """The numbers of the probe batch as `health/<objective or tower>/<name>`; None where not finite."""
        with eagerly(self.compiled):
            return {f"health/{name}": value for name, value in self._health().items()}

    def _health(self) -> Measured:
        accelerator, model = self.accelerator, self.pretraining.model
        rows: dict[tuple[str, str], list[Tensor]] = {}
        said: dict[str, list[Tensor]] = {}
        with evaluating([self.pretraining]):
            for number, chunk in enumerate(self.chunks):
                batches = [to_device(part.batch, accelerator.device) for part in chunk]
                for batch in batches:
                    output = model.encode_batch(batch, alone=True, learned=True)
                    for kind in ("pooled", "embeddings", "present"):
                        for name, value in output[kind].items():
                            rows.setdefault((kind, name), []).append(value)
                size = sum(part.size for part in chunk)
                total = size * accelerator.num_processes
                key = key_of(self.seed, "health", number)
                draws = Draws(key, size, accelerator.process_index * size, total, accelerator.device)
                step = self.pretraining.step(batches if len(batches) > 1 else batches[0], draws)
                for name, objective in self.pretraining.objectives.items():
                    for what, value in objective.health(step).items():  # type: ignore[operator]
                        # weighted by its rows: the last chunk may be smaller
                        said.setdefault(f"{name}/{what}", []).append(value.float() * total / self.samples)
            # rank and spread are no means over chunks: they need all rows at once
            whole = {key: gather_rows(torch.cat(parts)) for key, parts in rows.items()}
            values = torch.stack([torch.stack(parts).sum() for parts in said.values()]) if said else torch.zeros(0)
            values = accelerator.reduce(values, "mean") if said else values
        numbers: list[Measured] = [_numbers(whole) | _plain(dict(zip(said, values.tolist(), strict=True)))]
        if accelerator.num_processes > 1:
            # rounding may differ between processes, and observers must all decide alike
            broadcast_object_list(numbers)
        return numbers[0]


def _plain(values: Mapping[str, float]) -> Measured:
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}


def _numbers(rows: Mapping[tuple[str, str], Tensor]) -> Measured:
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


def load_probe(
    source: Source,
    preprocessors: Mapping[str, Preprocessor],
    columns: Columns,
    train: LoopConfig,
    *,
    samples: int,
    seed: int,
    rank: int,
    world: int,
    broken: str,
    stored: Mapping[str, Stored] | None = None,
) -> list[list[Loaded]]:
    """This process's rows of the probe, the same in each run: of each chunk of as many rows as a step has, its parts.

    Args:
        source: the training data.
        preprocessors: modality -> its preprocessor.
        columns: modality -> its column(s).
        train: says how large a step is, and its parts.
        samples: at most so many rows, over all processes; of a stream the first ones.
        seed: which ones.
        rank: of this process.
        world: number of processes.
        broken: see `training_batches`.
        stored: see `evaluation_batches`.
    """
    rows, _ = subset(source, samples, seed, buffer=0)
    mine: list[int] = []
    for start in range(0, len(rows) // world * world, train.batch_size):
        size = min(train.batch_size, len(rows) // world * world - start) // world
        mine += range(start + rank * size, start + (rank + 1) * size)
    part = train.batch_size // train.accumulation // world
    chosen = rows.select(mine)
    more: dict[str, Any] = {"batch_size": part, "broken": broken, "stored": stored}
    parts = list(evaluation_batches(chosen, preprocessors, dict(columns), **more))
    return [parts[first : first + train.accumulation] for first in range(0, len(parts), train.accumulation)]
