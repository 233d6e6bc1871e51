"""The `Modality` contract, kept by every package under `modalities/`: whoever adds one gets these tests.

Coordinates by hand, targets and formats are in each modality's own tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import samples as samples_of
from transformers import AutoModel, AutoProcessor

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Random
from mmssl.modality import Inputs, Modality, Preprocessor, load_modality, modality_names
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining

SHIPPED = [
    name for name in modality_names() if (Path(__file__).resolve().parents[2] / "modalities" / f"mmssl_{name}").is_dir()
]
CASES = [*SHIPPED, *(case for case in samples_of.TINY if case not in SHIPPED)]


@dataclass
class Case:
    name: str
    raw: list[Any]
    preprocessor: Preprocessor
    model: MMSSLModel

    @property
    def modality(self) -> Modality:
        return self.model.modality(self.name)

    def inputs(self, *more: Any) -> Inputs:
        return self.preprocessor([*self.raw, *more])


@pytest.fixture(scope="module", params=[(case, kind) for case in CASES for kind in ("made", "real")], ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    name, kind = request.param
    options = samples_of.TINY[name]
    if kind == "made":
        raw, more = samples_of.made(name), {}
    else:
        raw, more = samples_of.real(name, request.getfixturevalue("shared_data"))
    package = load_modality(samples_of.modality_of(name))
    preprocessor = package.Preprocessor(package.Config(**options | more)).fit(raw)
    torch.manual_seed(0)
    modality = samples_of.modality_of(name)
    config = MMSSLConfig(
        modalities={modality: {"type": modality, **preprocessor.sizes()}},
        towers={modality: tower_spec(TowerConfig(width=24, depth=2, heads=2))},
        projection=8,
    )
    return Case(modality, raw[:5], preprocessor, MMSSLModel(config).eval())


def close(actual: torch.Tensor, expected: torch.Tensor, size: float = 1.0) -> None:
    """Equal to 1e-6 of `size`."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * size, equal_nan=True)


def test_unpatchify_inverts_patchify(case: Case) -> None:
    inputs = case.inputs(None)
    patches = case.modality.patchify(inputs)
    assert patches.coords.shape[2] <= len(case.modality.coordinates) or case.name == "graph"
    back = case.modality.unpatchify(patches.values, inputs)
    for key in set(back) & set(inputs):
        close(back[key], inputs[key])
    again = case.modality.patchify(back)
    close(
        again.values.masked_fill(~_as(again.valid, again.values), 0),
        patches.values.masked_fill(~_as(patches.valid, patches.values), 0),
    )
    assert torch.equal(again.coords, patches.coords) and torch.equal(again.valid, patches.valid)
    assert patches.valid.any(1).tolist() == [True] * 5 + [False]


def _as(valid: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return valid if values.ndim == 2 else valid[..., None]


@torch.no_grad()
def test_padding_and_absent_parts_change_nothing_elsewhere(case: Case) -> None:
    mixed = case.model.encode_batch({case.name: case.preprocessor([None, *case.raw, None])})
    assert mixed.present[case.name].tolist() == [False] + [True] * 5 + [False]
    assert not mixed.embeddings[case.name][[0, -1]].any()
    for row, raw in enumerate(case.raw, 1):
        alone = case.model.encode_batch({case.name: case.preprocessor([raw])})
        size = float(alone.tokens[case.name].abs().max())
        close(mixed.pooled[case.name][row], alone.pooled[case.name][0], size)
        here, there = mixed.valid[case.name][row], alone.valid[case.name][0]
        close(mixed.tokens[case.name][row][here], alone.tokens[case.name][0][there], size)


@torch.no_grad()
def test_patches_on_a_grid_are_convolved_and_others_refused(case: Case) -> None:
    assert case.model.config.modalities is not None
    spec = tower_spec(TowerConfig(trunk="resnet", width=24, depth=2, heads=2))
    config = MMSSLConfig(modalities=case.model.config.modalities, towers={case.name: spec})
    patches, tile = case.modality.patchify(case.inputs(None)), case.modality.tile()
    if not tile or config.modalities[case.name].get("tokens", "values") != "values":
        with pytest.raises(UserError, match=r"expected .*trunk: transformer"):
            MMSSLModel(config)
        return
    assert patches.grid is not None and patches.place is not None and len(patches.grid) == len(tile) - 1
    assert patches.values.shape[2] == math.prod(side for side in tile if side)
    for place, valid in zip(patches.place, patches.valid, strict=True):
        seen = place[valid].tolist()
        assert len({tuple(p) for p in seen}) == len(seen)
        assert all(0 <= at < size for p in seen for at, size in zip(p, patches.grid, strict=True))
    torch.manual_seed(0)
    model = MMSSLModel(config).eval()
    mixed = model.encode_batch({case.name: case.inputs(None)})
    for row, raw in enumerate(case.raw):
        alone = model.encode_batch({case.name: case.preprocessor([raw])})
        here, there = mixed.valid[case.name][row], alone.valid[case.name][0]
        close(mixed.tokens[case.name][row][here], alone.tokens[case.name][0][there], 10.0)
    assert not mixed.tokens[case.name][-1].any()


@torch.no_grad()
def test_permuted_patches_give_permuted_tokens(case: Case) -> None:
    patches = case.modality.patchify(case.inputs(None))
    order = torch.stack([torch.randperm(patches.count, generator=torch.Generator().manual_seed(i)) for i in range(6)])
    tower = case.model.towers[case.name]
    straight, permuted = tower({case.name: patches}), tower({case.name: patches.take(order)})
    there = patches.valid.gather(1, order)
    expected = straight.tokens[case.name].gather(1, order[..., None].expand(-1, -1, 24))
    largest = float(expected[there].abs().max())  # the sums run in another order
    close(permuted.tokens[case.name][there], expected[there], largest)
    close(permuted.pooled(case.name), straight.pooled(case.name), largest)


@torch.no_grad()
def test_saved_and_reloaded(case: Case, tmp_path: Path) -> None:
    MMSSLProcessor({case.name: case.preprocessor}).save_pretrained(tmp_path)
    case.model.save_pretrained(tmp_path)
    processor, model = AutoProcessor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    before = case.model.encode_batch({case.name: case.inputs(None)}).embeddings[case.name]
    after = model(**processor(**{case.name: [*case.raw, None]}, return_tensors="pt")).embeddings[case.name]
    assert torch.equal(before, after) and before[:5].norm(dim=1).min() > 0.99


@torch.no_grad()
def test_hidden_content_reaches_no_token(case: Case) -> None:
    """Of two batches that differ in hidden patches alone, the encoder makes the same tokens."""
    patches = case.modality.patchify(case.inputs(None))
    split = Random(ratio=0.5)({case.name: patches}, Draws(3, 6))[case.name]
    hidden = patches.hidden_by(split.hide)
    other = torch.where(_as(hidden, patches.values), patches.values.roll(1, 0), patches.values)
    assert (other != patches.values).any()
    tower, changed = case.model.towers[case.name], patches.replace(values=other)
    masks = {case.name: hidden}
    assert torch.equal(
        tower({case.name: patches}, masks).tokens[case.name][patches.valid],
        tower({case.name: changed}, masks).tokens[case.name][patches.valid],
    )
    seen, still = patches.take(split.keep), changed.take(split.keep)
    assert torch.equal(
        tower({case.name: seen}).tokens[case.name][seen.valid], tower({case.name: still}).tokens[case.name][seen.valid]
    )


@pytest.mark.parametrize("mode", ["drop", "replace"])
def test_masked_autoencoding_has_finite_gradients_with_absent_rows(case: Case, mode: str) -> None:
    decoder = mae.DecoderConfig(width=16, depth=1, heads=2)
    for target in (None, *case.modality.targets):
        chosen = {} if target is None else {case.name: target}
        config = mae.Config(tower=case.name, mask="half", mode=mode, target=chosen, decoder=decoder)
        torch.manual_seed(1)
        work = Pretraining(case.model, {"mae": mae.MAE(config, case.model)}, {}, {"half": Random(ratio=0.5)})
        loss = work({case.name: case.inputs(None)}, Draws(1, 6)).total
        assert float(loss.detach()) > 0
        loss.backward()
        grads = [p.grad for p in work.parameters() if p.grad is not None]
        assert grads and all(bool(g.isfinite().all()) for g in grads)
        work.zero_grad()
        work({case.name: case.preprocessor([None, None])}, Draws(1, 2)).total.backward()  # nobody has it: no fault
        assert all(bool(p.grad.isfinite().all()) for p in work.parameters() if p.grad is not None)
        work.zero_grad()


def test_raw_features_are_finite_and_zero_where_absent(case: Case) -> None:
    features = case.modality.raw_features(case.inputs(None))
    assert features.dtype == torch.float32 and features.ndim == 2 and bool(features.isfinite().all())
    assert len({tuple(row) for row in features[:5].tolist()}) >= 4


def test_a_view_without_options_is_the_input(case: Case) -> None:
    inputs = case.inputs(None)
    view = case.modality.augment(inputs, Draws(5, 6))
    for key, value in inputs.items():
        torch.testing.assert_close(view[key], value, rtol=0, atol=0, equal_nan=True)
