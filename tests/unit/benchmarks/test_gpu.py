"""`benchmarks.gpu`: it runs as a whole without a GPU, what fails or takes too long is told, and the rest goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_runs import Bench


def lines(path: Path) -> dict[str, dict[str, Any]]:
    return {line["part"]: line for line in map(json.loads, path.read_text().splitlines())}


def test_a_part_that_fails_or_hangs_is_told_and_the_next_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(bench: Bench) -> dict[str, Any]:
        raise RuntimeError("no such kernel")

    def hangs(bench: Bench) -> dict[str, Any]:
        time.sleep(60)
        return {}

    parts = {"fails": (0.0, fails), "hangs": (0.5, hangs), "long": (99.0, hangs), "works": (0.0, lambda b: {"x": 1})}
    monkeypatch.setattr(gpu, "PARTS", parts)
    out = tmp_path / "out.jsonl"
    gpu.go(Bench("cpu", False, tmp_path), list(parts), 1.0, out)
    found = lines(out)
    assert found["fails"]["failed"] == "RuntimeError: no such kernel"
    assert found["hangs"]["failed"].startswith("TimeoutError: stopped after 1 s")
    assert found["long"]["skipped"].startswith("99 s wanted")
    assert found["works"]["x"] == 1


def test_the_parts_in_their_order_fit_into_eight_minutes() -> None:
    needs = [seconds for seconds, _ in gpu.PARTS.values()]
    worth = list(gpu.PARTS).index("fp16") + 1
    assert sum(needs[:worth]) <= 480, "all kinds of parts once, before any of them in another size"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_all_of_it_runs_in_small_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    pytest.importorskip("lightly", reason="make bench installs it: pip install 'mmssl[bench]'")
    gpu.go(Bench("cpu", True, tmp_path), list(gpu.PARTS), 8.0, out)
    found = lines(out)
    assert {name: line for name, line in found.items() if "failed" in line or "skipped" in line} == {}
    assert list(found) == list(gpu.PARTS)
    for name, line in found.items():
        if "losses_apart" in line:
            assert line["losses_apart"] < 2e-6 and 0 < line["ours"]["mfu"] < 1, name
    assert found["resume"]["same"] and found["scaler"]["finite"]
    assert found["chunked"]["ours_loss"] == pytest.approx(found["chunked"]["peer_loss"], rel=1e-5)
    assert all(a == b for a, b in (v for v in found["agreement"].values() if isinstance(v, list)))
    assert 0 <= found["loader"]["data_wait"] <= 1 and found["nccl"]["loss"] > 0
