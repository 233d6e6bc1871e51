"""Graphs that `torch.save` wrote: read with `weights_only`, so that no code of a file's author runs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample
from mmssl.limits import check

from .graph import Array
from .json_files import joined

WAY_OUT = "save it as torch.save([data.to_dict() for data in dataset], FILE), or as .npz with edge_index"


def read_torch(path: Path) -> dict[str, Array]:
    """Arrays of one graph or many, named as in an .npz file.

    Read are torch_geometric's `Data`, dicts of its names, lists of these, and what an `InMemoryDataset` saves. Raises
    BadSample for files that hold anything else: it is not unpickled.
    """
    check("bytes", path.stat().st_size, "bytes")
    try:
        with reading_sample("torch cannot read it"), torch.serialization.safe_globals(_known()):
            said = torch.load(path, map_location="cpu", weights_only=True)
    except BadSample as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        raise BadSample(f"it holds objects of Python, which are not unpickled; {WAY_OUT}") from error
    if isinstance(said, tuple) and len(said) >= 2 and isinstance(said[1], Mapping):
        return joined(_slices(_plain(said[0]), said[1]))
    if isinstance(said, (list, tuple)):
        if not said:
            raise BadSample("it holds no graph")
        return joined([_plain(one) for one in said])
    return _plain(said)


def _known() -> list[Any]:
    """torch_geometric's own classes of data, which hold nothing but tensors; none without the package."""
    try:
        from torch_geometric.data import Data
        from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import GlobalStorage
    except ImportError:
        return []
    return [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]


def _plain(value: object) -> dict[str, Array]:
    """A `Data`, or a dict of its names, as arrays."""
    said = value.to_dict() if hasattr(value, "to_dict") else value
    if not isinstance(said, Mapping) or said.get("edge_index") is None:
        raise BadSample(f"found {type(value).__name__}, expected graphs with edge_index; {WAY_OUT}")
    arrays = {}
    for name, item in said.items():
        if isinstance(item, torch.Tensor):
            arrays[str(name)] = item.detach().to_dense().numpy()
        elif isinstance(item, (int, float, str)):
            arrays[str(name)] = np.array(item)
    return arrays


def _slices(arrays: Mapping[str, Array], slices: Mapping[str, Any]) -> list[dict[str, Array]]:
    """The graphs of an `InMemoryDataset`: each array holds those of all graphs, cut at `slices`."""
    count = len(slices["edge_index"]) - 1
    graphs: list[dict[str, Array]] = []
    for number in range(count):
        graph = {}
        for name, values in arrays.items():
            if name not in slices:
                continue
            low, high = int(slices[name][number]), int(slices[name][number + 1])
            graph[name] = values[:, low:high] if name == "edge_index" else values[low:high]
            if name == "num_nodes":
                graph[name] = graph[name].reshape(-1)[0]
        graphs.append(graph)
    return graphs
