"""Positives, negatives and grades by column in `contrastive`: SupCon, LOOK, MCL, partitions and lists against loops
over the pairs, with values that are unknown, samples that are absent, teachers and queues."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.losses.several import mean_discrepancy
from mmssl.objectives.contrastive import Config, Contrastive
from mmssl.objectives.options.relations import PositiveOptions
from mmssl.objectives.pretraining import Pretraining

ROWS, STEPS = 8, 3
WITHIN: dict[str, Any] = {"towers": ["signal"], "views": ["a", "b"], "head_hidden": 16, "head_width": 8}
ACROSS: dict[str, Any] = {"towers": ["table", "graph"], "learn_temperature": False}
TAUGHT: dict[str, Any] = {"keys": "teacher", "momentum": [0.5, 0.5]}
WHO, WHEN, SCORE = toy_world.COLUMNS
GRADED = {"column": "who", "grade": "score"}


def world(**options: Any) -> Pretraining:
    torch.manual_seed(1)
    net = toy_world.model()
    if isinstance(options.get("positives"), dict):
        options["positives"] = PositiveOptions(**options["positives"])
    return Pretraining(net, {"it": Contrastive(Config(**options), net)}, toy_world.VIEWS, {})


def raw(number: int) -> dict[str, list]:
    return toy_world.raw(ROWS, seed=number, absent=0.2) | toy_world.columns(ROWS, seed=number)


def step_of(work: Pretraining, number: int) -> Any:
    return work.step(toy_world.batch(raw(number)), Draws(number, ROWS))


class Row:
    """One embedding of one sample, and what the columns say of the sample."""

    def __init__(self, x: np.ndarray, side: int, sample: object, said: tuple) -> None:
        self.x, self.side, self.sample, self.said = x, side, sample, said

    def grade(self) -> float:
        return 1.0 if self.said[2] is None else float(self.said[2])


def looked(work: Pretraining, number: int) -> tuple[list[list[Row]], list[list[Row]]]:
    """(what asks, what is a key) of both sides: the rows of the samples that have them."""
    objective: Any = work.objectives["it"]
    step, said = step_of(work, number), list(zip(*(raw(number)[key] for key in (WHO, WHEN, SCORE)), strict=True))
    across, within = objective.sides.plan(step)
    ((a, b),) = across or within
    out: tuple[list[list[Row]], list[list[Row]]] = ([], [])
    for i, side in enumerate((a, b)):
        made = [objective.made.embed(step, side, bool(within))]
        made.append(made[0] if objective.teacher is None else objective.made.teach(step, side, bool(within)))
        for rows, (x, present) in zip(out, made, strict=True):
            unit = F.normalize(x.double(), dim=-1).detach().numpy()
            rows.append([Row(unit[j], i, (number, j), said[j]) for j in range(ROWS) if present[j]])
    return out


def loss_by_hand(c: Config, asks: list[Row], keys: list[Row], mine: list[Row], queue: list[Row], forth: bool) -> float:
    """The mean over the samples that have both sides and a positive."""
    tau = c.temperature or (0.07 if c.loss == "infonce" else 0.1)
    have = {row.sample for row in asks} & {row.sample for row in keys}
    losses, o = [], c.positives
    batch = keys + (mine if c.loss in ("nt_xent", "dcl") else [])
    for q in (row for row in asks if row.sample in have):
        candidates = [k for k in batch if k.sample in have and not (k.sample == q.sample and k.side == q.side)]
        if c.told_from == "queue":
            candidates = [k for k in candidates if k.sample == q.sample]
        candidates = candidates + (queue if c.told_from != "batch" else [])
        if o is not None and not o.pair:
            candidates = [k for k in candidates if k.sample != q.sample]
        if c.neighbours:
            near = sorted((k for k in candidates if k.sample != q.sample), key=lambda k: -(k.x @ q.x))[: c.neighbours]
            candidates = [k for k in candidates if k.sample == q.sample] + near
        weights, below = [], []
        for k in candidates:
            at = 0 if o is None or o.within is None else 1
            known = q.said[at] is not None and k.said[at] is not None
            same = known and (abs(q.said[1] - k.said[1]) <= o.within if at else q.said[0] == k.said[0])
            belongs = k.sample == q.sample or (o is not None and same)
            weight = ((k if forth else q).grade() if o is not None and o.grade else 1.0) * belongs
            weights.append(weight)
            kin = q.said[0] is not None and q.said[0] == k.said[0]
            chosen = not c.negatives_column or kin == (c.negatives_of == "same")
            below.append(weight == 0 and chosen)
        s = [float(k.x @ q.x) / tau for k in candidates]
        up = [i for i, w in enumerate(weights) if w > 0]
        down = [i for i, b in enumerate(below) if b]
        if not up:
            continue
        among = down if c.loss == "dcl" else up + down
        if not among:
            losses.append(0.0)
            continue
        total = math.log(sum(math.exp(s[i]) for i in among))
        if o is not None and o.form == "inside":
            losses.append(total - math.log(sum(weights[i] * math.exp(s[i]) for i in up)))
        elif o is not None and o.form == "each" and c.loss != "dcl":
            negative = sum(math.exp(s[i]) for i in down)
            each = [weights[i] * (math.log(math.exp(s[i]) + negative) - s[i]) for i in up]
            losses.append(sum(each) / sum(weights[i] for i in up))
        else:
            losses.append(sum(weights[i] * (total - s[i]) for i in up) / sum(weights[i] for i in up))
    return float(np.mean(losses)) if losses else 0.0


CASES: dict[str, dict[str, Any]] = {
    "supcon": {**WITHIN, "loss": "nt_xent", "positives": {"column": "who"}},
    "across": {**ACROSS, "positives": GRADED},
    "decoupled": {**WITHIN, "loss": "dcl", "positives": {"column": "who", "form": "inside"}},
    "look": {
        **WITHIN,
        **TAUGHT,
        "queue": 13,
        "negatives": "both",
        "neighbours": 4,
        "positives": {"column": "who", "form": "inside", "pair": False},
    },
    "a teacher's queue": {**WITHIN, **TAUGHT, "queue": 5, "both_ways": False, "positives": GRADED},
    "partitions": {**WITHIN, "positives": {"column": "when", "within": 0.7, "form": "each"}},
    "one cluster": {**WITHIN, "loss": "nt_xent", "negatives_column": "who"},
    "other clusters": {**WITHIN, "queue": 6, "negatives": "both", "negatives_column": "who", "negatives_of": "other"},
    "pooled": {
        **ACROSS,
        "views": ["a", "b"],
        "loss": "nt_xent",
        "pooled": {"table": 0.4, "graph": 0.6},
        "positives": {"column": "who"},
    },
    "neighbours alone": {**WITHIN, "loss": "nt_xent", "neighbours": 2},
}


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_the_formula(case, chunk):
    work = world(**CASES[case], chunk=chunk)
    c: Any = work.objectives["it"].config
    held: list[Row] = []
    for number in range(STEPS):
        asks, keys = looked(work, number)
        ways = [(0, 1, True), (1, 0, False)] if c.both_ways else [(0, 1, True)]
        earlier = held[-(c.queue or 1) :]
        expected = [loss_by_hand(c, asks[a], keys[b], keys[a], earlier, forth) for a, b, forth in ways]
        work.zero_grad()
        loss = work(toy_world.batch(raw(number)), Draws(number, ROWS))
        assert loss.total.item() == pytest.approx(np.mean(expected), abs=1e-6)
        loss.total.backward()
        assert all(torch.isfinite(p.grad).all() for p in work.parameters() if p.grad is not None)
        with torch.no_grad():
            for p in work.parameters():
                if p.grad is not None:
                    p.sub_(0.1 * p.grad)
        work.after_step((number + 1) / STEPS)
        if c.queue:
            held.extend(keys[1])


def test_a_resumed_run_knows_what_columns_said_of_the_queue():
    work, again = world(**CASES["look"]), world(**CASES["look"])
    for number in range(2):
        work(toy_world.batch(raw(number)), Draws(number, ROWS)).total.backward()
        work.after_step(0.5)
    again.load_state_dict(work.state_dict())
    queue: Any = again.objectives["it"].queues["within"]["signal"]
    assert queue.said["together"].known.any() and not queue.said["together"].known.all()
    totals = [w(toy_world.batch(raw(2)), Draws(2, ROWS)).total.item() for w in (work, again)]
    assert totals[0] == totals[1] > 0


def test_unknown_values_leave_each_sample_with_itself():
    work, plain = world(**CASES["supcon"]), world(**WITHIN, loss="nt_xent")
    nothing = toy_world.columns(ROWS, unknown=1.0)
    batch = toy_world.batch(toy_world.raw(ROWS) | nothing)
    found = work(batch, Draws(1, ROWS))
    assert found.total.item() == pytest.approx(plain(batch, Draws(1, ROWS)).total.item(), abs=1e-6)
    assert found.parts["it.positives"].item() == pytest.approx(1.0)
    batch[WHO] = toy_world.COLUMNS[WHO](["w1"] * ROWS)
    assert work(batch, Draws(1, ROWS)).parts["it.positives"] > 2


def test_an_unknown_value_is_of_nobodys_cluster():
    """With a single known value nobody is told from anybody, and the loss is 0 with a gradient."""
    work = world(**CASES["one cluster"])
    said = {WHO: ["w1"] + [None] * (ROWS - 1), WHEN: [None] * ROWS, SCORE: [None] * ROWS}
    loss = work(toy_world.batch(toy_world.raw(ROWS) | said), Draws(1, ROWS)).total
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_a_list_is_the_distance_of_what_is_scored_and_what_is_graded():
    """SyCL's loss over the pairs of the batch: of other queries' keys the grade is 0."""
    work = world(**ACROSS, loss="listwise", positives={"column": "who", "grade": "score"}, both_ways=False)
    for number in range(2):
        asks, keys = looked(work, number)
        have = {row.sample for row in asks[0]} & {row.sample for row in keys[1]}
        q, k = ([row for row in rows if row.sample in have] for rows in (asks[0], keys[1]))
        grades = np.zeros((len(q), len(k)))
        for i, a in enumerate(q):
            for j, b in enumerate(k):
                known = a.said[0] is not None and a.said[0] == b.said[0]
                grades[i, j] = b.grade() if i == j or known else 0.0
        scores = np.array([[a.x @ b.x / 0.1 for b in k] for a in q])
        x, y = (np.exp(m) / np.exp(m).sum(1, keepdims=True) for m in (scores, grades))
        c, d = np.cov(x.T), np.cov(y.T)
        root = np.sqrt(np.linalg.eigvals(c @ d).real.clip(0)).sum()
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d) - 2 * root
        loss = work(toy_world.batch(raw(number)), Draws(number, ROWS)).total
        assert loss.item() == pytest.approx(expected, abs=1e-6) and loss.dtype == torch.float32
        loss.backward()


def test_what_is_read_is_what_was_asked_for():
    c = world(**CASES["look"], negatives_column=["who", "when"]).objectives["it"].config
    assert [(of.column, of.kind) for of in c.label_columns] == [("who", "id"), (("who", "when"), "id")]
    assert [of.option for of in c.label_columns] == ["positives.column", "negatives_column"]
    c = world(**CASES["partitions"]).objectives["it"].config
    assert [(of.column, of.kind) for of in c.label_columns] == [("when", "number")]
    assert world(**WITHIN).objectives["it"].config.label_columns == ()


DEVICES: dict[str, dict[str, Any]] = {
    "views": {**WITHIN, "views": ["a", "b", "clean"]},
    "towers": {"towers": ["table", "signal", "graph"], "learn_temperature": False},
}


@pytest.mark.parametrize("case", DEVICES)
def test_the_side_that_is_most_alike_is_the_positive(case):
    """ColloSSL: -log exp(s+) / (exp(s+) + sum over sides d and other samples j of w_d exp(s_dj)), w = 1 / MMD."""
    work = world(**DEVICES[case], closest=True, temperature=0.05)
    objective, step = work.objectives["it"], step_of(work, 1)
    across, within = objective.sides.plan(step)
    sides = list(dict.fromkeys(side for pair in across or within for side in pair))
    made = [objective.made.embed(step, side, bool(within)) for side in sides]
    unit = [(F.normalize(x.double(), dim=-1).detach(), present) for x, present in made]
    expected, chosen = [], []
    for a, (x, there) in enumerate(unit):
        others = [d for d in range(len(unit)) if d != a]
        found = {d: max(mean_discrepancy(x, unit[d][0], there, unit[d][1]).item(), 1e-4) for d in others}
        weight = {d: 1 / found[d] / max(1.0, *(1 / f for f in found.values())) for d in others}
        best = min(found, key=lambda d: found[d])
        chosen.append(best)
        losses = []
        for i in (i for i in range(ROWS) if there[i] and unit[best][1][i]):
            near = math.exp(float(x[i] @ unit[best][0][i]) / 0.05)
            rest = [(d, j) for d in others for j in range(ROWS) if j != i and unit[d][1][j]]
            told = sum(weight[d] * math.exp(float(x[i] @ unit[d][0][j]) / 0.05) for d, j in rest)
            losses.append(math.log(near + told) - math.log(near))
        expected.append(np.mean(losses))
    loss = work(toy_world.batch(raw(1)), Draws(1, ROWS))
    assert loss.total.item() == pytest.approx(np.mean(expected), abs=1e-6, rel=1e-6)
    assert {name for name in loss.parts if "." in name} == {f"it.{side.label}" for side in sides}
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in work.parameters() if p.grad is not None)


def test_sides_that_nobody_has_cost_nothing():
    work = world(**DEVICES["towers"], closest=True)
    nothing = {name: [None] * ROWS for name in toy_world.PREPROCESSORS} | {
        "table": toy_world.raw(ROWS, absent=0.0)["table"]
    }
    loss = work(toy_world.batch(nothing), Draws(1, ROWS)).total
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in work.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"closest": True, "loss": "nt_xent"}, ("closest", "loss: nt_xent")),
        ({"closest": True, "keys": "teacher"}, ("closest", "keys: teacher")),
        ({"closest": True, "neighbours": 2}, ("closest", "neighbours: 2")),
        ({"positives": {"column": ["a", "b"], "within": 1.0}}, ("within: found 1", "single column")),
        ({"positives": {"column": ""}}, ("column: found none",)),
        ({"positives": {"column": "who"}, "loss": "sigmoid"}, ("positives", "loss: sigmoid")),
        ({"positives": {"column": "who"}, "loss": "dclw"}, ("positives", "loss: dclw")),
        ({"negatives_column": "who", "label_smoothing": 0.1}, ("negatives_column", "label_smoothing: 0.1")),
        ({"neighbours": 3, "queue": 4, "nearest": True}, ("neighbours", "nearest: True")),
        ({"negatives_of": "other"}, ("negatives_of", "negatives_column: null")),
        ({"loss": "listwise"}, ("listwise", "positives: null")),
        ({"loss": "listwise", "positives": {"column": "who"}, "chunk": 2}, ("listwise", "chunk: 2")),
        ({"loss": "listwise", "positives": {"column": "who", "pair": False}}, ("positives", "loss: listwise")),
    ],
)
def test_contradictions_are_refused(options, facts):
    with refused(*facts):
        world(**{**WITHIN, **options})
