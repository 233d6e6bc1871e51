"""The contracts, driven by a toy table (missing cells), a toy 12-lead signal (missing leads) and a toy graph (edges,
masking before any message passes): nothing modality-specific may leak into objectives, towers or the loop."""

import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused
from transformers import AutoModel

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.objectives import contrastive, mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

NAMES = list(toy_world.PREPROCESSORS)


@pytest.mark.parametrize("name", NAMES)
def test_unpatchify_inverts_patchify(name):
    batch = toy_world.batch(toy_world.raw(5))[name]
    modality = toy_world.model().modality(name)
    patches = modality.patchify(batch)
    back = modality.unpatchify(patches.values, batch)
    for key in batch:
        if key in back:
            torch.testing.assert_close(back[key], batch[key], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("joint", [False, True])
def test_every_objective_trains_with_absent_modalities(joint):
    work = toy_world.pretraining(joint)
    loss = work(toy_world.batch(toy_world.raw(8)), Draws(1, 8))
    loss.total.backward()
    grads = {n: p.grad for n, p in work.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in grads.values())
    # all that has no gradient is a mask token that dropping mode does not use, and teachers
    assert all(n.endswith("mask.token") for n, p in work.named_parameters() if p.grad is None and p.requires_grad)
    for objective in work.objectives:
        assert loss.parts[objective] > 0


@pytest.mark.parametrize("joint", [False, True])
def test_a_batch_without_any_sample_of_a_modality_is_finite(joint):
    work = toy_world.pretraining(joint)
    samples = toy_world.raw(4, absent=0.0)
    samples["signal"] = [None] * 4
    loss = work(toy_world.batch(samples), Draws(1, 4))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in work.parameters() if p.grad is not None)


@pytest.mark.parametrize("joint", [False, True])
def test_padding_and_absent_parts_change_nothing_elsewhere(joint):
    net = toy_world.model(joint).eval()
    samples = toy_world.raw(6, absent=0.0)
    together = net.encode_batch(toy_world.batch(samples), alone=False)
    for i in range(6):
        alone = net.encode_batch(toy_world.batch({n: [v[i]] for n, v in samples.items()}))
        for name in NAMES:
            torch.testing.assert_close(alone.pooled[name][0], together.pooled[name][i], rtol=0, atol=2e-6)
    samples["table"][0] = samples["graph"][1] = None
    holed = net.encode_batch(toy_world.batch(samples))
    for name in NAMES:
        torch.testing.assert_close(holed.pooled[name][2:], together.pooled[name][2:], rtol=0, atol=2e-6)
    assert not holed.present["table"][0] and (holed.embeddings["table"][0] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_permuting_patches_with_their_coordinates_permutes_the_tokens(name):
    net = toy_world.model().eval()
    patches = net.modality(name).patchify(toy_world.batch(toy_world.raw(3, absent=0.0))[name])
    order = torch.randperm(patches.count).expand(3, -1)
    tower = net.towers[name]
    straight = tower({name: patches}).tokens[name]
    permuted = tower({name: patches.take(order)}).tokens[name]
    torch.testing.assert_close(permuted, straight.gather(1, order[..., None].expand_as(straight)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_content_never_reaches_the_encoder(name):
    """Dropped patches never reach `embed`; replaced ones lose their content before any message passes."""
    net = toy_world.model().eval()
    batch = toy_world.batch(toy_world.raw(3, absent=0.0))
    mask = {"half": toy_world.Random(ratio=0.5)}

    def tokens(content, mode):
        step = Step({name: content}, net, {}, mask, Draws(1, 3))
        return step.encode(name, mask="half", mode=mode).tokens[name], step.splits(name, "half")[name]

    for mode in ("drop", "replace"):
        before, split = tokens(batch[name], mode)
        patches = net.modality(name).patchify(batch[name])
        hidden = patches.hidden_by(split.hide)
        values = patches.values.clone()
        values[hidden] = values[hidden] + 1.0
        changed = net.modality(name).unpatchify(values, batch[name])
        torch.testing.assert_close(tokens(changed, mode)[0], before, rtol=0, atol=0)


def test_objectives_share_encodes_of_the_same_view_and_mask():
    work = toy_world.pretraining()
    net = work.model
    calls = []
    net.towers["signal"].register_forward_hook(lambda *_: calls.append(1))
    config = contrastive.Config(towers=["table", "signal"], mask="half")
    both = Pretraining(
        net,
        {"leads": work.objectives["leads"], "clip": contrastive.Contrastive(config, net)},
        {},
        {"half": toy_world.Random(ratio=0.5)},
    )
    both(toy_world.batch(toy_world.raw(4)), Draws(1, 4))
    assert len(calls) == 1
    work(toy_world.batch(toy_world.raw(4)), Draws(1, 4))
    assert len(calls) == 1 + 6  # half masked, clean, view a, view b, the contexts of blocks and of subsets


def test_save_and_reload_through_auto_model(tmp_path):
    net = toy_world.model().eval()
    batch = toy_world.batch(toy_world.raw(4))
    net.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    for name in NAMES:
        assert torch.equal(net.encode_batch(batch).embeddings[name], again.encode_batch(batch).embeddings[name])


def test_impossible_recipes_are_refused_with_the_reason():
    net = toy_world.model()
    with pytest.raises(UserError, match="needs a decoder of depth >= 1"):
        mae.MAE(mae.Config(tower="signal", mask="half", decoder=toy_world.HEAD), net)
    with pytest.raises(UserError, match="tower 'signal' has signal"):
        mae.MAE(mae.Config(tower="signal", mask="half", target={"image": "pixels"}), net)
    with pytest.raises(UserError, match="two views"):
        contrastive.Contrastive(contrastive.Config(towers=["signal"]), net)
    with refused(meant="gain"):
        Pretraining(net, {}, {"a": {"signal": {"gian": 0.2}}}, {})
