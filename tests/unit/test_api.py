"""From Python as from the command line: the same functions, the same numbers, and things that show themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import mmssl
from mmssl.api import Run
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.evaluation.table import Scores, in_notebook, plain_table

TINY = {"width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return mmssl.pretrain(
        "image_mae",
        output=tmp_path_factory.mktemp("api") / "run",
        data={"path": "builtin:digits", "limit": 96},
        model={"towers": {"image": TINY}},
        objectives={"mae": {"decoder": TINY}},
        train={"steps": 2, "batch_size": 16, "trackers": []},
        evaluation={"tasks": ["rankme"]},
    )


def test_what_is_offered() -> None:
    assert dir(mmssl) == sorted(mmssl.__all__)
    assert {"pretrain", "finetune", "evaluate", "embed", "export", "push"} <= set(dir(mmssl))
    assert all(callable(getattr(mmssl, name)) for name in ("evaluate", "embed", "export", "push"))


def test_evaluate_is_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["split=test", "limit=40", "train_limit=60"]
    assert (
        main(["evaluate", str(run.folder), "--data", "builtin:digits", "--task", "knn", "--label", "label", *words])
        == 0
    )
    printed = capsys.readouterr().out
    scores = mmssl.evaluate(
        run.folder, "builtin:digits", tasks=["knn"], label="label", split="test", limit=40, train_limit=60
    )
    assert printed.strip() == repr(scores) == plain_table(scores)
    again = run.evaluate(tasks=["knn"], label="label", limit=40, train_limit=60)
    assert again == scores and isinstance(again, Scores)
    assert json.loads(json.dumps(scores)) == scores
    html = scores._repr_html_()
    assert "<tr><th>task</th>" in html and html.count("<tr>") == 1 + len(scores["tasks"]["knn"])


def test_embed_and_encode_agree(run: Run, tmp_path: Path) -> None:
    said = mmssl.embed(run.folder, "builtin:digits", tmp_path / "e.parquet", split="test", limit=5)
    assert said["rows"] == 5
    rows = pq.read_table(tmp_path / "e.parquet").to_pydict()
    from mmssl.data.sources import open_source

    pictures = open_source("builtin:digits", split="test", limit=5)["image"]
    model = mmssl.MMSSLModel.from_pretrained(run.model_folder)
    found = model.encode(pictures, batch_size=2)
    assert found.dtype == np.float32 and found.shape == (5, 80)
    np.testing.assert_allclose(found, np.array(rows["image_embedding"]), atol=1e-6)
    np.testing.assert_allclose(model.encode([None, pictures[0]]), [np.zeros(80), found[0]], atol=1e-6)
    assert model.encode([]).shape == (0, 80)
    run.embed(limit=3)
    assert pq.read_metadata(run.folder / "embeddings.parquet").num_rows == 3


def test_encode_refuses(run: Run) -> None:
    model = mmssl.MMSSLModel.from_pretrained(run.model_folder)
    with pytest.raises(ValueError, match="modality: found 'imag', expected one of image; did you mean 'image'"):
        model.encode([], "imag")
    with pytest.raises(ValueError, match="samples: found one str, expected a list"):
        model.encode("a.png")
    nowhere = mmssl.MMSSLModel(model.config)
    nowhere.name_or_path = ""
    with pytest.raises(ValueError, match="processor: found none"):
        nowhere.encode([])


@pytest.mark.usefixtures("forked_proofs")
def test_export_and_push(run: Run) -> None:
    done = run.export("vit_mae")
    assert done.folder == run.folder / "exported" / "vit_mae" and not done.proof.failures
    assert (done.folder / "model.safetensors").is_file()
    assert callable(mmssl.export), "importing what lies below does not take the name's place"
    pushed = run.push_to_hub("me/digits", dry_run=True)
    assert "model.safetensors" in pushed.files


def test_a_run_shows_itself(run: Run) -> None:
    assert repr(run).startswith(f"Run({str(run.folder)!r})\ntask") and len(repr(run)) < 2000
    html = run._repr_html_()
    assert html.startswith(f"<p><code>{run.folder}</code></p>") and "<td>rankme</td>" in html


def test_faults_are_user_errors() -> None:
    with pytest.raises(UserError, match="lmit"):
        mmssl.evaluate("x", "y", lmit=3)
    with pytest.raises(UserError, match="no such folder"):
        mmssl.embed("./nowhere", "y", "e.parquet")


def test_a_run_says_that_it_is_short_and_what_is_left_of_its_teacher_s_start(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["data.path=builtin:digits", "data.limit=32", "train.steps=3", "train.batch_size=8", "evaluation.tasks=[]"]
    words += ["train.trackers=[]", "objectives.jepa.predictor={width: 16, depth: 1, heads: 2}"]
    words += ["model.towers.image={width: 16, depth: 1, heads: 2}"]
    slow = "objectives.jepa.momentum=[0.9, 1.0]"
    assert main(["pretrain", "image_jepa", *words, slow, "--output", str(tmp_path / "slow")]) == 0
    said = capsys.readouterr().out
    assert "3 steps see each sample 0.8 times" in said and "train.epochs=10" in said
    assert "objectives.jepa: 90% of its teacher will still be its random start after 3 steps" in said
    assert main(["pretrain", "image_jepa", *words, "train.steps=8", "--output", str(tmp_path / "enough")]) == 0
    said = capsys.readouterr().out
    assert "steps see each sample" not in said and "random start" not in said


def test_a_run_says_what_it_exports_to(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["data.path=builtin:digits", "data.limit=32", "train.steps=1", "train.batch_size=8", "evaluation.tasks=[]"]
    tower = "model.towers.image={width: 16, depth: 1, heads: 2, prefix: 0}"
    words += ["train.trackers=[]", "objectives.mae.decoder={width: 16, depth: 1, heads: 2}", tower]
    assert main(["pretrain", "image_mae", *words, "--output", str(tmp_path / "run")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("exports to: ")]
    able, _, unable = line.partition("; not to: ")
    assert "ijepa" in able and "onnx" in able and "vit_mae (model.towers.image.prefix: found 0, expected 1" in unable
    assert "clip (" in unable and "ast (" not in line, "formats of other modalities are not spoken of"


def test_as_any_model_of_transformers(run: Run) -> None:
    """The keywords that people's code passes: they work, or are one line."""
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(run.model_folder, attn_implementation="sdpa").eval()
    processor = AutoProcessor.from_pretrained(run.model_folder)
    pictures = [np.full((8, 8), n, np.uint8) for n in range(3)]
    inputs = processor(images=pictures, return_tensors="pt")
    for same in (processor(pictures), processor(image=pictures)):
        assert all(torch.equal(same[key], inputs[key]) for key in inputs)
    plain = model(**inputs, output_attentions=False, output_hidden_states=False)
    assert plain.hidden_states is None
    states = model(**inputs, output_hidden_states=True).hidden_states["image"]
    assert len(states) == TINY["depth"] and states[0].shape == (3, plain.last_hidden_state.shape[1] - 1, 16)
    torch.testing.assert_close(model.towers["image"].trunk.norm(states[-1]), plain.last_hidden_state[:, 1:])
    with pytest.raises(ValueError, match="output_attentions: found True"):
        model(**inputs, output_attentions=True)
    with pytest.raises(ValueError, match="unknown modality 'videos', this model has image"):
        processor(videos=pictures)
    with pytest.raises(ValueError, match="expected samples by name: image="):
        processor(pictures, pictures)


def test_a_merged_peft_model_and_ours_leave_the_same_folder(run: Run, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(run.model_folder)
    merged = get_peft_model(AutoModel.from_pretrained(run.model_folder), LoraConfig(target_modules=["qkv"]))
    merged = merged.merge_and_unload().eval()
    for name, model in (("merged", merged), ("ours", AutoModel.from_pretrained(run.model_folder).eval())):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    there = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("merged", "ours")]
    assert there[0] == there[1] and "mmssl_loader.py" in there[0]
    inputs = processor(image=[np.zeros((8, 8), np.uint8)])
    again = AutoModel.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(again(**inputs).pooler_output, merged(**inputs).pooler_output)


def test_what_a_notebook_shows_is_escaped(tmp_path: Path) -> None:
    """Columns and classes are somebody else's words; and a run without scores shows where it lies."""
    metric = {"model": 0.5, "chance": 0.1, "n": 4}
    report = {"tasks": {"knn": {"<b>a</b> & b": metric}}, "notes": ["<img src=x onerror=alert(1)>"]}
    html = in_notebook(report, tmp_path / "<i>run")
    assert "&lt;b&gt;a&lt;/b&gt; &amp; b" in html and "&lt;img src=x" in html and "&lt;i&gt;run" in html
    assert not {"<b>", "<img", "<i>"} & set(html.replace(">", "> ").split())
    assert in_notebook({}, tmp_path).strip() == f"<p><code>{tmp_path}</code></p>"
    assert Scores(report)._repr_html_().strip().startswith("<table>")
