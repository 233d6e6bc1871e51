"""Image encoders that see volumes slice by slice: what they say of each slice, and how slices are joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import runs
from toys.refusals import refused
from toys.stock import vit

from mmssl.draws import Draws
from mmssl.modality import load_modality
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model, build_pretraining
from mmssl.training.starting import put_adapters
from mmssl_volume import Config as VolumeConfig
from mmssl_volume import Preprocessor

SLICES, SIDE = 5, 8


def pictures(folder: Path, **modality: Any) -> MMSSLModel:
    """A model of images, as a run leaves it."""
    content = runs.recipe(modalities={"image": {"size": SIDE, "patch": 4, **modality}})
    content["model"]["towers"]["image"]["prefix"] = 2
    settings = load_recipe(content)
    reader = load_modality("image").Preprocessor(settings.modalities["image"].config)
    reader.fit([np.random.default_rng(0).integers(0, 255, (SIDE, SIDE)).astype(np.uint8)])
    processor = MMSSLProcessor({"image": reader}, {"image": "image"})
    model = build_model(settings, processor).eval()
    save_model(model, processor, folder / "model")
    return model


def recipe(origin: Path | str, tower: dict[str, Any] | None = None, **volume: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["modalities"] = {"volume": {"size": [SLICES, SIDE, SIDE], "normalise": "none", "clip": None, **volume}}
    out["model"] = {"towers": {"volume": {"from": str(origin), **(tower or {})}}}
    view = {"volume": {"flip": 0.5, "gain": 0.1}}
    out["views"], out["masks"] = {"a": view, "b": view}, {}
    out["objectives"] = {"simclr": {"type": "contrastive", "towers": ["volume"], "views": ["a", "b"]}}
    return out


def processor_of(settings: Any, channels: int = 1) -> MMSSLProcessor:
    config = settings.modalities["volume"].config
    assert isinstance(config, VolumeConfig)
    reader = Preprocessor(config)
    reader.fit([voxels(1, channels)[0].numpy()])
    return MMSSLProcessor({"volume": reader}, {"volume": "volume"})


def built(content: dict[str, Any], channels: int = 1) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    processor = processor_of(settings, channels)
    return build_model(settings, processor).eval(), processor


def voxels(batch: int, channels: int = 1, seed: int = 0) -> Tensor:
    made = np.random.default_rng(seed).normal(size=(batch, channels, SLICES, SIDE, SIDE))
    return torch.from_numpy(made).float()


@torch.no_grad()
def run(model: MMSSLModel, given: Tensor, **further: Tensor) -> Any:
    return model(volume_voxels=given, **further)


@torch.no_grad()
def by_slices(model: Any, given: Tensor) -> Tensor:
    """(B, S, n, D) the patches' tokens of a model of images."""
    seen = given.transpose(1, 2).flatten(0, 1)
    return model(image_pixel_values=seen).tokens["image"].unflatten(0, (-1, SLICES))


# ---------------------------------------------------------------------------------------------------- what is seen


def test_it_says_of_each_slice_what_the_encoder_says_of_the_picture(tmp_path):
    encoder = pictures(tmp_path / "run")
    given = voxels(3)
    wanted = by_slices(encoder, given)
    alone, _ = built(recipe(tmp_path / "run", {"slice_blocks": 0}))
    out = run(alone, given)
    torch.testing.assert_close(out.tokens["volume"], wanted.flatten(1, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.pooled["volume"], wanted.mean((1, 2)), rtol=0, atol=1e-6)
    begun, _ = built(recipe(tmp_path / "run"))
    torch.testing.assert_close(run(begun, given).tokens["volume"], wanted.flatten(1, 2), rtol=0, atol=1e-3)
    with torch.no_grad():
        first = encoder(image_pixel_values=given.transpose(1, 2).flatten(0, 1)).last_hidden_state[:, 0]
    classes, _ = built(recipe(tmp_path / "run", {"slice_blocks": 0, "pooling": "cls"}))
    wanted = first.unflatten(0, (-1, SLICES)).mean(1)
    torch.testing.assert_close(run(classes, given).pooled["volume"], wanted, rtol=0, atol=1e-6)


def test_a_grey_slice_is_a_grey_picture_to_a_stock_encoder_of_colours(tmp_path):
    stock = vit(tmp_path / "vit", channels=3)
    given = voxels(2)
    seen = given.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        wanted = stock(pixel_values=seen).last_hidden_state[:, 1:].unflatten(0, (-1, SLICES)).flatten(1, 2)
    for convert in (True, False):
        model, processor = built(recipe(tmp_path / "vit", {"convert": convert, "slice_blocks": 0}))
        assert processor.preprocessors["volume"].config.patch == [1, 4, 4]
        torch.testing.assert_close(run(model, given).tokens["volume"], wanted, rtol=0, atol=1e-5)
    three, _ = built(recipe(tmp_path / "vit", {"slice_blocks": 0}), channels=3)
    many = voxels(2, 3)
    with torch.no_grad():
        wanted = stock(pixel_values=many.transpose(1, 2).flatten(0, 1)).last_hidden_state[:, 1:]
    wanted = wanted.unflatten(0, (-1, SLICES)).flatten(1, 2)
    torch.testing.assert_close(run(three, many).tokens["volume"], wanted, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ how it is joined


def opened_up(model: Any) -> Any:
    """The same with blocks and positions that count."""
    tower = model.tower("volume")
    with torch.no_grad():
        tower.place.gain.fill_(0.7)
        for name, parameter in tower.between.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
    return tower


def test_each_place_looks_at_itself_in_the_slices_that_there_are(tmp_path):
    """Against one place and one volume at a time, with nothing but the slices that exist."""
    pictures(tmp_path / "run")
    model, _ = built(recipe(tmp_path / "run"))
    plain, _ = built(recipe(tmp_path / "run", {"slice_blocks": 0}))
    tower = opened_up(model)
    given = voxels(3)
    given[1, :, 3:] = torch.nan
    given[2] = torch.nan
    marks = {"volume_holes": torch.tensor([False, True, True]), "volume_present": torch.tensor([True, True, False])}
    out = run(model, given, **marks)
    before = run(plain, given, **marks).tokens["volume"].unflatten(1, (SLICES, -1))
    position = tower.place(torch.arange(SLICES).float()[None])[0]
    for row, there in ((0, SLICES), (1, 3)):
        for place in range(before.shape[2]):
            one = before[row, :there, place] + position[:there]
            block = tower.between.blocks[0]
            with torch.no_grad():
                one = block(one[None])[0]
            found = out.tokens["volume"][row].unflatten(0, (SLICES, -1))[:, place]
            torch.testing.assert_close(found[:there], one, rtol=0, atol=1e-5)
            assert (found[there:] == 0).all()
    assert (out.pooled["volume"][2] == 0).all() and not out.present["volume"][2]
    turned = run(model, given.flip(2), **marks).pooled["volume"]
    assert (turned[0] - out.pooled["volume"][0]).abs().max() > 1e-3  # it knows which slice lies where


def test_a_learned_query_asks_all_slices_and_everything_learns(tmp_path):
    pictures(tmp_path / "run")
    settings = load_recipe(recipe(tmp_path / "run", {"pooling": "attention"}))
    work = build_pretraining(settings, processor_of(settings)).train()
    loss = work({"volume": {"voxels": voxels(4)}}, Draws(1, 4)).total
    loss.backward()
    still = {n for n, p in work.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # nothing is masked here; keys of a softmax have no gradient by their bias alone
    assert {n.split("towers.volume.")[1] for n in still} <= {"net.encoder.modalities.volume.mask.token"}
    frozen, _ = built(recipe(tmp_path / "run", {"frozen": True}))
    assert frozen.tower("volume").frozen


def test_hidden_patches_are_hidden_from_the_encoder(tmp_path):
    pictures(tmp_path / "run")
    content = recipe(tmp_path / "run")
    content["masks"] = {"half": {"type": "random", "ratio": 0.5}}
    decoder = {"width": 16, "depth": 1, "heads": 2}
    mae = {"type": "mae", "tower": "volume", "mask": "half", "mode": "replace", "decoder": decoder}
    content["objectives"] = {"mae": mae}
    settings = load_recipe(content)
    work = build_pretraining(settings, processor_of(settings)).train()
    loss = work({"volume": {"voxels": voxels(4)}}, Draws(1, 4)).total
    loss.backward()
    tower: Any = work.model.tower("volume")
    assert tower.encoder.modalities["volume"].mask.token.grad.abs().sum() > 0
    patches = work.model.modality("volume").patchify({"voxels": voxels(1)})
    hidden = torch.zeros(1, patches.count, dtype=torch.bool)
    hidden[0, 3] = True
    other = patches.replace(values=patches.values.masked_fill(hidden[..., None], 9.0))
    with torch.no_grad():
        one, two = (tower.eval()({"volume": p}, {"volume": hidden}).tokens["volume"] for p in (patches, other))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------ what is kept


def test_it_is_saved_whole_and_goes_on_without_the_encoder_it_came_from(tmp_path):
    pictures(tmp_path / "from" / "run")
    model, processor = built(recipe(tmp_path / "from" / "run"))
    opened_up(model)
    given = voxels(2)
    wanted = run(model, given).pooled["volume"]
    save_model(model, processor, tmp_path / "model")
    (tmp_path / "from").rename(tmp_path / "gone")
    for file in (tmp_path / "model").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    again = load_model(tmp_path / "model")[0]
    torch.testing.assert_close(run(again, given).pooled["volume"], wanted, rtol=0, atol=0)
    content = recipe("nobody")
    del content["modalities"]
    content["model"] = {"from": str(tmp_path / "model")}
    further, _ = built(content)
    torch.testing.assert_close(run(further, given).pooled["volume"], wanted, rtol=0, atol=0)


def test_an_adapter_goes_into_the_encoder_and_the_blocks_between_slices(tmp_path):
    pictures(tmp_path / "run")
    settings = load_recipe(recipe(tmp_path / "run", {"adapter": {"r": 2}}))
    processor = processor_of(settings)
    model = build_model(settings, processor)
    adapter = put_adapters(model, settings.model)
    assert adapter is not None
    names = {n.partition(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    assert any("net.encoder.trunk.blocks.0.attention.qkv" in n for n in names)
    assert any("between.blocks.0.mlp.fc1" in n for n in names)
    adapter.save(processor, tmp_path / "adapter")
    from mmssl.models.opening import open_model

    given = voxels(2)
    opened = open_model(tmp_path / "adapter")[0]
    torch.testing.assert_close(run(opened, given).pooled["volume"], run(model.eval(), given).pooled["volume"])


@pytest.mark.slow
def test_it_is_pretrained_embedded_judged_and_fine_tuned(tmp_path):
    import mmssl

    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        (tmp_path / "data" / split).mkdir(parents=True)
        lines = ["file_name,label"]
        for number in range(count):  # one of the two has a bright slice
            made = rng.normal(size=(SLICES, SIDE, SIDE)) + (number % 2) * np.eye(SLICES)[2][:, None, None] * 4
            np.save(tmp_path / "data" / split / f"{number}.npy", made.astype(np.float32))
            lines.append(f"{number}.npy,class {number % 2}")
        (tmp_path / "data" / split / "metadata.csv").write_text("\n".join(lines))
    pictures(tmp_path / "run")
    content = recipe(tmp_path / "run")
    content["data"] = {"path": str(tmp_path / "data")}
    content["train"] |= {"steps": 3, "batch_size": 8}
    content["evaluation"] = {"label": "label", "tasks": ["knn"]}
    mmssl.pretrain(content, output=tmp_path / "volume")
    data = str(tmp_path / "data")
    found = mmssl.evaluate(tmp_path / "volume", data, label="label", tasks=["knn"])
    assert {"model", "start", "untrained", "raw"} <= found["tasks"]["knn"]["volume/accuracy"].keys()
    assert mmssl.embed(tmp_path / "volume", data, tmp_path / "all.parquet", split="test")["rows"] == 12
    tuned = mmssl.finetune(tmp_path / "volume", data, "label", output=tmp_path / "tuned", train={"steps": 3})
    assert tuned.report["n_test"] == 12


# --------------------------------------------------------------------------------------------------------- refusals


def test_sizes_and_channels_that_cannot_be_are_refused_in_one_line(tmp_path):
    pictures(tmp_path / "run")
    with refused("modalities.volume.patch", "4", "[1, 4, 4]"):
        built(recipe(tmp_path / "run", patch=4))
    with refused("modalities.volume.channels", "2", "1"):
        built(recipe(tmp_path / "run"), channels=2)
    with refused("size", "10", "4"):
        built(recipe(tmp_path / "run", size=[5, 10, 8]))
    pictures(tmp_path / "fixed", positions="learned")
    with refused("model.towers.volume", "12 x 12"):
        built(recipe(tmp_path / "fixed", size=[5, 12, 12]))
    vit(tmp_path / "vit")
    with refused("modalities.volume.size", "[12, 12]", "[8, 8]"):
        built(recipe(tmp_path / "vit", {"convert": False}, size=[5, 12, 12]))
    with refused("[1, rows, columns]", "timm:resnet10t"):
        built(recipe("timm:resnet10t"))


def test_what_is_no_encoder_of_pictures_is_refused_in_one_line(tmp_path):
    with refused("model.towers", "nothing"):
        built(recipe(tmp_path / "nothing"))
    pictures(tmp_path / "run")
    model, processor = built(recipe(tmp_path / "run"))
    save_model(model, processor, tmp_path / "volume" / "model")
    with refused("volume", "images"):
        built(recipe(tmp_path / "volume"))
    content = runs.recipe()
    content["model"]["towers"]["image"]["slice_blocks"] = 2
    with refused("slice_blocks", "from"):
        load_recipe(content)


@pytest.mark.parametrize("config", [{}, {"modality": {}, "tower": {}}, {"modality": {"type": "os"}, "tower": {}}])
def test_a_strangers_description_builds_nothing(config):
    from mmssl.models.building import build_tower

    spec = {"foreign": {"library": "slices", "config": config}}
    sizes = {"type": "volume", "size": [2, 8, 8], "patch": [1, 4, 4], "channels": ["a"]}
    with refused("modality"):
        build_tower("volume", spec, {"volume": sizes}, None)
