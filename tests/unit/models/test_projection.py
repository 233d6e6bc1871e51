"""Projections with a hidden layer: as they are computed, saved, adapted, and refused where a class has a linear map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toys import runs

from mmssl import pretrain
from mmssl.errors import UserError
from mmssl.models.projection import DeepProjection, LinearProjection, make_projection
from mmssl.models.saving import load_model
from mmssl.recipe.loading import load_recipe


def content(**model: Any) -> dict[str, Any]:
    out = runs.image_text()
    del out["objectives"]["mae"]
    out["masks"], out["model"] = {}, out["model"] | model
    out["train"] |= {"steps": 1, "health_every": None}
    return out


def test_a_hidden_layer_is_norm_map_gelu_map_and_dropout_is_of_training_alone():
    torch.manual_seed(0)
    head = make_projection(6, 3, 5, 0.5)
    assert isinstance(head, DeepProjection)
    x = torch.randn(4, 6)
    expected = head.out(F.gelu(head.hidden(head.norm(x))))
    assert not torch.equal(head(x), expected)
    torch.testing.assert_close(head.eval()(x), expected)
    plain = make_projection(6, 3, None, 0.5)
    assert isinstance(plain, LinearProjection) and list(plain.state_dict()) == ["weight"]
    assert (plain(x) != plain.eval()(x)).any()
    torch.testing.assert_close(plain(x), x @ plain.weight.T)


def test_it_is_saved_with_the_model_and_no_linear_map_is_made_of_it(tmp_path):
    run = pretrain(content(projection_hidden=12, projection_dropout=0.25), output=tmp_path / "run")
    again = load_model(run.model_folder)[0]
    assert (again.config.projection_hidden, again.config.projection_dropout) == (12, 0.25)
    assert isinstance(again.projections["image"], DeepProjection)
    with pytest.raises(UserError, match="projection_hidden: found 12"):
        run.export("clip", tmp_path / "clip")


def test_it_needs_a_projection():
    with pytest.raises(UserError, match="projection_hidden"):
        load_recipe(content(projection=None, projection_hidden=12))
