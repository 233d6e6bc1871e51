"""Contrastive learning: across towers (CLIP, SigLIP), between two views of one tower (SimCLR, DCL), or both (SLIP).

CLIP: symmetric InfoNCE over the global batch with a learned, clamped scale (Radford et al. 2021; mlfoundations/
open_clip). Sigmoid: SigLIP (Zhai et al. 2023). NT-Xent: SimCLR (Chen et al. 2020), InfoNCE with the other samples of
the query's own view among the negatives. DCL and DCLW: decoupled contrastive learning (Yeh et al. 2022), NT-Xent
without the positive in its denominator, which makes small batches do; the weight of DCLW gets no gradient, own-view
negatives are in, both directions are averaged. Across towers "own view" is the query's own modality.

Keys may be those of an averaged teacher, and of earlier steps (`parts/compared.py`). MoCo (He et al. 2020, v2: Chen et
al. 2020; facebookresearch/moco): the first side asks, its key is the teacher's of the second, told from the teacher's
keys in a queue; the authors' queue begins with random rows, this one empty, so that the first step's loss is 0. MoCo v3
(Chen et al. 2021; facebookresearch/moco-v3): teacher and a predictor, both ways, the batch's keys, no queue; their loss
is 4 x temperature times this one, and their heads end in a batch norm. NNCLR (Dwibedi et al. 2021): a sample's nearest
neighbour in the queue asks in its place, and the prediction of the other view is its key. Queues take one key of each
sample and tower, in the order of the global batch.

Columns of the data may say who belongs together and who is told apart (`parts/relations.py`): several positives by
class, patient or slice (`positives`: SupCon, Khosla et al. 2020; HobbitLong/SupContrast), negatives of the same cluster
alone (MCL) or of others, the nearest keys alone (`neighbours`: LOOK, Feng et al. 2022), or lists with grades (`loss:
listwise`: SyCL, Esfandiarpoor et al. 2025). A sample whose value is unknown belongs with itself alone; one without any
positive counts nothing. `loss/NAME.positives` says how many a sample has. With `closest`, of several sides the one that
is distributed most alike is the positive (ColloSSL, Jain et al. 2022; `parts/closest.py`). What is compared may be the
mean of several towers (`pooled`: CLIPPINGS) or of several views (`pooled_views`: neighbours' texts; `parts/pooled.py`).

More than two towers: all pairs, or with `hub_tower` every tower against one (ImageBind, Girdhar et al. 2023). Two
views need no augmentations: `masks: [a, b]` makes them from one clean view by hiding different patches.

Other processes' rows are gathered with gradients. A sample that lacks one side is no pair: its row asks nothing and is
nobody's negative. Large batches in little memory are had by `chunk` (similarities) and `cache_rows` or
`train.accumulation` (encoders), which change no number.

Example::

    objectives:
      clip: {type: contrastive, towers: [image, text], loss: infonce, chunk: 512, cache_rows: 64}
      bind: {type: contrastive, towers: [image, audio, ecg], hub_tower: image}
      simclr: {type: contrastive, towers: [image], views: [a, b], loss: nt_xent, temperature: 0.2}
      dcl: {type: contrastive, towers: [ecg], masks: [some, others], loss: dclw}
      moco: {type: contrastive, towers: [image], views: [a, b], keys: teacher, momentum: [0.999, 0.999], queue: 65536,
             both_ways: false, temperature: 0.2}
      moco_v3: {type: contrastive, towers: [image], views: [a, b], keys: teacher, momentum: [0.99, 1.0],
                predictor_hidden: 4096, head_norm: batch, temperature: 0.2}
      nnclr: {type: contrastive, towers: [image], views: [a, b], queue: 98304, nearest: true, predictor_hidden: 4096,
              head_norm: batch, temperature: 0.1}
      supcon: {type: contrastive, towers: [ecg], views: [a, b], loss: nt_xent, positives: {column: patient}}
      look: {type: contrastive, towers: [image], views: [a, b], keys: teacher, queue: 4096, neighbours: 50,
             positives: {column: label, form: inside, pair: false}}
      sycl: {type: contrastive, towers: [image, text], loss: listwise, both_ways: false,
             positives: {column: query, grade: relevance}}
      clippings: {type: contrastive, towers: [image, text], views: [a, b], loss: nt_xent, positives: {column: product},
                  pooled: {image: 0.5, text: 0.5}}
      neighbours: {type: contrastive, towers: [graph, text], views: [near_1, near_2], pooled_views: [near_1, near_2]}
      qa: {type: contrastive, towers: [text], views: [clean, answer], project_within: true}  # answer: another column
      slip: {type: contrastive, towers: [image, text], views: [a, b], pairs: both, within_towers: [image]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..distributed import gather_rows, global_mean, rank, world_size
from ..errors import UserError
from ..losses.contrastive import dclw_weight, info_nce_both, sigmoid_pairs, softmax_rows
from ..models.initialization import init_weights
from ..models.projection import LinearProjection
from .base import Loss, Objective
from .options.contrastive import Config
from .parts.closed_form import MOST, Rows, closed_form
from .parts.closest import closest_loss
from .parts.compared import Candidates, Compared
from .parts.embeddings import Embeddings
from .parts.heads import Head
from .parts.pooled import PooledSides
from .parts.queue import Queue
from .parts.relations import Relations, listed, related_rows
from .parts.sides import Pair, Side
from .parts.teacher import Momentum, Taught, Teacher
from .step import CLEAN

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

OWN_VIEW = ("nt_xent", "dcl", "dclw")
"""Losses that tell a sample from the rows of its own side, too."""


class Contrastive(Taught, Objective):
    """Pairs of the same sample attract, all others of the global batch repel.

    Across towers the model's projections are compared, which are kept; within a tower an own head, which is not, or
    with `project_within` the projection, too.
    """

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.sides = PooledSides(config, model, "contrastive")
        self.learned = config.learns
        self.start = config.temperature or (0.07 if config.loss == "infonce" else 0.1)
        self.least = 0.0 if config.loss == "sigmoid" else 1.0  # of a learned 1 / temperature, as in CLIP
        self._refuse(config, model)
        headed = [] if config.project_within else self.sides.within
        self.projected = {*self.sides.across, *(self.sides.within if config.project_within else ())}
        widths = {name: model.tower(name).pooled_width for name in headed}
        heads = {name: Head.of(width, config) for name, width in widths.items()}
        self.heads = nn.ModuleDict(heads)
        init_weights(self.heads)
        projected = {name: model.projected_width(name) for name in self.sides.within}
        within = projected if config.project_within else {name: head.width for name, head in heads.items()}
        self.widths = {"across": {name: model.projected_width(name) for name in self.sides.across}, "within": within}
        self.predictors = self._of_towers(config.predictor_hidden, self._predictor)
        init_weights(self.predictors)
        kinds = {role: torch.int64 if of.kind == "id" else torch.float32 for role, of in config.columns.items()}
        self.queues = self._of_towers(config.queue, lambda size, width: Queue(size, width, kinds))
        self.teacher = Teacher(self.student(model)) if config.keys == "teacher" else None
        self.made = Embeddings(config, self.sides, self.heads, self.teacher)
        self.momentum = Momentum.of(config, None)
        self._positives: list[Tensor] = []
        self.starts = tuple(self.sides.across) if config.start is not None else ()
        self._started: dict[str, Any] = {name: self._linear(model, name) for name in self.starts}  # no submodules
        self.teaches = tuple(config.towers) if self.teacher is not None and config.export != "student" else ()
        if self.learned:
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / self.start)))
        if config.loss == "sigmoid":
            # as in SigLIP: only n of n^2 pairs belong together, and the first steps should not go into learning that
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def _of_towers(self, size: int | None, make: Callable[[int, int], nn.Module]) -> nn.ModuleDict:
        """across or within -> tower -> what `make` makes of the size and the width of its embedding, or nothing."""
        return nn.ModuleDict(
            {
                kind: nn.ModuleDict({t: make(size, width) for t, width in widths.items()} if size is not None else {})
                for kind, widths in self.widths.items()
            }
        )

    def _predictor(self, hidden: int, width: int) -> Head:
        return Head(width, hidden, width, 2, self.config.head_norm)

    def student(self, model: MMSSLModel) -> nn.ModuleDict:
        """Towers, their heads and the projections that embeddings go through, which the teacher averages."""
        own = {name: model.projections[name] for name in sorted(self.projected) if name in model.projections}
        towers = nn.ModuleDict({name: model.tower(name) for name in self.config.towers})
        return nn.ModuleDict({"towers": towers, "heads": self.heads, "projections": nn.ModuleDict(own)})

    @staticmethod
    def _linear(model: MMSSLModel, name: str) -> LinearProjection:
        """A tower's projection; UserError where it is not a linear map of standardised numbers."""
        found = model.projections[name] if name in model.projections else None
        if not isinstance(found, LinearProjection) or found.norm is None:
            raise UserError(
                f"objective contrastive: start: found cca, but the projection of tower '{name}' is no linear map of "
                "standardised numbers; expected model.projection, model.projection_standard: true, and no "
                "model.projection_hidden"
            )
        return found

    def _refuse(self, config: Config, model: MMSSLModel) -> None:
        ramp = config.temperature_ramp
        if ramp is not None and not ramp.first * ramp.last:
            raise UserError("objective contrastive: temperature_ramp: found a factor of 0, expected factors above 0")
        if self.learned and config.loss in ("dcl", "dclw"):
            raise UserError(
                f"objective contrastive: loss {config.loss} has no lower bound in its temperature, so it cannot be "
                "learned: leave out learn_temperature"
            )
        self._refuse_layers(config, model)
        count = len(self.sides.looks)
        if config.key_views is not None and len(config.key_views) != count:
            raise UserError(
                f"objective contrastive: key_views: found {len(config.key_views)}, expected {count}: one a side"
            )
        if self.learned and not self.least <= 1 / self.start <= config.max_scale:
            raise UserError(
                f"objective contrastive: temperature: found {self.start:g}, but a learned 1 / temperature is kept "
                f"between {self.least:g} and max_scale = {config.max_scale:g}"
            )
        for name in self.sides.within if config.project_within else ():
            if name not in model.projections:
                raise UserError(
                    f"objective contrastive: project_within: tower '{name}' has no projection to compare "
                    "through; set model.projection"
                )
        widths = {name: model.projected_width(name) for name in self.sides.across}
        if len(set(widths.values())) > 1:
            raise UserError(f"objective contrastive: embeddings differ in width {widths}; set model.projection")

    def _refuse_layers(self, config: Config, model: MMSSLModel) -> None:
        if not config.layers:
            return
        if self.sides.within or config.cache_rows is not None or config.keys == "teacher" or config.queue:
            raise UserError(
                "objective contrastive: layers are compared across towers, without cache_rows, teacher and queue"
            )
        towers = {name: model.tower(name) for name in config.towers}
        one_width = len({tower.width for tower in towers.values()}) == 1
        if not one_width or max(config.layers) > min(tower.depth for tower in towers.values()):
            found = {name: (tower.width, tower.depth) for name, tower in towers.items()}
            raise UserError(
                f"objective contrastive: layers {config.layers}: towers need one width and those blocks, "
                f"found (width, blocks) {found}"
            )

    def forward(self, step: Step) -> Loss:
        """The mean over pairs across towers, plus the weighted mean within; logs the pairs and a learned scale."""
        across, within = self.sides.plan(step)
        scale = self._scale(step.ramped(self.start, self.config.temperature_ramp))
        self._positives = []
        parts: dict[str, Tensor] = {}
        totals: list[Tensor] = []
        for pairs, inside, weight in ((across, False, 1.0), (within, True, self.config.within_weight)):
            # within a tower alone: there is nothing to weigh it against
            weight = weight if across else 1.0
            for layer in self.config.layers or [None]:
                losses = self._losses(step, pairs, inside, scale, layer)
                parts |= losses
                if losses:
                    totals.append(weight * torch.stack(list(losses.values())).mean())
        total = torch.stack(totals).sum()
        log = {name: loss.detach() for name, loss in parts.items()} if len(parts) > 1 else {}
        log |= {"scale": scale.detach()} if self.learned else {}
        # how many positives a sample has: where that is 1, the batch holds no others of its kind
        log |= {"positives": torch.stack(self._positives).mean()} if self._positives else {}
        return Loss(total=total, parts=log)

    def _scale(self, temperature: float) -> Tensor:
        """() the learned scale, or that of a temperature that is not."""
        if not self.learned:
            return torch.tensor(1 / temperature)
        with torch.autocast(self.logit_scale.device.type, enabled=False):
            return self.logit_scale.float().exp().clamp(max=self.config.max_scale)

    def _losses(
        self, step: Step, pairs: list[Pair], inside: bool, scale: Tensor, layer: int | None
    ) -> dict[str, Tensor]:
        rows = self._compared(step, inside, layer)
        out = {}
        if self.config.closest:
            beside: dict[Side, list[Side]] = {}
            for a, b in pairs:
                beside.setdefault(a, []).append(b)
                beside.setdefault(b, []).append(a)
            return {a.label: closest_loss(rows, a, others, scale) for a, others in beside.items()}
        for a, b in pairs:
            at = "" if layer is None else f".{layer}"
            out[f"{a.label}-{b.label}{at}"] = self._pair(a, b, rows, scale)
        if self.training and torch.is_grad_enabled():
            rows.note(side for pair in pairs for side in pair)
        return out

    def _compared(self, step: Step, inside: bool, layer: int | None) -> Compared:
        c, kind = self.config, "within" if inside else "across"
        predictors: Any = self.predictors[kind]
        queues: Any = self.queues[kind]
        return Compared(
            embed=lambda side: self.made.embed(step, side, inside, layer),
            teach=None if self.teacher is None else lambda side: self.made.teach(step, side, inside),
            predictors=predictors,
            queues=queues,
            batch=c.told_from != "queue",
            queued=c.told_from != "batch",
            own_view=c.loss in OWN_VIEW and c.told_from != "queue",
            nearest=c.nearest,
            relations=Relations.of(c, step) if c.related else None,
        )

    def _pair(self, a: Side, b: Side, rows: Compared, scale: Tensor) -> Tensor:
        """The loss of two sides, averaged over both directions and over the pairs of all processes."""
        c = self.config
        # in one process rows and columns of the same similarities are both directions: one pass does
        if c.loss == "infonce" and c.chunk is not None and world_size() == 1 and rows.alike and c.both_ways:
            (x, mine), (y, theirs) = rows.asks(a), rows.asks(b)
            both = mine & theirs
            with torch.autocast(x.device.type, enabled=False):
                forth, back = info_nce_both(x, y, scale.to(x.device), both, c.chunk, c.label_smoothing)
                return (global_mean(forth, both) + global_mean(back, both)) / 2
        # SigLIP asks every question once, from whichever side; with a teacher or a queue they differ
        both_ways = c.both_ways and not (c.loss == "sigmoid" and rows.alike)
        ways = [(a, b, True), (b, a, False)] if both_ways else [(a, b, True)]
        return torch.stack([self._one_way(*way, rows, scale) for way in ways]).mean()

    def _one_way(self, a: Side, b: Side, forth: bool, rows: Compared, scale: Tensor) -> Tensor:
        """The loss of side a, which asks, among the keys of side b: the mean over the pairs of all processes. forth: b
        is the second side, which grades are of."""
        c = self.config
        (query, asking), (key, there) = rows.pair(a, b)
        both = asking & there
        among = rows.candidates(a, b, key, both)  # which may ask encoders, that keep their precision
        with torch.autocast(query.device.type, enabled=False):
            scale = scale.to(query.device)
            if c.loss == "sigmoid":
                bias = self.logit_bias.float()
                loss = sigmoid_pairs(query, among.keys, among.positive, scale, bias, among.valid, c.chunk)
                return global_mean(loss, both)
            if rows.relations is not None:
                return self._related(rows.relations, among, query, both, scale, forth)
            weight = None
            if c.loss == "dclw":
                every = dclw_weight(gather_rows((query * key).sum(-1).detach()), gather_rows(both), c.sigma)
                weight = every[rank() * len(both) :][: len(both)]
            loss = softmax_rows(
                query,
                among.keys,
                among.positive,
                scale,
                own=among.own,
                decoupled=c.loss in ("dcl", "dclw"),
                weight=weight,
                valid=among.valid,
                chunk=c.chunk,
                smoothing=c.label_smoothing,
            )
            return global_mean(loss, both)

    def _related(
        self, relations: Relations, among: Candidates, query: Tensor, both: Tensor, scale: Tensor, graded: bool
    ) -> Tensor:
        """As `_one_way`, where columns say who belongs together and who is told apart. Counts the positives."""
        c = self.config
        if c.loss == "listwise":
            return listed(relations, among, query, both, scale, graded=graded).float()
        loss, count = related_rows(
            relations, among, query, scale, graded=graded, decoupled=c.loss == "dcl", chunk=c.chunk
        )
        self._positives.append(global_mean(count.float(), both))
        return global_mean(loss, both & (count > 0))

    def looks(self, tower: str) -> list[str] | None:
        """As `Objective.looks`: pooled outputs, of all but masked views and earlier layers."""
        if tower not in self.config.towers:
            return []
        if self.config.layers or self.teacher is not None or any(mask is not None for _, mask in self.sides.looks):
            return None
        return [view for view, _ in self.sides.looks]

    @property
    def unfitted(self) -> int:
        """Samples that the projections start from."""
        return MOST if self.starts else 0

    def fit(self, steps: Callable[..., Iterable[Step]], seed: int) -> None:
        """Projections in closed form, of what training sees; the clean view says how strongly they are shrunk."""
        views = [view for view, _ in self.sides.looks]
        clean = self._gathered(steps(), [CLEAN])
        seen = clean if views == [CLEAN] else self._gathered(steps(again=True), views)
        width = next(iter(self._started.values())).out_features
        maps = closed_form(clean, self.sides.crossings(), width, seed, "objective contrastive", seen)
        for name, linear in maps.items():
            self._started[name].set(linear.mean, linear.deviation, linear.weight.T)

    def _gathered(self, steps: Iterable[Step], views: Sequence[str]) -> dict[str, Rows]:
        """Tower -> what it pools the samples of some steps to, of every view."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.starts}
        for step in steps:
            for name, parts in found.items():
                parts += [step.pooled(name, view, None, self.config.mode, None, None) for view in views]
        return {n: Rows(*(torch.cat(part).cpu() for part in zip(*of, strict=True))) for n, of in found.items()}

    def fitted(self) -> dict[str, nn.Module]:
        """The projections that start in closed form."""
        return dict(self._started)

    def constants(self) -> dict[str, float]:
        """The temperature across towers, as log(1 / temperature), and SigLIP's bias."""
        if not self.sides.across:
            return {}
        ramp = self.config.temperature_ramp
        temperature = self.start * (1.0 if ramp is None else ramp.last)
        found = {"logit_scale": math.log(float(self._scale(temperature).detach()))}
        return found | ({"logit_bias": float(self.logit_bias)} if self.config.loss == "sigmoid" else {})

    def discard(self) -> None:
        """Forget the keys that the queues would take in."""
        for queue in self._queues():
            queue.forget()

    def _queues(self) -> list[Queue]:
        return [module for module in self.queues.modules() if isinstance(module, Queue)]

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the teacher and the queues on, and keep the learned scale within its bound, so that its gradient does
        not die there (CLIP clamps likewise)."""
        self.follow(model, progress)
        for queue in self._queues():
            queue.update()
        if self.learned:
            low = math.log(self.least) if self.least else -math.inf
            self.logit_scale.clamp_(low, math.log(self.config.max_scale))
