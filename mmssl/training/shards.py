"""Tensors of processes that each hold a share of all of them: each writes its own, and reads what it needs.

By `torch.distributed.checkpoint`, which knows which share of which tensor lies where, and so reads them under another
number of processes, or under one. Its own format keeps that in `.metadata`, a pickle, which runs code when it is read;
here it is written as safetensors, whose header says it in JSON (`HuggingFaceStorageWriter`), so that nothing of a
run's folder is unpickled. A process writes one file, with weights and the optimiser's state under the names that they
have in the two files of a checkpoint in one piece, which is therefore read in the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from ..distributed import rank, world_size

FOLDER = "shards"
"""In that of a checkpoint."""
WHOLE = ("weights.safetensors", "optimizer.safetensors")
"""The files of a checkpoint in one piece."""


@contextmanager
def _told() -> Iterator[None]:
    """OSError for what any process could not do; all raise it together."""
    try:
        yield
    except CheckpointException as error:
        # what the first of them said, without the traces of all
        raise OSError(next((str(found[0]) for found in error.failures.values()), str(error))) from None


def write(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> list[Path]:
    """Write this process's share of `tensors` into `folder`; all processes of the group call it together.

    Returns:
        What this process has written; it is on the disk. OSError where any of them could not.
    """
    with _told():
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
    return sorted(folder.glob(f"shard-{rank() + 1:05d}-*.safetensors"))


@dataclass
class Stored:
    """A checkpoint that is cut over processes, or is to be read by some that are.

    Attributes:
        folder: of the files.
        weights: name -> shape.
        moments: `<parameter>::<entry>` -> shape and type of the optimiser's state.
    """

    folder: Path
    weights: dict[str, torch.Size]
    moments: dict[str, TensorStorageMetadata]

    @classmethod
    def of(cls, path: Path, own: Mapping[str, Tensor]) -> Stored | None:
        """What lies in a checkpoint's folder; None where one process reads whole files, as it holds everything.

        own: the weights that it is read for.
        """
        cut = (path / FOLDER).is_dir()
        if not cut and not any(isinstance(value, DTensor) for value in own.values()):
            return None
        folder = path / FOLDER if cut else path
        found = dcp.HuggingFaceStorageReader(str(folder)).read_metadata()
        # beside whole files lie those of observers
        ours = {
            index.fqn for index, place in found.storage_data.items() if cut or Path(place.relative_path).name in WHOLE
        }
        there = {
            name: about
            for name, about in found.state_dict_metadata.items()
            if name in ours and isinstance(about, TensorStorageMetadata)
        }
        weights = {name: about.size for name, about in there.items() if "::" not in name}
        return cls(folder, weights, {name: about for name, about in there.items() if "::" in name})

    def read(
        self, own: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(weights, the optimiser's state) as this process holds them; all processes call it together.

        own: the weights, which say what that is. parameters: by name.
        """
        weights = {name: torch.empty_like(value) for name, value in own.items()}
        moments = {}
        for name, about in self.moments.items():
            parameter = parameters[name.rpartition("::")[0]]
            alike = about.size == parameter.shape and about.properties.dtype == parameter.dtype
            # the moments are cut as their parameter is; the step's number is whole
            moments[name] = (
                torch.empty_like(parameter.detach())
                if alike and parameter.ndim
                else torch.empty(about.size, dtype=about.properties.dtype)
            )
        with _told(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # of a process alone
            reader = dcp.HuggingFaceStorageReader(str(self.folder))
            dcp.load({**weights, **moments}, storage_reader=reader, no_dist=world_size() == 1)
        return weights, moments
