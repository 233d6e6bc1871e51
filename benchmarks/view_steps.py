"""SimCLR, BYOL, Barlow Twins and DINO steps, ours and `lightly`'s with timm's ViT, as `Pair`s.

Both have the same weights and see the same two views: ours turns a picture over in its step, the peer is given the
picture and its mirror image. Heads and losses are lightly's own; its encoder is called once a view, as in its
examples. `benchmarks.steps` measures them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pairs import Pair, ViT, branch, image_model
from benchmarks.stock_weights import copy_linear
from mmssl.draws import Draws
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.stock.formats import timm as timm_format
from mmssl.objectives import bootstrap, contrastive, distillation, redundancy
from mmssl.objectives.base import Objective
from mmssl.objectives.parts.heads import Head
from mmssl.objectives.pretraining import Pretraining

VIEWS = {"turned": {"image": {"flip": 1.0}}}
NAMES = ["clean", "turned"]
MOMENTUM = 0.996


def encoder(model: MMSSLModel) -> nn.Module:
    """timm's ViT with the weights of our tower, the mean of its patches behind its norm."""
    import timm

    part = branch(model, "image")
    stock: Any = timm.create_model(timm_format.BASE, num_classes=0, **timm_format.model_args(part))
    timm_format.fill(part, stock, out=True)
    stock.pos_embed.requires_grad_(False)  # ours is a table of sines
    return stock.train()


def perceptron(ours: Head) -> nn.Module:
    """lightly's head of the same layers and weights as ours: batch norms between, none behind the last."""
    from lightly.models.modules.heads import ProjectionHead

    blocks: list[Any] = []
    for i, dense in enumerate(ours.dense):
        last = i == len(ours.norms)
        norm, relu = (None, None) if last else (nn.BatchNorm1d(dense.out_features), nn.ReLU())  # type: ignore[arg-type]
        blocks.append((dense.in_features, dense.out_features, norm, relu))
    head = ProjectionHead(blocks)
    for mine, theirs in zip(ours.dense, (m for m in head.layers if isinstance(m, nn.Linear)), strict=True):
        copy_linear(theirs, mine)  # type: ignore[arg-type]
    return head


def trainer(model: MMSSLModel, objective: Objective, device: str) -> Pretraining:
    """What trains our model by one objective on the two views."""
    return Pretraining(model, {"one": objective}, VIEWS, {}).train().to(device)


class Views:
    """A picture and its mirror image: the batch that ours gets, the two that the peer gets."""

    def __init__(self, vit: ViT, batch: int, device: str) -> None:
        self.batch, self.device = batch, device
        self.pixels = torch.randn(batch, 3, vit.side, vit.side).to(device)
        self.both = [self.pixels, self.pixels.flip(-1)]

    def ours(self, work: Pretraining, number: int) -> Tensor:
        """Our loss."""
        total = work({"image": {"pixel_values": self.pixels}}, Draws(number, self.batch, device=self.device)).total
        assert total is not None
        return total


def two_sided(model: MMSSLModel, objective: Any, views: Views, loss: Any) -> Pair:
    """Of a loss between what one encoder with one head makes of both views."""
    net = nn.Sequential(encoder(model), perceptron(objective.heads["image"])).to(views.device)
    work = trainer(model, objective, views.device)

    def peer_loss(number: int) -> Tensor:
        out: Tensor = loss(*(net(x) for x in views.both))
        return out

    return Pair("lightly", work, [net], lambda n: views.ours(work, n), peer_loss, device=views.device)


def simclr(vit: ViT, batch: int, device: str = "cpu", hidden: int = 2048) -> Pair:
    """NT-Xent at 0.1, a head of `hidden` and 128."""
    from lightly.loss import NTXentLoss

    model, views, loss = image_model(vit), Views(vit, batch, device), NTXentLoss(temperature=0.1)
    head = {"head_hidden": hidden, "head_width": 128, "head_norm": "batch"}
    options = contrastive.Config(towers=["image"], views=NAMES, loss="nt_xent", temperature=0.1, **head)  # type: ignore[arg-type]
    objective = contrastive.Contrastive(options, model)
    return two_sided(model, objective, views, loss)


def barlow(vit: ViT, batch: int, device: str = "cpu", hidden: int = 2048) -> Pair:
    """Barlow Twins, a head of three layers of `hidden`."""
    from lightly.loss import BarlowTwinsLoss

    model, views, loss = image_model(vit), Views(vit, batch, device), BarlowTwinsLoss(lambda_param=5e-3)
    options = redundancy.Config(towers=["image"], views=NAMES, head_hidden=hidden, head_width=hidden)
    objective = redundancy.Redundancy(options, model)
    return two_sided(model, objective, views, loss)


def byol(vit: ViT, batch: int, device: str = "cpu", hidden: int = 4096) -> Pair:
    """BYOL, head and predictor of `hidden` and 256. The peer gives a mean of cosines, from which the paper's sum is
    made."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.utils import update_momentum

    model, views, cosine = image_model(vit), Views(vit, batch, device), NegativeCosineSimilarity()
    options = bootstrap.Config(towers=["image"], views=NAMES, head_hidden=hidden, predictor_hidden=hidden)
    objective = bootstrap.Bootstrap(options, model)
    student = nn.Sequential(encoder(model), perceptron(objective.heads["image"])).to(device)  # type: ignore[arg-type]
    predictor = perceptron(objective.predictors["image"]).to(device)  # type: ignore[arg-type]
    teacher = copy.deepcopy(student).requires_grad_(False)
    work = trainer(model, objective, device)

    def peer_loss(number: int) -> Tensor:
        guesses = [predictor(student(x)) for x in views.both]
        with torch.no_grad():
            targets = [teacher(x) for x in views.both]
        return 4 + 2 * (cosine(guesses[0], targets[1]) + cosine(guesses[1], targets[0]))

    return Pair(
        "lightly",
        work,
        [student, predictor, teacher],
        lambda n: views.ours(work, n),
        peer_loss,
        after_ours=lambda: work.after_step(0.0),
        after_peer=lambda: update_momentum(student, teacher, MOMENTUM),
        device=device,
    )


def dino(vit: ViT, batch: int, device: str = "cpu", hidden: int = 2048, prototypes: int = 2048) -> Pair:
    """DINO with two global views and a centre."""
    from lightly.loss import DINOLoss
    from lightly.models.utils import update_momentum

    model, views = image_model(vit), Views(vit, batch, device)
    head = distillation.HeadConfig(prototypes=prototypes, hidden=hidden)
    options = distillation.Config(
        tower="image", global_views=NAMES, head=head, targets="centring", teacher_temperature=[0.04, 0.04]
    )
    objective = distillation.Distillation(options, model)
    student = nn.Sequential(encoder(model), dino_head(objective.heads["class"], vit.width)).to(device)
    teacher, loss = copy.deepcopy(student).requires_grad_(False), DINOLoss(prototypes, teacher_temp=0.04).to(device)
    work = trainer(model, objective, device)

    def peer_loss(number: int) -> Tensor:
        with torch.no_grad():
            targets = [teacher(x) for x in views.both]
        return loss(targets, [student(x) for x in views.both], teacher_temp=0.04)

    return Pair(
        "lightly",
        work,
        [student, teacher],
        lambda n: views.ours(work, n),
        peer_loss,
        after_ours=lambda: work.after_step(0.0),
        after_peer=lambda: update_momentum(student, teacher, MOMENTUM),
        device=device,
    )


@torch.no_grad()
def dino_head(ours: Any, width: int) -> nn.Module:
    """lightly's head with the weights of ours."""
    from lightly.models.modules.heads import DINOProjectionHead

    first, *_, last = ours.layers
    count = ours.prototypes.weight.shape[0]
    head: Any = DINOProjectionHead(width, first.out_features, last.out_features, count)
    for mine, theirs in zip(ours.layers, (m for m in head.layers if isinstance(m, nn.Linear)), strict=True):
        copy_linear(theirs, mine)
    head.last_layer.weight_v.copy_(ours.prototypes.weight)
    return head
