"""Retrieval, distillation, the kept part of a head, and adapters converted for stock models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.sparse.csgraph import minimum_spanning_tree
from toys import runs, tuned
from transformers import AutoModel, ViTConfig, ViTModel

from benchmarks.stock_weights import copy_vit
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.exporting.adapter_weights import adapted_modules, block_modules, convert_adapter
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.finetune import finetune, make_job
from mmssl.finetuning.task import load_task
from mmssl.finetuning.teaching import soft_losses
from mmssl.models.adapter_files import base_of, write_adapter
from mmssl.models.adapters import add_adapter
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.opening import open_model
from mmssl.models.options import AdapterConfig, TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.training.pretrain import pretrain

QUICK = {"steps": 6, "batch_size": 16, "lr": 3e-3}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A short CLIP-like run on the built-in digits, with an extra SimCLR head."""
    content = runs.image_text()
    content["views"] = {"a": {"image": {"flip": 0.5}}, "b": {"image": {"brightness": 0.3}}}
    content["objectives"]["simclr"] = {
        "type": "contrastive",
        "towers": ["image"],
        "views": ["a", "b"],
        "loss": "nt_xent",
        "head_hidden": 24,
        "head_width": 8,
    }
    folder = tmp_path_factory.mktemp("pair") / "run"
    pretrain(content, output=folder, train={"steps": 30})
    return folder


@pytest.mark.parametrize("peft", ["lora", "linear", "none"])
def test_retrieval_goes_on_on_pairs(pair, tmp_path, peft):
    run = finetune(
        pair,
        "builtin:digits",
        peft=peft,
        task="retrieval",
        limit=300,
        output=tmp_path / "out",
        train={"steps": 12, "batch_size": 32, "lr": 3e-3},
        eval_every=6,
    )
    scores = run.report["tasks"]
    assert {"fine-tuned", "before"} == set(scores)
    pairs = {name.partition("/")[0] for name in scores["fine-tuned"]}
    assert pairs == {"image->text", "text->image"}
    found, before = (scores[title]["image->text/R@10"] for title in ("fine-tuned", "before"))
    assert found["raw"] is not None and found["model"] is None and "finetuned" not in before
    assert {"finetuned", "untrained"} <= set(found["interval"]) and "model" not in found["interval"]
    start, after = open_model(pair)[0].state_dict(), open_model(tmp_path / "out")[0].state_dict()
    moved = {name for name in start if not torch.equal(start[name], after[name])}
    towers = {name for name in moved if ".trunk." in name}
    assert {"projections.image.weight", "projections.text.weight"} <= moved
    assert bool(towers) is (peft != "linear")
    if peft == "lora":
        theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(pair / "model"), run.model_folder)
        assert any("projections.image.lora_A" in name for name, _ in theirs.named_parameters())


def test_retrieval_needs_two_sides(pair, tmp_path):
    with pytest.raises(UserError, match="between two towers"):
        finetune(pair, "builtin:digits", task="retrieval", modalities=["image"], output=tmp_path / "out")
    with pytest.raises(UserError, match="has no labels"):
        finetune(pair, "builtin:digits", "label", task="retrieval", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_layer_of_an_objectives_head_is_kept(pair, tmp_path):
    run = finetune(
        pair,
        "builtin:digits",
        "label",
        peft="none",
        keep_head="simclr",
        modalities=["image"],
        limit=200,
        train={**QUICK, "lr": 1e-9},
        output=tmp_path / "out",
    )
    from safetensors.torch import load_file

    from mmssl.training import checkpoints

    weights = load_file(checkpoints.latest(pair / "checkpoints") / checkpoints.WEIGHTS)
    task = run.load()
    torch.testing.assert_close(task.head.kept.fc1.weight, weights["objectives.simclr.heads.image.dense.0.weight"])
    torch.testing.assert_close(task.head.kept.norm.weight, weights["objectives.simclr.heads.image.norms.0.weight"])
    assert task.head.linear.in_features == 24
    with pytest.raises(UserError, match="has no objective 'simcrl'.*did you mean 'simclr'"):
        finetune(pair, "builtin:digits", "label", keep_head="simcrl", modalities=["image"], output=tmp_path / "x")
    with pytest.raises(UserError, match="no projection head"):
        finetune(pair, "builtin:digits", "label", keep_head="mae", modalities=["image"], output=tmp_path / "x")
    with pytest.raises(UserError, match="a head belongs to one tower, but the task has image, text"):
        finetune(pair, "builtin:digits", "label", keep_head="simclr", output=tmp_path / "x")


def test_soft_cross_entropy_is_the_formula():
    torch.manual_seed(0)
    s, t, tau = torch.randn(20, 4), torch.randn(20, 4), 0.5
    p, q = (np.exp(x.double().numpy() / tau) for x in (t, s))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    np.testing.assert_allclose(soft_losses("classification", s, t, tau).numpy(), -(p * np.log(q)).sum(1), atol=1e-6)


def test_jensen_shannon_is_the_formula_and_finite_where_both_are_sure():
    torch.manual_seed(0)
    s, t, tau = torch.randn(20, 4, requires_grad=True), torch.randn(20, 4), 0.5
    q, p = (np.exp(x.detach().double().numpy() / tau) for x in (s, t))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    m = (p + q) / 2
    wanted = ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2
    found = soft_losses("classification", s, t, tau, "js")
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-6)
    p, q = (1 / (1 + np.exp(-x.detach().double().numpy() / tau)) for x in (t, s))
    m = (p + q) / 2
    each = sum(a * np.log(a / m) + (1 - a) * np.log((1 - a) / (1 - m)) for a in (p, q))
    np.testing.assert_allclose(soft_losses("multilabel", s, t, tau, "js").detach().numpy(), each.mean(1) / 2, atol=1e-6)
    sure = torch.tensor([[400.0, -400.0]], requires_grad=True)
    most = soft_losses("classification", sure, -sure.detach(), 1.0, "js")
    most.sum().backward()
    assert most.item() == pytest.approx(np.log(2)) and sure.grad.isfinite().all()


@pytest.mark.slow
def test_a_smaller_student_learns_the_teachers_answers(pair, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    finetune(
        pair,
        "builtin:digits",
        "label",
        peft="none",
        modalities=["image"],
        output=teacher,
        train={"steps": 60, "batch_size": 64, "lr": 3e-3},
        eval_every=20,
    )
    student = tuned.image_base(tmp_path / "student", width=8)
    words = ["finetune", str(student), "--data", "builtin:digits", "--teacher", str(teacher), "--peft", "none"]
    quick = ["train.steps=60", "train.batch_size=64", "train.lr=0.01", "temperature=0.5", "eval_every=20"]
    assert main([*words, "--label", "label", "--output", str(tmp_path / "out"), *quick]) == 0
    report = capsys.readouterr().out
    assert "teacher " in report and "fine-tuned" in report and "finetuned" in report
    task, taught = load_task(tmp_path / "out"), load_task(teacher)
    assert task.target == taught.target and task.model.tower("image").width == 8
    from mmssl.data.sources import open_source

    rows = open_source("builtin:digits", split="test")["image"][:200]
    same = [a["label"] == b["label"] for a, b in zip(task.predict(image=rows), taught.predict(image=rows), strict=True)]
    assert np.mean(same) > 0.5  # of ten classes, without a label
    assert main([*words, "--label", "text", "--output", str(tmp_path / "x")]) == 2
    assert "but the teacher knows label" in runs.errors(capsys.readouterr().err)[0]


# ------------------------------------------------------------------------------------------------------- conversion

WIDTH, DEPTH = 24, 3
QKV = ("attention.q_proj", "attention.k_proj", "attention.v_proj")


def test_separability_of_the_validation_rows_may_say_when_to_stop(pair):
    model, processor = open_model(pair)
    options = load_options(
        {"path": "builtin:digits", "label": "label", "modalities": ["image"], "limit": 120, "few": 0}
    )
    options = replace(options, monitor="separability", head_start="zero")
    job = make_job(str(pair), model, processor, options)
    job.objective()
    x = job.features(job.rows.validation, {"model": model}).of["model"].double().numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    edges = minimum_spanning_tree(np.linalg.norm(x[:, None] - x[None], axis=2)).data
    times = np.concatenate([np.zeros(len(x) - 1 - len(edges)), edges]) / edges.max()
    assert job.look()[1] == pytest.approx(1 - times.mean(), abs=1e-5)
    with pytest.raises(UserError, match="monitor: found separability with task=retrieval"):
        make_job(str(pair), model, processor, replace(options, label=None, task="retrieval"))


@pytest.fixture
def vit():
    """A stock ViT with random weights, and ours with the same."""
    torch.manual_seed(0)
    stock = ViTModel(
        ViTConfig(
            image_size=16,
            patch_size=8,
            num_channels=3,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=3,
            intermediate_size=4 * WIDTH,
            initializer_range=0.1,
        ),
        add_pooling_layer=False,
    ).eval()
    image = {
        "type": "image",
        "size": [16, 16],
        "patch": [8, 8],
        "channels": 3,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "positions": "learned",
    }
    tower = TowerConfig(width=WIDTH, depth=DEPTH, heads=3, norm_eps=1e-12)
    ours = MMSSLModel(MMSSLConfig(modalities={"image": image}, towers={"image": tower_spec(tower)})).eval()
    copy_vit(ours.towers["image"], "image", stock)
    return stock, ours


def written(model, kind, folder):
    """An adapter of ours with random values, and what the model then gives."""
    known = base_of(model, None)
    handle = add_adapter(model, AdapterConfig(type=kind), ["image"])
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.1)
    folder.mkdir()
    write_adapter(handle, known, MMSSLProcessor({}), folder, folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "rslora"])
def test_an_adapter_on_the_stock_model_gives_the_same(vit, tmp_path, kind):
    stock, model = vit
    pixels = torch.randn(2, 3, 16, 16)
    before = stock(pixels).last_hidden_state
    model = written(model, kind, tmp_path / "ours")
    expected = model(image_pixel_values=pixels).last_hidden_state
    modules = block_modules("image", DEPTH, "layers", QKV, "attention.o_proj", ["mlp.fc1"], "mlp.fc2")
    names = convert_adapter(tmp_path / "ours", tmp_path / "stock", modules, "vit")
    assert {"layers.0.attention.q_proj", "layers.2.attention.v_proj", "layers.1.mlp.fc2"} <= set(names)
    theirs = PeftModel.from_pretrained(stock, tmp_path / "stock")
    after = theirs(pixels).last_hidden_state
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.merge_and_unload()(pixels).last_hidden_state, expected, atol=1e-5, rtol=0)


def test_what_a_stock_model_cannot_take_is_refused(vit, tmp_path):
    _, model = vit
    written(model, "lora", tmp_path / "ours")
    modules = block_modules("image", DEPTH - 1, "layers", QKV, "attention.o_proj", ["mlp.fc1"], "mlp.fc2")
    assert len(adapted_modules(tmp_path / "ours")) == 4 * DEPTH
    with pytest.raises(UserError, match=r"changes 'towers.image.trunk.blocks.2.*which the stock model does not have"):
        convert_adapter(tmp_path / "ours", tmp_path / "stock", modules)
    assert not (tmp_path / "stock").exists()


def test_types_that_mix_rows_are_refused(vit, tmp_path):
    written(vit[1], "lokr", tmp_path / "ours")
    with pytest.raises(UserError, match="'lokr' cannot be cut into stock modules; export the merged model"):
        convert_adapter(tmp_path / "ours", tmp_path / "stock", {})
