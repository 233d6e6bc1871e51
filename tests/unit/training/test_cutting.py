"""Which views readers cut, which inputs come whole beside them, and what objectives then see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import runs
from toys.refusals import refused

import mmssl_image
from mmssl.data.cuts import Cuts
from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.modality.cutting import cut_of
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import contrastive, dense, distillation, jepa, mae, pretext
from mmssl.objectives.base import Objective
from mmssl.objectives.options.distillation import GramConfig, HeadConfig
from mmssl.objectives.options.jepa import PredictorConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.cutting import cuts_of

CROP: dict[str, Any] = {"crop_scale": [0.3, 0.9], "flip": 0.5}
VIEWS: dict[str, Any] = {
    "a": {"image": CROP},
    "b": {"image": {**CROP, "noise_std": 0.1}},
    "small": {"image": {**CROP, "crop_size": 8}},
    "turned": {"image": {"transform": {"kind": "rotation", "view": "a"}}},
    "whole": {"image": {"transform": {"kind": "rotation"}}},
    "alike": {"image": {**CROP, "alike": True}},
    "other": {"image": {"column": "after", **CROP}},
    "plain": {"image": {"column": "after"}},
}
HEAD = HeadConfig(hidden=16, bottleneck=8, prototypes=16)
ROWS = 4


def preprocessor() -> mmssl_image.Preprocessor:
    config = mmssl_image.Config(size=16, patch=4, channels=1, mean=[0.5], std=[0.25])
    return mmssl_image.Preprocessor(config).fit([np.zeros((8, 8, 1), np.uint8)])


def work(kind: Any) -> Pretraining:
    torch.manual_seed(0)
    sizes = {"type": "image", **preprocessor().sizes()}
    tower = tower_spec(TowerConfig(width=16, depth=1, heads=2))
    names = ("image", "sketch")
    net = MMSSLModel(MMSSLConfig(modalities=dict.fromkeys(names, sizes), towers=dict.fromkeys(names, tower)))
    made = kind(net)
    return Pretraining(net, made if isinstance(made, dict) else {"it": made}, VIEWS, {"half": Random(ratio=0.5)})


def cuts(of: Pretraining, stored: tuple[str, ...] = ()) -> Cuts | None:
    made = preprocessor()
    return cuts_of(of, {"image": made, "after": made}, stored, 0)


def simclr(*views: str) -> Any:
    return lambda net: contrastive.Contrastive(contrastive.Config(towers=["image"], views=list(views)), net)


class Stranger(Objective):
    """Says nothing of what it asks for."""

    def __init__(self, model: MMSSLModel) -> None:
        super().__init__(contrastive.Config(towers=["image"], views=["a", "b"]), model)


DECODER = mae.DecoderConfig(width=8, depth=1, heads=2)
PREDICTOR = PredictorConfig(width=8, depth=1, heads=2)
CASES: dict[str, tuple[Any, dict[str, set[str]], set[str]]] = {
    "two crops": (simclr("a", "b"), {"image": {"a", "b"}}, set()),
    "beside the clean one": (simclr("a", "clean"), {"image": {"a"}}, {"image"}),
    "of one draw": (simclr("a", "alike"), {"image": {"a"}}, {"image"}),
    "of another column": (simclr("a", "other"), {"image": {"a"}, "after": {"other"}}, set()),
    "beside the other column": (simclr("other", "plain"), {"after": {"other"}}, {"after"}),
    "masked": (
        lambda net: mae.MAE(mae.Config(tower="image", mask="half", view="a", target_view="a", decoder=DECODER), net),
        {"image": {"a"}},
        set(),
    ),
    "the target clean": (
        lambda net: mae.MAE(mae.Config(tower="image", mask="half", view="a", decoder=DECODER), net),
        {"image": {"a"}},
        {"image"},
    ),
    "latents": (
        lambda net: jepa.JEPA(
            jepa.Config(tower="image", mask="half", view="a", target_view="a", predictor=PREDICTOR), net
        ),
        {"image": {"a"}},
        set(),
    ),
    "turned crop": (
        lambda net: pretext.Pretext(pretext.Config(tower="image", views=["turned"]), net),
        {"image": {"a"}},
        set(),
    ),
    "turned whole": (lambda net: pretext.Pretext(pretext.Config(tower="image", views=["whole"]), net), {}, set()),
    "of another tower": (
        lambda net: {
            "it": simclr("a", "b")(net),
            "mae": mae.MAE(mae.Config(tower="sketch", mask="half", decoder=DECODER), net),
        },
        {"image": {"a", "b"}},
        set(),
    ),
    "stranger": (Stranger, {"image": {"a", "b", "small"}, "after": {"other"}}, {"image", "after"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_cut_and_what_comes_whole(case: str) -> None:
    kind, wanted, whole = CASES[case]
    found = cuts(work(kind))
    cutters = {} if found is None else found.cutters
    assert {name: set(one.views) for name, one in cutters.items()} == wanted
    assert {name for name, one in cutters.items() if one.whole} == whole


def test_an_input_that_is_stored_is_not_cut() -> None:
    assert cuts(work(simclr("a", "b")), ("image",)) is None


def batch_of(of: Pretraining, seed: int = 0) -> dict[str, Any]:
    found = cuts(of)
    assert found is not None
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 255, (80, 90, 1), dtype=np.uint8) for _ in range(ROWS)]
    items: Any = [(0, row, None) for row in range(ROWS)]
    return {key: inputs for name in found.cutters for key, inputs in found.batch(name, pictures, items).items()}


def test_objectives_learn_from_what_was_cut() -> None:
    """DINO with global and local crops, and dense matching by places, from a batch without whole pictures."""
    config = distillation.Config(tower="image", global_views=["a", "b"], local_views=["small"], head=HEAD)
    made = work(lambda net: distillation.Distillation(config, net))
    batch = batch_of(made)
    assert set(batch) == {cut_of("image", view) for view in ("a", "b", "small")}
    assert made(batch, Draws(1, ROWS)).total.isfinite()
    step = made.step(batch, Draws(1, ROWS))
    assert step.inputs("image", "small")["pixel_values"].shape == (ROWS, 1, 8, 8)
    with pytest.raises(RuntimeError, match="only views were read"):
        step.inputs("image")
    matched = work(lambda net: dense.Dense(dense.Config(tower="image", views=["a", "b"], loss="cosine"), net))
    assert matched(batch_of(matched), Draws(1, ROWS)).total.isfinite()


def test_a_larger_variant_is_the_same_crop() -> None:
    gram = GramConfig(first=1, views={"crop_size": 32})
    config = distillation.Config(tower="image", global_views=["a", "b"], head=HEAD, gram=gram)
    made = work(lambda net: distillation.Distillation(config, net))
    batch = batch_of(made)
    step = made.step(batch, Draws(1, ROWS))
    large = step.variant("a", gram.views)
    assert step.inputs("image", large)["pixel_values"].shape[-1] == 32 and len(batch) == 4
    assert torch.equal(batch[cut_of("image", large)]["box"], batch[cut_of("image", "a")]["box"])
    assert not torch.equal(batch[cut_of("image", "b")]["box"], batch[cut_of("image", "a")]["box"])


def test_a_wrong_option_of_a_view_is_refused_before_anything_is_read() -> None:
    with refused("crop_scale", "lowest"):
        preprocessor().cutter({"a": {"crop_scale": [0.9, 0.1]}})


@pytest.mark.slow
def test_a_run_that_was_killed_and_workers_end_where_the_straight_run_does(tmp_path) -> None:
    content = runs.recipe()
    content["views"] = {name: {"image": dict(CROP)} for name in ("a", "b")}
    content["masks"], content["objectives"] = (
        {},
        {"simclr": {"type": "contrastive", "towers": ["image"], "views": ["a", "b"], "loss": "nt_xent"}},
    )
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    with runs.killed_at(4):
        runs.cli(tmp_path, content=content)
    assert runs.cli(tmp_path, "--resume", "data.workers=2", content=content) == 0
    ends = [load_file(tmp_path / run / "checkpoints/step-00000006/weights.safetensors") for run in ("straight", "run")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
