"""PEFT adapters on an `MMSSLModel`, put into its layers in place: the model stays one, its base is frozen.

Hu et al., "LoRA", ICLR 2022 (arXiv 2106.09685); Liu et al., "DoRA", ICML 2024 (arXiv 2402.09353); Liu et al.,
"(IA)^3", NeurIPS 2022 (arXiv 2205.05638). The other types are PEFT's, by PEFT's names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import UserError, nearest, one_line
from .conv_tower import ConvTower
from .foreign import ForeignTower
from .message_tower import MessageTower
from .modeling_mmssl import MMSSLModel
from .options import AdapterConfig

if TYPE_CHECKING:
    from peft import PeftModel

BLOCK_LAYERS = r"trunk\.blocks\.\d+\.(?:attention\.(?:qkv|proj)|mlp\.(?:fc1|fc2))"
"""The linear layers of our trunk's blocks: attention's fused product and output, and both of the perceptron."""
MESSAGE_LAYERS = r"trunk\.blocks\.\d+\.messages\.(?:linear|mlp\.(?:fc1|fc2))"
"""Those of a message-passing trunk's blocks."""
CONVOLUTIONS = r"trunk\.blocks\.\d+\.(?:conv1|conv2)"
"""Both convolutions of a residual block."""
KINDS = {"dora": ("LORA", {"use_dora": True}), "rslora": ("LORA", {"use_rslora": True})}
"""Names of types that PEFT has as an option of another one."""
UNFIT = {
    "ADALORA": "it needs a callback in the loop that moves rank between layers",
    "XLORA": "it mixes adapters that were trained before",
    "POLY": "it needs the number of a task with every sample",
    "CPT": "it works on prompts of a language model",
    "SHADOW": "it works on language models",
    "ADAPTION_PROMPT": "it works on prompts of a language model",
    "TRAINABLE_TOKENS": "it works on the embedding of tokens",
}
Targets = str | list[str]


def type_names() -> list[str]:
    """The types that fit an encoder, in small letters: PEFT's without those that work on prompts."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known

    fit = [str(k.value).lower() for k, c in known.items() if "target_modules" in c.__dataclass_fields__]
    return sorted([*KINDS, *(name for name in fit if name.upper() not in UNFIT)])


def check_adapter(config: AdapterConfig, where: str = "adapter") -> None:
    """UserError when there is no such type, or it has no such option; before any model is there."""
    _peft_class(config, where)
    _peft_options(config, where)


def _peft_class(config: AdapterConfig, where: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known

    name = KINDS[config.type][0] if config.type in KINDS else config.type.upper()
    classes = {str(kind.value): cls for kind, cls in known.items()}
    reason = UNFIT.get(name)
    if name in classes and "target_modules" not in classes[name].__dataclass_fields__:
        reason = "it works on prompts, which an encoder does not take"
    if reason:
        raise UserError(f"{where}.type: '{config.type}' does not fit here: {reason}; use lora, dora or ia3")
    if name not in classes:
        names = type_names()
        raise UserError(
            f"{where}.type: PEFT has no type '{config.type}', expected one of {', '.join(names)}"
            f"{nearest(config.type, names)}"
        )
    return classes[name]


def _peft_options(config: AdapterConfig, where: str) -> dict[str, Any]:
    """Keyword arguments of PEFT's configuration but for the modules."""
    cls = _peft_class(config, where)
    known = {f.name for f in dataclasses.fields(cls)} - {"peft_type", "auto_mapping", "base_model_name_or_path"}
    out: dict[str, Any] = dict(KINDS[config.type][1]) if config.type in KINDS else {}
    names = {"r": ("r",), "alpha": ("lora_alpha", "alpha"), "dropout": ("lora_dropout", "module_dropout")}
    for option, choices in names.items():
        name = next((c for c in choices if c in known), None)
        value = getattr(config, option)
        if value is not None and name is None:
            raise UserError(f"{where}.{option}: type '{config.type}' has no such option")
        if name is not None and value is not None:
            out[name] = int(value) if option == "alpha" and float(value).is_integer() else value
    if "lora_alpha" in known:  # LoRA and its kin: PEFT's default scale would depend on the rank
        out.setdefault("r", 8)
        out.setdefault("lora_alpha", 2 * out["r"])
    for name, value in config.options.items():
        if name not in known:
            raise UserError(f"{where}.options.{name}: PEFT's {cls.__name__} has no such option{nearest(name, known)}")
        if name in ("target_modules", "modules_to_save", "r", *out):
            raise UserError(f"{where}.options.{name}: set {where}.{_own_name(name)} instead")
        out[name] = value
    return out


def _own_name(name: str) -> str:
    return {"lora_alpha": "alpha", "lora_dropout": "dropout", "use_dora": "type", "use_rslora": "type"}.get(name, name)


# --------------------------------------------------------------------------------------------------- which modules


def _inside_attention(model: nn.Module) -> set[str]:
    """Modules whose weights torch's own attention reads directly: an adapter on them would never be called."""
    return {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner, _ in module.named_modules()
        if inner
    }


def default_targets(model: MMSSLModel, towers: Sequence[str], kind: str) -> Targets:
    """The linear layers, or convolutions, of the towers' blocks; of wrapped models all that a forward pass calls.

    (IA)^3 takes the second layer of the perceptron and the fused product, LayerNorm tuning the norms.
    """
    if kind == "ln_tuning":
        return [n for n, m in _of(model, towers) if isinstance(m, nn.LayerNorm)]
    foreign = [name for name in towers if isinstance(model.towers[name], ForeignTower)]
    passing = [name for name in towers if isinstance(model.towers[name], MessageTower)]
    convolving = [name for name in towers if isinstance(model.towers[name], ConvTower)]
    own = [name for name in towers if name not in [*foreign, *passing, *convolving]]
    layers = r"trunk\.blocks\.\d+\.(?:attention\.qkv|mlp\.fc2)" if kind == "ia3" else BLOCK_LAYERS
    parts = [(own, layers), (passing, MESSAGE_LAYERS), (convolving, CONVOLUTIONS)]
    patterns = [rf"towers\.(?:{'|'.join(map(re.escape, names))})\.{which}" for names, which in parts if names]
    pattern = "|".join(patterns)
    if not foreign:
        return pattern
    hidden = _inside_attention(model)
    listed = [
        name
        for name, module in _of(model, foreign)
        if (isinstance(module, nn.Linear) or _pointwise(module))
        and name not in hidden
        and re.search(r"\.\d+\.", name) is not None
    ]
    return listed + ([n for n, _ in model.named_modules() if re.fullmatch(pattern, n)] if patterns else [])


def _pointwise(module: nn.Module) -> bool:
    """A convolution of one cell, which is a linear map of its channels: what most of a convolutional net's weights are
    in. Those of one channel at a time (depthwise) have no rank to lower."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def _of(model: MMSSLModel, towers: Iterable[str]) -> list[tuple[str, nn.Module]]:
    """(name, module) of all modules of the towers, but for the modalities of those that embed by themselves."""
    out = []
    for tower in towers:
        skip = f"towers.{tower}.modalities." if isinstance(model.towers[tower], (ForeignTower, ConvTower)) else None
        named = model.towers[tower].named_modules(prefix=f"towers.{tower}")
        out += [(n, m) for n, m in named if skip is None or not n.startswith(skip)]
    return out


def resolve_targets(
    model: MMSSLModel, towers: Sequence[str], config: AdapterConfig, where: str, extra: Sequence[str] = ()
) -> Targets:
    """What PEFT is told to put adapters on: a regular expression or whole names, only within `towers` (and `extra`).

    UserError naming the nearest module when nothing in them is called so, or what is would never be called.
    """
    wanted = config.target_modules
    named = [name for name, _ in model.named_modules() if name]
    if wanted is None:
        targets = default_targets(model, towers, config.type)
    elif wanted == "all-linear":
        hidden = _inside_attention(model)
        targets = [n for n, m in _of(model, towers) if isinstance(m, nn.Linear) and n not in hidden]
    elif isinstance(wanted, str):
        try:
            re.compile(wanted)
        except re.error as error:
            raise UserError(f"{where}.target_modules: '{wanted}' is no regular expression ({error})") from None
        targets = wanted
    else:
        inside = [name for name, _ in _of(model, towers)]
        last = sorted({n.rpartition(".")[2] for n in inside if not n.rpartition(".")[2].isdigit()})
        for word in wanted:
            if not any(name == word or name.endswith(f".{word}") for name in inside):
                raise UserError(
                    f"{where}.target_modules: no module of tower {', '.join(towers)} is called '{word}', "
                    f"they are called {', '.join(last)}{nearest(word, last)}"
                )
        words = "|".join(map(re.escape, wanted))
        targets = rf"towers\.(?:{'|'.join(map(re.escape, towers))})\.(?:.*\.)?(?:{words})"
    if extra:
        listed = "|".join(map(re.escape, extra))
        targets = rf"{targets}|{listed}" if isinstance(targets, str) else [*targets, *extra]
    hit = [n for n in named if (re.fullmatch(targets, n) is not None if isinstance(targets, str) else n in targets)]
    if not hit:
        raise UserError(f"{where}.target_modules: nothing in the model is called {targets!r}")
    unheard = sorted(set(hit) & _inside_attention(model))
    if unheard:
        raise UserError(
            f"{where}.target_modules: '{unheard[0]}' lies inside torch's attention, which reads its "
            "weight directly; an adapter there would have no effect"
        )
    return targets


# --------------------------------------------------------------------------------------------------------- put in


def add_adapter(
    model: MMSSLModel,
    config: AdapterConfig,
    towers: Sequence[str],
    *,
    where: str = "adapter",
    extra: Sequence[str] = (),
    save: Sequence[str] = (),
) -> PeftModel:
    """Freeze the model, put the adapter into layers in place, and return PEFT's handle on it.

    The handle writes the adapter (`save_pretrained`); the model itself goes on as it was and trains the adapter.

    Args:
        model: the base.
        config: which adapter.
        towers: whose layers get it.
        where: what the options are called in errors.
        extra: further modules (whole names) that get an adapter.
        save: whole names of modules that are trained whole.

    Raises:
        UserError: no such type, option or module, or PEFT refuses them on this model.
    """
    from peft import get_peft_model

    options = _peft_options(config, where)
    targets = resolve_targets(model, towers, config, where, extra)
    named = [name for name, _ in model.named_modules()]
    for word in config.modules_to_save:
        if not any(name == word or name.endswith(f".{word}") for name in named):
            last = sorted({n.rpartition(".")[2] for n in named if n and not n.rpartition(".")[2].isdigit()})
            raise UserError(f"{where}.modules_to_save: no module is called '{word}'{nearest(word, last)}")
    keep = [*config.modules_to_save, *save]
    for tower in towers:
        module = model.tower(tower)
        module.frozen = False  # the base is frozen by PEFT, the adapter in it is not
        if isinstance(module, ForeignTower) and module.mask is not None:
            keep.append(f"towers.{tower}.mask")  # it is new, nobody has trained it
    if config.type == "ia3" and "feedforward_modules" not in options:
        options["feedforward_modules"] = _second_layers(model, targets)
    cls = _peft_class(config, where)
    if keep and "modules_to_save" not in cls.__dataclass_fields__:
        raise UserError(f"{where}.modules_to_save: type '{config.type}' has no such option")
    saved = {"modules_to_save": keep} if keep else {}
    try:
        handle = get_peft_model(model, cls(target_modules=targets, **saved, **options))
    except (ValueError, TypeError, RuntimeError, NotImplementedError, ImportError, KeyError) as error:
        line = one_line(error)
        raise UserError(f"{where}: PEFT refuses type '{config.type}' on this model: {line}") from error
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"{where}: type '{config.type}' trains no parameter of this model")
    return handle


def _second_layers(model: MMSSLModel, targets: Targets) -> Targets:
    """The targets that close a perceptron: narrower out than in. (IA)^3 scales their input instead of their output."""
    modules = dict(model.named_modules())
    hit = [n for n in modules if (re.fullmatch(targets, n) if isinstance(targets, str) else n in targets)]
    narrow = [n for n in hit if isinstance(m := modules[n], nn.Linear) and m.out_features < m.in_features]
    if isinstance(targets, list):
        return narrow
    return "|".join(map(re.escape, narrow)) or "(?!)"


def trainable(model: nn.Module) -> tuple[int, int]:
    """(numbers that are trained, numbers in all)."""
    counts = [(p.numel() if p.requires_grad else 0, p.numel()) for p in model.parameters()]
    return sum(a for a, _ in counts), sum(b for _, b in counts)
