"""Fine-tuning's parts: splits, labels, probe, scores, layer-wise rates, adapters and their folders."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from peft import PeftModel
from toys import world
from transformers import AutoModel

from mmssl.data.given import given
from mmssl.data.labels import LabelPreprocessor, encode_all, make_target
from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.layer_decay import layer_scale
from mmssl.finetuning.partition import load_partition
from mmssl.finetuning.scores import measure
from mmssl.losses.supervised import class_weights, row_losses
from mmssl.modality import load_modality
from mmssl.models.adapter_files import base_of, write_adapter
from mmssl.models.adapters import add_adapter, check_adapter, trainable
from mmssl.models.opening import load_adapter, open_model
from mmssl.models.options import AdapterConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import save_model

# ------------------------------------------------------------------------------------------------------------ labels


def test_what_a_column_is_decides_the_task():
    data = Dataset.from_dict(
        {
            "word": ["a", "b", None, "a"],
            "number": [1.5, 2.0, float("nan"), 3.0],
            "tags": [["x"], [], ["x", "y"], None],
            "one": [0, 1, 0, 1],
            "other": [True, False, True, False],
        }
    )
    found = {c: make_target(data, c.split(","), "auto") for c in ("word", "number", "tags", "one,other", "one")}
    kinds = {c: (t.task, t.outputs) for c, t in found.items()}
    assert kinds == {
        "word": ("classification", 2),
        "number": ("regression", 1),
        "tags": ("multilabel", 2),
        "one,other": ("multilabel", 2),
        "one": ("classification", 2),
    }
    assert encode_all(data, found["word"]) == [0, 1, None, 0]
    assert encode_all(data, found["tags"]) == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], None]
    numbers = encode_all(data, found["number"])
    assert numbers[2] is None and sum(n[0] for n in numbers if n) == pytest.approx(0)


def test_numbered_classes_keep_their_names_and_hide_minus_one():
    features = Features({"y": ClassLabel(names=["cat", "dog", "eel"])})
    data = Dataset.from_dict({"y": [0, 2, -1]}, features=features)
    target = make_target(data, ["y"], "auto")
    assert target.classes == [0, 2] and target.names == ["cat", "eel"]
    assert encode_all(data, target) == [0, 1, None]


def test_windows_of_a_file_are_on_one_side_of_every_split():
    rows = [
        {"a": file + window / 7, "b": window, "label": file % 2, "file": f"{file}.wav", "start": 10.0 * window}
        for file in range(20)
        for window in range(6)
    ]
    cells = load_modality("tabular")
    reader = cells.Preprocessor(cells.Config()).fit([{"a": row["a"], "b": row["b"]} for row in rows])
    reader.read_from = ["a", "b"]
    with given(rows) as path:
        part = load_partition(
            ["label"], {"tabular": reader}, load_options({"few": 0}, {"path": path, "label": "label"})
        )
    files = [set(examples.source["file"]) for examples in (part.train, part.validation, part.test)]
    assert sum(map(len, files)) == len(set.union(*files)) == 20 and all(files)
    assert len(part.validation) % 6 == 0 and len(part.train) + len(part.validation) + len(part.test) == 120


def test_labels_in_a_batch_know_who_has_none():
    data = Dataset.from_dict({"y": ["a", "b"]})
    batch = LabelPreprocessor(make_target(data, ["y"], "auto"))(["b", None, "c"])
    assert batch["value"].tolist() == [1, 0, 0] and batch["present"].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("column", "task", "says"),
    [
        ("lable", "auto", "no column 'lable'.*did you mean 'label'"),
        ("same", "auto", "all 3 labels are 1"),
        ("none", "auto", "column 'none' is empty"),
        ("label", "regression", "holds 'a', expected numbers"),
        ("number", "classification", "did you mean task=regression"),
        ("flat", "regression", "constant"),
        ("label", "multilabel", "expected a list of labels"),
        ("label,same", "classification", "takes one column"),
    ],
)
def test_labels_that_cannot_be_are_refused(column, task, says):
    features = Features(
        {
            "label": Value("string"),
            "same": Value("int64"),
            "none": Value("string"),
            "number": Value("float64"),
            "flat": Value("float64"),
        }
    )
    rows = {
        "label": ["a", "b", "a"],
        "same": [1, 1, 1],
        "none": [None] * 3,
        "number": [0.5, 1.5, 2.5],
        "flat": [2.0, 2.0, 2.0],
    }
    with pytest.raises(UserError, match=says):
        make_target(Dataset.from_dict(rows, features=features), column.split(","), task)


# ------------------------------------------------------------------------------------------------- losses and scores


def test_losses_and_weights_are_the_formulas():
    torch.manual_seed(0)
    logits, y = torch.randn(50, 3), torch.randint(3, (50,))
    p = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    torch.testing.assert_close(
        row_losses("classification", logits, y).double(), -p[range(50), y].log(), atol=1e-6, rtol=0
    )
    weights = class_weights("classification", y, 3)
    assert weights is not None
    torch.testing.assert_close(weights, 50 / (3 * torch.bincount(y).float()))
    many = (torch.rand(50, 3) < 0.3).float()
    q = torch.sigmoid(logits.double())
    positive = class_weights("multilabel", many, 3)
    assert positive is not None
    expected = -(positive.double() * many * q.log() + (1 - many) * (1 - q).log()).mean(1)
    torch.testing.assert_close(row_losses("multilabel", logits, many, positive).double(), expected, atol=1e-6, rtol=0)


def test_a_bootstrap_of_groups_is_wider_than_one_of_rows():
    rng = np.random.default_rng(0)
    data = Dataset.from_dict({"y": [0, 1]})
    target = make_target(data, ["y"], "auto")
    groups = np.repeat(np.arange(20), 20)
    right = np.repeat(rng.random(20) < 0.7, 20)  # a patient's rows are right or wrong together
    y = torch.from_numpy(rng.integers(2, size=400))
    logits = torch.nn.functional.one_hot(torch.where(torch.from_numpy(right), y, 1 - y), 2).float()
    alone = measure(target, {"model": logits}, y, y)["accuracy"]
    together = measure(target, {"model": logits}, y, y, groups.tolist())["accuracy"]
    assert alone["model"] == together["model"] == pytest.approx(right.mean())
    width = [m["interval"]["model"][1] - m["interval"]["model"][0] for m in (alone, together)]
    assert width[1] > 2 * width[0]


# ---------------------------------------------------------------------------------------------------------- adapters


def test_rates_fall_by_layer():
    names = [f"model.{n}" for n, _ in world.model().named_parameters()] + ["objectives.task.head.linear.weight"]
    scale = layer_scale(names, 0.5)
    assert scale["model.towers.table.modalities.table.number.weight"] == 0.125
    assert scale["model.towers.table.prefix.tokens"] == 0.125
    assert scale["model.towers.table.trunk.blocks.0.mlp.fc1.weight"] == 0.25
    assert scale["model.towers.table.trunk.blocks.1.norm1.bias"] == 0.5
    assert scale["model.towers.table.trunk.norm.weight"] == scale["objectives.task.head.linear.weight"] == 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved model over the toy modalities, and a batch for it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    processor = MMSSLProcessor(world.PREPROCESSORS, {n: f"toys.{n}" for n in world.PREPROCESSORS})
    save_model(world.model(), processor, folder)
    return folder, processor, world.batch(world.raw(6))


def disturb(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.05)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "loha", "ln_tuning"])
def test_an_adapter_is_standard_and_comes_back_the_same(base, tmp_path, kind):
    folder, processor, batch = base
    model = open_model(folder)[0]
    before = model.encode_batch(batch).pooled
    known = base_of(model, str(folder))
    handle = add_adapter(model, AdapterConfig(type=kind), ["table", "signal"])
    torch.testing.assert_close(model.encode_batch(batch).pooled, before, atol=1e-5, rtol=0)
    disturb(model)
    after = model.eval().encode_batch(batch).pooled
    assert (after["table"] - before["table"]).abs().max() > 1e-3
    assert (after["signal"] - before["signal"]).abs().max() > 1e-3
    torch.testing.assert_close(after["graph"], before["graph"], atol=1e-6, rtol=0)  # not one of its towers
    target = tmp_path / "adapter"
    target.mkdir()
    write_adapter(handle, known, processor, target, target)

    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), target)  # what a user without mmssl does
    torch.testing.assert_close(theirs.base_model.model.encode_batch(batch).pooled, after, atol=1e-6, rtol=0)
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(merged.encode_batch(batch).pooled, after, atol=1e-5, rtol=0)
    ours = open_model(target)[0]
    assert type(ours).__name__ == "MMSSLModel" and not any("lora" in n for n, _ in ours.named_parameters())
    torch.testing.assert_close(ours.encode_batch(batch).pooled, after, atol=1e-5, rtol=0)


def test_the_adapter_alone_is_trained():
    model = world.model()
    add_adapter(model, AdapterConfig(r=2), ["table"])
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in n and n.startswith("towers.table.trunk.blocks.") for n in names)
    d = 24  # 2 blocks; A and B of qkv, proj, fc1, fc2
    assert trainable(model)[0] == 2 * 2 * ((d + 3 * d) + (d + d) + (d + 4 * d) + (4 * d + d))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": "lorra"}, "did you mean 'lora'"),
        ({"type": "prefix_tuning"}, "works on prompts"),
        ({"type": "adalora"}, "does not fit here"),
        ({"type": "ia3", "r": 3}, "has no such option"),
        ({"options": {"use_rslor": True}}, "did you mean 'use_rslora'"),
        ({"options": {"lora_alpha": 3}}, "set adapter.alpha instead"),
        ({"target_modules": ["qvk"]}, "did you mean 'qkv'"),
        ({"target_modules": "("}, "no regular expression"),
        ({"target_modules": "nothing"}, "nothing in the model is called"),
        ({"modules_to_save": ["maks"]}, "did you mean 'mask'"),
        ({"type": "c3a"}, "PEFT refuses type 'c3a'"),
    ],
)
def test_adapters_that_cannot_be_are_refused(options, says):
    with pytest.raises(UserError, match=says) as caught:
        add_adapter(world.model(), AdapterConfig(**options), ["table"])
    assert "\n" not in str(caught.value)


def test_options_are_checked_without_a_model():
    check_adapter(AdapterConfig(type="dora", r=4, alpha=4.0, dropout=0.1))
    with pytest.raises(UserError, match="PEFT has no type"):
        check_adapter(AdapterConfig(type="nothing"))


def test_an_adapter_for_another_base_is_refused(base, tmp_path):
    folder, processor, _ = base
    model = open_model(folder)[0]
    known = base_of(model, str(folder))
    handle = add_adapter(model, AdapterConfig(), ["table"])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_adapter(handle, known, processor, adapter, adapter)
    save_model(world.model(seed=1), processor, tmp_path / "weights")
    with pytest.raises(UserError, match="trained on other weights"):
        load_adapter(adapter, str(tmp_path / "weights"))
    save_model(world.model(joint=True), processor, tmp_path / "shape")
    with pytest.raises(UserError, match="belongs on another base.*towers"):
        load_adapter(adapter, str(tmp_path / "shape"))
    moved = tmp_path / "far" / "away" / "adapter"
    moved.parent.mkdir(parents=True)
    adapter.rename(moved)
    with pytest.raises(UserError, match="its base model is not at .*--base MODEL"):
        open_model(moved)
    assert open_model(moved, str(folder))
    (moved / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_model(moved, str(folder))
    (moved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks adapter_model.safetensors"):
        open_model(moved, str(folder))
    with pytest.raises(UserError, match="only an adapter has a base"):
        open_model(folder, "another")


def test_an_adapter_of_another_library_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="not one that mmssl wrote"):
        open_model(tmp_path)


def test_torchs_own_attention_takes_no_adapter_inside():
    model = world.model()
    model.towers["table"].net = torch.nn.MultiheadAttention(24, 2)
    with pytest.raises(UserError, match="inside torch's attention"):
        add_adapter(model, AdapterConfig(target_modules=["out_proj"]), ["table"])
