"""What all tests share: the real data, and how they run side by side."""

from __future__ import annotations

import gc
import os
import subprocess
import types
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from toys import forking

from mmssl.hub.picture import draw_training, page_wanted

# The same examples every time, as long as they take: what fails here fails everywhere, a busy machine is no fault.
hypothesis.settings.register_profile("mmssl", derandomize=True, deadline=None)
hypothesis.settings.load_profile("mmssl")

# One thread for each of several processes, before torch reads it: two that each start a thread per core wait for each
# other at every small kernel (measured on two busy cores: 20 s became 173 s). What tests start inherits it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]
MOST_WORKERS = 8  # each holds torch, transformers and its tests' models: up to 2 GB


@pytest.hookimpl(optionalhook=True)  # the tests also run where pytest-xdist is not installed
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` starts: two at least, since much of a test is waiting for files."""
    return max(2, min(MOST_WORKERS, os.cpu_count() or 1))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collecting imports everything, and what is imported stays. Python looks it all through for garbage again
    and again, a quarter of the computing time of it, and each later look of a test would begin with them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed and logged, as the processes can send it to each other: file names are not always UTF-8."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data sets: $MMSSL_SHARED_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("MMSSL_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MMSSL_SHARED_DATA to the folder of the shared data sets")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the pictures of digits, to be tuned or gone on with."""
    from toys import tuned

    return tuned.image_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(autouse=True, scope="session")
def undrawn() -> Iterator[None]:
    """Runs draw no picture for their card and no page, most of the computing time of a run of two steps. `drawn` has
    them do it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmssl.hub.picture.draw_training", lambda metrics, picture: False)
        patch.setattr("mmssl.hub.picture.page_wanted", lambda asked: False)
        yield


@pytest.fixture(autouse=True, scope="session")
def few_resamples() -> Iterator[None]:
    """The interval of a score comes of 40 resamples instead of 200: of each fine-tuning they took a tenth of the time.
    What tests say of intervals is what they enclose, and that two commands give the same one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmssl.finetuning.scores.RESAMPLES", 40)
        yield


@pytest.fixture(autouse=True, scope="session")
def short_probe() -> Iterator[dict[str, Any]]:
    """The linear probe chooses between two strengths on one fifth, three regressions in place of 31: more than half of
    what a fine-tuning of a few steps computes. Gives what was there before, for `whole_probe`."""
    from mmssl.evaluation import linear

    before = {name: getattr(linear, name) for name in ("STRENGTHS", "FEW")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "STRENGTHS", (1e-2, 1.0))
        patch.setattr(linear, "FEW", 0)
        yield before


@pytest.fixture(scope="module")
def whole_probe(short_probe: dict[str, Any]) -> Iterator[None]:
    """The linear probe chooses as a user's; in the rest of the module, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in short_probe.items():
            patch.setattr(f"mmssl.evaluation.linear.{name}", value)
        yield


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> Iterator[Any]:
    """Nobody waits until what a test wrote is on the disk, thirty times in a run of six steps: no machine crashes in
    between. That it is asked for is for `tests/faults/test_read_only_disk.py`. Gives the real function."""
    real = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield real


@pytest.fixture(scope="module")
def drawn(undrawn: None) -> Iterator[None]:
    """Runs draw the picture of their card and their page, as those of a user do; in the rest of the module, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmssl.hub.picture.draw_training", draw_training)
        patch.setattr("mmssl.hub.picture.page_wanted", page_wanted)
        yield


@pytest.fixture(scope="module")
def forked_proofs() -> Iterator[None]:
    """The process that proves an export is forked from one that has imported torch and transformers, and mmssl as
    little. That it is a fresh one when a user exports is for `tests/export/test_stock_formats.py`, for every format."""
    from mmssl.exporting import proof

    def run(command: list[str], capture_output: bool, text: bool, check: bool, **options: Any) -> Any:
        assert capture_output and text and not check and command[1] == "-I"
        return forking.run(command[1:], level="exports", **options)

    with pytest.MonkeyPatch.context() as patch:
        stands_for = types.SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
        patch.setattr(proof, "subprocess", stands_for)
        yield
