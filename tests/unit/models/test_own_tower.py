"""Encoders of the user's own: what they are given and give, every objective that fits, saving, loading, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toys import trunks
from toys import world as toy_world
from toys.refusals import refused
from transformers import AutoModel

from mmssl import provenance
from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.modality import load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import bootstrap, contrastive, distillation, jepa, mae, redundancy
from mmssl.objectives.pretraining import Pretraining

SIZES: dict[str, dict[str, Any]] = {
    "image": {"size": [12, 8], "patch": [4, 2], "channels": 2, "mean": [0.0] * 2, "std": [1.0] * 2},
    "eeg": {"rate": 20.0, "window": 10, "channels": 3},
    "ecg": {"leads": ["I", "II", "V1"], "rate": 20.0, "window": 7, "patch": "time"},
}
WIDTH = 12


@pytest.fixture(autouse=True)
def named_by_the_user(monkeypatch):
    """As `--trust toys` does it."""
    monkeypatch.setattr(provenance, "_TRUSTED", {"toys"})


def model_of(trunk: str, name: str = "signal", **options: Any) -> MMSSLModel:
    """A model of one modality on a trunk of `toys.trunks`."""
    sizes = toy_world.PREPROCESSORS[name].sizes() if name in toy_world.PREPROCESSORS else SIZES[name]
    kind = f"toys.{name}" if name in toy_world.PREPROCESSORS else name
    tower = TowerConfig(**{"trunk": f"toys.trunks.{trunk}", "width": WIDTH, "readout": "mean", **options})
    torch.manual_seed(0)
    config = MMSSLConfig(modalities={name: {"type": kind, **sizes}}, towers={name: tower_spec(tower)})
    return MMSSLModel(config)


def inputs_of(name: str, batch: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    if name == "image":
        return {"pixel_values": torch.randn(batch, 2, 12, 8)}
    if name == "ecg":
        return {"signal": torch.randn(batch, 3, 28)}
    places = 0.1 * torch.randn(batch, 3, 3)
    channel = torch.arange(3).expand(batch, -1)
    return {"signal": torch.randn(batch, 3, 40), "electrodes": places, "channel": channel}


# ------------------------------------------------------------------------------------------- what it is given and gives


@pytest.mark.parametrize(("name", "patch"), [("image", [4, 2]), ("eeg", [1, 10]), ("ecg", [7])])
def test_a_raster_is_the_input_and_a_cell_is_a_patch(name, patch):
    net = model_of("Cells", name, trunk_options={"patch": patch})
    inputs = inputs_of(name)
    x = inputs.get("pixel_values", inputs.get("signal"))
    x = x[:, None] if name == "eeg" else x  # electrodes, which lie side by side, are an axis
    tower = net.tower(name)
    wanted = tower.trunk(x).flatten(2).mT
    whole = net.modality(name).patchify(inputs)
    torch.testing.assert_close(tower({name: whole}).tokens[name], wanted, rtol=0, atol=1e-6)
    # in another order, some left out: the same tokens of those that the convolution sees alone
    index = torch.arange(whole.count).flip(0)[::2].expand(3, -1)
    some = tower({name: whole.take(index, full=True)}).tokens[name]
    torch.testing.assert_close(some, wanted.gather(1, index[..., None].expand_as(some)), rtol=0, atol=1e-6)
    hidden = torch.zeros(3, whole.count, dtype=torch.bool)
    hidden[:, 0] = True
    bias = tower({name: whole}, {name: hidden}).tokens[name][:, 0]
    torch.testing.assert_close(bias, tower.trunk.conv.bias.expand_as(bias))
    assert all(not p.requires_grad for p in net.modality(name).parameters())


def test_a_vector_of_a_sample_is_its_token():
    net = model_of("SampleCNN", "ecg").eval()
    inputs = inputs_of("ecg")
    wanted = F.relu(F.conv1d(inputs["signal"], *net.tower("ecg").trunk.layers[0].parameters(), stride=3, padding=1))
    out = net(ecg_signal=inputs["signal"])
    torch.testing.assert_close(out.pooled["ecg"], wanted.mean(2), rtol=0, atol=1e-6)
    inputs["present"] = torch.tensor([True, False, True])
    patches = net.modality("ecg").patchify(inputs)
    found = net.tower("ecg")({"ecg": patches})
    assert found.tokens["ecg"].shape == (3, 1, WIDTH) and found.present().tolist() == [True, False, True]
    torch.testing.assert_close(found.pooled(), wanted.mean(2) * torch.tensor([[1.0], [0.0], [1.0]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("trunk", ["Memory", "Summary"])
def test_absent_samples_change_nothing_and_a_batch_of_them_is_finite(trunk):
    net = model_of(trunk).eval()
    raw = toy_world.raw(4, absent=0.0)["signal"]
    both = net.encode_batch({"signal": toy_world.PREPROCESSORS["signal"]([raw[0], None, raw[2]])}).pooled["signal"]
    for row, value in ((0, raw[0]), (2, raw[2])):
        alone = net.encode_batch({"signal": toy_world.PREPROCESSORS["signal"]([value])}).pooled["signal"]
        torch.testing.assert_close(both[row], alone[0], rtol=0, atol=2e-6)
    assert (both[1] == 0).all()
    none = net.encode_batch({"signal": toy_world.PREPROCESSORS["signal"]([None, None])}).pooled["signal"]
    assert (none == 0).all() and none.requires_grad


# ---------------------------------------------------------------------------------------------------------- objectives

VIEWS = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}}
HEAD = {"head_hidden": 16, "head_width": 8}
SHARES = {"head": distillation.HeadConfig(prototypes=8, hidden=8, bottleneck=4, layers=2)}
FIT: dict[str, Any] = {
    "contrastive": lambda net: contrastive.Contrastive(
        contrastive.Config(towers=["signal"], views=["a", "b"], **HEAD), net
    ),
    "vicreg": lambda net: redundancy.Redundancy(
        redundancy.Config(towers=["signal"], views=["a", "b"], loss="vicreg", **HEAD), net
    ),
    "byol": lambda net: bootstrap.Bootstrap(bootstrap.Config(towers=["signal"], views=["a", "b"], **HEAD), net),
    "dino": lambda net: distillation.Distillation(
        distillation.Config(tower="signal", global_views=["a", "b"], **SHARES), net
    ),
    "mae": lambda net: mae.MAE(mae.Config(tower="signal", mask="half", mode="replace", decoder=toy_world.DECODER), net),
    "mae by dropping": lambda net: mae.MAE(mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER), net),
    "jepa": lambda net: jepa.JEPA(jepa.Config(tower="signal", mask="half", predictor=toy_world.PREDICTOR), net),
}
OF_TOKENS = ("mae", "mae by dropping", "jepa")
"""What needs a token for each patch."""


@pytest.mark.parametrize("trunk", ["Memory", "Summary"])
@pytest.mark.parametrize("kind", FIT)
def test_every_objective_that_fits_trains_it(kind, trunk):
    net = model_of(trunk)
    if trunk == "Summary" and kind in OF_TOKENS:
        with refused("signal"):
            FIT[kind](net)
        return
    work = Pretraining(net, {"it": FIT[kind](net)}, VIEWS, {"half": Random(ratio=0.5)})
    batch = {"signal": toy_world.batch(toy_world.raw(6, seed=2))["signal"]}
    work(batch, Draws(1, 6)).total.backward()
    grads = [p.grad for p in net.tower("signal").trunk.parameters()]
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads)
    work.after_step(0.5)


@pytest.mark.parametrize("kind", ["mae by dropping", "jepa"])
def test_what_takes_rasters_drops_no_patches(kind):
    net = model_of("Cells", "ecg", trunk_options={"patch": [7]})
    make = {
        "mae by dropping": lambda: mae.MAE(mae.Config(tower="ecg", mask="half", decoder=toy_world.DECODER), net),
        "jepa": lambda: jepa.JEPA(jepa.Config(tower="ecg", mask="half", predictor=toy_world.PREDICTOR), net),
    }
    with refused("ecg"):
        make[kind]()
    fits = mae.MAE(mae.Config(tower="ecg", mask="half", mode="replace", decoder=toy_world.DECODER), net)
    loss = Pretraining(net, {"it": fits}, {}, {"half": Random(ratio=0.5)})({"ecg": inputs_of("ecg")}, Draws(1, 3))
    loss.total.backward()
    assert net.tower("ecg").trunk.conv.weight.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------- saved and loaded


def test_it_is_saved_and_loaded_where_its_module_is_trusted(tmp_path, monkeypatch):
    net = model_of("Memory", trunk_options={"gate": 0.3}).eval()
    net.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    batch = {"signal": toy_world.batch(toy_world.raw(4))["signal"]}
    assert torch.equal(loaded.encode_batch(batch).pooled["signal"], net.encode_batch(batch).pooled["signal"])
    assert loaded.tower("signal").trunk.gate == torch.tensor(0.3) and isinstance(
        loaded.tower("signal").trunk, trunks.Memory
    )
    monkeypatch.setattr(provenance, "_TRUSTED", {"toys.signal"})
    with refused("toys.trunks", "--trust"):
        AutoModel.from_pretrained(tmp_path)


def test_it_draws_its_own_weights_the_same_for_the_same_seed():
    one, other = model_of("SampleCNN", "ecg"), model_of("SampleCNN", "ecg")
    assert torch.equal(one.tower("ecg").trunk.layers[0].weight, other.tower("ecg").trunk.layers[0].weight)
    torch.manual_seed(0)
    load_modality("ecg").Modality(1, **SIZES["ecg"])
    alone = trunks.SampleCNN(WIDTH, 3)
    assert torch.equal(one.tower("ecg").trunk.layers[0].weight, alone.layers[0].weight)


def test_batch_norms_are_known():
    assert model_of("SampleCNN", "ecg", trunk_options={"norm": True}).tower("ecg").mixes_rows
    assert not model_of("SampleCNN", "ecg").tower("ecg").mixes_rows


BROKEN = [
    ("Missing", {}, ("Missing",)),
    ("Silent", {}, ("takes", "patches", "raster")),
    ("function", {}, ("class",)),
    ("Memory", {"trunk_options": {"depth": 3}}, ("cannot be built", "depth")),
    ("Memory", {"trunk_options": {"width": 3}}, ("trunk_options", "width")),
    ("Odd", {"trunk_options": {"how": "value"}}, ("cannot be built", "too odd")),
    ("Odd", {"trunk_options": {"how": "buffer"}}, ("persistent=False",)),
    ("Cells", {"trunk_options": {"patch": [7]}}, ("rasters",)),  # the toy signal lies on no grid
    ("Summary", {"readout": "mean+std"}, ("readout", "mean")),
]


@pytest.mark.parametrize(("trunk", "options", "facts"), BROKEN)
def test_what_breaks_the_contract_is_refused(trunk, options, facts):
    with refused(*facts):
        model_of(trunk, **options)


@pytest.mark.parametrize(("how", "found"), [("shape", "a tensor"), ("tuple", "tuple")])
def test_what_it_gives_is_looked_at(how, found):
    net = model_of("Odd", trunk_options={"how": how})
    with refused("gave", found):
        net.encode_batch({"signal": toy_world.batch(toy_world.raw(2, absent=0.0))["signal"]})
