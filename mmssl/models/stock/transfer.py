"""Weights between our trunk and a stock one, in both directions by the same code: what is written can be read back.

`out=True` copies ours into theirs, `out=False` theirs into ours. Stock parts are named by their path in the stock
model. Shapes: D width, O outputs, I inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ...boundary import reading_of
from ...errors import UserError
from ..saving import no_progress_bars
from ..shards import check_shards
from ..trunk import GATED, Block

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..options import TowerConfig


ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}
"""Our names of activations -> those of transformers. Their `gelu_new` and `gelu_fast` are the tanh form as well."""

READ_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_new": "gelu_tanh", "swish": "silu"}


@dataclass(frozen=True)
class BlockNames:
    """Where the parts of a stock pre-norm block lie in it. qkv: three linear maps, or one that is all of them.

    fc1: the first map of the perceptron; of a gated one that of the gate, and that of what it gates.
    scale1, scale2: parameters of a layer scale, None where the class has none.
    """

    norm1: str
    qkv: tuple[str, ...]
    proj: str
    norm2: str
    fc1: tuple[str, ...]
    fc2: str
    scale1: str | None = None
    scale2: str | None = None


class Weighted(Protocol):
    """What holds a linear map: `nn.Linear`, `nn.Conv2d`, or a namespace with its numbers in another shape."""

    @property
    def weight(self) -> Tensor:
        """(O, I), or the kernel of a convolution."""

    @property
    def bias(self) -> Tensor | None:
        """(O,), None where it has none."""


VIT_BLOCK = BlockNames(
    "layernorm_before",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "layernorm_after",
    ("mlp.fc1",),
    "mlp.fc2",
)


def find(module: nn.Module, path: str) -> Any:
    """The part of a stock module at a dotted path; torch's own attention as one map of queries, keys and values."""
    part = module.get_submodule(path)
    if isinstance(part, nn.MultiheadAttention):
        return SimpleNamespace(weight=part.in_proj_weight, bias=part.in_proj_bias)
    return part


@torch.no_grad()
def linear(ours: Weighted, theirs: Sequence[Weighted], out: bool) -> None:
    """One linear map of ours and one of theirs, or several that are stacked in ours: queries, keys and values, or a
    gate and what it gates.

    A convolution whose kernel is its stride is a linear map of the flattened patch. Where they have no bias, ours must
    be zero; but a bias of the keys adds the same to all scores of a query, which the softmax does not see.
    """
    rows = ours.weight.shape[0] // len(theirs)
    for i, part in enumerate(theirs):
        span = slice(i * rows, (i + 1) * rows)
        keys = len(theirs) == 3 and i == 1
        if out:
            part.weight.copy_(ours.weight[span].reshape(part.weight.shape))
            if part.bias is not None:
                part.bias.copy_(ours.bias[span] if ours.bias is not None else torch.zeros_like(part.bias))
            elif ours.bias is not None and not keys:
                assert not ours.bias[span].any(), "a bias that the stock class has no place for"
        else:
            ours.weight[span].copy_(part.weight.reshape(rows, -1))
            if ours.bias is not None:
                ours.bias[span].copy_(part.bias if part.bias is not None else torch.zeros_like(ours.bias[span]))
            else:
                assert part.bias is None or not part.bias.any(), "a bias that our tower has no place for"


@torch.no_grad()
def norm(ours: Any, theirs: Any, out: bool) -> None:
    """A layer norm; its epsilon goes along."""
    here, there = (theirs, ours) if out else (ours, theirs)
    here.weight.copy_(there.weight)
    here.bias.copy_(there.bias)
    here.eps = there.eps


@torch.no_grad()
def vector(ours: Tensor, theirs: Tensor, out: bool) -> None:
    """Parameters that hold the same numbers in another shape."""
    here, there = (theirs, ours) if out else (ours, theirs)
    here.copy_(there.reshape(here.shape))


def block(ours: Block, theirs: nn.Module, names: BlockNames, out: bool) -> None:
    """One transformer block. A layer scale that the stock class lacks is multiplied into the maps before it."""
    norm(ours.norm1, find(theirs, names.norm1), out)
    linear(ours.attention.qkv, [find(theirs, n) for n in names.qkv], out)
    linear(ours.attention.proj, [find(theirs, names.proj)], out)
    norm(ours.norm2, find(theirs, names.norm2), out)
    linear(ours.mlp.fc1, [find(theirs, n) for n in names.fc1], out)
    linear(ours.mlp.fc2, [find(theirs, names.fc2)], out)
    branches = ((ours.residual1, names.scale1, names.proj), (ours.residual2, names.scale2, names.fc2))
    for residual, path, before in branches:
        scale = residual.scale
        if path is not None:
            parameter = theirs.get_parameter(path)
            if scale is not None:
                vector(scale.gamma, parameter, out)
            elif out:
                nn.init.ones_(parameter)
            else:
                assert (parameter == 1).all(), "a layer scale that our tower has no place for"
        elif scale is not None:
            assert out, "a tower with a layer scale from a class without"
            fold_scale(find(theirs, before), scale.gamma)


@torch.no_grad()
def fold_scale(before: Weighted, gamma: Tensor) -> None:
    """gamma * (W x + b) as one linear map."""
    before.weight.mul_(gamma[:, None])
    if before.bias is not None:
        before.bias.mul_(gamma)


def blocks(ours: nn.ModuleList, theirs: Iterable[nn.Module], names: BlockNames, out: bool) -> None:
    """All transformer blocks, one after the other."""
    for mine, stock in zip(ours, theirs, strict=True):
        assert isinstance(mine, Block)
        block(mine, stock, names, out)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of the weights that are left over: which may be missing is checked here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def pretrained(cls: Any, origin: str, ignore: Sequence[str], **options: object) -> Any:
    """A checkpoint as `cls` in float32, of safetensors alone. UserError when it cannot be read or lacks weights.

    ignore: beginnings of what may be missing: heads that we do not take.
    """
    with reading_of(f"model.towers: from '{origin}': its weights cannot be read"), no_progress_bars(), _quiet():
        options |= {"dtype": torch.float32, "use_safetensors": True}
        check_shards(origin, **options)
        model, info = cls.from_pretrained(origin, output_loading_info=True, **options)
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(tuple(ignore) or ("\0",)))
    if missing:
        raise UserError(
            f"model.towers: from '{origin}': it lacks {len(missing)} tensors of a {cls.__name__}, "
            f"'{missing[0]}' among them"
        )
    return model.eval()


def activation(hidden_act: object) -> str | None:
    """Our name of an activation of transformers, None where we have none."""
    return READ_ACTIVATIONS.get(hidden_act) if isinstance(hidden_act, str) else None


def trunk_options(config: PretrainedConfig, **fields: str) -> dict[str, Any]:
    """Options of `TowerConfig` from a stock configuration; `fields` says which of its fields hold them."""
    width = int(getattr(config, fields.get("width", "hidden_size")))
    ratio_field = fields.get("mlp_ratio")
    ratio = getattr(config, ratio_field) if ratio_field else 0.0
    return {
        "width": width,
        "depth": int(getattr(config, fields.get("depth", "num_hidden_layers"))),
        "heads": int(getattr(config, fields.get("heads", "num_attention_heads"))),
        "mlp_ratio": float(ratio) if ratio_field else ratio_of(width, int(config.intermediate_size)),
        "norm_eps": float(config.layer_norm_eps),
        "activation": activation(config.hidden_act),
        "positions": "additive",
    }


def ratio_of(width: int, hidden: int) -> float:
    """A ratio of which `int(width * ratio)` makes `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def stock_options(options: TowerConfig, mapping: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Fields of a stock configuration from a `TowerConfig`."""
    out = {
        "hidden_size": options.width,
        "num_hidden_layers": options.depth,
        "num_attention_heads": options.heads,
        "intermediate_size": int(options.width * options.mlp_ratio),
        "layer_norm_eps": float(options.norm_eps),
        "hidden_act": ACTIVATIONS[GATED.get(options.activation, options.activation)],
    }
    return {(mapping or {}).get(key, key): value for key, value in out.items()}
