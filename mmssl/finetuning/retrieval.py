"""Retrieval between towers: the contrastive objective goes on on pairs, whole or through adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..evaluation import tasks
from ..evaluation.embedding import Embedded, embed_source
from ..evaluation.retrieval import recall_at, retrieval_ranks
from ..evaluation.table import as_finetuned
from ..evaluation.tasks import Metrics
from ..losses.contrastive import info_nce
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import untrained_twin
from ..objectives.contrastive import Config, Contrastive
from .jobs import VIEW, Job, towers_of
from .options import FinetuneConfig
from .partition import Examples, Partition


@dataclass
class RetrievalJob(Job):
    """CLIP's loss between every two towers. The score of a look is the mean R@1, R@5, R@10, both ways."""

    encoder: MMSSLModel
    processor: MMSSLProcessor
    options: FinetuneConfig
    rows: Partition
    towers: list[str] = field(default_factory=list)
    title: str = ""
    _loss: Contrastive | None = None
    _before: Embedded | None = None

    def __post_init__(self) -> None:
        names = list(self.rows.columns)
        self.towers = towers_of(self.encoder, names)
        if len(self.towers) < 2 or len(names) < 2:
            raise UserError(f"task: retrieval is between two towers, but the data has {', '.join(names)} alone")
        widths = {name: self.encoder.embedding_width(name) for name in self.towers}
        if len(set(widths.values())) > 1:
            raise UserError(f"task: retrieval needs embeddings of one width, found {widths}: there is no projection")
        if self.options.peft == "linear" and not self.encoder.projections:
            raise UserError("--peft linear: retrieval has no head, and the model has no projection to train")
        self.title = f"retrieval between {' and '.join(names)}"

    def objective(self) -> Contrastive:
        """CLIP's loss; embeds the test rows first, while the encoder is still as it came, for the report's `before`."""
        view = VIEW if self.options.augment else "clean"
        self._before = self.embedded(self.rows.test, {"model": self.encoder})
        self._loss = Contrastive(Config(towers=self.towers, views=[view]), self.encoder)
        return self._loss

    def embedded(self, part: Examples, encoders: Mapping[str, MMSSLModel], raw: bool = False) -> Embedded:
        """Embeddings of the rows of `part` by these encoders.

        Args:
            part: the rows.
            encoders: the name in the result -> model.
            raw: also the modalities' raw features, which are the baseline.
        """
        return embed_source(
            encoders,
            Job.inputs(self)[0],
            part.source,
            self.rows.columns,
            describe=self.encoder if raw else None,
            batch_size=self.options.eval_batch_size,
            workers=self.workers(),
            broken=self.options.broken,
        )

    def look(self) -> tuple[float, float]:
        """(mean InfoNCE of the validation rows, mean of R@1, R@5, R@10), both over all ordered pairs of modalities."""
        assert self.rows.validation is not None and self._loss is not None
        found = self.embedded(self.rows.validation, {"model": self.encoder})
        scale = float(self._loss.logit_scale.detach().exp())
        names, losses, scores = list(self.rows.columns), [], []
        for a in names:
            for b in names:
                if a == b:
                    continue
                both = found.present[a] & found.present[b]
                x, y = (found.embeddings["model"][n][both] for n in (a, b))
                own = torch.arange(len(x))
                losses.append(float(info_nce(x, y, own, scale).mean()))
                ranks = retrieval_ranks(x, y, [[i] for i in range(len(x))])
                scores.append(sum(recall_at(ranks, k) for k in (1, 5, 10)) / 3)
        return sum(losses) / len(losses), sum(scores) / len(scores)

    def extra_targets(self) -> list[str]:
        """The linear maps of the towers' projections: they make the shared embedding."""
        own = [f"projections.{name}" for name in self.towers if name in self.encoder.projections]
        named = self.encoder.named_modules()
        return [n for n, m in named if isinstance(m, nn.Linear) and any(n == o or n.startswith(f"{o}.") for o in own)]

    def trained_when_linear(self) -> list[nn.Module]:
        """The projections of the towers, which are maps of frozen pooled outputs."""
        return [self.encoder.projections[name] for name in self.towers if name in self.encoder.projections]

    def report(self, folder: Path) -> dict[str, Metrics]:
        """R@k of what was saved and of the start, beside the untrained twin and ridge regression of raw features."""
        tuned = open_model(folder)[0].to(next(self.encoder.parameters()).device)  # type: ignore[arg-type]
        test = self.embedded(self.rows.test, {"model": tuned, "untrained": untrained_twin(tuned)}, raw=True)
        train = self.embedded(self.rows.train, {}, raw=True)
        assert self._before is not None
        counts = frozenset(name for name in self.rows.columns if self.encoder.modality(name).ids)
        out = {}
        for title, rows in (("fine-tuned", test), ("before", self._before)):
            features = tasks.Features(rows, train if title == "fine-tuned" else None, counts)
            out[title] = tasks.retrieval(features, {n: tasks.row_side(rows, n) for n in self.rows.columns})[0]
        return {**out, "fine-tuned": as_finetuned(out["fine-tuned"])}
