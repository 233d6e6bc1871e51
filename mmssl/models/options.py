"""Options of a tower and of an adapter on it. Without torch: recipes are read, and shown, before anything heavy is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import UserError, nearest
from ..options import Needs, needs, option, strict

YOURS = "YOUR_MODEL"
"""`model.from`, or a tower's `from`, of a shipped recipe that goes on from whatever model the user has."""

RAW = "raw"
"""The part of a pooling that is the modality's raw features, past the trunk."""
STATISTICS = ("mean", "std", "max", "sum", "cls", "last")
CELLS = ("grid", "axis", "flat", "centre")
"""Poolings that keep which patch is which; what cells there are is the modality's business (`Modality.cells`)."""


def pooling_parts(how: str) -> list[str]:
    """The names of a pooling like "mean+std"."""
    return how.split("+")


def check_pooling(how: str | None) -> None:
    """ValueError where that is no pooling."""
    if how is None or how == "attention":
        return
    parts = pooling_parts(how)
    if len(set(parts)) < len(parts) or not set(parts) <= {*STATISTICS, *CELLS, RAW}:
        raise ValueError(
            f"expected attention, or some of {', '.join((*STATISTICS, *CELLS, RAW))} joined by +, each once, "
            f"got {how!r}"
        )


_PART = f"({'|'.join((*STATISTICS, *CELLS, RAW))})"
POOLING = rf"^(attention|{_PART}(\+{_PART})*)$"
POOLINGS = (
    "mean, std, max, sum: of the tokens; cls: the first prefix token; last: the last token (CLIP's EOS); grid: means "
    "of the halves of each axis side by side (2x2 of a picture); axis: means over time side by side (leads, "
    "electrodes, mel bands, places of a video); flat: all tokens of inputs of a fixed size side by side (columns of a "
    "table); centre: the node that a subgraph was sampled around (of a whole graph the mean of its nodes); raw: the "
    "modality's raw features (pixels, word counts, spectrum, cells), past the trunk; several joined by + (mean+std, "
    "mean+raw); attention: a learned query (SigLIP)"
)

TRUNKS = ("transformer", "resnet", "gin", "gcn", "gat")
MESSAGES = ("gin", "gcn", "gat")
"""Those of them whose nodes pass messages along edges (`mmssl.models.messages`)."""
CONVOLUTIONS = ("resnet",)
"""Those that lay patches out again and convolve them (`mmssl.models.convolutions`)."""
HEADLESS = ("gin", "gcn", *CONVOLUTIONS)
"""Those without attention: `heads` are for `pooling: attention` alone."""
OWN = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
"""How the name of a module of somebody else's looks."""


def own_trunk(trunk: object) -> bool:
    """Whether that is the dotted name of a module of somebody else's (`mmssl.models.own_tower`)."""
    return isinstance(trunk, str) and "." in trunk


def check_trunk(trunk: str) -> None:
    """ValueError where that names no trunk."""
    if trunk not in TRUNKS and not re.fullmatch(OWN, trunk):
        raise ValueError(
            f"found {trunk!r}, expected one of {', '.join(map(repr, TRUNKS))}, or the dotted name of a module: "
            f"package.Class{nearest(trunk, TRUNKS)}"
        )


@strict
@dataclass(kw_only=True)
class DecoderPositions:
    """How a decoder or predictor knows where its tokens lie."""

    positions: str = option(
        "additive",
        choices=("additive", "rotary", "vjepa2"),
        help="added to its tokens, as the modality has them; rotary: queries and keys are turned by the coordinates, "
        "also where it attends to another view; vjepa2: rotary exactly as V-JEPA 2 computes it",
    )
    rotary_base: float | None = option(
        None, above=1, max=1e12, help="base of the frequencies of rotary positions; null: 10000 (CroCo v2: 100)"
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("rotary_base", positions=("rotary", "vjepa2")),)


@strict
@dataclass(kw_only=True)
class AdapterConfig:
    """A PEFT adapter on a frozen tower; see `mmssl.models.adapters`. What is null is PEFT's or mmssl's default."""

    type: str = option("lora", help="lora, dora, ia3 or another of PEFT's names, in small letters")
    r: int | None = option(None, min=1, max=65_536, help="rank, of types that have one; default 8")
    alpha: float | None = option(
        None, above=0, max=65_536, help="scale of the update, of types that have one; default 2 r"
    )
    dropout: float | None = option(None, min=0, below=1, help="dropout before the adapter, of types that have it")
    target_modules: list[str] | str | None = option(
        None, help="last parts of module names, or a regular expression over whole names; null: all blocks' layers"
    )
    modules_to_save: list[str] = option(factory=list, help="modules that are trained whole and kept in the adapter")
    options: dict[str, Any] = option(factory=dict, help="further options of PEFT's configuration of this type")


def mode_number(modes: list[str], mode: str | None) -> int:
    """Which of a tower's modes it is; None: the first. UserError for one that is none of them."""
    if mode is not None and mode not in modes:
        raise UserError(f"mode: found '{mode}', expected one of modes {', '.join(modes)}{nearest(mode, modes)}")
    return 0 if mode is None else modes.index(mode)


@strict
@dataclass(kw_only=True)
class TowerConfig:
    """One tower: one or more modalities on one pre-norm transformer, pictures, clips and signals on a residual network,
    graphs on a message-passing one (`trunk`), or a wrapped pretrained model (`from`).

    A ViT-S is width 384, depth 12, heads 6; a ViT-B 768, 12, 12.
    """

    modalities: list[str] = option(factory=list, help="names of its modalities; default: the tower's own name")
    trunk: str = option(
        "transformer",
        check=check_trunk,
        pattern=rf"^({'|'.join(TRUNKS)}|{OWN})$",
        help="transformer: every patch attends to every other; resnet: of pictures, clips, sound and signals, residual "
        "convolutions that see what lies beside, each stage half as wide as the next; of graphs also gin, gcn or gat: "
        "nodes get messages along their edges alone, once a block. No token stands in front but in a transformer. "
        "package.Class: a module of your own",
    )
    trunk_options: dict[str, Any] = option(factory=dict, help="what a module of your own is built with, beside width")
    width: int = option(192, min=1, max=65_536, help="numbers of a token")
    depth: int = option(6, min=0, max=1_024, help="blocks")
    heads: int = option(
        3, min=1, max=1_024, help="attention heads, a divisor of the width; resnet, gin and gcn have none"
    )
    mlp_ratio: float = option(4.0, above=0, max=1_000, help="hidden width of a block's perceptron, over the width")
    prefix: int = option(
        1, min=0, max=1_024, help="learned tokens in front: the first is CLS, further ones are registers"
    )
    modes: list[str] = option(
        factory=list,
        help="learned tokens, of which one stands in front: that of the kind that a sample has drawn of a mask; "
        "where nothing is hidden, so in fine-tuning, that of `mode`",
    )
    mode: str | None = option(
        None, help="of `modes` the one in which it reads where nothing is hidden; null: the first"
    )
    pooling: str = option(
        "mean", check=check_pooling, pattern=POOLING, help=f"what objectives and projections learn through. {POOLINGS}"
    )
    readout: str | None = option(
        None,
        check=check_pooling,
        pattern=POOLING,
        help="what embed, evaluate and finetune take of a tower without projection, in pooling's words; null: the "
        "modality's own where pooling is mean, else as pooling",
    )
    readout_layers: int = option(1, min=1, max=1_024, help="that many last blocks are read out side by side")
    readout_norm: bool = option(True, help="the tower's last norm over each block that is read out, as in DINO")
    norm_eps: float = option(1e-6, above=0, max=1, help="added to the variance in layer norms")
    qkv_bias: bool = option(True, help="a bias in the maps to queries, keys and values")
    activation: str = option(
        "gelu",
        choices=("gelu", "gelu_tanh", "quick_gelu", "silu", "geglu", "swiglu"),
        help="of a block's perceptron; gelu_tanh: its approximation, quick_gelu: CLIP's; geglu and swiglu: gated, a "
        "second map of the same width times the gelu or silu of the first",
    )
    layer_scale: float | None = option(
        None, above=0, max=1_000, help="initial value of a learned scale per block; null: none"
    )
    positions: str = option(
        "additive",
        choices=("additive", "rotary", "vjepa2", "dinov3"),
        help="added to the tokens, as the modality has them; rotary: queries and keys are turned by the coordinates; "
        "vjepa2: rotary exactly as V-JEPA 2 computes it; dinov3: as DINOv3, by the place within the whole picture. "
        "Decoders and predictors have their own",
    )
    rotary_base: float | None = option(
        None, above=1, max=1e12, help="base of the frequencies of rotary positions; null: 10000, of dinov3 100"
    )
    causal: bool = option(False, help="a token sees only those before it, as in CLIP's text encoder")
    embed_norm: bool = option(False, help="a norm before the first block, as in CLIP's image encoder")
    final_norm: bool = option(True, help="a norm behind the last block")
    dropout: float = option(
        0.0,
        min=0,
        below=1,
        help="of attention's and the perceptron's outputs, in training; of what message-passing blocks take in",
    )
    drop_path: float = option(0.0, min=0, below=1, help="stochastic depth of the last block; grows linearly to it")
    from_: str | None = option(
        None,
        local=True,
        help="a pretrained model: a transformers folder or id, timm:FOLDER, open_clip:NAME[/PRETRAINED] or FOLDER; "
        "timm:NAME: a trunk of timm with random weights. Of volumes one of images, a run or model of mmssl's, too, "
        "which sees slice by slice",
    )
    slice_blocks: int = option(
        1,
        min=0,
        max=1_024,
        help="behind an encoder that sees slice by slice: blocks in which each place looks at itself in all slices",
    )
    convert: bool | None = option(
        None, help="`from` into a tower of mmssl's own (true), wrapped as it is (false); null: whatever loses nothing"
    )
    frozen: bool = option(False, help="do not train this tower")
    adapter: AdapterConfig | None = option(None, help="train this adapter only; the tower itself is frozen")

    NEEDS = (
        needs("slice_blocks", from_="an encoder that sees slice by slice", holds=lambda c: c.from_ is not None),
        needs("mode", modes="some", holds=lambda c: bool(c.modes)),
        needs("prefix", "modes", "qkv_bias", "positions", "rotary_base", "causal", "embed_norm", trunk="transformer"),
        needs("trunk_options", trunk="package.Class", holds=lambda c: own_trunk(c.trunk)),
        needs(
            *("depth", "final_norm", "layer_scale", "dropout", "drop_path"),
            trunk="one of mmssl's",
            holds=lambda c: not own_trunk(c.trunk),
        ),
        needs(
            *("heads", "norm_eps", "activation"),
            trunk="one of mmssl's, or pooling: attention",
            holds=lambda c: not own_trunk(c.trunk) or c.pooling == "attention",
        ),
        needs("readout_layers", "readout_norm", trunk=("transformer", *MESSAGES)),
        needs(
            "mlp_ratio",
            trunk="transformer or gin, or pooling: attention",
            holds=lambda c: not (c.trunk in CONVOLUTIONS or own_trunk(c.trunk)) or c.pooling == "attention",
        ),
    )

    def __post_init__(self) -> None:
        if self.modes and self.mode is not None:
            mode_number(self.modes, self.mode)

    def sole(self, modalities: Iterable[str]) -> str:
        """The one modality of a tower that has to have one; UserError where there are several."""
        first, *further = modalities
        if further:
            raise UserError(
                f"model.towers: found trunk: {self.trunk} in a tower of {', '.join([first, *further])}, expected one "
                "modality in it"
            )
        return first

    @property
    def pretrained(self) -> bool:
        """Whether it starts from weights that somebody trained; `timm:NAME` is an architecture with random ones."""
        if self.from_ is None:
            return False
        name = self.from_.removeprefix("timm:")
        return name == self.from_ or "/" in name or name.startswith(("~", ".")) or Path(name).is_dir()
