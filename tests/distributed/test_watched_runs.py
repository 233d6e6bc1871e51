"""Health, the online probe, gradient shares and the collapse guard of whole runs with two processes are those of one.

Two gloo processes run `mmssl pretrain` for each case, one after another, as a launcher would start them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from toys import runs
from toys.processes import free_ports, processes

from mmssl.cli import main
from mmssl.distributed import in_full
from mmssl.training import checkpoints, picturing
from mmssl.training.loop import Loop
from mmssl.training.metrics import TIMED
from mmssl.training.observers import Verdict
from mmssl.training.ranks import Clock


def watched() -> dict[str, Any]:
    """Two towers, a teacher and codes that say their health, books that are fitted first, labels for the probe, and
    micro-batches that do not fill the last chunk of the health probe."""
    content = runs.image_text()
    codes = {"size": 6, "samples": 64, "target": "pixels", "similarity": "cosine", "width": 8, "topics": 3}
    content["objectives"]["mae"]["codes"] = {"image": codes}
    books = {"size": 6, "samples": 64, "width": 8, "decoder": {"width": 8, "depth": 1, "heads": 2}}
    content["objectives"]["tokens"] = {"type": "tokenizer", "tower": "image", "weight": 0.1, **books}
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    content["objectives"]["pull"] = {"type": "toys.collapse", "tower": "image", "weight": 0.1}
    content["evaluation"]["label"] = "label"
    content["train"] |= {
        "log_every": 1,
        "health_every": 2,
        "health_samples": 44,
        "gradient_share_every": 2,
        "probe_every": 3,
        "probe_samples": 60,
        "probe_tasks": ["knn", "linear"],
        "guard": {"min_rank": None, "min_std": None},
    }
    return content


def collapsing(**guard: Any) -> dict[str, Any]:
    """Plain L2 between two views: the spread of the embeddings goes to zero."""
    content = runs.recipe(train={"steps": 30, "save_every": 5, "health_every": 5, "lr": 3e-3, "warmup": 0})
    # of a collapsed model gradients here and there are no more than rounding: Adam would make whole steps of them
    content["train"] |= {"log_every": 1, "keep": 1, "eps": 1e-6}
    content["model"]["towers"]["image"].pop("dropout")
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    content["objectives"] = {"pull": {"type": "toys.collapse", "tower": "image"}}
    content["train"]["guard"] = {"min_std": 0.08, "min_rank": None, "patience": 1, **guard}
    return content


def broken() -> dict[str, Any]:
    content = runs.recipe(train={"health_every": 2, "log_every": 1})
    content["model"]["towers"]["image"].pop("dropout")
    content["train"]["guard"] = {"action": "rollback", "min_rank": None, "min_std": None}
    return content


def renewed() -> dict[str, Any]:
    """Clusters that the run finds anew say who is told from whom and what is in a batch."""
    content = runs.recipe(
        data={"renewed": {"every": 3, "first": 1, "clusters": 5}, "sampler": {"kind": "same", "column": "cluster"}},
        train={"log_every": 1, "health_every": None, "guard": None},
    )
    content["model"]["towers"]["image"].pop("dropout")
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    told = {"type": "contrastive", "towers": ["image"], "views": ["a", "b"], "negatives_column": "cluster"}
    content["objectives"] = {"simclr": told}
    return content


def sharded(content: dict[str, Any]) -> dict[str, Any]:
    content["train"]["parallel"] = "fsdp2"
    return content


CASES = {
    "watched": (watched, 0),
    "watched, sharded": (lambda: sharded(watched()), 0),
    "renewed": (renewed, 0),
    "renewed, sharded": (lambda: sharded(renewed()), 0),
    "nan, sharded": (lambda: sharded(broken()), 0),
    "stop": (lambda: collapsing(action="stop"), 1),
    "rollback": (lambda: collapsing(action="rollback", rollbacks=2, lr_factor=0.9), 1),
    "nan": (broken, 0),
}


def run(case: str, folder: Path, rank: int) -> dict[str, Any]:
    """One run: its exit code, and weights and optimiser after each rollback. In the case `nan` the loss and the weights
    of the last process, and of it alone, break once after the third step."""
    content, _ = CASES[case]
    two = os.environ.get("WORLD_SIZE") == "2"
    pictured: list[int] = []
    after: list[tuple[int, dict[str, torch.Tensor]]] = []
    hit: list[int] = []
    gradients, go_back, load = Loop._gradients, Loop._go_back, checkpoints.load

    def gone_back(loop: Loop, step: int, verdict: Verdict) -> int:
        at = go_back(loop, step, verdict)
        state = {f"weights/{k}": in_full(v).clone() for k, v in loop.pretraining.state_dict().items()}
        for name, p in loop.pretraining.named_parameters():
            state |= {f"{name}/{k}": in_full(v).clone() for k, v in loop.optimizer.optimizer.state.get(p, {}).items()}
        after.append((at, {name: value.numpy() for name, value in state.items()}))
        return at

    def break_once(loop: Loop, stream: Any, step: int, meter: Any) -> None:
        gradients(loop, stream, step, meter)
        if case.startswith("nan") and step == 2 and not hit and rank == loop.accelerator.num_processes - 1:
            hit.append(step)
            meter.parts[""] = meter.parts[""] * torch.nan
            for p in loop.pretraining.parameters():
                p.data.mul_(torch.nan)

    def load_late(path: Path, *args: Any) -> Any:
        """Of a checkpoint that the first process must not write again before the last has read it."""
        seen = path.stat().st_ino
        time.sleep(0.2 * rank)
        assert path.stat().st_ino == seen
        return load(path, *args)

    def end(clock: Clock) -> None:
        own_end(clock)
        clock.count += 1
        (folder / f"{case} {clock.count} ended {rank}").touch()

    def begin_backward(clock: Clock, loss: torch.Tensor) -> None:
        """Of the second process: once the first one's own part of the step, which is not its wait, has ended. A loss
        whose gradient is exchanged, too, needs both in between."""
        own_begin(clock, loss)
        first, until = folder / f"{case} {clock.count + 1} ended 0", time.monotonic() + 60
        while clock.on and case == "nan" and rank == 1 and not first.exists():
            assert time.monotonic() < until, "the first process counts its wait for this one"
            time.sleep(0.002)

    def now(_: Clock) -> float:
        """In the cases `renewed`: whatever the second process computes takes it three times as long."""
        ticks[0] += 1000.0 * (3 if rank == 1 else 1)
        return ticks[0]

    ticks = [0.0]
    own_end, own_begin = Clock._end, Clock.end_behind
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "count", 0, raising=False)
        patch.setattr(Clock, "_end", end)
        if case.startswith("renewed"):
            patch.setattr(Clock, "_now", now)
        patch.setattr(Clock, "end_behind", begin_backward)
        patch.setattr(Loop, "_go_back", gone_back)
        patch.setattr(Loop, "_gradients", break_once)
        patch.setattr(checkpoints, "load", load_late)
        own = folder / f"recipe-{rank}"
        own.mkdir(exist_ok=True)
        patch.setattr(picturing, "write_report", lambda _, path: pictured.append(rank))
        plain = content()
        plain["train"] |= {"report_every": 2} if two else {}  # of two alone, whose numbers are those of one without
        code = main(["pretrain", str(runs.write(own, plain)), "--output", str(folder / case)])
    return {"code": code, "after": after, "pictured": pictured}


QUICK = ("watched", "nan", "renewed")
"""The others run for 30 steps, or with shares of the model, in three processes: they are marked as slow."""
LONG = tuple(case for case in CASES if case not in QUICK)


def marked(*cases: str) -> list[Any]:
    return [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in cases]


EVERY = marked(*CASES)


def worker(rank: int, ports: dict[str, int], folder: Path, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
    for case, port in ports.items():
        os.environ["MASTER_PORT"] = str(port)
        results[case, rank] = run(case, folder, rank)
        if dist.is_initialized():  # of a run that ended with an error: a launcher would end the process
            dist.destroy_process_group()


Ran = tuple[Path, Path, dict[tuple[str, int], dict[str, Any]]]
"""(folder of the runs with one process, of those with two, (case, rank) -> what was seen; rank -1: one process)."""


def run_all(cases: Sequence[str], folders: pytest.TempPathFactory) -> Ran:
    one, two = folders.mktemp("one"), folders.mktemp("two")
    found = processes(worker, dict(zip(cases, free_ports(len(cases)), strict=True)), two)
    found |= {(case, -1): run(case, one, 0) for case in cases}
    return one, two, found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_all(QUICK, tmp_path_factory)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_all(LONG, tmp_path_factory)


@pytest.fixture
def ran(request: pytest.FixtureRequest, case: str) -> Ran:
    found: Ran = request.getfixturevalue("quick" if case in QUICK else "long")
    return found


def rows(folder: Path, case: str) -> list[dict[str, Any]]:
    return runs.metrics(folder / case)


@pytest.mark.parametrize("case", EVERY)
def test_both_end_as_one_does(ran, case):
    _, _, found = ran
    assert [found[case, rank]["code"] for rank in (-1, 0, 1)] == [CASES[case][1]] * 3


@pytest.mark.parametrize("case", EVERY)
def test_every_number_of_the_log_is_that_of_one_process(ran, case):
    one, two, _ = ran
    expected, found = runs.metrics(one / case), runs.metrics(two / case)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert set(ours) - TIMED == set(theirs) - TIMED
        for key in set(ours) - TIMED:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-5), (key, ours["step"])


@pytest.mark.parametrize("case", marked("watched", "watched, sharded"))  # of shares the reading is told
def test_the_log_says_which_process_is_slow_where_they_can_be_told_apart(ran, case):
    """That the first one's seconds leave out its wait for the second is seen in `run`, of the case `nan`."""
    one, two, _ = ran
    for row in runs.metrics(two / case):
        assert row["rank_seconds/max"] >= row["rank_seconds/median"] > 0 and row["slowest_rank"] in (0, 1)
        assert row["mfu"] > 0
    assert not [key for row in runs.metrics(one / case) for key in row if "rank_seconds" in key]


@pytest.mark.parametrize("case", marked("renewed", "renewed, sharded"))
def test_the_log_names_the_process_that_computes_slowly(ran, case):
    """By shares, too, where all wait for it in front of every block."""
    _, two, _ = ran
    for row in runs.metrics(two / case):
        assert row["slowest_rank"] == 1 and row["rank_seconds/computing"] > 1000 > row["rank_seconds/reading"]
        assert row["rank_seconds/max"] == pytest.approx(3 * row["rank_seconds/median"], rel=0.2)


@pytest.mark.parametrize("case", marked("watched", "watched, sharded"))
def test_what_was_watched_is_in_the_log(ran, case):
    _, two, _ = ran
    kinds = {
        "health/image/rankme",
        "health/image-text/gap",
        "health/pull/teacher/agreement",
        "probe/text/linear",
        "gradient_share/image/pull",
        "probe/image/knn",
    }
    assert kinds <= {key for row in runs.metrics(two / case) for key in row}


@pytest.mark.parametrize("case", marked("watched", "watched, sharded"))
def test_the_first_of_two_processes_makes_the_pictures(ran, case):
    _, _, found = ran
    assert found[case, 0]["pictured"] == [0, 0] and not found[case, 1]["pictured"]


@pytest.mark.slow
def test_what_shares_of_two_have_written_one_process_goes_on_with(long, tmp_path):
    one, two, _ = long
    run = tmp_path / "run"
    shutil.copytree(two / "watched, sharded", run)
    assert (run / "checkpoints" / "step-00000004" / "shards").is_dir()
    for done in (run / "checkpoints" / "step-00000006", run / "model"):
        shutil.rmtree(done)
    path = runs.write(tmp_path, sharded(watched()))
    assert main(["pretrain", str(path), "--output", str(run), "--resume"]) == 0
    expected, found = runs.metrics(one / "watched, sharded")[-1], runs.metrics(run)[-1]
    assert found["step"] == expected["step"] == 6
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert (run / "checkpoints" / "step-00000006" / checkpoints.WEIGHTS).is_file()


@pytest.mark.parametrize(
    "case",
    [pytest.param("rollback", marks=pytest.mark.slow), "nan", pytest.param("nan, sharded", marks=pytest.mark.slow)],
)
def test_a_rollback_leaves_both_in_the_state_that_one_process_goes_back_to(ran, case):
    _, _, found = ran
    expected, first, second = (found[case, rank]["after"] for rank in (-1, 0, 1))
    assert [at for at, _ in first] == [at for at, _ in second] == [at for at, _ in expected]
    assert len(expected) == (2 if case == "rollback" else 1)
    for (_, a), (_, b), (_, one) in zip(first, second, expected, strict=True):
        assert set(a) == set(b) == set(one)
        for name in a:
            assert (a[name] == b[name]).all(), name
            if "qkv.bias" not in name:  # a key's bias has no gradient: Adam makes steps of what rounding leaves
                assert a[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name
