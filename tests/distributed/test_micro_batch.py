"""`train.micro_batch: auto` of two processes, of which one has little memory: each tries alone, both take what that
one needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from toys import runs
from toys.processes import free_ports, processes

from mmssl.cli import main
from mmssl.objectives.pretraining import Pretraining
from mmssl.training import micro_batch


def content() -> dict[str, Any]:
    """What exchanges most: negatives of all processes, counts of all parts."""
    found = runs.image_text()
    found["train"] |= {"log_every": 1, "steps": 3, "save_every": None, "micro_batch": "auto"}
    return found


def worker(rank: int, ports: list[int], folder: Path, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
    forward = Pretraining.forward
    for port, most in zip(ports, (3, 0), strict=True):

        def small(self, batch, *words, most=most, **options):
            if rank == 1 and isinstance(batch, dict) and len(next(iter(batch.values()))["pixel_values"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(self, batch, *words, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pretraining, "forward", small)
            patch.setattr(micro_batch, "runs_out", lambda device: True)
            os.environ["MASTER_PORT"] = str(port)
            own = folder / f"recipe-{rank}"
            own.mkdir(exist_ok=True)
            words = ["pretrain", str(runs.write(own, content())), "--output", str(folder / f"most-{most}")]
            results[rank, most] = main(words)
            if dist.is_initialized():
                dist.destroy_process_group()


@pytest.mark.slow
def test_all_take_the_finest_cut_that_any_needs(tmp_path):
    found = processes(worker, free_ports(2), tmp_path)
    assert found == {(rank, most): 1 if most == 0 else 0 for rank in (0, 1) for most in (3, 0)}
    run = tmp_path / "most-3"
    train = runs.plainyaml.parse((run / "config.yaml").read_text(), "config.yaml")["train"]
    assert (train["accumulation"], train["micro_batch"]) == (4, None)  # 2 of each process's 8 at a time
    assert runs.cli(tmp_path, content=content(), output="one") == 0
    assert runs.losses(run) == pytest.approx(runs.losses(tmp_path / "one"), rel=1e-5)
    assert not (tmp_path / "most-0" / "metrics.jsonl").exists()
