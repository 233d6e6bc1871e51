"""Which process is slow: what counts as its own time, and when it is told of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmssl.distributed import exchanged
from mmssl.training.metrics import Meter
from mmssl.training.ranks import LINES, Clock, Stragglers, Told, costs


def clock(processes: int = 2, cut: bool = False, blocks: Sequence[torch.nn.Module] = ()) -> Clock:
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=processes)
    parallel: Any = SimpleNamespace(accelerator=accelerator, cut=cut)
    return Clock(parallel, blocks)


def step(clock: Clock) -> torch.Tensor:
    """The gradient of a weight of 2 from its square."""
    weight = torch.tensor(2.0, requires_grad=True)
    clock.begin()
    loss = weight.square()
    clock.end_behind(loss)
    loss.backward()
    assert weight.grad is not None
    return weight.grad


def test_the_time_of_exchanges_is_not_a_process_s_own(monkeypatch):
    own, times = clock(), iter([10.0, 15.0, 100.0, 101.0])
    monkeypatch.setattr(own, "_now", lambda: next(times))
    own.begin()
    exchanged.seconds += 2
    own._end()
    own.begin()
    own._end()
    assert own.take() == pytest.approx((3 + 1) / 2)
    assert own.take() is None  # none since


def test_it_ends_with_the_backward_pass_which_it_leaves_alone():
    own = clock()
    assert step(own) == 4 and own.steps == 1
    found = own.take()
    assert found is not None and found > 0


def test_a_process_that_is_alone_is_not_timed():
    for alone in (clock(1), clock(1, cut=True)):
        assert step(alone) == 4 and alone.take() is None


def told(seconds: float | None, reading: float = 0.0) -> Told:
    return Told([], 0, seconds, reading)


def test_of_processes_that_wait_in_every_block_what_blocks_do_is_timed(monkeypatch):
    """Not what lies in front of a block, where others are waited for, nor what is looked at between steps."""
    now = [0.0]

    class Block(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            now[0] += 3
            return x

    block = Block()

    def wait(*_: object) -> None:
        now[0] += 100

    block.register_forward_pre_hook(wait)
    block.register_forward_hook(wait)
    own = clock(2, cut=True, blocks=[block])
    monkeypatch.setattr(own, "_now", lambda: now[0])
    for _ in range(2):
        own.begin()
        own.end_behind(block(block(torch.ones((), requires_grad=True))))
        own.end()
        block(torch.ones(()))
    meter = Meter()
    meter.waited, meter.steps = 5.0, 2
    effort: Any = SimpleNamespace(flops=lambda _: None, peak=None, memory=lambda: None)
    said = Told.of(meter, own, effort)
    assert said.seconds == 6 + 2.5 and said.reading == 2.5
    assert own.take() is None


def test_what_the_slow_one_does_is_told(caplog):
    caplog.set_level(logging.WARNING, "mmssl")
    few, reads, computes = Stragglers(), Stragglers(), Stragglers()
    for _ in range(LINES):
        few.row([told(0.001), told(0.003)], 1.0)  # not worth a word
        row = reads.row([told(0.1, 0.01), told(0.5, 0.4)], 1.0)
        assert row["slowest_rank"] == 1 and row["rank_seconds/reading"] == 0.4
        assert row["rank_seconds/computing"] == pytest.approx(0.1)
        computes.row([told(0.5, 0.1), told(0.1, 0.09)], 1.0)
    first, second = (record.getMessage() for record in caplog.records)
    assert "process 1 takes 0.5 s" in first and "0.4 s to read its rows and 0.1 s to compute" in first
    assert "its data" in first and "its machine" in second and "process 0" in second


def test_who_stays_behind_is_told_of_once_and_again_when_it_is_another(caplog):
    caplog.set_level(logging.WARNING, "mmssl")
    watch = Stragglers()
    lines = [[1, 1, 9]] * (LINES - 1) + [[1, 1, 1]] + [[1, 1, 9]] * (LINES + 5) + [[9, 1, 1]] * LINES
    for seconds in lines[: 2 * LINES - 1]:
        watch.row([told(one) for one in seconds])
    assert not caplog.records  # in a row, or not at all
    rows = [watch.row([told(one) for one in seconds]) for seconds in lines[2 * LINES - 1 :]]
    assert [record.args[0] for record in caplog.records] == [2, 0]
    assert "takes 9 s" in caplog.records[0].getMessage()
    assert rows[0] == {
        "rank_seconds/max": 9,
        "rank_seconds/median": 1,
        "rank_seconds/reading": 0,
        "rank_seconds/computing": 9,
        "slowest_rank": 2,
    }


def test_of_two_the_median_is_the_faster_and_nothing_is_said_of_one():
    assert Stragglers().row([told(4.0), told(2.0)])["rank_seconds/median"] == 2
    assert Stragglers().row([told(4.0)]) == Stragglers().row([told(None), told(None)]) == {}


def test_costs_are_of_all_processes():
    told = [Told([], 0, 1.0, 0.1, 30, 6e9, 1e10, 2.0), Told([], 0, 1.0, 0.1, 10, 2e9, 3e10, 3.0)]
    assert costs(told, 4.0) == {"tokens_per_second": 10, "mfu": pytest.approx(8e9 / 4 / 4e10), "memory": 3.0}
    unknown = Told([], 0, 1.0, 0.1, 10, None, None, None)
    assert costs([told[0], unknown], 4.0)["mfu"] is None and costs([unknown], 4.0)["memory"] is None
