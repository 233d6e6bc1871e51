"""Points and words, and a model made by hand that embeds them, for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmssl.errors import BadSample
from mmssl.modality import Batch, Inputs, Modality, Preprocessor


def table(**columns: Any) -> Any:
    import datasets

    return datasets.Dataset.from_dict(columns)


WORDS = ("zero", "one", "two", "three")


class PointReader(Preprocessor):
    """A point: a list of 4 numbers."""

    def read(self, raw: Any, choice: int = 0) -> Any:
        if len(raw) != 4:
            raise BadSample(f"expected 4 numbers, found {len(raw)}")
        return torch.tensor(raw, dtype=torch.float32)

    def collate(self, samples: Sequence[Any]) -> Inputs:
        zero = torch.zeros(4)
        return {
            "x": torch.stack([zero if s is None else s for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }


class WordReader(Preprocessor):
    """A text: which of WORDS are in it; "the" is a word without meaning."""

    def read(self, raw: Any, choice: int = 0) -> Any:
        raw = raw[choice % len(raw)] if isinstance(raw, list) else raw
        if not isinstance(raw, str):
            raise BadSample("no text")
        return torch.tensor([float(w in raw.split()) for w in (*WORDS, "the")]) if raw.strip() else None

    def collate(self, samples: Sequence[Any]) -> Inputs:
        zero = torch.zeros(5)
        return {
            "x": torch.stack([zero if s is None else s for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }


class Plain(Modality):
    def raw_features(self, inputs: Inputs) -> Tensor:
        return inputs["x"]


class Words(Plain):
    ids = True


class ByHand(nn.Module):
    """Knows which direction of a point is which word when `skilled`; otherwise both are projected at random."""

    def __init__(self, skilled: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(projection=4, modalities={})
        generator = torch.Generator().manual_seed(5)
        self.point = nn.Parameter(torch.eye(4) if skilled else torch.randn(4, 4, generator=generator))
        self.word = nn.Parameter(torch.eye(5)[:, :4] if skilled else torch.randn(5, 4, generator=generator))
        self.parts = nn.ModuleDict({"point": Plain(), "text": Words()})
        self.rows_seen = 0

    def modality(self, name: str) -> Any:
        return self.parts[name]

    def encode_batch(self, batch: Batch, alone: bool = False) -> Any:
        assert alone, "modalities must not see each other"
        assert not self.training and not torch.is_grad_enabled()
        pooled = {n: i["x"] @ (self.point if n == "point" else self.word) for n, i in batch.items()}
        self.rows_seen += sum(len(i["x"]) for i in batch.values())
        return SimpleNamespace(
            pooled=pooled,
            embeddings={n: normalize(z, dim=1) for n, z in pooled.items()},
            present={n: i["present"] for n, i in batch.items()},
        )


READERS = {"point": PointReader(None), "text": WordReader(None)}


def write_data(folder: Path, n: int = 240, **changes: Any) -> Path:
    """Points around the 4 axes, sorted by class, with two captions each; train.parquet and test.parquet.

    changes: column -> a function of its values, or None to leave it out."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        label = np.arange(n) * 4 // n
        point = np.eye(4)[label] + 0.2 * rng.normal(size=(n, 4))
        text = [[f"the {WORDS[i]}", f"{WORDS[i]} it is"] for i in label]
        columns: dict[str, Any] = {"point": point.tolist(), "text": text, "label": label.tolist()}
        for name, change in changes.items():
            columns[name] = None if change is None else change(columns[name])
        columns = {name: values for name, values in columns.items() if values is not None}
        datasets.Dataset.from_dict(columns).to_parquet(str(folder / f"{split}.parquet"))
    return folder
