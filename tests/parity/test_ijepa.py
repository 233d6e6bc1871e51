"""With stock I-JEPA weights our encoder gives the stock targets, and our multi-block loss is the paper's formula,
computed independently: float64, numpy, one sample and one block at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf
from transformers import IJepaConfig, IJepaModel

from benchmarks.stock_weights import copy_vit
from mmssl.draws import Draws
from mmssl.masking import MultiBlock
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import jepa
from mmssl.objectives.options.jepa import PredictorConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

SIDE, PATCH, WIDTH, DEPTH, HEADS, BATCH = 8, 4, 48, 3, 4, 3


@pytest.fixture
def stock() -> IJepaModel:
    torch.manual_seed(0)
    config = IJepaConfig(
        image_size=SIDE * PATCH,
        patch_size=PATCH,
        num_channels=3,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        initializer_range=0.08,
    )
    model = IJepaModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_(std=0.3)
        for name, p in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                p.add_(0.1 * torch.randn_like(p))
    return model


def work(stock: IJepaModel, mask: MultiBlock, **options: object) -> Pretraining:
    tower = TowerConfig(width=WIDTH, depth=DEPTH, heads=HEADS, prefix=0, norm_eps=1e-12)
    image = {
        "type": "image",
        "size": [SIDE * PATCH] * 2,
        "patch": [PATCH] * 2,
        "channels": 3,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "positions": "learned",
    }
    model = MMSSLModel(MMSSLConfig(modalities={"image": image}, towers={"image": tower_spec(tower)}))
    copy_vit(model.tower("image"), "image", stock)
    predictor = PredictorConfig(width=32, depth=2, heads=2)
    objective = jepa.JEPA(jepa.Config(tower="image", mask="blocks", predictor=predictor, **options), model)
    return Pretraining(model, {"jepa": objective}, {}, {"blocks": mask})


# ------------------------------------------------------------------------------------- the paper's formula, in float64


def norm(x: np.ndarray, weight: object = 1.0, bias: object = 0.0, eps: float = 1e-12) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * weight + bias


def linear(p: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    out = []
    for qh, kh, vh in zip(*(np.split(z, heads, -1) for z in (q, k, v)), strict=True):
        logits = qh @ kh.T / np.sqrt(qh.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(weights / weights.sum(-1, keepdims=True) @ vh)
    return np.concatenate(out, -1)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def encode(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Stock names: a pre-norm transformer and its last norm."""
    for i in range(DEPTH):
        at = f"layers.{i}"
        y = norm(x, p[f"{at}.layernorm_before.weight"], p[f"{at}.layernorm_before.bias"])
        q, k, v = (linear(p, f"{at}.attention.{n}_proj", y) for n in "qkv")
        x = x + linear(p, f"{at}.attention.o_proj", attention(q, k, v, HEADS))
        y = norm(x, p[f"{at}.layernorm_after.weight"], p[f"{at}.layernorm_after.bias"])
        x = x + linear(p, f"{at}.mlp.fc2", gelu(linear(p, f"{at}.mlp.fc1", y)))
    return norm(x, p["layernorm.weight"], p["layernorm.bias"])


def predict(p: dict[str, np.ndarray], context: np.ndarray, seen: list[int], asked: list[int]) -> np.ndarray:
    """Our names: I-JEPA's predictor on the context and one mask token for each patch of one target block."""
    table = p["positions.table"]
    queries = p["mask.tokens"] + table[asked]
    x = np.concatenate([linear(p, "project", context) + table[seen], queries])
    for i in range(2):
        at = f"trunk.blocks.{i}"
        y = norm(x, p[f"{at}.norm1.weight"], p[f"{at}.norm1.bias"], 1e-6)
        q, k, v = np.split(linear(p, f"{at}.attention.qkv", y), 3, -1)
        x = x + linear(p, f"{at}.attention.proj", attention(q, k, v, 2))
        y = norm(x, p[f"{at}.norm2.weight"], p[f"{at}.norm2.bias"], 1e-6)
        x = x + linear(p, f"{at}.mlp.fc2", gelu(linear(p, f"{at}.mlp.fc1", y)))
    x = norm(x, p["trunk.norm.weight"], p["trunk.norm.bias"], 1e-6)
    return linear(p, "head", x[len(seen) :])


def float64(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def formula(stock: IJepaModel, predictor: torch.nn.Module, pixels: torch.Tensor, split, kind: str) -> float:
    p, q = float64(stock), float64(predictor)
    proj = p["embeddings.patch_embeddings.projection.weight"].reshape(WIDTH, -1)
    cut = pixels.double().unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, C, rows, columns, P, P)
    flat = cut.permute(0, 2, 3, 1, 4, 5).reshape(BATCH, SIDE * SIDE, -1).numpy()
    tokens = flat @ proj.T + p["embeddings.patch_embeddings.projection.bias"] + p["embeddings.position_embeddings"]
    losses = []
    for sample in range(BATCH):
        seen = [i for i in split.keep[sample].tolist() if i >= 0]
        targets = norm(encode(p, tokens[sample]), eps=1e-5)
        context = encode(p, tokens[sample][seen])
        for block in split.hide[sample].tolist():
            assert not set(block) & set(seen)
            d = np.abs(predict(q, context, seen, block) - targets[block])
            losses.append(np.where(d < 1, d**2 / 2, d - 0.5) if kind == "smooth_l1" else d**2)
    return float(np.mean(losses))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(BATCH, 3, SIDE * PATCH, SIDE * PATCH, generator=torch.Generator().manual_seed(1))


def test_targets_equal_stock_ijepa(stock, pixels):
    pretraining = work(stock, MultiBlock())
    objective, model = pretraining.objectives["jepa"], pretraining.model
    step = Step({"image": {"pixel_values": pixels}}, model, {}, pretraining.masks, Draws(0, BATCH))
    with torch.no_grad():
        expected = torch.nn.functional.layer_norm(stock(pixels).last_hidden_state, (WIDTH,))
    every = torch.arange(SIDE * SIDE).expand(BATCH, -1)
    found = objective._latents(objective._encode_targets(step), "image", every)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", "l2"])
@pytest.mark.parametrize("keep", [None, 0.25])
def test_multi_block_loss_is_the_papers_formula(stock, pixels, kind, keep):
    mask = MultiBlock(keep=keep)
    pretraining = work(stock, mask, loss=kind)
    draws = Draws(3, BATCH)
    loss = pretraining({"image": {"pixel_values": pixels}}, draws)
    patches = pretraining.model.modality("image").patchify({"pixel_values": pixels})
    split = mask({"image": patches}, draws("mask", "blocks"))["image"]
    expected = formula(stock, pretraining.objectives["jepa"].predictors["image"], pixels, split, kind)
    assert abs(loss.total.item() - expected) < 1e-6


def test_teacher_is_the_average_and_moves_only_after_the_step(stock, pixels):
    pretraining = work(stock, MultiBlock(), momentum=[0.9, 1.0])
    objective = pretraining.objectives["jepa"]
    before = {n: p.clone() for n, p in objective.teacher.net.named_parameters()}
    pretraining({"image": {"pixel_values": pixels}}, Draws(0, BATCH)).total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    with torch.no_grad():
        for p in pretraining.model.parameters():
            p.add_(1.0)
    assert all(torch.equal(p, before[n]) for n, p in objective.teacher.net.named_parameters())
    pretraining.after_step(0.5)  # linear: 0.95
    student = dict(pretraining.model.tower("image").named_parameters())
    for n, p in objective.teacher.net.named_parameters():
        expected = 0.95 * before[n].double() + 0.05 * student[n].detach().double()
        torch.testing.assert_close(p.double(), expected, rtol=0, atol=1e-6)
    saved = pretraining.state_dict()
    assert any(n.startswith("objectives.jepa.teacher.net.") for n in saved)
