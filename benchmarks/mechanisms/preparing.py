"""What some rows need that is not in the shared data: labels of a few rows alone, leads as devices of their own, how
far each node of a graph lies from those with a label, frames beside later ones, half of the classes, clusters, and
pairs."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from mmssl.curation import pairing
from mmssl.modality.pixels.decode import decode

EVERY, APART = 4, 8
"""Frames from one that is taken of a clip to the next, and to the one that is seen beside it."""
CLUSTERS = 10
ROUNDS = 100
"""Of label propagation."""
SHARE = 5
"""One row of so many of each class keeps its label."""
LEADS = {"ii": 1, "v1": 6, "v3": 8, "v6": 11}
"""Column -> the lead of a twelve-lead ECG that it holds."""


def prepared(how: str, path: str, folder: Path) -> str:
    """`data.path` of the same data with further columns: a folder, or a file of a graph; made where it is not there."""
    kind, _, rest = path.rpartition(":")
    source = Path(rest)
    if kind == "graph":
        file = folder / f"{source.stem}-{how}.npz"
        if not file.is_file():
            np.savez(file, **MAKES[how](source))
        return f"graph:{file}"
    out = folder / f"{source.name}-{how}"
    if not out.is_dir():
        out.mkdir()
        for split, rows in MAKES[how](source).items():
            rows.to_parquet(out / f"{split}.parquet")
    return str(out)


def read(source: Path) -> dict[str, Any]:
    """The rows of a folder's training and test split."""
    held = datasets.load_dataset(str(source))
    return {split: held[split] for split in ("train", "test")}


def few(source: Path) -> dict[str, Any]:
    """`few`: the label of every fifth training row of each class, as text; None for all other rows."""
    splits = read(source)
    labels, draw = splits["train"]["label"], random.Random(0)
    known: set[int] = set()
    for value in sorted(set(labels)):
        rows = [n for n, label in enumerate(labels) if label == value]
        known |= set(draw.sample(rows, len(rows) // SHARE))
    kept = {"train": [f"class {v}" if n in known else None for n, v in enumerate(labels)]}
    kept["test"] = [None] * len(splits["test"])
    text = datasets.Value("string")
    return {split: rows.add_column("few", kept[split], feature=text) for split, rows in splits.items()}


def leads(source: Path) -> dict[str, Any]:
    """One column a lead; validation rows are test rows too, as these alone are 66."""

    def apart(row: dict[str, Any]) -> dict[str, Any]:
        return {name: [row["signal"][number]] for name, number in LEADS.items()}

    def of(*splits: str) -> Any:
        rows = datasets.Dataset.from_parquet([str(source / f"{split}.parquet") for split in splits])
        return rows.map(apart, keep_in_memory=True).select_columns([*LEADS, "norm", "patient_id"])

    return {"train": of("train"), "test": of("validation", "test")}


def network(source: Path) -> tuple[dict[str, Any], Any]:
    """What the file of a graph holds, and its edges as a sparse matrix of both directions."""
    held = dict(np.load(source))
    start, end = held["edge_index"]
    nodes = len(held["y"])
    links = coo_array((np.ones(len(start)), (start, end)), shape=(nodes, nodes)).tocsr()
    return held, ((links + links.T) > 0).astype(np.float64)


def context(source: Path) -> dict[str, Any]:
    """`context_CLASS`: the share of a class among the nodes up to two edges away, of which those without a label have
    what label propagation gives them (ContextLabel of SelfTask-GNN); alike for all classes where nobody is."""
    held, links = network(source)
    known = held["train_mask"]
    values = np.unique(held["y"])
    given = (held["y"][:, None] == values) * known[:, None].astype(np.float64)
    passed = given.copy()
    for _ in range(ROUNDS):
        heard = links @ passed
        total = heard.sum(1, keepdims=True)
        passed = np.where(known[:, None], given, np.divide(heard, total, out=np.zeros_like(heard), where=total > 0))
    near = ((links + links @ links) > 0).astype(np.float64)
    near.setdiag(0)
    heard = near @ passed
    total = heard.sum(1, keepdims=True)
    shares = np.divide(heard, total, out=np.full_like(heard, 1 / len(values)), where=total > 0)
    return held | {f"context_{value}": shares[:, n].astype(np.float32) for n, value in enumerate(values)}


def far(source: Path) -> dict[str, Any]:
    """`far_CLASS_mean` and `_least`: edges from each node to the training nodes of a class, of which one that cannot be
    reached is one edge further than all others (Distance2Labeled of SelfTask-GNN, whose greatest distances are left
    out: where one of the class lies apart they are the same for all)."""
    held, links = network(source)
    labelled = np.flatnonzero(held["train_mask"])
    hops = shortest_path(links, directed=False, unweighted=True, indices=labelled)
    hops = np.minimum(hops, hops[np.isfinite(hops)].max() + 1)
    found = {}
    for value in np.unique(held["y"]):
        own = hops[held["y"][labelled] == value]
        found |= {f"far_{value}_mean": own.mean(0), f"far_{value}_least": own.min(0)}
    return held | {name: numbers.astype(np.float32) for name, numbers in found.items()}


def frames(source: Path) -> dict[str, Any]:
    """Every fourth frame of each clip as grey `image`, and `later`, which comes eight frames after it."""
    import av

    def taken(folder: Path) -> Iterator[dict[str, Any]]:
        with (folder / "metadata.csv").open() as file:
            clips = list(csv.DictReader(file))
        for clip in clips:
            with av.open(str(folder / clip["file_name"])) as opened:
                grey = [Image.fromarray(f.to_ndarray(format="gray")) for f in opened.decode(video=0)]
            for at in range(0, len(grey) - APART, EVERY):
                yield {"image": grey[at], "later": grey[at + APART], "label": int(clip["label"])}

    kinds = {"image": datasets.Image(), "later": datasets.Image(), "label": datasets.Value("int64")}
    return {
        split: datasets.Dataset.from_list(list(taken(source / split)), features=datasets.Features(kinds))
        for split in ("train", "test")
    }


def classes(source: Path, wanted: Container[int]) -> dict[str, Any]:
    """The rows of these classes."""
    return {
        split: rows.filter(lambda label: label in wanted, input_columns="label", keep_in_memory=True)
        for split, rows in read(source).items()
    }


def pixels_of(image: object) -> NDArray[Any]:
    """A picture's numbers side by side, decoded or not."""
    found = decode(image, (0,))
    assert found is not None
    return found.ravel()


def stages(source: Path) -> dict[str, Any]:
    """`stage`: the cluster of each picture, by k-means of the training pictures' pixels."""
    from sklearn.cluster import KMeans

    splits = read(source)
    pixels = {split: np.stack([pixels_of(image) for image in rows["image"]]) for split, rows in splits.items()}
    fitted = KMeans(CLUSTERS, n_init=1, random_state=0).fit(pixels["train"])
    return {
        split: rows.add_column("stage", [f"cluster {n}" for n in fitted.predict(pixels[split])])
        for split, rows in splits.items()
    }


def mined(source: Path) -> dict[str, Any]:
    """`pair`: two training pictures that are each among the other's five nearest by their pixels, the most alike first
    (`mmssl cluster kind=neighbours`); None for all others."""
    splits = read(source)
    pixels = np.stack([pixels_of(image) for image in splits["train"]["image"]]).astype(np.float32)
    pixels -= pixels.mean(0)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True).clip(1e-9)
    groups, _ = pairing.mined(pixels, None, nearest=5, least=-1.0, most=2)
    kept = {"train": [f"pair {n}" if n >= 0 else None for n in groups], "test": [None] * len(splits["test"])}
    text = datasets.Value("string")
    return {split: rows.add_column("pair", kept[split], feature=text) for split, rows in splits.items()}


MAKES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "few": few,
    "leads": leads,
    "far": far,
    "context": context,
    "frames": frames,
    "first_five": lambda source: classes(source, range(5)),
    "other_five": lambda source: classes(source, range(5, 10)),
    "stages": stages,
    "mined": mined,
}
