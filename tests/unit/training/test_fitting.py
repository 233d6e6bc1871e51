"""Codes in a run: fitted before the first step, the same after a resume, part of the model, and written by `embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import runs
from toys.refusals import refused

from mmssl import pretrain
from mmssl.cli import main
from mmssl.models.codes import Codes, code_ids
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.opening import open_model

SIZE = 6


def content(**codes: Any) -> dict[str, Any]:
    out = runs.recipe(train={"steps": 4, "health_samples": 32})
    out["objectives"]["mae"]["codes"] = {"image": {"size": SIZE, "samples": 64, **codes}}
    return out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    return pretrain(content(target="pixels", kind="residual", books=2, topics=2), output=folder / "run").folder


def codes_of(model: MMSSLModel, key: str = "mae-image") -> Codes:
    codes = model.codes[key]
    assert isinstance(codes, Codes)
    return codes


def test_the_books_are_in_the_model_the_checkpoint_and_the_run_s_folder(done):
    model, _ = open_model(done)
    books = codes_of(model).quantiser.codes
    assert books.shape == (2, SIZE, 16) and model.config.codes["mae-image"]["target"] == "pixels"
    fitted = load_file(done / "fitted" / "mae.safetensors")
    assert torch.equal(fitted["image.codes"], books)
    stored = load_file(done / "checkpoints" / "step-00000004" / "weights.safetensors")
    assert torch.equal(stored["objectives.mae.codes.image.codes.quantiser.codes"], books)
    topics = stored["objectives.mae.codes.image.topics.words"]
    assert torch.equal(fitted["image-topics.words"], topics) and topics.shape == (2, SIZE) and (topics > 0).all()
    assert not any(p.requires_grad for p in codes_of(model).parameters())
    last = runs.metrics(done)[-1]
    assert 0 < last["health/mae/image/codes_perplexity"] <= last["health/mae/image/codes_used"] <= 1


def test_they_are_k_means_of_the_first_samples_of_training(done, tmp_path):
    """Each code of the first book is the mean of those of the patches that it is nearest to, or close."""
    model, processor = open_model(done)
    import datasets

    from mmssl.data.loading import read_rows
    from mmssl.data.sources import open_source

    del datasets
    rows = read_rows(open_source("builtin:digits", limit=runs.ROWS), ["image"], runs.ROWS)
    inputs = processor.preprocessors["image"]([row["image"] for row in rows])
    patches = model.modality("image").patchify(inputs)
    x = patches.values.flatten(0, 1)
    first = codes_of(model).quantiser.codes[0]
    ids = code_ids(model, {"image": inputs})["mae-image"].flatten(0, 1)
    assert (torch.cdist(x, first).argmin(1) == ids[:, 0]).float().mean() > 0.999
    spread = (x - x.mean(0)).square().sum(1).mean()
    left = (x - first[ids[:, 0]]).square().sum(1).mean()
    both = (x - first[ids[:, 0]] - codes_of(model).quantiser.codes[1][ids[:, 1]]).square().sum(1).mean()
    assert left < 0.7 * spread and both < 0.85 * left


def test_a_resumed_run_has_the_books_that_it_began_with(tmp_path, monkeypatch):
    wanted = content(target="pixels")
    wanted["train"]["save_every"] = 2
    straight = pretrain(wanted, output=tmp_path / "straight").folder
    with runs.killed_at(4):
        pretrain(wanted, output=tmp_path / "killed")
    # had it fitted them anew, it would now find none
    monkeypatch.setattr("mmssl.models.quantisers.Codebooks.fit", lambda *args: pytest.fail("fitted twice"))
    resumed = pretrain(wanted, output=tmp_path / "killed", resume=True).folder
    runs.assert_same_weights(straight, resumed)


def test_embed_writes_the_ids(done, tmp_path, capsys):
    import pyarrow.parquet as pq

    file = tmp_path / "out.parquet"
    words = ["embed", str(done), "--data", "builtin:digits", "--output", str(file), "limit=5"]
    assert main([*words, "--codes"]) == 0
    found = pq.read_table(file)
    model, processor = open_model(done)
    from mmssl.data.sources import open_source

    rows = list(open_source("builtin:digits", limit=5))
    inputs = processor.preprocessors["image"]([row["image"] for row in rows])
    ids = code_ids(model, {"image": inputs})["mae-image"]
    for book in range(2):
        column = found[f"image_codes_{book + 1}"].to_pylist()
        assert column == ids[..., book].tolist()
    assert main(words) == 0 and "image_codes_1" not in pq.read_table(file).column_names
    plain = pretrain(runs.recipe(train={"steps": 1}), output=tmp_path / "plain").folder
    assert main(["embed", str(plain), *words[2:], "codes=true"]) == 2
    assert "codes: found true" in capsys.readouterr().err


def test_a_model_with_codes_is_gone_on_with(done, tmp_path):
    more = runs.recipe(train={"steps": 1})
    more["model"] = {"from": str(done)}
    del more["modalities"]
    run = pretrain(more, output=tmp_path / "more")
    assert run.model.config.codes is None


def test_tokens_of_a_finished_model_are_coded(done, tmp_path):
    """HuBERT's second iteration: k-means of a block's tokens of the first one's model."""
    wanted = content(of="tokens", layer=1, **{"from": str(done)})
    run = pretrain(wanted, output=tmp_path / "second")
    state = load_file(run.folder / "checkpoints" / "step-00000004" / "weights.safetensors")
    name = "objectives.mae.codes.image."
    books = state[f"{name}codes.quantiser.codes"]
    assert books.shape == (1, SIZE, 16)
    first, _ = open_model(done)
    for key, value in first.state_dict().items():
        assert torch.equal(state[f"{name}origin.{key}"], value), "nothing of the finished model moves"
    assert np.isfinite(runs.losses(run.folder)[4]) and run.model.config.codes is None
    units, reads = open_model(run.folder / "codes" / "mae-image")
    assert torch.equal(codes_of(units, "image").quantiser.codes, books) and list(units.codes) == ["image"]
    picture = reads.preprocessors["image"]([np.eye(8, dtype=np.uint8) * 200])
    tokens = first.tower("image")({"image": first.modality("image").patchify(picture)}, layers=(1,)).layers[1]["image"]
    assert torch.equal(
        code_ids(units, {"image": picture})["image"][0, :, 0], torch.cdist(tokens[0], books[0]).argmin(1)
    )
    # what is coded is that block's output, in evaluation mode
    from mmssl.draws import Draws
    from mmssl.objectives import mae
    from mmssl.objectives.options.codes import CodesConfig
    from mmssl.objectives.parts.codes import CodeTarget
    from mmssl.objectives.pretraining import Pretraining

    options = mae.Config(
        tower="image", mask="half", codes={"image": CodesConfig(of="tokens", layer=1, size=SIZE, from_=str(done))}
    )
    work = mae.MAE(options, run.model).train()
    part = work.codes["image"]
    assert isinstance(part, CodeTarget)
    inputs = run.processor.preprocessors["image"]([np.full((8, 8), 9, np.uint8), np.eye(8, dtype=np.uint8) * 200])
    step = Pretraining(run.model, {}).step({"image": inputs}, Draws(0, 2))
    encoded = first.tower("image")({"image": step.patches("image")}, layers=(1,))
    torch.testing.assert_close(part.features(step), encoded.layers[1]["image"])


def test_what_does_not_fit_is_refused_before_the_first_step(done, tmp_path):
    with refused("codes.image.size", "5000"):
        pretrain(content(size=5000), output=tmp_path / "a")
    with refused("codes.image.layer", "9", "2"):
        pretrain(content(of="tokens", layer=9, **{"from": str(done)}), output=tmp_path / "b")
    with refused("codes.image.from", "size", "16"):
        other = content(of="tokens", **{"from": str(done)})
        other["modalities"]["image"]["size"] = 16
        pretrain(other, output=tmp_path / "c")
    with refused("codes.image.from", "none", "tokenizer"):
        plain = pretrain(runs.recipe(train={"steps": 1}), output=tmp_path / "plain").folder
        codes = {"of": "codes", "from": str(plain)}
        bad = runs.recipe(train={"steps": 1})
        bad["objectives"]["mae"]["codes"] = {"image": codes}
        pretrain(bad, output=tmp_path / "d")


def test_codes_of_a_finished_model_are_taken_as_they_are(done, tmp_path):
    wanted = runs.recipe(train={"steps": 2})
    wanted["objectives"]["mae"]["codes"] = {"image": {"of": "codes", "from": str(done)}}
    run = pretrain(wanted, output=tmp_path / "taken")
    assert not (run.folder / "fitted").exists()
    stored = load_file(run.folder / "checkpoints" / "step-00000002" / "weights.safetensors")
    books = codes_of(open_model(done)[0]).quantiser.codes
    assert torch.equal(stored["objectives.mae.codes.image.codes.quantiser.codes"], books)


def test_a_tokenizer_by_itself_is_loaded_by_another_recipe(tmp_path, monkeypatch):
    """Trained, saved with the model, resumed without a difference, written by `embed`, and predicted by mae."""
    import pyarrow.parquet as pq

    alone = runs.recipe(train={"steps": 4, "save_every": 2, "health_samples": 32})
    alone["masks"] = {}
    options = {"tower": "image", "size": SIZE, "width": 8, "samples": 64, "decoder": {"width": 8, "depth": 1}}
    alone["objectives"] = {"tokenizer": {"target": "pixels", **options}}
    straight = pretrain(alone, output=tmp_path / "straight").folder
    with runs.killed_at(4):
        pretrain(alone, output=tmp_path / "killed")
    resumed = pretrain(alone, output=tmp_path / "killed", resume=True).folder
    runs.assert_same_weights(straight, resumed)
    model, processor = open_model(straight)
    stored = load_file(straight / "checkpoints" / "step-00000004" / "weights.safetensors")
    codes = codes_of(model, "tokenizer-image")
    assert torch.equal(codes.inward.weight, stored["objectives.tokenizer.part.codes.inward.weight"])
    fitted = load_file(straight / "fitted" / "tokenizer.safetensors")["image.codes"]
    assert not torch.equal(codes.quantiser.codes, fitted), "the books have moved since"
    file = tmp_path / "out.parquet"
    assert main(["embed", str(straight), "--data", "builtin:digits", "--output", str(file), "limit=20", "--codes"]) == 0
    ids = pq.read_table(file)["image_codes"].to_pylist()
    assert [len(row) for row in ids] == [4] * 20 and len({i for row in ids for i in row}) > 2
    wanted = runs.recipe(train={"steps": 2})
    wanted["objectives"]["mae"]["codes"] = {"image": {"of": "codes", "from": str(straight)}}
    run = pretrain(wanted, output=tmp_path / "mae")
    after = load_file(run.folder / "checkpoints" / "step-00000002" / "weights.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(after[f"objectives.mae.codes.image.origin.{key}"], value), "nothing of the tokenizer moves"


def test_codes_that_are_learned_beside_go_on_where_they_were_and_are_kept(tmp_path):
    wanted = content(target="pixels", learn={"learned_by": "gradient", "width": 4, "decoder": {"width": 8, "heads": 2}})
    wanted["train"] |= {"save_every": 2, "health_every": 4}
    straight = pretrain(wanted, output=tmp_path / "straight").folder
    with runs.killed_at(4):
        pretrain(wanted, output=tmp_path / "killed")
    runs.assert_same_weights(straight, pretrain(wanted, output=tmp_path / "killed", resume=True).folder)
    model, _ = open_model(straight)
    codes, fitted = codes_of(model), load_file(straight / "fitted" / "mae.safetensors")["image.codes"]
    stored = load_file(straight / "checkpoints" / "step-00000004" / "weights.safetensors")
    assert torch.equal(codes.quantiser.codes, stored["objectives.mae.codes.image.codes.quantiser.codes"])
    assert not torch.equal(codes.quantiser.codes, fitted), "the books have moved since"
    assert model.config.codes["mae-image"]["width"] == 4
    last = runs.metrics(straight)[-1]
    assert last["loss/mae.image.reconstruction"] > 0 and last["health/mae/image/codes_used"] > 0
