"""What a recipe takes over from the runs that were measured, where the data are like those (RESULTS.md).

Views and heads are those of the recipes in `configs/examples` that were run; how wide, how deep and how long, those of
`benchmarks/matrix/cells.yaml`. It is of small data, networks and budgets: a larger preset has its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..recipe.loading import plain_recipe
from .composing import Composed

SIDE = 32
"""Pixels a side up to which pictures are as small as those of fashion_mnist and cifar10_mini."""
LARGE = 100
"""Nodes of a graph from which on attention between all of them is too slow: the largest of a batch sets its size."""
FLAT = 28
"""Up to which all patches of a grey picture are read out side by side."""
FEW_CLIPS = 500
"""Films up to which a small network of small pictures is taken, that sees them often in the time there is."""
FEW_PAIRS = 5000
"""Pairs up to which a linear map in closed form is hard to beat."""


@dataclass(frozen=True)
class Seen:
    """What the rows are, as far as a recipe depends on it.

    Attributes:
        side: pixels of the shorter side of the usual picture; None: no pictures.
        channels: of pictures, or of recordings; None: neither.
        nodes: of the largest graph of some; None: no graphs.
    """

    side: int | None = None
    channels: int | None = None
    nodes: int | None = None

    @property
    def small(self) -> bool:
        """Pictures that are small."""
        return self.side is not None and self.side <= SIDE


def method_of(one: str, seen: Seen, goal: str | None) -> tuple[str, str] | None:
    """(objective, why) of a modality alone, where the data and not the modality decide it; None elsewhere."""
    if one == "image" and seen.small and seen.channels == 3 and goal != "retrieval":
        return (
            "mae",
            "three patches of four hidden: better than contrast on cifar10_mini, by a linear probe (RESULTS.md)",
        )
    if one == "eeg" and (seen.channels or 1) > 1 and goal != "retrieval":
        return "mae", "hidden stretches of several electrodes: the best of three on eegmmi_s001 (RESULTS.md)"
    return None


def follow(found: Composed, modalities: Sequence[str], rows: int, seen: Seen) -> None:
    """Views, readout, size and length of a small recipe for one modality, as what was measured had them."""
    if len(modalities) != 1:
        _pairs(found, modalities, rows)
        return
    (one,) = modalities
    method = "mae" if "mae" in found.data["objectives"] else "contrastive"
    change = FOLLOWED.get((one, method))
    if change is not None:
        change(found, rows, seen)


def _pairs(found: Composed, modalities: Sequence[str], rows: int) -> None:
    """Let few pairs of ECGs and reports start from a linear map of raw features; say of others that they can."""
    key = next(name for name, of in found.data["objectives"].items() if of.get("type", name) == "contrastive")
    if rows > FEW_PAIRS:
        return
    if not {"ecg", "text"} <= set(modalities) <= {"ecg", "text", "tabular"}:
        found.why.setdefault("train", f"{rows:,} pairs are few: docs/how-to/few-pairs.md starts from a linear map")
        return
    found.data["objectives"][key].pop("hub_tower", None)
    found.data["description"] = f"Towers for {', '.join(modalities)}: all pairs are contrasted, from a linear map on."
    why = "few pairs begin as a linear map of raw features: reports were found better so on ptbxl_500 (RESULTS.md)"
    found.set(f"objectives.{key}.start", "cca", why)
    found.set("model.projection_standard", True)
    for name in modalities:
        _network(found, name, 64, 2)
        found.set(f"model.towers.{name}.pooling", "mean+raw")
    found.data["train"] |= {"steps": 100, "batch_size": min(48, found.data["train"]["batch_size"])}
    found.set("train.lr", 1e-3, "100 steps from there, as on ptbxl_500 (docs/how-to/few-pairs.md)")


def _small_pictures(found: Composed, rows: int, seen: Seen) -> None:
    if not seen.small:
        return
    if seen.channels != 1 or (seen.side or 0) > FLAT:
        for name, view in found.data["views"].items():
            view["image"].pop("blur", None)
            found.why[f"views.{name}.image"] = "no blur, as SimCLR has none for pictures of 32 pixels"
        return
    _take(found, "examples/image_contrastive", "mild crops, no blur: as fashion_mnist and letters gained (RESULTS.md)")
    _network(found, "image", 64, 3)
    found.set("model.towers.image.readout", "flat", "all patches side by side: what is shown lies in one place")
    _length(found, 2000, 64, "2,000 steps of 64: fashion_mnist gained more with them than with 800 (RESULTS.md)")


def _small_photos(found: Composed, rows: int, seen: Seen) -> None:
    if seen.small and seen.channels == 3:
        _network(found, "image", 64, 3)
        _length(found, 1600, 64, "1,600 steps of 64, as on cifar10_mini (RESULTS.md)")


def _graphs(found: Composed, rows: int, seen: Seen) -> None:
    _take(found, "examples/graph_contrastive", "edges and parts left out, features never: they say what a node is")
    if (seen.nodes or 0) >= LARGE:
        why = f"messages along edges: {seen.nodes:,} nodes are too many for attention; as on proteins (RESULTS.md)"
        tower = {"trunk": "gin", "width": 64, "depth": 3, "readout": "sum", "readout_layers": 3}
        found.set("model.towers.graph", tower, why)
        found.set("modalities.graph.laplacian", 0, "messages need no encodings")
        found.set("modalities.graph.walk", 0)
        most = 32 * math.ceil(1.25 * (seen.nodes or 0) / 32)
        found.set(
            "modalities.graph.max_nodes", most, f"the largest of some has {seen.nodes:,}; larger ones are left out"
        )
        _contrasted(found, 350, 32, "350 steps of 32, as on proteins (RESULTS.md)", rows)
        return
    _contrasted(found, 360, 64, "360 steps of 64, as on mutag (RESULTS.md): contrast needs others in the batch", rows)


def _electrodes(found: Composed, rows: int, seen: Seen) -> None:
    why = "of values it lost to its twin on eegmmi_s001, of spectra it gained (docs/how-to/choose.md)"
    found.set("modalities.eeg.tokens", "spectrum", why)
    _network(found, "eeg", 64, 3)
    _length(found, 480, 16, "480 steps of 16, as on eegmmi_s001 (RESULTS.md)")


def _videos(found: Composed, rows: int, seen: Seen) -> None:
    if rows <= FEW_CLIPS:
        _take(found, "examples/video_contrastive", "mild crops of 16 frames, as weizmann4 gained (RESULTS.md)")
        example: dict[str, Any] = plain_recipe("examples/video_contrastive")
        seen_as = example["modalities"]["video"]
        why = "few films: small pictures and a small network, as on weizmann4 (RESULTS.md)"
        found.set("modalities.video.size", seen_as["size"], why)
        for key in ("frames", "fps", "tubelet", "patch"):
            found.set(f"modalities.video.{key}", seen_as[key])
        _network(found, "video", 64, 3)
    why = "1,200 steps of 24: on weizmann4 they gained 0.106, 360 steps 0.042 (RESULTS.md)"
    _contrasted(found, 1200, 24, why, rows)


def _texts(found: Composed, rows: int, seen: Seen) -> None:
    _network(found, "text", 64, 2)
    _length(found, 940, 64, "940 steps of 64, as on ag_news_mini (RESULTS.md)")


FOLLOWED: dict[tuple[str, str], Callable[[Composed, int, Seen], None]] = {
    ("image", "contrastive"): _small_pictures,
    ("image", "mae"): _small_photos,
    ("graph", "contrastive"): _graphs,
    ("eeg", "mae"): _electrodes,
    ("video", "contrastive"): _videos,
    ("text", "contrastive"): _texts,
}


def _take(found: Composed, recipe: str, why: str) -> None:
    """The views of a recipe, and what its objective is beside its name."""
    plain: dict[str, Any] = plain_recipe(recipe)
    found.data["views"] = copy.deepcopy(plain["views"])
    (mine,), (theirs,) = found.data["objectives"].values(), plain["objectives"].values()
    mine |= {key: theirs[key] for key in ("temperature", "head_hidden", "head_width")}
    found.why["views"] = why


def _network(found: Composed, name: str, width: int, depth: int) -> None:
    tower = found.data["model"]["towers"][name]
    tower["width"], tower["depth"] = width, depth


def _length(found: Composed, steps: int, batch: int, why: str) -> None:
    """At least so many steps, of so many rows where an epoch then has several."""
    train = found.data["train"]
    train["steps"], train["batch_size"] = max(steps, train["steps"]), min(batch, train["batch_size"])
    found.why.setdefault("train", why)


def _contrasted(found: Composed, steps: int, batch: int, why: str, rows: int) -> None:
    """So many steps, of so many rows where they are twice as many: an epoch of few steps costs contrast less than few
    others in the batch."""
    while 2 * batch > rows and batch > 2:
        batch //= 2
    found.data["train"]["steps"] = steps
    found.set("train.batch_size", batch, why)
