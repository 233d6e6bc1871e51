"""Whole runs of streamed rows and of mixtures, in one process and in two: every streamed row is read by one of them,
workers that read change nothing, a run that was killed and goes on is the one that was not, and of a mixture two
processes train what one does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from toys import runs
from toys.processes import free_ports, processes

from mmssl.cli import main
from mmssl.data import open_source, shards

SHARDS = 12


def content(data: Path, **more: Any) -> dict[str, Any]:
    out = runs.recipe(train={"log_every": 1, "steps": 9, "save_every": 3, "health_every": None, "guard": None})
    out["data"] = {"path": str(data), "streaming": True, "shuffle_buffer": 4, **more}
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve parquet files of eight digits each: six steps of 16."""
    folder = tmp_path_factory.mktemp("pictures")
    source = open_source("builtin:digits", limit=8 * SHARDS).select_columns(["image"])
    assert isinstance(source, datasets.Dataset)
    for shard in range(SHARDS):
        source.shard(SHARDS, shard).to_parquet(folder / f"{shard:02}.parquet", batch_size=3)
    return folder


def lengths(run: Path) -> dict[int, int]:
    """Of the newest checkpoint."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return dict(load_file(newest / "stream.safetensors")["data/lengths"].tolist())


@pytest.mark.parametrize("readers", [None, 2])
def test_a_killed_run_goes_on_in_its_place(tmp_path: Path, pictures: Path, readers: int | None) -> None:
    recipe = content(pictures, readers=readers)
    assert runs.cli(tmp_path, content=recipe, output="straight") == 0
    with runs.killed_at(8):
        runs.cli(tmp_path, "data.workers=2", content=recipe, output="cut")
    assert runs.checkpoints(tmp_path / "cut")[-1] == "step-00000006"
    assert lengths(tmp_path / "cut").items() <= dict.fromkeys(range(SHARDS), 8).items()
    read: list[int] = []
    real = shards.stream_rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "stream_rows", lambda source: (read.append(0) or row for row in real(source)))
        assert runs.cli(tmp_path, "--resume", content=recipe, output="cut") == 0
    assert len(read) <= 3 * 16 + (readers or 1) * 5 * 4, "the rows of three steps, and those in the buffers"
    assert runs.losses(tmp_path / "cut") == runs.losses(tmp_path / "straight")
    runs.assert_same_weights(tmp_path / "cut", tmp_path / "straight")


def worker(rank: int, ports: list[int], folder: Path, data: Path, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
    own = folder / f"recipe-{rank}"
    own.mkdir()
    path = str(runs.write(own, content(data)))
    read: list[bytes] = []
    real = shards.stream_rows

    def counted(source: Any) -> Any:
        for row in real(source):
            read.append(row["image"]["bytes"])
            yield row

    shards.stream_rows = counted

    def run(port: int, *words: str) -> list[bytes]:
        os.environ["MASTER_PORT"] = str(port)
        del read[:]
        assert main(["pretrain", path, *words]) == 0
        return list(read)

    results["straight", rank] = run(ports[0], "--output", str(folder / "straight"))
    with runs.killed_at(8):
        run(ports[1], "data.workers=2", "--output", str(folder / "cut"))
    dist.destroy_process_group()
    results["resumed", rank] = run(ports[2], "--output", str(folder / "cut"), "--resume")
    path = str(runs.write(own, mixture(data)))
    run(ports[3], "--output", str(folder / "mixture"))


def mixture(data: Path) -> dict[str, Any]:
    """Pictures beside captions and pictures: a process may have no caption in a step."""
    out = runs.image_text()
    out["data"] = {
        "path": "builtin:digits",
        "limit": 40,
        "mix": {"more": {"path": str(data), "weight": 2}},
        "weight": 1,
    }
    out["train"] |= {"log_every": 1, "health_every": None, "guard": None}
    return out


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Path, dict[Any, Any]]:
    """(folder of the runs of two processes, what each of them read)."""
    folder = tmp_path_factory.mktemp("two")
    return folder, processes(worker, free_ports(4), folder, pictures)


def test_a_mixture_of_two_processes_is_that_of_one(ran: tuple[Path, dict[Any, Any]], pictures: Path) -> None:
    folder, _ = ran
    assert runs.cli(folder, content=mixture(pictures), output="one") == 0
    for ours, theirs in zip(runs.metrics(folder / "mixture"), runs.metrics(folder / "one"), strict=True):
        for key in ("loss", "loss/mae", "loss/clip", "grad_norm", "share/data", "share/more"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), (key, ours["step"])


def test_two_processes_read_every_row_once_and_go_on_in_their_places(ran: tuple[Path, dict[Any, Any]]) -> None:
    tmp_path, found = ran
    # nine steps of 16 of 96 rows: each once or twice, and what the readers have in their buffers
    read = [image for rank in range(2) for image in found["straight", rank]]
    ahead = 8 * (4 + 1)  # four readers in each process
    assert 9 * 16 <= len(read) <= 9 * 16 + ahead
    assert len(set(read)) == 8 * SHARDS and max(read.count(image) for image in set(read)) <= 3
    assert set(found["straight", 0]) != set(found["straight", 1])
    for rank in range(2):
        assert len(found["resumed", rank]) <= 3 * 8 + 4 * 5 * 4, "three steps, and the buffers of four readers"
    assert runs.losses(tmp_path / "cut") == runs.losses(tmp_path / "straight")
    runs.assert_same_weights(tmp_path / "cut", tmp_path / "straight")
    assert lengths(tmp_path / "cut") == dict.fromkeys(range(SHARDS), 8)
