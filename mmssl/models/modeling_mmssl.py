"""`MMSSLModel`: the towers and their projections as a Hugging Face model.

Loss-free: objectives own their heads. `model(**processor(image=..., text=..., return_tensors="pt"))` gives token
states and embeddings per modality.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from ..boundary import own_file
from ..errors import UserError, nearest
from ..modality import Batch, Modality, name_fault
from .building import build_tower, tower_config
from .codes import Codes
from .configuration_mmssl import MMSSLConfig
from .initialization import init_module
from .loader import CUSTOM_PIPELINES, LOADER, write_loader
from .options import TowerConfig
from .outputs import MMSSLOutput
from .pooling import usual_readout
from .projection import make_projection
from .shards import check_shards
from .tower import Encoded, Tower

HUB = ("push_to_hub", "repo_id", "token", "private", "revision", "commit_message", "create_pr")
"""What `save_pretrained` takes for `push_to_hub`."""


def tower_spec(config: TowerConfig) -> dict[str, object]:
    """The inverse of `tower_config`, without the adapter: that is no part of the architecture."""
    fields = {("from" if k == "from_" else k): v for k, v in dataclasses.asdict(config).items()}
    fields.pop("adapter")
    return fields


def check_parts(config: MMSSLConfig) -> None:
    """UserError where a `config.json` names a part by what is no name, or is not made of parts at all."""
    for section, parts in (("modalities", config.modalities), ("towers", config.towers)):
        for name, part in (parts or {}).items():
            fault = name_fault(name) or (None if isinstance(part, dict) else f"found {part!r:.60}, expected options")
            kind = part.get("type", name) if isinstance(part, dict) else name
            if fault is None and not isinstance(kind, str):
                fault = f"type: found {kind!r:.60}, expected the name of a modality"
            if fault:
                raise UserError(f"config.json: {section}.{name!r:.60}: {fault}")


class MMSSLModel(PreTrainedModel):
    """Towers over modalities, with a projection of each tower into a shared embedding where the recipe asks for one."""

    config: MMSSLConfig
    config_class = MMSSLConfig
    base_model_prefix = "mmssl"
    main_input_name = "inputs"
    supports_gradient_checkpointing = True
    adapter_from: str | None = None
    """Where an adapter came from that `AutoModel` put in."""
    _supports_sdpa = True  # what `mmssl.models.dispatch` computes attention by, where nothing faster does
    _no_split_modules = ["Block", "MessageBlock", "ConvBlock"]

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__(config)
        assert config.modalities is not None and config.towers is not None
        check_parts(config)
        self.towers = nn.ModuleDict()
        self._tower_of: dict[str, str] = {}
        for name, spec in config.towers.items():
            names = tower_config(spec).modalities or [name]
            self.towers[name] = build_tower(name, spec, config.modalities, config.name_or_path)
            for modality in names:
                if modality in self._tower_of:
                    raise UserError(f"model.towers: modality '{modality}' is in two towers")
                self._tower_of[modality] = name
        self.projections = nn.ModuleDict()
        if config.projection:
            for name in self.towers:
                self.projections[name] = make_projection(
                    self.tower(name).pooled_width,
                    config.projection,
                    config.projection_hidden,
                    config.projection_dropout,
                    config.projection_standard,
                )
        self.codes = nn.ModuleDict({n: Codes(spec) for n, spec in (config.codes or {}).items()}).requires_grad_(False)
        self.post_init()

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own, which `AutoModel.from_pretrained(ADAPTER)` calls, too; where it came from is kept."""
        found = super().load_adapter(peft_model_id, *args, **kwargs)
        self.adapter_from = peft_model_id
        return found

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: the class is the package's own, and a saved folder must not get a copy of its source file."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own, of weights in safetensors alone, which lie in the model's own folder."""
        if pretrained_model_name_or_path is not None and kwargs.setdefault("use_safetensors", True):
            check_shards(str(pretrained_model_name_or_path), **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As transformers' own, with the loader that the `auto_map` in config.json names, and without the weights of an
        earlier save under other names, which would be loaded in place of these.

        Args:
            save_directory: made where it does not exist.
            *args: as transformers has them.
            **kwargs: as transformers has them; with `push_to_hub` all of it is uploaded, also the loader.
        """
        folder = Path(save_directory)
        hub = {key: kwargs.pop(key) for key in HUB if key in kwargs}
        for file in folder.glob("*") if folder.is_dir() else ():
            own_file(folder, file)
        self.config.auto_map = {"AutoConfig": f"{LOADER}.MMSSLConfig", "AutoModel": f"{LOADER}.MMSSLModel"}
        self.config.custom_pipelines = deepcopy(CUSTOM_PIPELINES)
        # set by transformers when a model was loaded with trust_remote_code; it would copy our sources into the folder
        type(self)._auto_class = None
        type(self.config)._auto_class = None
        started = {file: file.stat().st_mtime_ns for file in folder.glob("model*.safetensors*")}
        PreTrainedModel.save_pretrained(self, save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            for file, before in started.items():
                if file.exists() and file.stat().st_mtime_ns == before:
                    file.unlink()
            write_loader(folder)
        if hub.pop("push_to_hub", False):
            PreTrainedModel.push_to_hub(self, hub.pop("repo_id", None) or folder.name, **hub)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_module(module)

    def tower(self, name: str) -> Tower:
        """The tower of that name."""
        tower = self.towers[name]
        assert isinstance(tower, Tower)
        return tower

    def modality(self, name: str) -> Modality:
        """The `Modality` module of that name."""
        modality = self.tower(self.tower_of(name)).modalities[name]
        assert isinstance(modality, Modality)
        return modality

    def tower_of(self, name: str) -> str:
        """The name of the tower that a modality belongs to."""
        if name not in self._tower_of:
            known = list(self._tower_of)
            raise UserError(f"unknown modality '{name}', this model has {', '.join(known)}{nearest(name, known)}")
        return self._tower_of[name]

    def settle_readouts(self) -> None:
        """Write into the configuration how each tower is read out, where its options leave that to the modality.

        Towers of several modalities, pretrained ones, and those that are compared without a projection are read out as
        they pool.
        """
        assert self.config.towers is not None
        for name, spec in self.config.towers.items():
            tower, options = self.tower(name), tower_config(spec)
            own = options.readout is None and options.from_ is None and len(tower.modalities) == 1 and not tower.single
            if own and (len(self.towers) == 1 or self.projections):
                spec["readout"] = usual_readout(options, next(iter(tower.modalities.values())))  # type: ignore[arg-type]
                tower.set_pooling(tower_config(spec))

    def keep_codes(self, name: str, codes: Codes) -> None:
        """Make an objective's codes a part of the model."""
        self.codes[name] = codes.requires_grad_(False)
        self.config.codes = {**(self.config.codes or {}), name: codes.spec}

    @property
    def input_modalities(self) -> list[str]:  # type: ignore[override]
        """What transformers shows of it."""
        return self.modality_names

    @property
    def modality_names(self) -> list[str]:
        """All modalities, tower after tower, in the order of the configuration."""
        return list(self._tower_of)

    def embedding_width(self, tower: str) -> int:
        """E of `embed`."""
        return self.config.projection or self.tower(tower).summary_width

    def embed(self, tower: str, encoded: Encoded, name: str | None = None) -> Tensor:
        """(B, E) embedding of a tower's output, not normalised: projected, or the summary without a projection.

        Args:
            tower: its name.
            encoded: its output.
            name: of the modality to embed; None: all that it was given.
        """
        if tower in self.projections:
            return self.project(tower, encoded.pooled(name))
        return encoded.summary(name)

    def projected_width(self, tower: str) -> int:
        """P of `project`."""
        return self.config.projection or self.tower(tower).pooled_width

    def project(self, tower: str, pooled: Tensor) -> Tensor:
        """pooled (B, W) of a tower -> (B, P) in the shared embedding, not normalised; as it is without a projection."""
        if tower not in self.projections:
            return pooled
        projection = self.projections[tower]
        out: Tensor = projection(pooled.to(next(projection.parameters()).dtype))
        return out

    def encode_batch(
        self, batch: Batch, alone: bool = False, states: bool = False, learned: bool = False
    ) -> MMSSLOutput:
        """Encode nested inputs.

        Args:
            batch: modality -> tensors; modalities that are not in it are left out.
            alone: each modality goes through its tower by itself, so that in a joint tower nothing of one modality gets
                into the embedding of another (as retrieval and probes need).
            states: keep what each block of mmssl's own towers makes.
            learned: what objectives learn through in place of what is read out, as a look at the training wants it.
        """
        hidden: dict[str, tuple[Tensor, ...]] = {}
        output: dict[str, dict[str, Tensor]] = {k: {} for k in ("tokens", "valid", "pooled", "embeddings", "present")}
        single: Encoded | None = None
        for tower_name in self.towers:
            tower = self.tower(tower_name)
            names = [n for n in tower.modalities if n in batch]
            patches = {n: self.modality(n).patchify(batch[n]) for n in names}
            # alone: the tower runs once a modality; else once for all that came, which see each other
            for group in [[n] for n in names] if alone else [names] if names else []:
                blocks = range(1, tower.depth + 1) if states else ()  # wrapped models have no blocks of ours
                encoded = tower({n: patches[n] for n in group}, layers=blocks)
                hidden |= {n: tuple(encoded.layers[b][n] for b in blocks) for n in group if blocks}
                single = encoded
                for name in group:
                    present = encoded.present(name)
                    pooled = encoded.pooled(name) if learned else encoded.summary(name)
                    embedded = self.project(tower_name, pooled) if learned else self.embed(tower_name, encoded, name)
                    projected = F.normalize(embedded.float(), dim=-1)
                    output["tokens"][name] = encoded.tokens[name]
                    output["valid"][name] = encoded.patches[name].valid
                    output["pooled"][name] = pooled
                    output["embeddings"][name] = projected * present[:, None]
                    output["present"][name] = present
        last = pooler = None
        if len(self.towers) == 1 and single is not None and not alone:
            last = torch.cat([single.prefix, *single.tokens.values()], 1)
            pooler = single.summary()
        kept = hidden if states else None
        return MMSSLOutput(last_hidden_state=last, pooler_output=pooler, hidden_states=kept, **output)

    def _own_processor(self, place: str) -> Any:
        """The processor beside the weights, opened once."""
        known: tuple[str, object] | None = self.__dict__.get("_opened")
        if known is None or known[0] != place:
            from transformers import AutoProcessor  # its module asks for ours, which asks for this one

            known = self.__dict__["_opened"] = (place, AutoProcessor.from_pretrained(place))
        return known[1]

    @torch.inference_mode()
    def encode(
        self, samples: Sequence[object], modality: str | None = None, *, batch_size: int = 32, processor: Any = None
    ) -> NDArray[np.float32]:
        """Embeddings of raw samples, as `mmssl embed` writes them.

        Args:
            samples: what the modality reads: paths, PIL images, arrays, texts, ...; None: absent, a row of zeros.
            modality: which one, where the model has several.
            batch_size: samples at a time.
            processor: default: the one in the folder, or on the Hub, that the model was loaded from.

        Returns:
            (len(samples), E), normalised.

        Raises:
            ValueError: the model has several modalities, or was loaded from nowhere and no processor is given.
            BadSample: a sample is broken.
        """
        names = self.modality_names
        if modality is None and len(names) > 1:
            raise ValueError(f"modality: found none, expected one of {', '.join(names)}")
        name = modality or names[0]
        if name not in names:
            raise ValueError(f"modality: found '{name}', expected one of {', '.join(names)}{nearest(name, names)}")
        if isinstance(samples, (str, bytes)):
            raise ValueError(f"samples: found one {type(samples).__name__}, expected a list of them")
        place = self.adapter_from or self.name_or_path
        if processor is None and not place:
            raise ValueError("processor: found none, expected one: this model was not loaded from a folder")
        processor = processor or self._own_processor(str(place))
        was_training = self.training
        self.eval()
        out = np.zeros((len(samples), self.embedding_width(self.tower_of(name))), np.float32)
        try:
            for first in range(0, len(samples), batch_size):
                inputs = processor.preprocessors[name](list(samples[first : first + batch_size]))
                batch = {name: {key: value.to(self.device) for key, value in inputs.items()}}
                out[first : first + batch_size] = (
                    (self.encode_batch(batch).embeddings or {})[name].float().cpu().numpy()
                )
        finally:
            self.train(was_training)
        return out

    def forward(self, **inputs: Any) -> MMSSLOutput | tuple[Any, ...]:
        """Flat inputs `<modality>_<key>`, as the processor returns them. See `MMSSLOutput`.

        `output_hidden_states` and `return_dict` as everywhere in transformers.

        Raises:
            ValueError: no inputs, or unknown ones; `output_attentions`: the kernels keep no weights of attention.
        """
        return_dict, states = inputs.pop("return_dict", None), bool(inputs.pop("output_hidden_states", False))
        if inputs.pop("output_attentions", False):
            raise ValueError("output_attentions: found True, but attention is computed without keeping its weights")
        inputs = {k: v for k, v in inputs.items() if v is not None}
        batch = unflatten(inputs, self._tower_of)
        if not batch:
            raise ValueError(f"no inputs: pass the processor's output, of modalities {', '.join(self._tower_of)}")
        output = self.encode_batch(batch, states=states)
        return output.to_tuple() if return_dict is False else output


def flatten(batch: Batch) -> dict[str, Tensor]:
    """Nested inputs to flat ones: {"image": {"pixel_values": x}} -> {"image_pixel_values": x}."""
    return {f"{name}_{key}": value for name, inputs in batch.items() for key, value in inputs.items()}


def unflatten(inputs: Mapping[str, Tensor], names: Iterable[str]) -> Batch:
    """The inverse of `flatten`; ValueError names a key that belongs to no modality."""
    batch: Batch = {}
    # longest first: "image_left" must not be read as the key "left_..." of "image"
    ordered = sorted(names, key=len, reverse=True)
    for key, value in inputs.items():
        name = next((n for n in ordered if key.startswith(f"{n}_")), None)
        if name is None:
            raise ValueError(f"unexpected input '{key}': expected <modality>_<key> with a modality of {ordered}")
        batch.setdefault(name, {})[key[len(name) + 1 :]] = value
    return batch


AutoModel.register(MMSSLConfig, MMSSLModel, exist_ok=True)
