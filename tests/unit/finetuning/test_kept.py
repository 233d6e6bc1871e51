"""Hidden layers of an objective's head that a fine-tuning keeps, by their number and their norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toys import tuned

from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.finetune import finetune
from mmssl.finetuning.kept import kept_head
from mmssl.finetuning.supervised import Kept
from mmssl.objectives.parts.heads import Head
from mmssl.training import checkpoints


def run_with(head: Head, folder: Path) -> Path:
    """The folder of a run whose last checkpoint has this head, of objective `simclr` on tower `image`."""
    place = folder / "checkpoints" / "1"
    place.mkdir(parents=True)
    state = {f"objectives.simclr.heads.image.{k}": v for k, v in head.state_dict().items()}
    save_file(state, place / checkpoints.WEIGHTS)
    return folder


@pytest.fixture
def latest(monkeypatch):
    monkeypatch.setattr(checkpoints, "latest", lambda folder: folder / "1" if folder.is_dir() else None)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("layers", [1, 2])
def test_layers_beyond_the_first_are_the_heads_on_the_rows_it_was_settled_on(tmp_path, latest, norm, layers):
    torch.manual_seed(0)
    head = Head(6, 5, 4, 3, norm)
    for module in head.norms:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
    kept = kept_head(str(run_with(head, tmp_path)), "simclr", ["image"], 6, layers)
    x = torch.randn(40, 6)
    settled = kept.settle(x)
    seen = []
    hook = head.dense[layers].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    head(x, torch.ones(40, dtype=torch.bool))
    hook.remove()
    torch.testing.assert_close(kept(x), seen[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(settled, seen[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept(x[:3]), seen[0][:3], atol=1e-5, rtol=1e-5)  # other rows say nothing from here on
    again = Kept(6, 5, norm, layers)
    again.load_state_dict(kept.state_dict())
    torch.testing.assert_close(again(x), kept(x))


def test_more_layers_than_there_are(tmp_path, latest):
    folder = run_with(Head(6, 5, 4, 3, "batch"), tmp_path)
    with pytest.raises(UserError, match="keep_layers: found 3, but the head of 'simclr' has 2 hidden layers"):
        kept_head(str(folder), "simclr", ["image"], 6, 3)
    with pytest.raises(UserError, match="takes 6 features, the task's tower gives 9"):
        kept_head(str(folder), "simclr", ["image"], 9)
    with pytest.raises(UserError, match="keep_layers: found 2 without keep_head"):
        load_options({"keep_layers": 2}, {"label": "label"})


def test_a_task_behind_two_layers_with_batch_norm_is_saved_and_answers_as_it_was_trained(tmp_path, latest):
    model = tuned.image_base(tmp_path / "run" / "model")
    from mmssl.finetuning.supervised import pooled_width
    from mmssl.models.opening import open_model

    width = pooled_width(open_model(model)[0], ["image"], True)
    torch.manual_seed(0)
    run_with(Head(width, 12, 4, 3, "batch"), tmp_path / "run")
    how = {"limit": 80, "few": 0, "validation_share": 0, "train": {"steps": 2, "batch_size": 16}}
    run = finetune(
        model, "builtin:digits", "label", peft="none", keep_head="simclr", keep_layers=2, output=tmp_path / "out", **how
    )
    kept = run.load().head.kept
    assert kept.kind == "batch" and len(kept.more) == 1 and kept.more[0].fc1.bias is None
    assert not kept.norm.mean.equal(torch.zeros(12)) and not kept.more[0].norm.variance.equal(torch.ones(12))
    assert "image/accuracy" in run.report["tasks"]["fine-tuned"]
