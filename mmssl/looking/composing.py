"""Which recipe suits what was found: a shipped one, or several of them put together, with what the data call for.

The numbers are those of `configs/`, none is written here a second time. What is chosen, and why, follows what was
measured (RESULTS.md, docs/how-to/choose.md).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..recipe.loading import plain_recipe as load_plain
from ..recipe.loading import recipe_names
from ..recipe.presets import DEMO, presets_of

PAIRS = ("image_text_clip", "audio_image_clip", "text_tabular_clip", "ecg_text_tabular_clip", "video_audio_text_clip")
"""Shipped recipes for several modalities; also where towers and views of one beside others are taken from."""
OBJECTIVES = {
    "image": ("contrastive", "two crops of a picture, recoloured: better than MAE on fashion_mnist (RESULTS.md)"),
    "audio": ("contrastive", "two changed stretches of a sound: the best of three on fsdd (RESULTS.md)"),
    "eeg": ("contrastive", "two stretches of a recording: the best of three on bonn_eeg (RESULTS.md)"),
    "ecg": ("contrastive", "two stretches of a recording: the best of three on ptbxl_500 (RESULTS.md)"),
    "text": ("contrastive", "two views with other words dropped: the best of three on ag_news_mini (RESULTS.md)"),
    "video": ("contrastive", "two stretches of a clip: the only one of three that gained on weizmann4 (RESULTS.md)"),
    "tabular": ("mae", "hidden cells from the others: gained on 3 of 3 tables (RESULTS.md)"),
    "graph": ("contrastive", "other edges and parts left out: on mutag no worse than its twin, as MAE is (RESULTS.md)"),
    "volume": ("contrastive", "two crops of a volume: gained on two sets of three (docs/benchmarks/mechanisms.md)"),
    "series": ("contrastive", "two stretches of a series: gained on two sets (docs/benchmarks/mechanisms.md)"),
}
"""Modality -> which of mae, contrastive and jepa, and why."""
FIND = {"tabular": "neighbours are asked for, and contrast is what makes rows near or far"}
"""Modality that is learned by contrast where `goal` is retrieval, and why; the others are anyway."""
CONVOLVED = {"image": None, "audio": None, "eeg": "grid+std", "ecg": "mean", "series": None}
"""Modality whose trunk is a residual network in the small preset -> how it is read out; None: as usual."""
WHY_CONVOLVED = "on small data better than a transformer (docs/how-to/choose.md); transformer for stock classes"
NOT_CONVOLVED = ("heads", "prefix", "positions", "pooling", "embed_norm", "causal")
"""Keys of a tower that a residual network has not."""
TABLE = 32, 4000
"""Passes, and steps at most, of a table's small masked autoencoder."""
WHY_TABLE = "all blocks side by side, and 32 epochs: letter_recognition gained with them, not with 10 (RESULTS.md)"
COLOURS = ("saturation", "hue", "gray")
"""Options of views of pictures that need red, green and blue."""
NODES = "examples/node_mae"
WHY_NODES = "hidden nodes from their neighbours: the best of three on cora (RESULTS.md)"
EPOCHS, SMALL = 10, 100_000
"""Passes that are made over data of at most so many rows: below, encoders are rarely worth having."""


def plain_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe, plain."""
    return load_plain(name)


@dataclass
class Composed:
    """A recipe that is put together.

    Attributes:
        name: of the shipped recipe that it comes from.
        data: it, plain, with `presets`.
        why: dotted key -> reason.
    """

    name: str
    data: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: object, why: str = "") -> None:
        """Set a dotted key."""
        node = self.data
        *path, last = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
        if why:
            self.why[key] = why


def compose(
    modalities: Sequence[str], goal: str | None, node: bool, by_data: tuple[str, str] | None = None
) -> Composed:
    """The recipe for these modalities, whose data are to be named yet.

    Args:
        modalities: in any order.
        goal: what the encoder is for.
        node: the samples are nodes of one graph.
        by_data: of one modality, where the data say it, as `OBJECTIVES` has it.
    """
    if len(modalities) > 1:
        return _pair(modalities)
    (one,) = modalities
    if one == "graph" and node:
        found = Composed(NODES, plain_recipe(NODES))
        found.why["objectives.mae"] = WHY_NODES
        found.why["modalities.graph"] = "nodes of one graph: subgraphs around each; features tell nodes apart"
        found.data.pop("evaluation", None)
        found.data["data"] = {}
        found.data["description"] = "Masked features of nodes from those around them (GraphMAE, Hou et al. 2022)."
        return found
    method, why = by_data or OBJECTIVES.get(one, ("mae", "a safe start"))
    if goal == "retrieval" and one in FIND:
        method, why = "contrastive", FIND[one]
    name = f"{one}_{method}"
    found = Composed(name, plain_recipe(name))
    objective = next(iter(found.data["objectives"]))
    found.why[f"objectives.{objective}"] = why
    found.data["data"] = {}
    if one == "image" and method == "contrastive":
        found.why["views"] = "flip and colours: take out what would change what is shown (writing, stains)"
    return found


def convolve(found: Composed, modalities: Sequence[str]) -> None:
    """Give signals and pictures of a small recipe residual networks, where these were better."""
    if len(modalities) > 1 and set(modalities) != {"audio", "image"}:
        return
    method = next(iter(found.data["objectives"].values()))
    if method.get("type", next(iter(found.data["objectives"]))) != "contrastive":
        return
    for name in modalities:
        if name not in CONVOLVED:
            continue
        tower = found.data["model"]["towers"][name]
        for key in NOT_CONVOLVED:
            tower.pop(key, None)
        found.set(f"model.towers.{name}", {"trunk": "resnet", **tower}, WHY_CONVOLVED)
        if CONVOLVED[name] is not None:
            tower = found.data["model"]["towers"][name]
            tower["readout"] = CONVOLVED[name]


def lengthen(found: Composed, modalities: Sequence[str], rows: int) -> None:
    """Read a small masked autoencoder of a table out of all of its blocks, and train it for longer, where that paid."""
    if list(modalities) != ["tabular"] or "mae" not in found.data["objectives"]:
        return
    passes, most = TABLE
    train = found.data["train"]
    train["steps"] = max(train["steps"], min(passes * (rows // train["batch_size"]), most))
    tower = found.data["model"]["towers"]["tabular"]
    found.set("model.towers.tabular.readout_layers", tower["depth"], WHY_TABLE)


def colourless(found: Composed, modality: str, channels: int) -> None:
    """Leave out of the views what changes colours, of pictures that have none, or more than three."""
    for name, view in found.data.get("views", {}).items():
        own = view.get(modality, {})
        gone = [key for key in COLOURS if own.pop(key, None) is not None]
        if gone:
            found.why[f"views.{name}.{modality}"] = (
                f"without {', '.join(gone)}: these pictures have {channels} channel(s)"
            )


def _pair(modalities: Sequence[str]) -> Composed:
    """Several modalities of the same samples: contrast between all of them."""
    name = next((n for n in PAIRS if set(plain_recipe(n)["modalities"]) == set(modalities)), None)
    if name is not None:
        found = Composed(name, plain_recipe(name))
    else:
        name = "video_audio_text_clip"
        found = Composed(name, _put_together(modalities))
    found.data["data"] = {}
    if "image" in modalities and "image" not in found.data.get("views", {}).get("changed", {}):
        _add_view(found, "image")
    objective = next(iter(found.data["objectives"]))
    whole = " and ".join(modalities)
    found.why[f"objectives.{objective}"] = f"{whole} of one row belong together, those of two rows do not"
    return found


def _put_together(modalities: Sequence[str]) -> dict[str, Any]:
    """A recipe of towers of several shipped ones, in all of their presets."""
    base = plain_recipe("video_audio_text_clip")
    out = copy.deepcopy(base)
    out["description"] = f"Towers for {', '.join(modalities)}: all pairs are contrasted."
    parts = {name: _part(name) for name in modalities}
    out["modalities"] = {name: part["modalities"][name] for name, part in parts.items()}
    out["model"]["towers"] = {name: part["model"]["towers"][name] for name, part in parts.items()}
    for part in out["model"]["towers"].values():
        part.pop("pooling", None)
    changed = {name: view for name, part in parts.items() if (view := _view(name, part))}
    objective = next(iter(out["objectives"].values()))
    objective["towers"] = list(modalities)
    if changed:
        out["views"] = {"changed": changed}
        objective["views"] = ["changed"]
    for preset in presets_of(base):
        if preset == DEMO:
            continue
        mine = out["presets"][preset]
        of = {name: part.get("presets", {}).get(preset, {}) for name, part in parts.items()}
        mine["modalities"] = {n: m for n, p in of.items() if (m := p.get("modalities", {}).get(n))}
        mine["model"]["towers"] = {n: t for n, p in of.items() if (t := p.get("model", {}).get("towers", {}).get(n))}
    return out


def _part(name: str) -> dict[str, Any]:
    """The shipped recipe in which a modality stands beside others, or else alone."""
    for recipe in PAIRS:
        plain = plain_recipe(recipe)
        if name in plain["modalities"]:
            return plain
    known = recipe_names()
    alone = f"{name}_contrastive"
    return plain_recipe(alone if alone in known else f"{name}_mae")


def _view(name: str, part: Mapping[str, Any]) -> dict[str, Any] | None:
    """The mild change of a modality beside others; of one that stands alone its first view."""
    views = part.get("views", {})
    found: dict[str, Any] | None = next((view[name] for view in views.values() if name in view), None)
    return found


def _add_view(found: Composed, name: str) -> None:
    view = _view(name, _part(name))
    views = found.data.setdefault("views", {})
    objective = next(iter(found.data["objectives"].values()))
    if view is None or any(name in of for of in views.values()):
        return
    key = next(iter(views), "changed")
    views.setdefault(key, {})[name] = view
    objective["views"] = [key]
    found.why[f"views.{key}.{name}"] = "crops were more than half of what was gained between pictures and sounds"


def length(found: Composed, rows: int) -> None:
    """`train.epochs` by the number of rows, in place of the recipe's steps."""
    train = found.data["train"]
    per_epoch = max(rows // train["batch_size"], 1)
    wanted = train.get("steps")
    if wanted is None:
        return  # a preset with epochs
    # of nodes each is in many subgraphs, and so seen many times in one pass
    least = EPOCHS if rows <= SMALL and found.name != NODES else 1
    epochs = max(math.ceil(wanted / per_epoch), least)
    train.pop("steps")
    found.data["train"] = {"epochs": epochs, **train}
    steps = epochs * per_epoch
    more = f", at least {EPOCHS} passes" if least == EPOCHS and epochs == EPOCHS else ""
    found.why["train.epochs"] = f"{steps:,} steps: {per_epoch:,} an epoch of {rows:,} rows{more}"
    every = max(min(train.get("log_every", 50), steps // 10), 1)
    found.data["train"]["log_every"] = every


def tasks(goal: str | None, label: bool, pairs: bool) -> list[str] | None:
    """`evaluation.tasks` for a goal; None: whatever the data allow."""
    if goal == "retrieval":
        return [*(["retrieval"] if pairs else []), *(["knn"] if label else []), "rankme"]
    if goal == "classify" and label:
        return ["knn", "linear"]
    return None
