"""The proof of an export: the saved folder, loaded by the public class in a process without mmssl, gives our numbers.

A format returns a `Job` that says how its folder is loaded, what to feed it, and what our model gives for that. Every
trial runs in float32 and bfloat16. In float32 the two must agree to `TOLERANCE`; in bfloat16 they may differ by a few
times what our own model loses by rounding to bfloat16, since the order of sums differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import RunError
from ..models.stock.job import DTYPES, Job, Trial
from ..saying import doing

TOLERANCE = 1e-4
"""float32: largest absolute difference, over the largest absolute value (at least 1)."""
ROUNDINGS = 4.0
"""bfloat16: largest difference, over that between our model in bfloat16 and in float32."""
PIPELINE_TOLERANCE = 1e-3
TIMEOUT = 900


@dataclass
class Row:
    """One comparison. largest: the largest absolute value of our output; rounding: what our model itself loses by
    rounding to this dtype."""

    trial: str
    dtype: str
    output: str
    difference: float
    largest: float
    rounding: float

    @property
    def allowed(self) -> float:
        """The largest difference that counts as rounding, in proportion to the outputs' size and their dtype."""
        scale = max(self.largest, 1.0)
        return TOLERANCE * scale if self.dtype == "float32" else max(ROUNDINGS * self.rounding, 0.01 * scale)


@dataclass
class Proof:
    """What was found for one folder."""

    rows: list[Row]
    pipeline: str
    pipeline_difference: float | None
    auto: str | None

    def largest(self, dtype: str) -> float:
        """The largest difference of all outputs in a dtype, NaN where nothing was compared."""
        return max((r.difference for r in self.rows if r.dtype == dtype), default=float("nan"))

    @property
    def failures(self) -> list[str]:
        """A line for each output that differs by more than it may, and for what could not be loaded at all."""
        bad = [
            f"{r.output} at {r.trial} in {r.dtype} differs by {r.difference:.2g}, allowed are {r.allowed:.2g}"
            for r in self.rows
            if not r.difference <= r.allowed
        ]
        if self.pipeline_difference is not None and not self.pipeline_difference <= PIPELINE_TOLERANCE:
            bad.append(f"{self.pipeline} differs by {self.pipeline_difference:.2g}")
        return bad


def prove(folders: Sequence[Path], jobs: Sequence[Job]) -> list[Proof]:
    """Load all folders in one fresh process and compare. RunError when one cannot be loaded or its process fails."""
    with tempfile.TemporaryDirectory(prefix="mmssl-proof-") as temporary:
        scratch = Path(temporary)
        spec = [_spec(folder, job, scratch / str(i)) for i, (folder, job) in enumerate(zip(folders, jobs, strict=True))]
        (scratch / "jobs.json").write_text(json.dumps(spec))
        with doing("loading what was written in a process without mmssl"):
            results = _run(scratch)
        proofs = []
        for folder, job, result, i in zip(folders, jobs, results, range(len(jobs)), strict=True):
            if result["error"]:
                loader = job.cls or job.library
                raise RunError(f"{folder.name}: {loader} cannot load what was written: {result['error']}")
            rows = [row for j, trial in enumerate(job.trials) for row in _compare(trial, scratch / str(i) / f"{j}")]
            word, difference = _pipeline(job, result)
            proofs.append(Proof(rows, word, difference, result["auto"]))
    return proofs


def _spec(folder: Path, job: Job, scratch: Path) -> dict[str, Any]:
    """The job in JSON; inputs go into files."""
    scratch.mkdir()
    trials = []
    for j, trial in enumerate(job.trials):
        inputs = ""
        if trial.inputs:
            inputs = str(scratch / f"{j}.inputs.safetensors")
            save_file({k: v.contiguous() for k, v in trial.inputs.items()}, inputs)
        names = ("outputs", "kwargs", "arguments", "method", "positional", "exact_inputs", "load")
        plain = {name: getattr(trial, name) for name in names}
        trials.append({**plain, "inputs": inputs, "file": str(scratch / f"{j}"), "dtypes": list(trial.dtypes)})
    pipelines = []
    for p in job.pipelines:
        pipelines.append({"task": p.task, "input": p.input, "options": p.options, "kwargs": p.kwargs})
    dtypes = [d for d in DTYPES if any(d in trial.dtypes for trial in job.trials)]
    return {
        "folder": str(folder.resolve()),
        "library": job.library,
        "class": job.cls,
        "dtypes": dtypes,
        "trials": trials,
        "pipelines": pipelines,
        "auto": job.auto,
        "file": job.file,
        "adapter": job.adapter,
    }


def _run(scratch: Path) -> list[dict[str, Any]]:
    """The fresh process: isolated (no PYTHONPATH, no user site), with mmssl blocked, offline."""
    script = Path(__file__).with_name("fresh.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-I", str(script), str(scratch / "jobs.json")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=scratch, env=environment, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"the fresh process that loads the export did not end within {TIMEOUT} s") from error
    results = scratch / "jobs.results.json"
    if done.returncode or not results.is_file():
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise RunError(f"the fresh process that loads the export ended with code {done.returncode}: {lines[-1]}")
    found = json.loads(results.read_text())
    if found["mmssl"]:
        raise RunError(f"the fresh process imported mmssl after all: {found['mmssl'][0]}")
    return list(found["results"])


def _compare(trial: Trial, file: Path) -> list[Row]:
    rows = []
    exact = trial.expect(torch.float32)
    for dtype in trial.dtypes:
        theirs = load_file(f"{file}.{dtype}.safetensors")
        ours = exact if dtype == "float32" else trial.expect(getattr(torch, dtype))
        for name, value in ours.items():
            expected, found = value.float(), theirs[name]
            if expected.shape != found.shape:
                raise RunError(
                    f"{name} at {trial.name} has the shape {tuple(found.shape)}, ours {tuple(expected.shape)}"
                )
            difference = float((found - expected).abs().max())
            rounding = float((expected - exact[name].float()).abs().max())
            rows.append(Row(trial.name, dtype, name, difference, float(expected.abs().max()), rounding))
    return rows


def _pipeline(job: Job, result: dict[str, Any]) -> tuple[str, float | None]:
    """What the table says of the pipeline, and the largest difference of its output from ours."""
    if not job.pipelines:
        return (f"no: {job.without_pipeline}" if job.without_pipeline else "no"), None
    if result["pipeline_error"]:
        raise RunError(f"the pipeline does not work on what was written: {result['pipeline_error']}")
    worst = 0.0
    for pipeline, found in zip(job.pipelines, result["pipeline"], strict=True):
        if isinstance(pipeline.expect, dict):
            worst = max([worst, *(abs(found[label] - score) for label, score in pipeline.expect.items())])
        else:
            got, expected = torch.tensor(found), pipeline.expect.float()
            if pipeline.shuffled:
                got, expected = (torch.cat([x[:, :1], x[:, 1:].mean(1, keepdim=True)], 1) for x in (got, expected))
            got = got.reshape(expected.shape) if got.numel() == expected.numel() else got
            if got.shape != expected.shape:
                raise RunError(f"{pipeline.task} gives the shape {tuple(got.shape)}, ours is {tuple(expected.shape)}")
            worst = max(worst, float((got - expected).abs().max()) / max(float(expected.abs().max()), 1.0))
    return ", ".join(p.task for p in job.pipelines), worst
