"""Two processes on the CPU, started as a user starts them, train what one process trains."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from toys import forking, runs

from mmssl.data.sources import open_source

LAUNCH = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def launch(module: list[str], *words: str, cpu: bool = True) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE -m mmssl WORDS` with one thread a process. What it launches are new processes."""
    env = {k: v for k, v in forking.environment("mmssl").items() if not k.startswith("ACCELERATE_")}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | ({"ACCELERATE_USE_CPU": "true"} if cpu else {})
    return forking.run(["-m", *module, "-m", "mmssl", *words], level="mmssl", env=env, timeout=150)


def digits(folder: Path, broken: set[int]) -> Path:
    """The first digits with captions as parquet; the images at `broken` are cut in half."""

    def cut(row: dict[str, Any], index: int) -> dict[str, Any]:
        data = row["image"]["bytes"]
        return {"image": {"bytes": data[: len(data) // 2] if index in broken else data, "path": None}}

    path = folder / "digits.parquet"
    source = open_source("builtin:digits", limit=96).select_columns(["image", "text"])
    source.map(cut, with_indices=True).to_parquet(path)
    return path


def listed(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    return sorted(rows, key=lambda row: row["index"])


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    content = runs.image_text()
    content["data"] = {"path": str(digits(tmp_path, {3, 40, 77}))}
    content["train"] |= {"log_every": 1, "trackers": ["tensorboard"]}
    content["evaluation"] = {"tasks": ["rankme"]}
    assert runs.cli(tmp_path, content=content, output="one") == 0
    one, two = tmp_path / "one", tmp_path / "two"
    done = launch(LAUNCH, "pretrain", str(tmp_path / "tiny.yaml"), "--output", str(two))
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    expected, found = runs.metrics(one), runs.metrics(two)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("loss", "loss/mae", "loss/clip", "loss/clip.scale", "grad_norm", "lr", "epoch"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), (key, ours["step"])
    # the faults that either process met are in the one list, and are warned of once
    assert listed(two) == listed(one) and [row["index"] for row in listed(two)] == [3, 40, 77]
    assert done.stderr.count("broken sample") == 3
    assert runs.checkpoints(two) == runs.checkpoints(one)
    assert "2 processes, on cpu" in (two / "model" / "README.md").read_text()
    assert json.loads((two / "evaluation.json").read_text())["tasks"]["rankme"]


@pytest.mark.slow
def test_two_processes_stop_together_at_too_many_broken_samples(tmp_path):
    content = runs.image_text()
    content["data"] = {"path": str(digits(tmp_path, set(range(40)))), "max_bad": 0.1}
    content["train"] |= {"steps": 40}
    path = runs.write(tmp_path, content)
    done = launch(LAUNCH, "pretrain", str(path), "--output", str(tmp_path / "two"))
    assert done.returncode != 0
    (line,) = runs.errors(done.stderr)
    assert "data.max_bad = 0.1" in line
    assert "exitcode  : 2" in done.stderr and "gloo" not in done.stderr.lower()
    assert done.stderr.count("Traceback") == 1  # the launcher's own
    assert runs.checkpoints(tmp_path / "two")


@pytest.mark.slow
def test_a_fault_found_by_the_first_process_ends_both_with_one_line(tmp_path):
    path = runs.write(tmp_path, runs.recipe(data={"columns": {"image": "text"}}))
    done = launch(LAUNCH, "pretrain", str(path), "--output", str(tmp_path / "two"))
    assert done.returncode != 0
    (line,) = runs.errors(done.stderr)
    assert "exitcode  : 2" in done.stderr and done.stderr.count("Traceback") == 1


@pytest.mark.slow
def test_torchrun_without_accelerate_use_cpu_is_refused(tmp_path):
    path = runs.write(tmp_path, runs.recipe())
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = launch(torchrun, "pretrain", str(path), "--output", str(tmp_path / "two"), cpu=False)
    assert done.returncode != 0
    (line,) = runs.errors(done.stderr)
    assert "2 processes were launched, but each would train alone" in line and "ACCELERATE_USE_CPU=true" in line
    assert not (tmp_path / "two").exists()
