"""Self-distillation as an objective: pairs, masks, state, refusals, over the toy modalities."""

import copy

import pytest
import torch
from torch.nn import functional as F
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.distillation import soft_cross_entropy
from mmssl.masking import Block
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import save_model
from mmssl.objectives.distillation import Config, Distillation, GramConfig, HeadConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

HEAD = HeadConfig(prototypes=12, hidden=16, bottleneck=8, layers=2)
VIEWS = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}, "c": {"signal": {"gain": 0.9}}}
MASKS = {"half": toy_world.Random(ratio=0.5)}


def build(seed: int = 0, **options) -> tuple[Distillation, Pretraining]:
    net = toy_world.model(seed=seed)
    options = {"tower": "signal", "global_views": ["a", "b"], "head": HEAD, **options}
    objective = Distillation(Config(**options), net)
    return objective, Pretraining(net, {"dino": objective}, VIEWS, MASKS)


def batch(n: int = 6, absent: float = 0.3):
    return toy_world.batch(toy_world.raw(n, absent=absent))


def descend(work: Pretraining, content, number: int = 0, rate: float = 0.5, progress: float = 0.5):
    loss = work(content, Draws(number, 6))
    loss.total.backward()
    with torch.no_grad():
        for p in work.parameters():
            if p.grad is not None:
                p.sub_(rate * p.grad)
                p.grad = None
    work.after_step(progress)
    return loss


def test_every_objective_trains_with_absent_modalities():
    work = toy_world.self_distillation()
    content = batch(8)
    for number in range(2):
        loss = work(content, Draws(number, 8))
        loss.total.backward()
        work.after_step(0.5)
    for name, p in work.named_parameters():
        assert not p.requires_grad or p.grad is None or torch.isfinite(p.grad).all(), name
    assert all(p.grad is not None for n, p in work.named_parameters() if n.startswith("objectives") and p.requires_grad)
    assert loss.parts["balanced.gram"] > 0 and loss.parts["balanced.koleo"] != 0
    assert loss.parts["cells.patch"] > 0 and loss.parts["nodes.class"] > 0


def test_a_batch_without_any_sample_is_finite_and_leaves_the_centre():
    work = toy_world.self_distillation()
    samples = toy_world.raw(4, absent=0.0)
    samples["signal"] = [None] * 4
    loss = work(toy_world.batch(samples), Draws(1, 4))
    loss.total.backward()
    work.after_step(0.5)
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in work.parameters() if p.grad is not None)
    assert (work.objectives["centred"].class_centre == 0).all()


def test_every_student_view_meets_every_other_teacher_view():
    """The class loss computed again from the two nets, pair by pair."""
    objective, work = build(local_views=["c"], targets="centring")
    content = batch(absent=0.0)
    ours = objective(Step(content, work.model, VIEWS, MASKS, Draws(1, 6))).parts["class"]
    step = Step(content, work.model, VIEWS, MASKS, Draws(1, 6))

    def logits(view):  # the teacher starts as the student
        return objective.heads["class"](step.encode("signal", view).pooled())

    pairs = [("a", "b"), ("b", "a"), ("c", "a"), ("c", "b")]
    each = [soft_cross_entropy(logits(s), F.softmax(logits(t) / 0.04, -1), 0.1).mean() for s, t in pairs]
    torch.testing.assert_close(ours, torch.stack(each).mean(), rtol=0, atol=1e-6)


def test_student_does_not_see_what_the_mask_hides_and_the_teacher_does():
    objective, work = build(masks=["half"], class_weight=0.0)
    content = batch(absent=0.0)
    seen: dict[str, list] = {"student": [], "teacher": []}
    for name, net in (("student", work.model.tower("signal")), ("teacher", objective.teacher.net)):
        net.register_forward_pre_hook(
            lambda _, args, n=name: seen[n].append((args[0]["signal"].count, args[1], torch.is_grad_enabled()))
        )
    step = Step(content, work.model, VIEWS, MASKS, Draws(1, 6))
    objective(step)
    assert len(seen["student"]) == len(seen["teacher"]) == 2
    split, count = step.split("signal", "half", "a"), step.patches("signal").count
    for patches, hidden, gradient in seen["student"]:
        assert patches == count and gradient  # replaced, not dropped
        assert torch.equal(hidden["signal"], step.patches("signal").hidden_by(split.hide))
    assert all(patches == count and not hidden and not gradient for patches, hidden, gradient in seen["teacher"])


def test_patch_loss_is_a_mean_over_hidden_patches_then_samples():
    objective, work = build(global_views=["clean"], masks=["half"], class_weight=0.0, targets="centring")
    content = batch()
    ours = objective(Step(content, work.model, VIEWS, MASKS, Draws(1, 6))).parts["patch"]
    step = Step(content, work.model, VIEWS, MASKS, Draws(1, 6))
    patches, split = step.patches("signal"), step.split("signal", "half")
    hidden = patches.hidden_by(split.hide) & patches.valid
    head = objective.heads["class"]
    own = head(step.encode("signal", mask="half", mode="replace").tokens["signal"])
    wanted = F.softmax(head(step.encode("signal").tokens["signal"]) / 0.04, -1)
    each = soft_cross_entropy(own, wanted, 0.1)
    by_sample = [each[i][hidden[i]].mean() for i in range(6) if hidden[i].any()]
    assert len(by_sample) < 6  # one is absent
    torch.testing.assert_close(ours, torch.stack(by_sample).mean(), rtol=0, atol=1e-6)


def test_forward_changes_no_state_and_after_step_does():
    objective, work = build(targets="centring", masks=["half"], momentum=[0.5, 0.5], gram=GramConfig(first=1))
    content = batch()
    before = copy.deepcopy(objective.state_dict())
    loss = work(content, Draws(1, 6))
    again = work(content, Draws(1, 6))
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    torch.testing.assert_close(loss.total, again.total, rtol=0, atol=0)
    with torch.no_grad():
        for p in work.model.parameters():
            p.add_(0.1)
    work.after_step(0.25)
    assert objective.steps == 1 and objective.progress == 0.25
    assert (objective.class_centre != 0).any() and (objective.patch_centre != 0).any()
    name = "towers.signal.trunk.norm.weight"
    student = dict(work.model.named_parameters())[name]
    averaged = objective.teacher.net.trunk.norm.weight
    torch.testing.assert_close(averaged, (before["teacher.net.trunk.norm.weight"] + student) / 2)


def test_the_centre_is_the_formula():
    objective, work = build(targets="centring", centre_momentum=0.8)
    content = batch()
    expected = torch.zeros(12, dtype=torch.float64)
    for number in range(3):
        step = Step(content, work.model, VIEWS, MASKS, Draws(number, 6))
        with torch.no_grad():
            sides = [step.encode("signal", v, net=objective.teacher.net) for v in ("a", "b")]
            logits = torch.cat([objective.teacher_heads.net["class"](e.pooled())[e.present()] for e in sides])
        expected = 0.8 * expected + 0.2 * logits.double().mean(0)
        descend(work, content, number)
        torch.testing.assert_close(objective.class_centre.double(), expected, rtol=0, atol=1e-6)


def test_a_broken_batch_does_not_stay_in_the_centre():
    objective, work = build(targets="centring")
    work(batch(), Draws(0, 6))
    work.after_step(0.1)
    before = objective.class_centre.clone()
    broken = batch(absent=0.0)
    broken["signal"]["signal"] = broken["signal"]["signal"] * torch.inf
    assert not torch.isfinite(work(broken, Draws(1, 6)).total)
    work.after_step(0.2)
    assert torch.equal(objective.class_centre, before) and before.any()


def test_gram_teacher_is_taken_and_renewed_on_time():
    objective, work = build(masks=["half"], momentum=[0.5, 0.5], gram=GramConfig(first=2, every=2, weight=3.0))
    content = batch()
    parameter = "net.trunk.blocks.0.mlp.fc1.weight"
    own, fixed = objective.teacher.get_parameter, objective.gram_teacher.get_parameter
    seen = []
    for number in range(4):
        loss = descend(work, content, number)
        seen.append(loss.parts["dino.gram"].item())
        assert torch.equal(own(parameter), fixed(parameter)) == (number in (1, 3))
    assert seen[0] == seen[1] == 0 and seen[2] > 0 and seen[3] > 0
    parts = loss.parts
    total = parts["dino.class"] + parts["dino.patch"] + 3.0 * parts["dino.gram"]
    torch.testing.assert_close(parts["dino"], total)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [2]),
        ({"every": 3}, [2, 5, 8, 11]),
        ({"every": 3, "renewals": 1}, [2, 5]),
        ({"every": 3, "renewals": 2}, [2, 5, 8]),
    ],
)
def test_gram_teacher_is_renewed_at_most_so_often(options, steps):
    objective, work = build(momentum=[0.5, 0.5], gram=GramConfig(first=2, **options))
    taken = []
    objective.gram_teacher.update = lambda *_: taken.append(int(objective.steps))
    for number in range(12):
        work.after_step(number / 12)
    assert taken == steps
    with pytest.raises(UserError, match="renewals: found 2"):
        build(gram=GramConfig(first=2, renewals=2))


def pictures(**options) -> tuple[Distillation, Pretraining, Step]:
    """DINO on smooth pictures of 16 x 16 pixels, patches of 4."""
    sizes = {"type": "image", "size": [16, 16], "patch": [4, 4], "channels": 1, "mean": [0.5], "std": [0.2]}
    tower = tower_spec(TowerConfig(width=16, depth=1, heads=2))
    torch.manual_seed(3)
    net = MMSSLModel(MMSSLConfig(modalities={"image": sizes}, towers={"image": tower}))
    crops = {"crop_scale": [0.4, 0.8], "flip": 0.5, "brightness": 0.4}
    views = {"a": {"image": crops}, "b": {"image": crops}}
    objective = Distillation(Config(tower="image", global_views=["a", "b"], head=HEAD, **options), net)
    rough = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = {"image": {"pixel_values": F.interpolate(rough, size=(16, 16), mode="bicubic")}}
    work = Pretraining(net, {"dino": objective}, views, {})
    return objective, work, Step(batch, net, views, {}, Draws(4, 5))


def test_a_gram_teacher_sees_the_same_crops_larger_and_without_distortion():
    for key, line in (("crop_sise", "gram.views: found 'crop_sise'"), ("gain", "expected options of the views")):
        with pytest.raises(UserError, match=line):
            pictures(gram=GramConfig(first=1, views={key: 1}))
    objective, work, step = pictures(gram=GramConfig(first=1, views={"crop_size": 32, "brightness": 0.0}))
    plain, _, own = pictures()
    objective.after_step(work.model, 0.1)
    large = step.variant("a", objective.config.gram.views)
    assert large == step.variant("a", objective.config.gram.views)
    dull = step.variant("a", {"brightness": 0.0})
    small, wide = (step.inputs("image", v)["pixel_values"] for v in (dull, large))
    assert wide.shape[-2:] == (32, 32) and not torch.equal(small, step.inputs("image", "a")["pixel_values"])
    assert (F.avg_pool2d(wide, 2) - small).abs().mean() < 0.05 * small.std()  # one crop, one flip
    assert torch.equal(own.inputs("image", "a")["pixel_values"], step.inputs("image", "a")["pixel_values"])
    rows = []
    for view in ("a", "b"):
        wanted = step.encode("image", step.variant(view, objective.config.gram.views), net=objective.gram_teacher.net)
        grid = wanted.tokens["image"].transpose(1, 2).reshape(5, 16, 8, 8)
        theirs = F.interpolate(grid, size=(4, 4), mode="bicubic").reshape(5, 16, 16).transpose(1, 2).double()
        ours = step.encode("image", view).tokens["image"].double()
        gram = [F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).transpose(1, 2) for x in (ours, theirs)]
        rows.append((gram[0] - gram[1]).square().mean())
    found = objective(step).parts["gram"]
    assert found.item() == pytest.approx((rows[0] + rows[1]).item() / 2, abs=1e-6) and found > 0


def test_a_gram_teacher_may_come_trained(tmp_path):
    with pytest.raises(UserError, match="first: found null, and no model in from"):
        GramConfig()
    saved = toy_world.model(seed=9)
    types = {name: f"toys.{name}" for name in toy_world.PREPROCESSORS}
    save_model(saved, MMSSLProcessor(dict(toy_world.PREPROCESSORS), types), tmp_path / "model")
    objective, work = build(gram=GramConfig(from_=str(tmp_path / "model"), first=2))
    parameter = "trunk.blocks.0.mlp.fc1.weight"
    fixed = objective.gram_teacher.net.get_parameter(parameter)
    assert torch.equal(fixed, saved.tower("signal").get_parameter(parameter))
    assert not torch.equal(fixed, work.model.tower("signal").get_parameter(parameter))
    content = batch()
    assert descend(work, content).parts["dino.gram"] > 0  # from the first step
    assert torch.equal(fixed, saved.tower("signal").get_parameter(parameter))
    descend(work, content)
    assert torch.equal(fixed, objective.teacher.net.get_parameter(parameter))  # then the averaged teacher
    with pytest.raises(UserError, match="gram.from: .* has tower graph, signal, table, expected 'all'"):
        gram = GramConfig(from_=str(tmp_path / "model"), first=1)
        Distillation(Config(tower="all", global_views=["a", "b"], head=HEAD, gram=gram), toy_world.model(joint=True))


@pytest.mark.parametrize("unit", [True, False])
def test_the_last_layer_is_weight_normalised_or_plain(unit):
    """DINO's prototypes have length 1; DINOv3's last layer is linear, small at first, and its lengths are learned."""
    head = HeadConfig(prototypes=500, hidden=16, bottleneck=64, layers=2, unit_prototypes=unit)
    objective, work = build(head=head)
    prototypes = objective.heads["class"].prototypes
    assert prototypes.weight.detach().std() == pytest.approx(1 / 8 if unit else 0.02, rel=0.05)
    x = torch.randn(7, 64)
    stock = torch.nn.Linear(64, 500, bias=False)
    stock.weight.data = F.normalize(prototypes.weight, dim=1) if unit else prototypes.weight
    torch.testing.assert_close(prototypes(x), stock(F.normalize(x, dim=1)), rtol=0, atol=1e-6)
    said = prototypes(x)
    prototypes.weight.data = prototypes.weight * 2
    torch.testing.assert_close(prototypes(x), said if unit else 2 * said, rtol=0, atol=1e-6)
    assert torch.isfinite(descend(work, batch()).total)


def test_masks_of_half_of_the_samples_count_those_alone():
    mask = Block(ratio=[0.3, 0.6], samples=0.5)
    objective, work = build(masks=["few"])
    work.masks = {"few": mask}
    step = Step(batch(8, 0.0), work.model, VIEWS, work.masks, Draws(2, 8))
    hidden = (step.splits("signal", "few", "a")["signal"].hide >= 0).sum((1, 2))
    assert (hidden > 0).sum() == 4
    whole = objective(step).parts["patch"]
    rows = []
    for view in ("a", "b"):
        student, teacher = (
            step.encode("signal", view, "few", "replace"),
            step.encode("signal", view, net=objective.teacher.net),
        )
        for row in range(8):
            at = step.splits("signal", "few", view)["signal"].hide[row, 0]
            at = at[at >= 0]
            rows += [(student.tokens["signal"][row, at], teacher.tokens["signal"][row, at])] if len(at) else []
    theirs = objective.teacher_heads.net["class"](torch.cat([t for _, t in rows]))
    target = objective._targets("patch", theirs, torch.ones(len(theirs), dtype=torch.bool)).split(
        [len(t) for _, t in rows]
    )
    each = [
        soft_cross_entropy(objective.heads["class"](s), t, objective.config.student_temperature).mean()
        for (s, _), t in zip(rows, target, strict=True)
    ]
    torch.testing.assert_close(whole, torch.stack(each).mean().detach(), rtol=0, atol=2e-6)


def test_a_resumed_objective_goes_on_as_if_never_stopped():
    options = {"masks": ["half"], "targets": "centring", "gram": GramConfig(first=1, every=3)}
    options |= {"teacher_temperature": [0.04, 0.1], "temperature_warmup": 1.0}
    _, straight = build(**options)
    _, resumed = build(seed=5, **options)
    content = batch()
    for number in range(2):
        descend(straight, content, number, progress=(number + 1) / 4)
    resumed(content, Draws(0, 6))  # has read its own, fresh state off before the checkpoint is loaded
    resumed.load_state_dict(straight.state_dict())
    resumed.objectives["dino"]._sums = {}
    for number in (2, 3):
        one, two = (descend(w, content, number, progress=(number + 1) / 4) for w in (straight, resumed))
        torch.testing.assert_close(one.total, two.total, rtol=0, atol=0)


def test_temperature_rises_and_prototypes_thaw():
    objective, work = build(teacher_temperature=[0.04, 0.08], temperature_warmup=0.5, freeze_prototypes=0.3)
    content = batch()
    assert objective._temperature() == 0.04
    work(content, Draws(1, 6)).total.backward()
    prototypes = objective.heads["class"].prototypes.weight
    assert prototypes.grad is None and objective.heads["class"].layers[0].weight.grad is not None
    work.after_step(0.4)
    assert objective._temperature() == pytest.approx(0.072)
    work(content, Draws(1, 6)).total.backward()
    assert prototypes.grad.abs().sum() > 0
    work.after_step(0.9)
    assert objective._temperature() == 0.08


def test_only_what_is_used_is_built():
    objective, _ = build(global_views=["clean"], masks=["half"], class_weight=0.0, patch_head=HEAD, head=HeadConfig())
    assert list(objective.heads) == ["patch"] and objective.gram_teacher is None
    assert list(build()[0].heads) == ["class"]
    assert list(build(masks=["half"], patch_weight=0.0)[0].heads) == ["class"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"global_views": ["a"]}, "views are compared, found only"),
        ({"global_views": ["a", "a"]}, "view 'a' is named 2 times"),
        ({"class_weight": 0.0}, "nor masked patches"),
        ({"gram": GramConfig(first=1, tokens="masked")}, "there are no masks"),
        ({"global_views": []}, "global_views: found none"),
        ({"masks": ["half"] * 3}, "masks: found 3, expected none, one, or one for each of the 2"),
        ({"momentum": [0.9]}, r"momentum: found \[0.9\], expected two numbers"),
    ],
)
def test_impossible_options_are_refused_with_the_reason(options, line):
    with pytest.raises(UserError, match=line):
        build(**options)


def test_a_tower_whose_modalities_have_no_views_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(toy_world.signal.Modality, "views", ())
    net = toy_world.model()
    with pytest.raises(UserError, match=r"none of its modalities \(signal\) has augmented views; distil masked"):
        Distillation(Config(tower="signal", global_views=["a", "b"], head=HEAD), net)
    alone = Config(tower="signal", global_views=["clean"], masks=["half"], class_weight=0.0, head=HEAD)
    assert Pretraining(net, {"patches": Distillation(alone, net)}, {}, MASKS)(batch(), Draws(1, 6)).total > 0


def test_views_that_change_nothing_of_the_tower_are_refused():
    net = toy_world.model()
    objective = Distillation(Config(tower="signal", global_views=["clean", "g"], head=HEAD), net)
    work = Pretraining(net, {"dino": objective}, {"g": {"graph": {"drop_edges": 0.3}}}, {})
    with pytest.raises(UserError, match="views clean, g change no modality of tower 'signal'"):
        work(batch(), Draws(1, 6))
