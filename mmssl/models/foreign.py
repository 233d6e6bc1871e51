"""A tower taken from a pretrained model: `model.towers.X.from`, frozen or trained on.

`from: timm:FOLDER` and `timm:NAME` are models of timm (`mmssl.models.timm_tower`).
`from: PATH_OR_ID` is any transformers encoder that takes `pixel_values` or `input_ids` (ViT, DINOv2, BERT, the vision
or text half of CLIP and SigLIP, ...), or raw sound (`mmssl.models.waves`); `from: open_clip:NAME[/PRETRAINED]` or
`open_clip:FOLDER` is one half of an open_clip model. Which half is decided by whether the tower's modality has ids or
numbers. With `pooling: cls` a pair's half embeds as it was trained to (its pooled, projected output); `mean` averages
its tokens. The model sees all its patches (`drops = False`). What is needed to rebuild it is kept in `config.json`, so
that the saved model loads without its origin. This is the one place outside export and fine-tuning that uses
transformers' model classes.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..boundary import reading_of
from ..errors import UserError, nearest
from ..modality import MaskToken, Modality
from ..patches import Patches
from .options import TowerConfig
from .shards import check_shards
from .tower import Encoded, Tower

OPEN_CLIP, TIMM = "open_clip:", "timm:"
OPEN_CLIP_WEIGHTS = ("open_clip_model", "open_clip_pytorch_model")
"""What open_clip reads before it looks for pickled weights, which are not read here."""
POOLERS = ("clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model", "siglip2_text_model")
"""Halves of pairs: what they pool to is no token of theirs. With `pooling: cls` that is the summary."""


class Foreign(TypedDict):
    """What `config.json` keeps of a wrapped model: `library` (transformers, open_clip, timm) and its own `config`."""

    library: str
    config: dict[str, Any]


def without_origin(config: object) -> Any:
    """A configuration without the paths it was loaded from, which would show the user's machine."""
    if isinstance(config, dict):
        return {key: without_origin(value) for key, value in config.items() if key != "_name_or_path"}
    return config


def public_origin(origin: str) -> str:
    """The origin as a saved model may show it: of a folder on the user's machine the last part only."""
    from .privacy import public

    library, name = split_origin(origin)
    return library + str(public(name))


def split_origin(origin: str) -> tuple[str, str]:
    """("open_clip:", "timm:" or "", what stands behind it)."""
    library = next((prefix for prefix in (OPEN_CLIP, TIMM) if origin.startswith(prefix)), "")
    return library, origin.removeprefix(library)


def open_clip_config(name: str) -> dict[str, Any]:
    import open_clip

    if Path(name).is_dir() or name.startswith(("/", ".", "~")):
        what = f"model.towers: from '{OPEN_CLIP}{name}': expected a folder with a readable open_clip_config.json"
        with reading_of(what):
            config: dict[str, Any] = json.loads((Path(name) / "open_clip_config.json").read_text())["model_cfg"]
        return config
    architecture = name.partition("/")[0]
    found = open_clip.get_model_config(architecture)
    if found is None:
        raise UserError(
            f"model.towers: from '{OPEN_CLIP}{name}': open_clip has no model '{architecture}'"
            f"{nearest(architecture, open_clip.list_models())}"
        )
    return dict(found)


def load_foreign(tower: nn.Module, origin: str) -> None:
    """Copy the pretrained weights of `origin` into the tower."""
    assert isinstance(tower, ForeignTower)
    with reading_of(f"model.towers: from '{origin}': its weights cannot be read"):
        weights = tower.pretrained(origin)
    tower.net.load_state_dict(weights)


class ForeignTower(Tower):
    """What wrapped models share. `net` is the wrapped module; the modality's own embedding is not used."""

    drops = False

    def __init__(self, options: TowerConfig, modalities: Mapping[str, Modality], net: nn.Module, width: int) -> None:
        nn.Module.__init__(self)
        self.modalities = nn.ModuleDict(modalities).requires_grad_(False)  # the wrapped model embeds by itself
        self.name = next(iter(modalities))
        self.ids = modalities[self.name].ids
        self.net, self.width, self.frozen = net, width, options.frozen
        self.depth = 0
        self.mask: MaskToken | None = None
        self.pool = None
        self.set_pooling(options)

    @property
    def prefix_count(self) -> int:
        """0: there is no prefix of ours; what the wrapped model puts in front is its own."""
        return 0

    @property
    def classes(self) -> bool:
        """True: whether the wrapped model has a class token shows when it runs."""
        return True

    def check(self, theirs: Mapping[str, Any]) -> None:
        """UserError unless the modality fits the wrapped model; None in `theirs`: it takes any.

        theirs: for pictures the `size`, `patch` and `channels` it takes, for text its `tokens` and its `length`.
        """
        modality: Any = self.modalities[self.name]
        where = f"modalities.{self.name}"
        for key in ("size", "patch", "channels"):
            want = theirs.get(key)
            if want is None:
                continue
            want = [want, want] if isinstance(want, int) and key != "channels" else want
            have = getattr(modality, key)
            have, want = (x if isinstance(x, int) else list(x) for x in (have, want))
            if have != want:
                raise UserError(f"{where}.{key}: found {have}, but the pretrained tower takes {want}")
        if theirs.get("tokens") is not None and modality.pred_width() > theirs["tokens"]:
            raise UserError(
                f"{where}.tokenizer: has {modality.pred_width()} tokens, but the pretrained tower knows "
                f"{theirs['tokens']}; use the tokenizer it was trained with"
            )
        if theirs.get("length") is not None and modality.max_length > theirs["length"]:
            raise UserError(
                f"{where}.max_length: found {modality.max_length}, but the pretrained tower takes at most "
                f"{theirs['length']} tokens"
            )

    def pretrained(self, origin: str) -> Mapping[str, Tensor]:
        """The weights at `origin` as `net` names them."""
        raise NotImplementedError

    def run(self, patches: Patches, hidden: Tensor | None) -> tuple[Tensor, Tensor, Patches]:
        """(prefix (B, R, D), tokens (B, N, D), the patches that these stand for)."""
        raise NotImplementedError

    def forward(
        self, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None = None, layers: Sequence[int] = ()
    ) -> Encoded:
        """As `Tower.forward`; `layers` are not to be had, and a frozen model runs without a graph."""
        p = patches[self.name]
        # frozen: no graph is kept for what gets no gradient
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            prefix, tokens, p = self.run(p, (hidden or {}).get(self.name))
        if not p.full:
            # what the wrapped model makes of padding is for nobody
            tokens = tokens * p.valid[..., None]
        return Encoded({self.name: tokens}, {self.name: p}, prefix, self.pooling, self.readout)

    def pixels(self, patches: Patches, hidden: Tensor | None) -> Tensor:
        """The picture (B, C, H, W) back from its patches; hidden ones are mean grey, the zero of normalised pixels."""
        values = patches.values.nan_to_num(0.0)
        if hidden is not None:
            values = values.masked_fill(hidden[..., None], 0.0)
        modality: Any = self.modalities[self.name]
        like = torch.empty(len(values), modality.channels, *modality.size, device="meta")
        pixels: Tensor = modality.unpatchify(values, {"pixel_values": like})["pixel_values"]
        return pixels


class TransformersTower(ForeignTower):
    """A transformers encoder; for CLIP-like pairs one half with its projection."""

    def __init__(self, options: TowerConfig, modalities: Mapping[str, Modality], config: Mapping[str, object]) -> None:
        ids = next(iter(modalities.values())).ids
        net = _half(untrained(config), ids)
        encoder: Any = net["encoder"]
        check_inputs(encoder, "input_ids" if ids else "pixel_values")
        width: Any = net["projection"].out_features if "projection" in net else encoder.config.hidden_size
        super().__init__(options, modalities, net, width)
        self.pools = "projection" not in net and encoder.config.model_type in POOLERS
        if ids:
            self.check(
                {
                    "tokens": encoder.config.vocab_size,
                    "length": getattr(encoder.config, "max_position_embeddings", None),
                }
            )
            # a mask token goes in as an embedding, which CLIP's text half, say, does not take
            self.replaces = "inputs_embeds" in inspect.signature(encoder.forward).parameters
            self.mask = MaskToken(encoder.config.hidden_size) if self.replaces else None
        else:
            self.check(
                {
                    "size": getattr(encoder.config, "image_size", None),
                    "patch": getattr(encoder.config, "patch_size", None),
                    "channels": getattr(encoder.config, "num_channels", None),
                }
            )

    def pretrained(self, origin: str) -> Mapping[str, Tensor]:
        """As `ForeignTower.pretrained`; from safetensors alone: nothing of the origin is executed."""
        from transformers import AutoModel

        safe = {"use_safetensors": True, "trust_remote_code": False}
        check_shards(origin)
        return _half(AutoModel.from_pretrained(origin, dtype=torch.float32, **safe), self.ids).state_dict()

    def run(self, patches: Patches, hidden: Tensor | None) -> tuple[Tensor, Tensor, Patches]:
        """As `ForeignTower.run`; the prefix is what the model pools to, or its tokens in front of the patches."""
        encoder = self.net["encoder"]  # type: ignore[index]
        if self.ids:
            embedded = encoder.get_input_embeddings()(patches.values)
            if hidden is not None:
                assert self.mask is not None
                embedded = self.mask(embedded, hidden)
            # a row of padding only would be softmax over nothing; it is cleared afterwards
            attention = patches.valid | ~patches.valid.any(1, keepdim=True)
            keys = {"attention_mask": attention.long()}
            if hidden is None:
                output = encoder(input_ids=patches.values, **keys)
            else:
                output = encoder(inputs_embeds=embedded, **keys)
        else:
            output = encoder(pixel_values=self.pixels(patches, hidden))
        states = output.last_hidden_state
        extra = states.shape[1] - patches.count
        if extra < 0:
            found = f"{states.shape[1]} tokens for {patches.count} patches"
            raise UserError(f"model.towers: the pretrained tower gives {found}, expected at least one a patch")
        prefix, tokens = (states[:, :1], states) if self.ids else (states[:, :extra], states[:, extra:])
        if self.pools:
            prefix = output.pooler_output[:, None]
        if "projection" in self.net:  # type: ignore[operator]
            projection = self.net["projection"]  # type: ignore[index]
            prefix, tokens = projection(output.pooler_output)[:, None], projection(tokens)
        return prefix, tokens, patches


def untrained(config: Mapping[str, Any]) -> nn.Module:
    """The model of a configuration of transformers, with random weights. UserError where it is none."""
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {k: v for k, v in config.items() if k not in ("architectures", "dtype", "transformers_version")}
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise UserError(f"model.towers: found a model of type {kind!r:.60}, expected one of transformers")
    built = CONFIG_MAPPING[kind].from_dict(fields)
    model: nn.Module = AutoModel.from_config(built, trust_remote_code=False)
    return model


def check_inputs(encoder: nn.Module, wanted: str) -> None:
    """UserError unless an encoder takes what a wrapped one is given, and asks for nothing else."""
    takes = inspect.signature(encoder.forward).parameters
    name = type(encoder).__name__
    if wanted not in takes:
        raise UserError(
            f"model.towers: from a {name}, which takes {encoder.main_input_name}: only encoders of pixel_values, of "
            f"input_ids and, of raw sound, of input_values can be wrapped, here one of {wanted}"
        )
    further = [
        n for n, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and n != wanted
    ]
    if further:
        raise UserError(
            f"model.towers: from a {name}, which asks for {', '.join(further)} beside {wanted} and cannot be wrapped; "
            f"set convert: true where its format can be read"
        )


def _half(model: nn.Module, ids: bool) -> nn.ModuleDict:
    """{"encoder": ..., "projection": ...}: the half of a pair, or the whole of a single encoder."""
    half = "text" if ids else "vision"
    if not hasattr(model, f"{half}_model"):
        return nn.ModuleDict({"encoder": model})
    parts: dict[str, nn.Module] = {"encoder": getattr(model, f"{half}_model")}
    projection = getattr(model, "text_projection" if ids else "visual_projection", None)
    if projection is not None:
        parts["projection"] = projection
    return nn.ModuleDict(parts)


class OpenClipTower(ForeignTower):
    """The visual or text half of an open_clip model, its projection included."""

    def __init__(self, options: TowerConfig, modalities: Mapping[str, Modality], config: Mapping[str, Any]) -> None:
        from open_clip import CustomTextCLIP
        from open_clip.transformer import TextTransformer, VisionTransformer

        known = {k: v for k, v in config.items() if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
        ids = next(iter(modalities.values())).ids
        pair = CustomTextCLIP(**known)
        net = pair.text if ids else pair.visual
        if not isinstance(net, TextTransformer if ids else VisionTransformer):
            raise UserError(f"model.towers: open_clip's {type(net).__name__} gives no tokens, expected a transformer")
        # open_clip gives the pooled output alone otherwise
        net.output_tokens = True
        super().__init__(options, modalities, net, int(config["embed_dim"]))
        self.replaces = not ids
        if isinstance(net, TextTransformer):
            self.check({"tokens": net.vocab_size, "length": net.context_length})
        else:
            self.check({"size": net.image_size, "patch": net.patch_size, "channels": net.conv1.in_channels})

    def pretrained(self, origin: str) -> Mapping[str, Tensor]:
        """As `ForeignTower.pretrained`, from a folder or one of the weights that open_clip knows by name."""
        import open_clip

        name = origin.removeprefix(OPEN_CLIP)
        if Path(name).is_dir():
            if not any((Path(name) / f"{stem}.safetensors").is_file() for stem in OPEN_CLIP_WEIGHTS):
                raise UserError(f"model.towers: from '{origin}': found no {OPEN_CLIP_WEIGHTS[0]}.safetensors in it")
            pair = open_clip.create_model(f"local-dir:{name}", force_custom_text=True, require_pretrained=True)
        else:
            architecture, _, weights = name.partition("/")
            pair = open_clip.create_model(architecture, pretrained=weights or None, force_custom_text=True)
        part: nn.Module = pair.text if self.ids else pair.visual
        return part.state_dict()

    def run(self, patches: Patches, hidden: Tensor | None) -> tuple[Tensor, Tensor, Patches]:
        """As `ForeignTower.run`; the prefix is the pooled, projected output."""
        net: Any = self.net
        inputs = patches.values if self.ids else self.pixels(patches, hidden)
        if self.ids:  # padded to the whole context, as open_clip's tokenizers do: its causal mask has that size, and
            # SigLIP pools the last position, padding or not
            inputs = nn.functional.pad(inputs, (0, net.context_length - inputs.shape[1]), value=net.pad_id)
        pooled, tokens = net(inputs)
        projection = net.text_projection if self.ids else net.proj
        if projection is not None:
            tokens = projection(tokens) if isinstance(projection, nn.Module) else tokens @ projection
        # text is padded behind, a picture's class token stands in front
        tokens = tokens[:, : patches.count] if self.ids else tokens[:, -patches.count :]
        return pooled[:, None], tokens, patches
