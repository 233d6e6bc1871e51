"""A run on two columns of one modality, from the data to retrieval between them; rows that lack one are normal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from toys import runs
from toys.refusals import refused

import mmssl
from mmssl.cli import main
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_pretraining, open_training_data
from mmssl.training.mixture import noted

THINGS = "apple bread chair drum engine flute glove hammer island jacket kettle ladder mirror needle orange".split()
RECIPE: dict[str, Any] = {
    "name": "pairs",
    "modalities": {"text": {"vocab_size": 320, "max_length": 12, "special_tokens": True}},
    "model": {"towers": {"text": {"width": 16, "depth": 1, "heads": 2, "prefix": 0}}, "projection": 8},
    "views": {"answer": {"text": {"column": "answer"}}},
    "objectives": {
        "pairs": {"type": "contrastive", "towers": ["text"], "views": ["clean", "answer"], "project_within": True}
    },
    "train": {"steps": 4, "batch_size": 8, "log_every": 1, "save_every": 2, "trackers": [], "health_every": 2},
    "evaluation": {"tasks": ["retrieval"]},
}


def rows(first: int, count: int, answer: str = "reply") -> list[dict[str, str | None]]:
    """Questions in small letters; answers in capitals, which questions have none of, missing in every third row."""
    out: list[dict[str, str | None]] = []
    for number in range(first, first + count):
        one, two = THINGS[number % 15], THINGS[number * 7 % 15]
        out.append(
            {"question": f"where is the {one} {two}", answer: None if number % 3 == 0 else f"{one} {two}".upper()}
        )
    return out


def different(some: list[dict[str, str | None]], column: str) -> int:
    """How many different texts: one that comes twice is asked once."""
    return len({row[column] for row in some} - {None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pairs")
    for split, of in (("train", rows(0, 48)), ("test", rows(100, 24))):
        (place / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in of) + "\n")
    return place


def recipe(folder: Path, **data: Any) -> dict[str, Any]:
    content = copy.deepcopy(RECIPE)
    content["data"] = {"path": str(folder), "columns": {"text": "question", "answer": "reply"}, **data}
    return content


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    assert main(["pretrain", str(runs.write(output.parent, recipe(folder))), "--output", str(output)]) == 0
    return output


def test_a_run_learns_from_both_columns_and_is_measured_between_them(run: Path) -> None:
    processor = mmssl.MMSSLProcessor.from_pretrained(run / "model")
    assert processor.preprocessors["text"].further == {"answer": "reply"}
    # the vocabulary is of both: letters that only answers have are pieces, and not the bytes that come before those
    ids = processor(text=["DRUM"])["text_input_ids"][0, 1:5]
    assert bool((ids >= 260).all())
    report = json.loads((run / "evaluation.json").read_text())
    metrics = report["tasks"]["retrieval"]
    assert {"text->answer/R@1", "answer->text/median rank"} <= set(metrics)
    one = metrics["text->answer/R@5"]
    assert (
        one["n"] == different(rows(100, 24), "reply")
        and one["model"] is not None
        and one["untrained"] is not None
        and one["raw"] is not None
    )
    card = (run / "model" / "README.md").read_text()
    assert "text 48, answer 32" in card and "answer as text" in card and "answer from reply" in card
    assert all(row["loss"] > 0 for row in runs.metrics(run))


def test_killed_it_goes_on_with_the_same_numbers(run: Path, folder: Path, tmp_path: Path) -> None:
    with runs.killed_at(3):
        runs.cli(tmp_path, content=recipe(folder), output="cut")
    assert runs.cli(tmp_path, "--resume", content=recipe(folder), output="cut") == 0
    assert runs.losses(tmp_path / "cut") == runs.losses(run)
    runs.assert_same_weights(tmp_path / "cut", run)


def test_other_commands_on_its_model(run: Path, folder: Path, tmp_path: Path) -> None:
    scores = mmssl.evaluate(run, tasks=["retrieval"], batch_size=8)
    stored = json.loads((run / "evaluation.json").read_text())["tasks"]["retrieval"]["text->answer/median rank"]
    assert scores["tasks"]["retrieval"]["text->answer/median rank"]["model"] == stored["model"]
    # other data, where the answers have another name
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(row) for row in rows(200, 24, "said")) + "\n")
    named = mmssl.evaluate(
        run, other, tasks=["retrieval"], split="train", columns={"text": "question", "answer": "said"}
    )
    assert named["tasks"]["retrieval"]["answer->text/R@1"]["n"] == different(rows(200, 24, "said"), "said")
    # a model that knows of no second column is asked for one
    asked = {"tasks": ["retrieval"], "split": "train", "columns": {"text": "question"}}
    again = mmssl.evaluate(run, other, further={"said": "text"}, **asked)
    assert again["tasks"]["retrieval"]["said->text/R@1"] == named["tasks"]["retrieval"]["answer->text/R@1"]
    with refused("further.said", "texts", meant="text"):
        mmssl.evaluate(run, other, further={"said": "texts"}, **asked)
    alone = mmssl.evaluate(run, other, **asked)
    assert "retrieval" in alone["skipped"]
    with refused("columns.answer", "nothing"):
        mmssl.evaluate(run, other, tasks=["retrieval"], split="train", columns={"answer": "nothing"})
    # embeddings of either column
    for column, present in (("question", 24), ("reply", 16)):
        found = mmssl.embed(run, folder, tmp_path / f"{column}.parquet", columns={"text": column}, split="test")
        assert found["present"] == {"text": present}
    assert mmssl.embed(run, None, tmp_path / "own.parquet")["present"] == {"text": 48}
    assert pq.read_table(tmp_path / "own.parquet").num_rows == 48


@pytest.mark.slow
@pytest.mark.usefixtures("forked_proofs")
def test_sentence_transformers_gives_the_embeddings_that_pairs_were_compared_by(run: Path, tmp_path: Path) -> None:
    """Of questions and of answers, by one encoder, in a process without mmssl."""
    mmssl.export(run, "sentence-transformers", tmp_path / "out")
    from sentence_transformers import SentenceTransformer

    texts = [row[name] for row in rows(0, 6) for name in ("question", "reply") if row[name]]
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, normalize_embeddings=True)
    model = mmssl.MMSSLModel.from_pretrained(run / "model")
    torch.testing.assert_close(torch.from_numpy(theirs), torch.from_numpy(model.encode(texts)), rtol=0, atol=1e-5)


def test_data_that_lack_the_column_are_refused_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    with refused("data.columns.answer", "no column 'replies'", meant="reply"):
        mmssl.pretrain(recipe(folder, columns={"text": "question", "answer": "replies"}), output=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_mixture_and_streams_have_it_where_they_have_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.jsonl").write_text("\n".join(json.dumps({"question": f"what is {t}"}) for t in THINGS * 2))
    content = recipe(folder, mix={"alone": {"path": str(tmp_path / "alone.jsonl"), "weight": 1}}, weight=1)
    content["evaluation"] = {"tasks": []}
    assert runs.cli(tmp_path, content=content, output="mixed") == 0
    card = (tmp_path / "mixed" / "model" / "README.md").read_text()
    assert "text 78, answer 32" in card
    content["data"]["streaming"] = True
    assert runs.cli(tmp_path, content=content, output="streamed") == 0
    assert len(runs.losses(tmp_path / "streamed")) == 4


def test_metadata_of_a_folder_of_files_names_the_other_column(tmp_path: Path) -> None:
    """Files alone are of the main column; `X_file_name` makes the column X, absent where it names none."""
    from PIL import Image

    names = [f"{side}{number}.png" for side in "ab" for number in range(3)]
    for name in names:
        Image.new("L", (8, 8), ord(name[0])).save(tmp_path / name)
    content = runs.recipe(data={"path": str(tmp_path), "limit": None})
    content["views"] = {"after": {"image": {"column": "after"}}}
    with refused("data.columns.after", "no column 'after'"):
        open_training_data(load_recipe(content))
    (tmp_path / "metadata.csv").write_text("file_name,after_file_name\na0.png,b0.png\na1.png,\na2.png,b2.png\n")
    opened = open_training_data(load_recipe(content))
    read = [[row["image"]["path"], row["after"] and row["after"]["path"]] for row in opened.source]
    found = [[Path(path).name if path else None for path in row] for row in read]
    assert found == [["a0.png", "b0.png"], ["a1.png", None], ["a2.png", "b2.png"]]


def test_what_a_run_was_trained_on_includes_it(folder: Path, tmp_path: Path) -> None:
    """Another answer is other data."""
    found = []
    for answer in ("HERE", "THERE"):
        (tmp_path / "train.jsonl").write_text(json.dumps({"question": "where", "reply": answer}) + "\n")
        opened = open_training_data(load_recipe(recipe(tmp_path, limit=1)))
        found.append(noted(opened.source, opened.columns, None))
    assert opened.columns == {"text": "question", "answer": "reply"} and found[0] != found[1]


def test_a_frozen_encoder_of_two_columns_is_not_stored(folder: Path) -> None:
    """Its stored outputs would be of the main column."""
    from mmssl.training.storing import storable

    content = recipe(folder)
    content["model"]["towers"]["text"]["frozen"] = True
    ready = load_recipe(content)
    processor = mmssl.MMSSLProcessor({"text": _fitted(ready)}, {"text": "text"})
    assert storable(ready, build_pretraining(ready, processor)) == {}
    ready.objectives["pairs"].config.views = ["clean", "clean"]
    assert storable(ready, build_pretraining(ready, processor)) == {"text": "text"}
    torch.manual_seed(0)


def _fitted(ready: Any) -> Any:
    from mmssl.modality import load_modality

    return load_modality("text").Preprocessor(ready.modalities["text"].config).fit([r["question"] for r in rows(0, 48)])
