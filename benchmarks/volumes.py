"""Volumes against their untrained twin: `python -m benchmarks.volumes NILEARN_WHEEL [--seeds 0 1 2]`.

Nothing that is shared with this project holds volumes. The wheel of nilearn (BSD-3) ships the symmetric MNI ICBM 2009a
template (T1) and its maps of grey and white matter, 1 mm (McConnell Brain Imaging Centre; free to use, copy and change
with its notice). Two sets of boxes of 24 mm are cut from its left half alone, as the right one is its mirror:

- `tissue`: the T1; the label is the share of grey matter in the box, in five classes of equal count. Tested on boxes
  from slabs of the head (32 mm from front to back, every third) that training boxes do not touch.
- `place`: grey and white matter as two channels; the label is which of eight parts of the hemisphere (in front or
  behind, above or below, near the middle or outside) the box's middle lies in, tested in the same way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import mmssl
from mmssl_volume.reading import read_volume

from .machine import machine

RESULTS = Path(__file__).parent / "results" / "volumes.json"
TEMPLATE = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
SIDE, SLAB, COUNT = 24, 32, {"train": 1500, "test": 600}
OBJECTIVES = ("mae", "contrastive", "jepa")
SETTINGS = {
    "modalities.volume.size": 24,
    "modalities.volume.patch": 6,
    "modalities.volume.normalise": "data",
    "modalities.volume.layout": "channels_first",
    "model.towers.volume.width": 64,
    "model.towers.volume.depth": 3,
    "train.batch_size": 64,
    "train.steps": 600,
    "train.trackers": [],
    "evaluation.label": "label",
    "evaluation.tasks": ["linear", "knn"],
}
"""Of every run, beside the shipped recipe's; nothing was searched."""


def maps(wheel: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> the left half (slices, rows, columns) of a map, 0 to 255."""
    out = {}
    with zipfile.ZipFile(wheel) as packed:
        for name in ("t1", "gm", "wm"):
            volume = read_volume(packed.read(TEMPLATE.format(name)))
            assert volume is not None
            out[name] = volume.array[0][:, :, : volume.array.shape[3] // 2].astype(np.float32)
    return out


def boxes(brain: dict[str, np.ndarray[Any, Any]], rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Split -> (n, 3) corners of boxes at least half of which is brain, each whole within slabs of its own split."""
    matter = (brain["gm"] + brain["wm"]) > 127
    found: dict[str, list[list[int]]] = {"train": [], "test": []}
    while any(len(found[split]) < count for split, count in COUNT.items()):
        corner = [int(rng.integers(0, side - SIDE + 1)) for side in matter.shape]
        first, last = corner[1] // SLAB, (corner[1] + SIDE - 1) // SLAB
        split = "test" if first % 3 == 2 else "train"
        z, y, x = (slice(c, c + SIDE) for c in corner)
        alone = first == last or (split == "train" and last % 3 != 2)
        if alone and len(found[split]) < COUNT[split] and matter[z, y, x].mean() > 0.5:
            found[split].append(corner)
    return {split: np.array(corners) for split, corners in found.items()}


def write(brain: dict[str, np.ndarray[Any, Any]], kind: str, folder: Path) -> None:
    """One of the two sets as files with a label each."""
    corners = boxes(brain, np.random.default_rng(0))
    everything = np.concatenate(list(corners.values()))
    cut = [tuple(slice(c, c + SIDE) for c in corner) for corner in everything]
    if kind == "tissue":
        share = np.array([brain["gm"][box].mean() for box in cut])
        labels = np.digitize(share, np.quantile(share, [0.2, 0.4, 0.6, 0.8]))
    else:
        middle = everything + SIDE / 2
        labels = ((middle > np.median(middle, 0)) * [4, 2, 1]).sum(1)
    channels = ("t1",) if kind == "tissue" else ("gm", "wm")
    number = 0
    for split, own in corners.items():
        (folder / split).mkdir(parents=True)
        lines = ["file_name,label"]
        for _ in own:
            name = f"{number:05d}.npy"
            np.save(folder / split / name, np.stack([brain[c][cut[number]] for c in channels]).astype(np.uint8))
            lines.append(f"{name},class {labels[number]}")
            number += 1
        (folder / split / "metadata.csv").write_text("\n".join(lines) + "\n")


def one(data: Path, objective: str, seed: int, folder: Path, more: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of one run: task -> arm -> value."""
    run = folder / f"{objective}-{seed}"
    mmssl.pretrain(f"volume_{objective}", output=run, **SETTINGS | more | {"data.path": str(data), "seed": seed})
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["tasks"]
    return {
        task: {key: scores[key] for key in ("model", "untrained", "raw")}
        for task, measures in found.items()
        for measure, scores in measures.items()
        if measure.endswith("accuracy")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--sets", nargs="+", choices=("tissue", "place"), default=["tissue", "place"])
    parser.add_argument("--try", nargs="*", default=[], dest="tried", help="key=value; printed, not stored")
    args = parser.parse_args()
    more = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in args.tried)}
    brain = maps(args.wheel)
    with tempfile.TemporaryDirectory() as place:
        for kind in args.sets:
            write(brain, kind, Path(place) / kind)
            for objective in args.objectives:
                for seed in args.seeds:
                    found = one(Path(place) / kind, objective, seed, Path(place), more)
                    print(kind, objective, seed, args.tried, json.dumps(found), flush=True)
                    if more:
                        continue
                    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                    stored.setdefault("runs", {})[f"{kind}/{objective}/{seed}"] = found
                    stored["machine"] = machine()
                    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
