"""Key encoders, queues and nearest neighbours in `contrastive`: MoCo and NNCLR against their formulas in float64, and
the state that they keep."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Random
from mmssl.objectives.contrastive import Config, Contrastive
from mmssl.objectives.parts.queue import Queue
from mmssl.objectives.pretraining import Pretraining

VIEWS = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}, "c": {"signal": {"gain": 0.9}}}
MASKS = {"half": Random(ratio=0.5), "other": Random(ratio=0.5)}
WITHIN: dict[str, Any] = {"towers": ["signal"], "views": ["a", "b"], "head_hidden": 16, "head_width": 8}
ACROSS: dict[str, Any] = {"towers": ["table", "signal"]}
MOCO: dict[str, Any] = {"keys": "teacher", "queue": 11, "both_ways": False, "momentum": [0.5, 0.5]}
ROWS, STEPS = 6, 3
Side = tuple[np.ndarray, np.ndarray]


def world(**options: Any) -> Pretraining:
    torch.manual_seed(1)
    net = toy_world.model()
    return Pretraining(net, {"it": Contrastive(Config(**options), net)}, VIEWS, MASKS)


def batch(seed: int, absent: float = 0.3) -> Any:
    return toy_world.batch(toy_world.raw(ROWS, seed=seed, absent=absent))


def looked(work: Pretraining, number: int) -> dict[str, list[Side]]:
    """What the encoder and the teacher make of the two sides of a step, as (rows of length 1, present) in float64."""
    objective: Any = work.objectives["it"]
    step = work.step(batch(number), Draws(number, ROWS))
    across, within = objective.sides.plan(step)
    ((a, b),) = across or within
    out: dict[str, list[Side]] = {"asks": [], "keys": []}
    for side in (a, b):
        x = objective.made.embed(step, side, bool(within))
        key = x if objective.teacher is None else objective.made.teach(step, side, bool(within))
        predictors = objective.predictors["within" if within else "across"]
        asked = (predictors[side.tower](*x), x[1]) if len(predictors) else x
        for role, (rows, present) in (("asks", asked), ("keys", key)):
            out[role].append((F.normalize(rows.double(), dim=-1).detach().numpy(), present.numpy()))
    return out


def trained(work: Pretraining, number: int) -> float:
    """The loss of a step, which is then taken."""
    work.zero_grad()
    loss = work(batch(number), Draws(number, ROWS)).total
    loss.backward()
    with torch.no_grad():
        for p in work.parameters():
            if p.grad is not None:
                p.sub_(0.1 * p.grad)
    work.after_step((number + 1) / STEPS)
    return loss.item()


def softmax_by_hand(
    query: Side, keys: Side, mine: Side | None, queue: list[np.ndarray], tau: float, **kind: bool
) -> float:
    """The mean over pairs, one sample at a time. mine: rows of the own view; decoupled, in_batch: which keys count."""
    both = [i for i in range(ROWS) if query[1][i] and keys[1][i]]
    losses = []
    for i in both:
        s = keys[0][i] @ query[0][i] / tau
        others = [keys[0][j] for j in both if j != i] if kind.get("in_batch") else []
        others += [mine[0][j] for j in both if j != i] if mine is not None else []
        others = [other @ query[0][i] / tau for other in others + queue]
        sums = others if kind.get("decoupled") else [*others, s]
        losses.append(math.log(sum(map(math.exp, sums))) - s if sums else 0.0)
    return float(np.mean(losses)) if losses else 0.0


CASES: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "moco": ({**WITHIN, **MOCO, "temperature": 0.2}, {}),
    "moco of batches alone, v3": (
        {**WITHIN, "keys": "teacher", "predictor_hidden": 8, "momentum": [0.5, 0.5]},
        {"in_batch": True},
    ),
    "across, both ways": ({**ACROSS, **MOCO, "both_ways": True, "learn_temperature": False}, {}),
    "both": ({**WITHIN, **MOCO, "negatives": "both"}, {"in_batch": True}),
    "the encoder's own keys": ({**WITHIN, "queue": 5, "negatives": "both"}, {"in_batch": True}),
    "nt_xent": ({**WITHIN, **MOCO, "negatives": "both", "loss": "nt_xent"}, {"in_batch": True, "own": True}),
    "dcl": ({**WITHIN, **MOCO, "loss": "dcl"}, {"decoupled": True}),
    "sees more": ({**WITHIN, **MOCO, "views": ["clean"], "masks": ["half", "other"], "key_views": ["c", "c"]}, {}),
}


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_the_formula(case, chunk):
    """Also what the queue holds: the keys of earlier steps, of the samples that have one, the newest 11."""
    options, kind = CASES[case]
    work = world(**options, chunk=chunk)
    c: Any = work.objectives["it"].config
    tau = c.temperature or (0.07 if c.loss == "infonce" else 0.1)
    queues: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    within = len(c.towers) == 1
    for number in range(STEPS):
        seen = looked(work, number)
        expected = []
        for a, b in [(0, 1), (1, 0)] if c.both_ways else [(0, 1)]:
            mine = seen["keys"][a] if kind.get("own") else None
            earlier = queues[0 if within else b][-(c.queue or 1) :]
            expected.append(softmax_by_hand(seen["asks"][a], seen["keys"][b], mine, earlier, tau, **kind))
        assert trained(work, number) == pytest.approx(np.mean(expected), abs=1e-6)
        for side in (0, 1) if c.queue else ():
            rows, present = seen["keys"][side]
            if not within or side == 1:  # of one tower the last side's
                queues[0 if within else side].extend(rows[present])
    for tower, held in zip(c.towers, queues, strict=False):
        for kept in (q[tower] for q in work.objectives["it"].queues.values() if tower in q):
            expected_rows = np.array(held[-c.queue :])
            order = [place % c.queue for place in range(max(len(held) - c.queue, 0), len(held))]
            np.testing.assert_allclose(kept.rows[order].numpy(), expected_rows, atol=1e-6)


def test_the_nearest_of_the_queue_asks():
    """NNCLR, Dwibedi et al. 2021, equation 3: the neighbour of one view among the predictions of the other."""
    work = world(**WITHIN, queue=9, nearest=True, predictor_hidden=8, temperature=0.1)
    assert work.objectives["it"].config.told_from == "batch"
    held: list[np.ndarray] = []
    for number in range(STEPS):
        seen = looked(work, number)
        expected = []
        for a, b in [(0, 1), (1, 0)]:
            rows, present = seen["keys"][a]
            near = [held[-9:][int(np.argmax([h @ row for h in held[-9:]]))] if held else row for row in rows]
            expected.append(softmax_by_hand((np.array(near), present), seen["asks"][b], None, [], 0.1, in_batch=True))
        assert trained(work, number) == pytest.approx(np.mean(expected), abs=1e-6)
        held.extend(seen["keys"][1][0][seen["keys"][1][1]])


@pytest.mark.parametrize(
    ("options", "seen", "learnt"),
    [(MOCO, ["a"], ["a"]), ({"queue": 9, "nearest": True, "both_ways": False}, ["a", "b"], ["b"])],
)
def test_a_teachers_keys_and_neighbours_have_no_gradient(options, seen, learnt):
    """The encoder sees the view that asks alone; to look for a neighbour it sees both, and learns from the key."""
    work = world(**{**WITHIN, **options})
    trained(work, 0)
    step = work.step(batch(1, absent=0.0), Draws(1, ROWS))
    total = work.objectives["it"](step).total
    tokens = {key[2]: e.tokens["signal"] for key, e in step._memo.items() if key[0] == "encode" and key[5] is None}
    assert list(tokens) == seen
    gradients = torch.autograd.grad(total, list(tokens.values()), allow_unused=True, retain_graph=True)
    assert [view for view, gradient in zip(tokens, gradients, strict=True) if gradient is not None] == learnt
    total.backward()
    assert all(p.grad is None for name, p in work.named_parameters() if "teacher" in name)


def test_the_teacher_sees_all_of_its_own_view():
    """SiT: the corrupted view asks, the averaged encoder sees the clean other one. MMC: a masked one asks."""
    masked = {"views": ["a", "b"], "masks": ["half", "other"], "key_views": ["c", "clean"]}
    work = world(**{**WITHIN, "keys": "teacher", **masked})
    step = work.step(batch(1), Draws(1, ROWS))
    work.objectives["it"](step)
    seen = {key[2:4] for key in step._memo if key[0] == "encode" and key[5] is not None}
    assert seen == {("c", None), ("clean", None)}
    assert {key[2:4] for key in step._memo if key[0] == "encode" and key[5] is None} == {("a", "half"), ("b", "other")}


# ----------------------------------------------------------------------------------------------------------- the state


def test_the_teacher_follows_the_student_half_way():
    work = world(**WITHIN, **MOCO)
    objective: Any = work.objectives["it"]
    before = {name: p.clone() for name, p in objective.teacher.net.named_parameters()}
    trained(work, 0)
    trained(work, 1)
    student = dict(objective.student(work.model).named_parameters())
    moved = [name for name, p in objective.teacher.net.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("heads") for name in moved) and any(name.startswith("towers") for name in moved)
    assert any(not torch.equal(student[name], p) for name, p in objective.teacher.net.named_parameters())


def test_forward_changes_no_state_and_only_training_is_taken_in():
    work = world(**WITHIN, **MOCO)
    trained(work, 0)
    before = copy.deepcopy(work.state_dict())
    assert before["objectives.it.queues.within.signal.put"] > 0
    work(batch(1), Draws(1, ROWS))
    work.discard()
    with torch.no_grad():
        work(batch(2), Draws(2, ROWS))
    work.eval()
    work(batch(3), Draws(3, ROWS))
    assert all(torch.equal(value, before[name]) for name, value in work.state_dict().items())
    work.objectives["it"].queues["within"]["signal"].update()
    assert torch.equal(
        work.state_dict()["objectives.it.queues.within.signal.rows"], before["objectives.it.queues.within.signal.rows"]
    )


@pytest.mark.parametrize("options", [{**WITHIN, **MOCO}, {**ACROSS, "queue": 4, "nearest": True}])
def test_a_resumed_run_goes_on_as_if_never_stopped(options):
    work = world(**options)
    trained(work, 0)
    again = world(**options)
    again.load_state_dict(copy.deepcopy(work.state_dict()))
    assert [trained(again, n) for n in (1, 2)] == [trained(work, n) for n in (1, 2)]


def test_a_queue_is_a_ring_of_what_is_there_and_finite():
    queue = Queue(4, 2)
    x = torch.randn(9, 2)
    x[2] = torch.nan
    present = torch.ones(9, dtype=torch.bool)
    present[1] = False
    assert not queue.valid.any() and torch.equal(queue.nearest(x[3:]), x[3:])
    queue.note(x[:5], present[:5])
    assert int(queue.put) == 0
    queue.update()
    assert queue.valid.tolist() == [True, True, True, False] and torch.equal(queue.rows[:3], x[[0, 3, 4]])
    assert torch.equal(queue.nearest(-x[3:5]), torch.stack([max(x[[0, 3, 4]], key=lambda r: -r @ q) for q in x[3:5]]))
    queue.update()  # nothing was noted
    queue.note(x[5:7], present[5:7])
    queue.update()
    assert torch.equal(queue.rows, x[[6, 3, 4, 5]])
    queue.note(x[[0, *range(3, 9)]], torch.ones(7, dtype=torch.bool))  # more than it holds: the last ones
    queue.update()
    assert torch.equal(queue.rows, x[5:]) and int(queue.put) == 12
    queue.note(x[2:3], present[2:3])
    queue.update()
    assert int(queue.put) == 12


def test_an_empty_queue_counts_nothing():
    work = world(**WITHIN, **MOCO)
    assert trained(work, 0) == pytest.approx(0.0, abs=1e-6)  # the sample's own key alone: nothing to be told from
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in work.parameters())
    assert trained(work, 1) > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {**WITHIN, **MOCO, "negatives": "both", "loss": "nt_xent"},
        {**WITHIN, "queue": 9, "nearest": True, "predictor_hidden": 8},
    ],
)
def test_under_autocast_encoders_are_in_half_precision_and_what_is_compared_is_not(options):
    work, plain = world(**options), world(**options)
    seen: list[torch.dtype] = []
    for module in work.modules():
        if isinstance(module, torch.nn.Linear) and module.in_features == 24:
            module.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    for number in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            half = work(batch(number), Draws(number, ROWS)).total
        half.backward()
        work.after_step(1.0)
        whole = plain(batch(number), Draws(number, ROWS)).total
        plain.after_step(1.0)
    assert set(seen) == {torch.bfloat16} and half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), abs=0.1) and half.item() != whole.item()
    assert work.objectives["it"].queues["within"]["signal"].rows.dtype == torch.float32


def test_the_teachers_weights_are_handed_over_with_its_projection():
    work = world(**ACROSS, keys="teacher", export="teacher")
    objective: Any = work.objectives["it"]
    assert objective.teaches == ("table", "signal") and world(**ACROSS, keys="teacher").objectives["it"].teaches == ()
    with torch.no_grad():
        for p in objective.teacher.net.parameters():
            p.fill_(2.0)
    work.finish()
    for part in (work.model.tower("signal"), work.model.projections["table"]):
        assert all((p == 2.0).all() for p in part.parameters())


def test_health_tells_how_the_teacher_agrees():
    work = world(**WITHIN, **MOCO)
    step = work.step(batch(0, absent=0.0), Draws(0, ROWS))
    with torch.no_grad():
        assert work.objectives["it"].health(step)["teacher/agreement"] == pytest.approx(1.0, abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"negatives": "queue"}, ("negatives: found queue", "queue: null")),
        ({"queue": 4, "nearest": True, "negatives": "both"}, ("negatives: found both", "nearest: true")),
        ({"queue": 4, "loss": "nt_xent"}, ("loss: nt_xent", "expected negatives: both")),
        ({"queue": 4, "loss": "sigmoid"}, ("loss: sigmoid",)),
        ({"queue": 4, "label_smoothing": 0.1}, ("label_smoothing: 0.1",)),
        ({"momentum": [0.9]}, ("momentum: found [0.9]",)),
        ({"momentum": [0.9, 1.0]}, ("momentum", "keys: online")),
        ({"nearest": True}, ("nearest", "queue: null")),
        ({"queue": 4, "negatives": "batch"}, ("queue", "negatives: batch")),
        ({"predictor_hidden": 4}, ("predictor_hidden", "keys: online")),
        ({"key_views": ["a", "b"]}, ("key_views", "keys: online")),
        ({"keys": "teacher", "key_views": ["a"]}, ("key_views: found 1", "expected 2")),
    ],
)
def test_contradictions_are_refused(options, facts):
    with refused(*facts):
        world(**{**WITHIN, **options})


def test_earlier_layers_are_compared_in_the_encoder_alone():
    with pytest.raises(UserError, match="without cache_rows, teacher and queue"):
        world(**ACROSS, layers=[1], keys="teacher")
