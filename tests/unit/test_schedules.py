"""Schedules: each against its formula written out; what knows no horizon does not depend on it; what is refused."""

from __future__ import annotations

import math

import pytest
from toys.refusals import refused

from mmssl.errors import UserError
from mmssl.masking import Block, PerModality, Random, mask_at
from mmssl.recipe.config import LoopConfig
from mmssl.recipe.loading import load_recipe
from mmssl.schedules import KINDS, RampConfig, Rate, ScheduleConfig, moved, schedule_faults


def rates(steps: int, before: int = 0, **options) -> list[float]:
    schedule = ScheduleConfig(**options.pop("schedule", {}))
    settings = LoopConfig(**options, schedule=schedule)
    assert schedule_faults(settings) == []
    rate = Rate(settings, steps, before)
    return [rate.at(step) for step in range(steps)]


def test_cosine_against_values_computed_by_hand():
    found = rates(10, lr=2.0, warmup=0.2, min_lr=1.0)
    assert found[:2] == [1.0, 2.0]  # two steps of warm-up: a half, then the peak
    # 8 steps of cosine from the peak: floor + (peak - floor) * (1 + cos(pi * i / 8)) / 2
    assert found[2] == pytest.approx(2.0)
    assert found[4] == pytest.approx(1.0 + 0.5 * (1 + math.sqrt(0.5)))
    assert found[6] == pytest.approx(1.5)
    assert found[8] == pytest.approx(1.0 + 0.5 * (1 - math.sqrt(0.5)))


def test_warmup_is_steps_from_one_on_and_may_be_none():
    assert rates(100, lr=1.0, warmup=4)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates(100, lr=1.0, warmup=0)[0] == 1.0
    assert rates(1, lr=1.0, warmup=0.05) == [1.0]


def test_line_constant_wsd_and_root_against_their_formulas():
    assert rates(10, lr=1.0, warmup=2, min_lr=0.2, schedule={"kind": "linear"})[2:] == pytest.approx(
        [1 - 0.8 * i / 8 for i in range(8)]
    )
    assert rates(5, lr=1.0, warmup=2, schedule={"kind": "constant"}) == [0.5, 1, 1, 1, 1]
    # the last tenth of wsd falls to min_lr, which it would reach at the step behind the last
    assert rates(20, lr=1.0, warmup=0.1, schedule={"kind": "wsd"})[1:] == pytest.approx([1.0] * 18 + [0.5])
    # Vaswani et al. 2017: the root of warm-up over the step counted from 1
    root = rates(40, lr=0.4, warmup=4, min_lr=0.15, schedule={"kind": "inverse_sqrt"})
    assert root[3] == 0.4 and root[15] == pytest.approx(0.4 * math.sqrt(4 / 16)) and root[39] == 0.15


@pytest.mark.parametrize("shape", ["cosine", "linear", "inverse_sqrt"])
def test_infinite_is_the_papers_four_phases(shape):
    """Singh et al. 2025, equation 3, with cumulative ends as their code has them; the cooldown's other shapes from
    Ibrahim et al. 2024."""
    high, held, low = 3e-4, 1.65e-4, 3e-5
    warm_end, cool_end, held_end, total = 10, 50, 80, 100
    f = {
        "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
        "linear": lambda x: x,
        "inverse_sqrt": lambda x: (1 / math.sqrt(1 + 10 * x) - 1) / (1 / math.sqrt(11) - 1),
    }[shape]

    def paper(t: int) -> float:
        if t < warm_end:
            return high * (t + 1) / warm_end
        if t <= cool_end:
            return high + (held - high) * f((t - warm_end) / (cool_end - warm_end))
        if t <= held_end:
            return held
        return held * (low / held) ** ((t - held_end) / (total - held_end))

    schedule = {
        "kind": "infinite",
        "cooldown": 40,
        "hold": 0.55,
        "cooldown_shape": shape,
        "anneal_shape": "exponential",
    }
    found = rates(total, lr=high, min_lr=low, warmup=10, anneal=20, schedule=schedule)
    assert found == pytest.approx([paper(t) for t in range(total)], rel=1e-12)


STEADY = {
    "constant": {"warmup": 5},
    "wsd": {"warmup": 5},
    "inverse_sqrt": {"warmup": 5},
    "infinite": {"warmup": 5, "schedule": {"cooldown": 10, "hold": 0.3}},
}


@pytest.mark.parametrize("kind", STEADY)
def test_before_it_anneals_the_rate_does_not_depend_on_the_horizon(kind):
    options = {"lr": 1.0, **STEADY[kind]}
    options["schedule"] = {"kind": kind, **options.get("schedule", {})}
    short, longer = rates(40, anneal=10, **options), rates(1000, anneal=10, **options)
    assert short[:31] == longer[:31] and short[31] < longer[31]  # the first annealed step is still at the held rate
    # and what goes on where another run was has no warm-up again, nor any other break
    assert rates(960, before=30, anneal=10, **options)[:900] == longer[30:930]


def test_what_falls_to_its_end_begins_anew_behind_another_run():
    assert rates(10, before=30, lr=1.0, warmup=2) == rates(10, lr=1.0, warmup=2)


def test_shapes_arrive_and_are_clamped():
    for shape in ("linear", "cosine", "inverse_sqrt", "exponential"):
        ends = [moved(0.4, 0.1, share, shape) for share in (-1.0, 0.0, 1.0, 2.0)]
        assert ends == pytest.approx([0.4, 0.4, 0.1, 0.1])
    assert moved(0.4, 0.1, 0.5, "exponential") == pytest.approx(0.2)


def test_a_ramp_in_steps_does_not_depend_on_the_length_of_the_run():
    ramp = RampConfig(begin=2, end=12)
    assert [ramp.factor(7 / steps, steps) for steps in (20, 1000)] == pytest.approx([0.5, 0.5])
    assert RampConfig(begin=0.5, end=10).factor(0.6, 10) == pytest.approx(0.2)
    # a share that lies behind an end in steps
    assert [RampConfig(begin=0.5, end=10).factor(share, 100) for share in (0.05, 0.2)] == [0.0, 1.0]
    with refused("begin", "5", "end"):
        RampConfig(begin=5, end=1)
    with refused("shape", "exponential", "0"):
        RampConfig(shape="exponential")


def test_ratios_of_masks_go_by_their_ramps():
    mask = Random(ratio={"a": 0.4, "b": 0.6}, ramp=RampConfig(first=0.5, end=1.0))
    assert mask_at(mask, 0.0, 10).ratio == pytest.approx({"a": 0.2, "b": 0.3})
    assert mask_at(mask, 0.5, 10).ratio == pytest.approx({"a": 0.3, "b": 0.45})
    block = Block(ratio=[0.1, 0.4], ramp=RampConfig(first=2.0, last=1.0, end=1.0))
    assert mask_at(PerModality(masks={"a": block}), 0.5, 10).masks["a"].ratio == pytest.approx([0.15, 0.6])
    steady = Random(ratio=0.4)
    assert mask_at(steady, 0.3, 10) is steady
    for factors in ({"first": 0.0}, {"first": 2.6}):
        with refused("first", f"{factors['first']:g}", "ratio"):
            Random(ratio=0.4, ramp=RampConfig(**factors))


REFUSED = [
    (["schedule.kind=infinite", "schedule.cooldown=5"], "train.warmup: found 0.05, a share of all steps"),
    (["schedule.kind=inverse_sqrt", "warmup=0"], "train.warmup: found 0, but"),
    (["anneal=3"], "train.anneal: found 3, which has no effect with schedule.kind cosine"),
    (["schedule.kind=infinite", "warmup=1"], "train.schedule.cooldown: found 0, expected the steps"),
    (["schedule.kind=wsd", "schedule.cooldown=5"], "train.schedule.cooldown: found 5, which has no effect"),
    (["schedule.anneal_shape=cosine"], "train.schedule.anneal_shape: found cosine, which has no effect"),
    (["schedule.kind=wsd", "schedule.anneal_shape=exponential"], "exponential, which never arrives at min_lr = 0"),
    (["schedule.kind=wsd", "anneal=10000"], "train.anneal: found 10000, but of 300 steps 285 are left"),
    (
        ["schedule.kind=infinite", "warmup=1", "schedule.cooldown=5", "schedule.hold=0.1", "lr=1e-3", "min_lr=5e-4"],
        "train.min_lr: found 0.0005, expected at most the rate that is held, 0.0001",
    ),
    (["weight_decay=0", "decay_ramp={}"], "train.decay_ramp: found options, which has no effect with weight_decay"),
]


@pytest.mark.parametrize(("overrides", "line"), REFUSED)
def test_contradictions_are_refused_before_anything_is_done(overrides, line):
    with pytest.raises(UserError, match=line):
        load_recipe("quickstart", ["train.epochs=null", "train.steps=300", *(f"train.{o}" for o in overrides)])


def test_kinds_are_described():
    assert all(words in repr(ScheduleConfig.__dataclass_fields__["kind"].metadata["help"]) for words in KINDS.values())
