"""Adapter-only self-supervision: what is trained, what is in memory, what is kept; and `model.from`."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from toys import runs
from transformers import AutoModel, ViTConfig, ViTModel

from mmssl.errors import UserError
from mmssl.exporting.writing import open_source_model
from mmssl.models.opening import open_model
from mmssl.models.saving import load_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_pretraining
from mmssl.training.pretrain import pretrain

MAE = {"mae": {"tower": "image", "mask": "half", "decoder": {"width": 16, "depth": 1, "heads": 2}}}
JEPA = {"jepa": {"tower": "image", "mask": "half", "predictor": {"width": 16, "depth": 1, "heads": 2}}}
SIMCLR = {
    "simclr": {
        "type": "contrastive",
        "towers": ["image"],
        "views": ["a", "b"],
        "loss": "nt_xent",
        "head_hidden": 16,
        "head_width": 8,
    }
}


def recipe(base, objectives=MAE, **tower):
    return {
        "data": {"path": "builtin:digits"},
        "model": {"from": str(base), "towers": {"image": {"adapter": {"type": "lora", "r": 2}} | tower}},
        "masks": {"half": {"type": "random", "ratio": 0.5}},
        "views": {"a": {"image": {"flip": 0.5}}, "b": {"image": {"brightness": 0.3}}},
        "objectives": objectives,
        "train": {"steps": 4, "batch_size": 16, "lr": 0.01, "trackers": [], "log_every": 2},
        "evaluation": {"tasks": []},
    }


@pytest.mark.parametrize("objectives", [MAE, JEPA, SIMCLR], ids=["mae", "jepa", "contrastive"])
def test_only_the_adapter_is_trained_and_kept(base, tmp_path, objectives):
    run = pretrain(recipe(base, objectives), output=tmp_path / "run")
    start, after = load_model(base)[0].state_dict(), run.model.state_dict()
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert changed and all(".trunk.blocks." in name and name.endswith("weight") for name in changed)
    files = {p.name for p in run.model_folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= files
    assert "model.safetensors" not in files
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(base), run.model_folder)
    pixels = {"image": {"pixel_values": torch.randn(3, 1, 8, 8), "present": torch.ones(3, dtype=torch.bool)}}
    mine = open_model(tmp_path / "run")[0].encode_batch(pixels).pooled["image"]
    torch.testing.assert_close(theirs.base_model.model.encode_batch(pixels).pooled["image"], mine, atol=1e-5, rtol=0)


def test_the_teacher_is_as_large_as_the_adapter(base, tmp_path):
    chosen = load_recipe(recipe(base, JEPA))
    processor = open_model(base)[1]
    pretraining = build_pretraining(chosen, processor)
    net, teacher = pretraining.model, pretraining.objectives["jepa"].teacher
    student = {id(p) for p in net.parameters()}
    own = [name for name, p in teacher.named_parameters() if id(p) not in student]
    assert own and all(".lora_" in name for name in own)
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    assert len(own) == len(trained)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(1.0)
    before = [p.clone() for n, p in teacher.named_parameters() if ".lora_" in n]
    pretraining.after_step(0.5)
    after = [p for n, p in teacher.named_parameters() if ".lora_" in n]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old + (1 - 0.998), atol=1e-5, rtol=0)  # momentum 0.996 to 1, half way


def test_a_resumed_adapter_run_is_the_same(base, tmp_path):
    content = recipe(base, JEPA)
    content["train"] |= {"save_every": 2}
    straight = pretrain(content, output=tmp_path / "run").model.state_dict()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    shutil.rmtree(tmp_path / "run" / "model")
    resumed = pretrain(content, output=tmp_path / "run", resume=True).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_going_on_takes_over_architecture_and_preprocessing(base, tmp_path):
    content = recipe(base)
    content["model"] = {"from": str(base)}  # everything is trained on
    run = pretrain(content, output=tmp_path / "run")
    assert (run.model_folder / "model.safetensors").is_file()
    assert run.model.config.towers["image"]["width"] == 16
    kept, own = (json.loads((f / "processor_config.json").read_text()) for f in (base, run.model_folder))
    assert kept["modalities"] == own["modalities"]
    start, after = load_model(base)[0].state_dict(), run.model.state_dict()
    difference = max(float((start[n] - after[n]).abs().max()) for n in start)
    assert 0 < difference < 0.1  # four steps away from it, not another start


def test_a_stock_encoder_goes_on_by_an_adapter(tmp_path):
    """The base is a checkpoint of transformers: nothing of it is stored, and it is found again."""
    torch.manual_seed(0)
    stock = ViTModel(
        ViTConfig(
            image_size=16,
            patch_size=8,
            num_channels=3,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    stock.save_pretrained(tmp_path / "vit")
    content = recipe(tmp_path, JEPA, dropout=0.1) | {
        "modalities": {
            "image": {
                "size": 16,
                "patch": 8,
                "channels": 3,
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
                "resize": "squash",
                "positions": "learned",
            }
        },
        "model": {"towers": {"image": {"from": str(tmp_path / "vit"), "adapter": {"type": "lora", "r": 2}}}},
    }
    run = pretrain(content, output=tmp_path / "run")
    assert {p.name for p in run.model_folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert (run.model_folder / "adapter_model.safetensors").stat().st_size < 40_000
    again = open_model(tmp_path / "run")[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in run.model.state_dict().items())
    source = open_source_model(tmp_path / "run", tmp_path / "scratch", None)  # what `mmssl export` writes
    assert all(torch.equal(value, again[name]) for name, value in source.model.state_dict().items())
    (tmp_path / "vit").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="pretrained model of its tower 'image' is not at"):
        open_model(tmp_path / "run")


def test_a_shipped_recipes_architecture_gives_way(base):
    words = [f"model.from={base}", "model.towers.image.adapter.type=lora", "data.path=builtin:digits"]
    chosen = load_recipe("examples/image_mae", words)
    assert chosen.model.towers["image"].width == 16 and chosen.modalities["image"].config.patch == 4
    assert chosen.model.towers["image"].adapter.type == "lora"
    with pytest.raises(UserError, match="model.towers.image.width: found 32"):
        load_recipe("examples/image_mae", [*words, "model.towers.image.width=32"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.towers.image.width": 32}, "model.towers.image.width: found 32, but .* has 16"),
        ({"modalities": {"image": {"patch": 2}}}, "modalities.image.patch: found 2, but .* has 4"),
        ({"model.projection": 8}, "model.projection: found 8, but .* has None"),
        ({"model.towers.text": {"width": 16}}, "model.towers.text: .* has no such part"),
        ({"model.towers.image.adapter.type": "lorra"}, "did you mean 'lora'"),
        ({"model.towers.image.adapter.target_modules": ["query"]}, "is called 'query'"),
        ({"model.towers.image.frozen": True}, "found true beside an adapter"),
        ({"model.from": "nowhere/at/all"}, "model.from: no such folder here: 'nowhere/at/all'"),
    ],
)
def test_what_does_not_fit_is_refused(base, tmp_path, change, says):
    with pytest.raises(UserError, match=says) as caught:
        pretrain(recipe(base), output=tmp_path / "run", **change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()


def test_an_adapter_needs_something_to_be_on(tmp_path):
    content = runs.recipe()
    content["model"]["towers"]["image"]["adapter"] = {"type": "lora"}
    with pytest.raises(UserError, match="an adapter on random weights"):
        pretrain(content, output=tmp_path / "run")


def test_adapters_start_from_numbers_of_the_recipes_seed(base):
    processor, found = open_model(base)[1], []
    for seed in range(2):
        torch.manual_seed(seed)  # what was drawn before is nothing to them
        model = build_pretraining(load_recipe(recipe(base)), processor).model
        found.append({n: p.detach() for n, p in model.named_parameters() if "lora_A" in n})
    assert found[0] and all(torch.equal(found[0][name], found[1][name]) for name in found[0])
