"""Pretexts: the label is what the view drew; its loss against a float64 computation; what nothing can be told of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from toys import world as toy_world
from toys import worlds
from toys.processes import joined, two_processes
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.objectives import pretext
from mmssl.objectives.pretraining import Pretraining

ROWS = 24


@pytest.fixture(scope="module")
def step() -> tuple[Any, Pretraining]:
    made = worlds.pretexts()
    return made.step(toy_world.batch(toy_world.raw(ROWS, seed=3)), Draws(1, ROWS)), made


def told(objective: Any, x: torch.Tensor) -> torch.Tensor:
    """What the head says of x (n, D), in float64."""
    x, state = x.detach().double(), {k: v.detach().double() for k, v in objective.state_dict().items()}
    for layer in range(len(objective.head.dense)):
        x = x @ state[f"head.dense.{layer}.weight"].T + state[f"head.dense.{layer}.bias"]
        if layer + 1 < len(objective.head.dense):
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            x = (x * state[f"head.norms.{layer}.weight"] + state[f"head.norms.{layer}.bias"]).clamp(min=0)
    return x


def entropy(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return x.exp().sum(1).log() - x[torch.arange(len(x)), label]


@pytest.mark.parametrize("name", ["order", "between", "spoiled", "which"])
def test_the_loss_is_the_cross_entropy_of_what_was_drawn(step, name):
    objective: Any = step[1].objectives[name]
    c = objective.config
    x = told(objective, torch.cat([step[0].pooled("signal", view, c.mask)[0] for view in c.views], 1))
    back = step[0].drawn("signal", "back")
    label = {
        "order": step[0].drawn("signal", "shuffled"),
        "spoiled": back,
        "which": step[0].drawn("signal", "done"),
    }.get(name, (step[0].drawn("signal", "forth") - back) % 2)
    rows = step[0].patches("signal").present
    each = entropy(x, label)
    found = objective(step[0])
    assert float(found.total.detach()) == pytest.approx(float(each[rows].mean()), abs=1e-6)
    right = (x.argmax(1) == label)[rows].double().mean()
    assert float(found.parts["accuracy"]) == pytest.approx(float(right), abs=1e-6)
    assert 0 < int(rows.sum()) < ROWS and len(label.unique()) == objective.outputs


def test_what_is_known_of_samples_and_patches_is_learned_where_it_is_known(step):
    size, degree = (step[1].objectives[name] for name in ("size", "degree"))
    graph = step[0].patches("graph")
    nodes = graph.valid.sum(1)
    rows = (nodes > 0) & (nodes <= 5)
    assert int((nodes == 6).sum()) > 0
    label = (nodes > 2).long() + (nodes > 4).long()
    each = entropy(told(size, step[0].pooled("graph", mask="half")[0]), label)
    assert float(size(step[0]).total.detach()) == pytest.approx(float(each[rows].mean()), abs=1e-6)
    said = told(degree, step[0].encode("graph").tokens["graph"].flatten(0, 1)).view(*graph.valid.shape)
    error = (said - graph.links.sum(2).double()).square()[graph.valid]
    assert float(degree(step[0]).total.detach()) == pytest.approx(float(error.mean()), abs=1e-6, rel=1e-6)


def test_of_pairs_as_many_of_each_class_are_asked_and_none_that_is_seen(step):
    objective = step[1].objectives["edge"]
    tokens = step[0].encode("graph", "fewer").tokens["graph"].detach()
    links, seen = (step[0].patches("graph", view).links for view in ("clean", "fewer"))
    luck = step[0].draws("pairs", "graph", "edge").uniform(*links.shape[1:])
    losses = []
    for row in range(ROWS):
        count = int(step[0].patches("graph").valid[row].sum())
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if not seen[row, i, j]]
        for number in (0, 1):
            mine = sorted((p for p in pairs if links[row][p] == number), key=lambda p: -float(luck[row][p]))[:2]
            for i, j in mine:
                x = told(objective, (tokens[row, i] - tokens[row, j]).abs()[None])
                losses.append(float(entropy(x, torch.tensor([number]))))
    assert int(objective.counts(step[0])["rows"].sum()) == len(losses) > 20
    assert float(objective(step[0]).total.detach()) == pytest.approx(sum(losses) / len(losses), abs=1e-6)


def test_padding_changes_no_pair():
    made = worlds.pretexts()
    raw = toy_world.raw(ROWS, seed=3, absent=0.0)
    small = [i for i, graph in enumerate(raw["graph"]) if len(graph["x"]) < 5]
    alone = toy_world.batch({n: [v[i] if i in small else None for i in range(ROWS)] for n, v in raw.items()})
    steps = [made.step(rows, Draws(1, ROWS)) for rows in (toy_world.batch(raw), alone)]
    wide, narrow = (made.objectives["edge"]._asked(s, made.objectives["edge"].known) for s in steps)
    assert steps[0].patches("graph").count > steps[1].patches("graph").count
    for row in small:
        each = [
            {tuple(p) for p, k in zip(f.pairs[row].tolist(), f.known[row].tolist(), strict=True) if k}
            for f in (wide, narrow)
        ]
        assert each[0] == each[1]


def test_between_two_turns_lies_the_second_less_the_first():
    objective: Any = worlds.pretexts().objectives["between"]
    objective.outputs = 4
    drawn = {"back": torch.tensor([0, 1, 3, 2]), "forth": torch.tensor([1, 3, 0, 2])}
    there = torch.ones(4, dtype=torch.bool)
    fake: Any = SimpleNamespace(
        patches=lambda name, view: SimpleNamespace(present=there),
        present=lambda *_: there,
        drawn=lambda name, view: drawn[view],
    )
    assert objective._made(fake)[0].tolist() == [1, 2, 1, 0]


def pictures() -> MMSSLModel:
    """A tower of pictures of 8 x 12 pixels, whose value says where each is."""
    one = {"size": [8, 12], "patch": [4, 4], "channels": 2, "mean": [0.0] * 2, "std": [1.0] * 2, "unit_range": False}
    towers = {"image": {"width": 16, "depth": 1, "heads": 2}}
    torch.manual_seed(0)
    return MMSSLModel(MMSSLConfig(modalities={"image": {"type": "image", **one}}, towers=towers))


def whereabouts() -> Pretraining:
    """Where one crop of two lies, seen from the other one."""
    net = pictures()
    crop = {"image": {"crop_scale": [0.1, 0.3]}}
    config = pretext.Config(tower="image", tells="offset", views=["a", "b"])
    return Pretraining(net, {"where": pretext.Pretext(config, net)}, {"a": crop, "b": crop}, {})


def shown_places() -> dict[str, torch.Tensor]:
    """ROWS of such pictures, some of them absent."""
    places = torch.stack(torch.meshgrid(torch.arange(8) + 0.5, torch.arange(12) + 0.5, indexing="ij"))
    there = torch.arange(ROWS) % 5 != 0
    return {"pixel_values": places.expand(ROWS, -1, -1, -1) * there[:, None, None, None], "present": there}


def worker(rank: int, port: int, results: Any) -> None:
    with joined(rank, port):
        made, half = whereabouts(), ROWS // 2
        mine = {name: value[rank * half : (rank + 1) * half] for name, value in shown_places().items()}
        loss = made({"image": mine}, Draws(4, half, rank * half, ROWS)).total
        loss.backward()
        found = {"": loss.detach()} | {n: p.grad for n, p in made.named_parameters() if p.grad is not None}
        for value in found.values():
            dist.all_reduce(value)
        results[rank] = {name: (value / 2).numpy() for name, value in found.items()}


@pytest.mark.slow
def test_two_processes_tell_places_as_one_does():
    single = whereabouts()
    loss = single({"image": shown_places()}, Draws(4, ROWS)).total
    loss.backward()
    wanted = {"": loss.detach()} | {n: p.grad for n, p in single.named_parameters() if p.grad is not None}
    for found in two_processes(worker).values():
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=1e-6, atol=1e-6, msg=name)


def test_how_far_two_crops_lie_apart_is_learned_in_lengths_of_a_crop():
    made, inputs = whereabouts(), shown_places()
    net, there = made.model, inputs["present"]
    step = made.step({"image": inputs}, Draws(4, ROWS))
    # what a crop shows is where it is: its mean says its middle, what lies between its first and last pixel its length
    shown = [step.inputs("image", view)["pixel_values"].double() for view in ("a", "b")]
    spread = [x.amax((2, 3)) - x.amin((2, 3)) for x in shown]
    length = (spread[0] + spread[1]) / 2 * torch.tensor([8 / 7, 12 / 11])
    offset = (shown[1].mean((2, 3)) - shown[0].mean((2, 3)))[there] / length[there]
    objective: Any = made.objectives["where"]
    torch.testing.assert_close(objective._made(step)[0][there].double(), offset, atol=0.1, rtol=0.1)
    assert offset.abs().amax(0).min() > 0.6
    x = told(objective, torch.cat([step.pooled("image", view)[0] for view in ("a", "b")], 1))
    wanted = (x - objective._made(step)[0].double()).square()[there].mean()
    assert float(objective(step).total.detach()) == pytest.approx(float(wanted), abs=1e-6)
    assert objective.counts(step)["rows"].tolist() == there.tolist()
    with refused("'a'", "expected two different ones"):
        pretext.Pretext(pretext.Config(tower="image", tells="offset", views=["a"]), net)


def test_the_label_is_what_was_done_to_the_sample(step):
    """And in a corrupted view what was done to the view that it is made of."""
    clean, back = step[0].inputs("signal")["signal"], step[0].inputs("signal", "back")["signal"]
    number = step[0].drawn("signal", "back")
    assert torch.equal(number, step[0].drawn("signal", "spoiled"))
    for row in range(ROWS):
        there = ~clean[row].isnan().all(0)
        wanted = clean[row][:, there].flip(-1) if number[row] else clean[row][:, there]
        assert torch.equal(back[row][:, there].nan_to_num(9.0), wanted.nan_to_num(9.0))


def test_of_several_kinds_the_label_is_the_one_that_was_done(step):
    clean, done = step[0].inputs("signal", "a")["signal"], step[0].inputs("signal", "done")["signal"]
    label = step[0].drawn("signal", "done")
    assert label.unique().tolist() == [0, 1, 2] and step[1].objectives["which"].outputs == 3
    for row in range(ROWS):
        there = ~clean[row].isnan().all(0)
        x, found = clean[row][:, there].nan_to_num(9.0), done[row][:, there].nan_to_num(9.0)
        backwards = torch.equal(found, x.flip(-1))
        assert x.shape[1] < 2 or int(label[row]) == (0 if torch.equal(found, x) else 1 if backwards else 2)


@pytest.mark.parametrize(
    ("options", "views", "facts"),
    [
        ({"views": ["a"]}, {}, ("'a'", "does not transform 'signal'")),
        ({"views": []}, {}, ("expected one, or two different ones",)),
        ({"views": ["shuffled", "back"]}, {}, ("permutation and reversal",)),
        ({"views": ["fixed"]}, {"fixed": {"kind": "reversal", "number": 1}}, ("'fixed'", "nothing to tell")),
        ({"views": ["back"], "modality": "table"}, {}, ("table", "expected one of signal")),
        ({"views": ["nowhere"]}, {}, ("unknown view 'nowhere'", "shuffled")),
        ({"tells": "offset", "tower": "graph", "views": ["clean", "fewer"]}, {}, ("offset", "'graph'", "no axis")),
        ({"tells": "degree"}, {}, ("tells", "'degree'", "'signal' does not know", "it knows none")),
        ({"tower": "graph", "tells": "degrees"}, {}, ("did you mean 'degree'",)),
        ({"tower": "graph", "tells": "degree", "mask": "half"}, {}, ("mask", "asked of all patches")),
        ({"tower": "graph", "tells": "degree", "views": ["clean", "fewer"]}, {}, ("expected one",)),
    ],
)
def test_views_of_which_nothing_can_be_told_are_refused(options, views, facts):
    net = toy_world.model()
    known = worlds.TOLD | {name: {"signal": {"transform": spec}} for name, spec in views.items()}
    with refused(*facts):
        Pretraining(net, {"p": pretext.Pretext(pretext.Config(**{"tower": "signal", **options}), net)}, known)
