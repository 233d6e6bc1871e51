"""Which process is slow: what counts as its own time, and when it is told of."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmssl.distributed import exchanged
from mmssl.training.metrics import Meter
from mmssl.training.ranks import LINES, Clock, Stragglers, Told, costs


def clock(processes: int = 2, cut: bool = False) -> Clock:
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=processes)
    parallel: Any = SimpleNamespace(accelerator=accelerator, cut=cut)
    return Clock(parallel)


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


@pytest.mark.parametrize("alone", [clock(1), clock(2, cut=True)])
def test_a_process_that_is_alone_or_waits_in_every_block_is_not_timed(alone):
    assert step(alone) == 4 and alone.take() is None


def test_of_processes_that_wait_in_every_block_the_reading_is_told():
    meter = Meter()
    meter.waited, meter.steps = 6.0, 4
    effort: Any = SimpleNamespace(flops=lambda _: None, peak=None, memory=lambda: None)
    assert Told.of(meter, clock(2, cut=True), effort).seconds == 1.5
    assert Told.of(meter, clock(1, cut=True), effort).seconds is None


def test_slow_reading_is_told_of_where_it_costs_something(caplog):
    caplog.set_level(logging.WARNING, "mmssl")
    few, many = Stragglers(reads=True), Stragglers(reads=True)
    for _ in range(LINES):
        assert few.row([0.001, 0.003], 1.0)["slowest_rank"] == 1
        many.row([0.01, 0.3], 1.0)
    (record,) = caplog.records
    assert "process 1 takes 0.3 s to read the rows of a step" in record.getMessage()


def test_who_stays_behind_is_told_of_once_and_again_when_it_is_another(caplog):
    caplog.set_level(logging.WARNING, "mmssl")
    watch = Stragglers()
    lines = [[1, 1, 9]] * (LINES - 1) + [[1, 1, 1]] + [[1, 1, 9]] * (LINES + 5) + [[9, 1, 1]] * LINES
    for seconds in lines[: 2 * LINES - 1]:
        watch.row(seconds)
    assert not caplog.records  # in a row, or not at all
    rows = [watch.row(seconds) for seconds in lines[2 * LINES - 1 :]]
    assert [record.args[0] for record in caplog.records] == [2, 0]
    assert "takes 9 s a step" in caplog.records[0].getMessage()
    assert rows[0] == {"rank_seconds/max": 9, "rank_seconds/median": 1, "slowest_rank": 2}


def test_of_two_the_median_is_the_faster_and_nothing_is_said_of_one():
    assert Stragglers().row([4.0, 2.0])["rank_seconds/median"] == 2
    assert Stragglers().row([4.0]) == Stragglers().row([None, None]) == {}


def test_costs_are_of_all_processes():
    told = [Told([], 0, 1.0, 30, 6e9, 1e10, 2.0), Told([], 0, 1.0, 10, 2e9, 3e10, 3.0)]
    assert costs(told, 4.0) == {"tokens_per_second": 10, "mfu": pytest.approx(8e9 / 4 / 4e10), "memory": 3.0}
    unknown = Told([], 0, 1.0, 10, None, None, None)
    assert costs([told[0], unknown], 4.0)["mfu"] is None and costs([unknown], 4.0)["memory"] is None
