"""Trained models, exported and used without mmssl: `python -m benchmarks.export_trained [--steps N]`.

CLIP-shaped pairs on the emoji set (clip, siglip, open_clip) and a text encoder on ag_news_mini (sentence-transformers),
each trained, exported and evaluated by the commands of the CLI, then used through the stock library alone: recall and
zero-shot accuracy of its classes and pipelines beside mmssl's own numbers. Writes benchmarks/results/export_trained.md.
Pictures have 72 pixels, as the model takes them, so that two ways to resize play no part; they are laid on the model's
background first, which stock processors do not do.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmssl.cli import main as command

REPO = Path(__file__).resolve().parents[1]
DATA = REPO.parent / "shared" / "data"
RESULT = REPO / "benchmarks" / "results" / "export_trained.md"
GROUPS = [
    "smileys and emotion",
    "people and body",
    "animals and nature",
    "food and drink",
    "travel and places",
    "activities",
    "objects",
    "symbols",
    "flags",
]
PAIR: dict[str, Any] = {
    "name": "emoji",
    "seed": 0,
    "data": {"path": str(DATA / "emoji"), "name": "twemoji", "columns": {"image": "image", "text": "text"}},
    "modalities": {"image": {"size": 72, "patch": 12, "channels": 3}, "text": {"vocab_size": 1000, "max_length": 64}},
    "model": {
        "projection": 64,
        "towers": {"image": {"width": 96, "depth": 3, "heads": 4}, "text": {"width": 96, "depth": 2, "heads": 4}},
    },
    "views": {"crop": {"image": {"crop_scale": [0.7, 1.0]}}},
    "objectives": {"clip": {"type": "contrastive", "towers": ["image", "text"], "views": ["crop"]}},
    "train": {"batch_size": 64, "lr": 1e-3, "weight_decay": 0.2, "log_every": 100, "trackers": []},
    "evaluation": {"tasks": ["retrieval"]},
}
TEXT: dict[str, Any] = {
    "name": "ag_news",
    "seed": 0,
    "data": {"path": str(DATA / "ag_news_mini"), "columns": {"text": "description"}},
    "modalities": {"text": {"vocab_size": 2000, "max_length": 48}},
    "model": {
        "compatible_with": "sentence-transformers",
        "towers": {"text": {"width": 96, "depth": 2, "heads": 4, "dropout": 0.1}},
    },
    "views": {"a": {"text": {"drop": 0.3}}, "b": {"text": {"drop": 0.3}}},
    "objectives": {
        "simcse": {
            "type": "contrastive",
            "towers": ["text"],
            "views": ["a", "b"],
            "loss": "nt_xent",
            "temperature": 0.1,
            "head_hidden": 256,
            "head_width": 64,
        }
    },
    "train": {"batch_size": 96, "lr": 1e-3, "log_every": 100, "trackers": []},
    "evaluation": {"tasks": ["knn"], "label": "label"},
}


def run(*words: str) -> None:
    if command(list(words)):
        raise SystemExit(f"mmssl {' '.join(words)} failed")


def trained(recipe: dict[str, Any], folder: Path, to: str, steps: int) -> Any:
    """The report of mmssl's own model; its export lies in folder/export."""
    from mmssl.evaluation.evaluate import evaluate
    from mmssl.models.saving import load_model
    from mmssl.recipe.config import DataConfig, EvaluationConfig

    folder.mkdir()
    recipe = {**recipe, "model": {**recipe["model"], "compatible_with": to}}
    if to == "siglip":
        recipe["model"]["projection"] = None
        recipe["objectives"] = {"clip": {**recipe["objectives"]["clip"], "loss": "sigmoid"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run("pretrain", str(folder / "recipe.yaml"), f"train.steps={steps}", "--output", str(folder / "run"))
    run("export", str(folder / "run"), "--to", to, "--output", str(folder / "export"))
    model, processor = load_model(folder / "run" / "model")
    data = DataConfig(path=recipe["data"]["path"], name=recipe["data"].get("name"), columns=recipe["data"]["columns"])
    tasks = ["knn"] if to == "sentence-transformers" else ["retrieval", "zero-shot"]
    config = EvaluationConfig(
        tasks=tasks, label="label", classes=GROUPS if "zero-shot" in tasks else None, templates=["{}"], train_limit=None
    )
    return evaluate(model, processor.preprocessors, data, config)["tasks"]


def emoji() -> tuple[list[Any], list[str], Tensor]:
    """Test pictures on mmssl's default background, their texts, their groups."""
    import pyarrow.parquet as pq
    from PIL import Image

    from mmssl.modality import load_modality

    level = load_modality("image").Config().background
    table = pq.read_table(DATA / "emoji" / "twemoji-test.parquet")
    pictures = []
    for value in table["image"].to_pylist():
        drawn = Image.open(io.BytesIO(value["bytes"])).convert("RGBA")
        ground = Image.new("RGBA", drawn.size, (level, level, level, 255))
        pictures.append(Image.alpha_composite(ground, drawn).convert("RGB"))
    return pictures, table["text"].to_pylist(), torch.tensor(table["label"].to_pylist())


def recall(image: Tensor, text: Tensor, k: int = 10) -> float:
    """Of pictures (n, E), whose own text (n, E) is among the k nearest."""
    scores = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    return float((scores >= scores.diagonal()[:, None]).sum(1).le(k).double().mean())


def by_transformers(folder: Path) -> tuple[float, float]:
    """(R@10, accuracy of the zero-shot pipeline) of AutoModel on the export."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, pipeline

    pictures, texts, groups = emoji()
    model = AutoModel.from_pretrained(folder).eval()
    prepare, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        image = model.get_image_features(**prepare(pictures, return_tensors="pt")).pooler_output
        words = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        text = model.get_text_features(**words).pooler_output
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    found = classify(pictures, candidate_labels=GROUPS, hypothesis_template="{}")
    best = torch.tensor([GROUPS.index(rows[0]["label"]) for rows in found])
    return recall(image, text), float((best == groups).double().mean())


def by_open_clip(folder: Path) -> tuple[float, float]:
    import open_clip

    pictures, texts, groups = emoji()
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        image = model.encode_image(torch.stack([prepare(p) for p in pictures]), normalize=True)
        text, classes = (model.encode_text(tokenizer(t), normalize=True) for t in (texts, GROUPS))
    return recall(image, text), float(((image @ classes.T).argmax(1) == groups).double().mean())


def by_sentence_transformers(folder: Path) -> float:
    """Accuracy of mmssl's nearest-neighbour vote on what `encode` gives."""
    import datasets
    from sentence_transformers import SentenceTransformer

    from mmssl.evaluation.knn import knn_predict
    from mmssl.recipe.config import EvaluationConfig

    sets = datasets.load_dataset(str(DATA / "ag_news_mini"))
    model = SentenceTransformer(str(folder), device="cpu")
    train, test = (torch.from_numpy(model.encode(sets[s]["description"], batch_size=256)) for s in ("train", "test"))
    labels = [torch.tensor(sets[s]["label"]) for s in ("train", "test")]
    found = knn_predict(train, labels[0], test, classes=4, k=EvaluationConfig().k)
    return float((found == labels[1]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        uses: dict[str, Callable[[Path], tuple[float, float]]] = {
            "clip": by_transformers,
            "siglip": by_transformers,
            "open_clip": by_open_clip,
        }
        for to, use in uses.items():
            folder = Path(scratch) / to
            report = trained(PAIR, folder, to, steps)
            ours = report["retrieval"]["image->text/R@10"], report["zero-shot"]["image/accuracy"]
            for name, mine, theirs in zip(
                ("image->text R@10", "zero-shot, groups"), ours, use(folder / "export"), strict=True
            ):
                rows.append(_row(to, "emoji", name, mine, theirs))
        folder = Path(scratch) / "st"
        report = trained(TEXT, folder, "sentence-transformers", steps)
        rows.append(
            _row(
                "sentence-transformers",
                "ag_news_mini",
                "kNN accuracy",
                report["knn"]["text/accuracy"],
                by_sentence_transformers(folder / "export"),
            )
        )
    head = "| format | data | measure | mmssl | the export | raw features | chance |\n|---|---|---|---:|---:|---:|---:|"
    what = f"`python -m benchmarks.export_trained --steps {steps}`: {steps} steps each, one seed."
    text = f"# Trained models, exported and used without mmssl\n\n{what}\n\n{head}\n" + "\n".join(rows) + "\n"
    RESULT.write_text(text)
    print(text)


def _row(to: str, data: str, name: str, mine: dict[str, Any], theirs: float) -> str:
    rest = " | ".join("-" if mine.get(key) is None else f"{mine[key]:.3f}" for key in ("raw", "chance"))
    return f"| `{to}` | {data} | {name} | {mine['model']:.3f} | {theirs:.3f} | {rest} |"


if __name__ == "__main__":
    main()
