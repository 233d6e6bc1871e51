"""Run encoders over a data source: features in memory for the evaluation, or a parquet file for `mmssl embed`.

Every modality is encoded alone: in a joint tower the caption would otherwise get into the picture's embedding, and
every probe and retrieval score would be a leak.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RunError, UserError
from ..modality import Batch, Inputs, Modality, Preprocessor
from .baselines import hashed

Progress = Callable[[int], None]
"""Called with the number of rows done so far."""


@dataclass
class Embedded:
    """Features of n rows, on the CPU, float32.

    present: modality -> (n,) bool; raw: modality -> (n, F) raw features, where the modality has any;
    pooled, embeddings: encoder -> modality -> (n, D) pooled and (n, E) normalised (projected) states;
    bad: one entry for every broken value that was left out.
    """

    present: dict[str, Tensor] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    bad: list[Any] = field(default_factory=list)

    def features(self, encoder: str, modality: str) -> Tensor | None:
        """What a probe sees of `encoder` ("raw" for the raw features), or None where there is nothing."""
        if encoder == "raw":
            return self.raw.get(modality)
        return self.pooled.get(encoder, {}).get(modality)


@contextmanager
def evaluating(models: Sequence[Any]) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: Any) -> torch.device:
    """The device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def has_raw(modality: Modality) -> bool:
    """Whether the modality offers raw features (the contract's base class offers none)."""
    return type(modality).raw_features is not Modality.raw_features


def _there(inputs: Inputs) -> Tensor:
    """(B,) bool which samples have this modality; inputs without `present` have it everywhere."""
    if "present" in inputs:
        return inputs["present"].bool().cpu()
    return torch.ones(len(next(iter(inputs.values()))), dtype=torch.bool)


class _Collector:
    """Gathers the features of batch after batch."""

    def __init__(self, models: Mapping[str, Any], describe: Any | None) -> None:
        """models: encoder -> model. describe: the model whose modalities compute raw features, None for no raw ones."""
        self.models, self.describe = models, describe
        self.parts: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, batch: Batch) -> None:
        present = {name: _there(inputs) for name, inputs in batch.items()}
        for encoder, model in self.models.items():
            device = device_of(model)
            moved = {n: {k: v.to(device) for k, v in inputs.items()} for n, inputs in batch.items()}
            output = model.encode_batch(moved, alone=True)
            for name in batch:
                present[name] = present[name] & output.present[name].cpu()
                self._put(output.pooled[name].float().cpu(), "pooled", encoder, name)
                self._put(output.embeddings[name].float().cpu(), "embeddings", encoder, name)
        for name, inputs in batch.items():
            self._put(present[name], "present", name)
            if self.describe is not None and has_raw(self.describe.modality(name)):
                self._put(hashed(self.describe.modality(name).raw_features(inputs).float().cpu()), "raw", name)

    def _put(self, value: Tensor, *key: str) -> None:
        self.parts.setdefault(key, []).append(value)

    def result(self, order: Tensor | None = None, bad: Sequence[Any] = ()) -> Embedded:
        """Everything gathered, with the rows in `order` where it is given."""
        out = Embedded(bad=list(bad))
        for key, parts in self.parts.items():
            value = torch.cat(parts)
            value = value if order is None else value[order]
            if len(key) == 2:
                getattr(out, key[0])[key[1]] = value
            else:
                getattr(out, key[0]).setdefault(key[1], {})[key[2]] = value
        return out


def embed_source(
    models: Mapping[str, Any],
    preprocessors: Mapping[str, Preprocessor],
    source: Any,
    columns: Mapping[str, str | list[str]],
    *,
    describe: Any | None = None,
    batch_size: int = 256,
    workers: int = 0,
    progress: Progress | None = None,
) -> Embedded:
    """Features of all rows of `source`, in its order, by all `models` (encoder -> model) in one pass over the data.

    columns: modality -> column(s), for the modalities to embed. describe: the model whose modalities compute the raw
    features; None leaves them out. Broken samples are absent rows, listed in `bad`.
    """
    from ..data.loading import evaluation_batches

    chosen = {name: preprocessors[name] for name in columns}
    collector, rows, bad, done = _Collector(models, describe), [], [], 0
    with evaluating([*models.values(), *([] if describe is None else [describe])]):
        for loaded in evaluation_batches(source, chosen, dict(columns), batch_size=batch_size, workers=workers):
            collector.add(loaded.batch)
            rows.append(loaded.rows)
            bad.extend(loaded.bad)
            done += len(loaded.rows)
            if progress is not None:
                progress(done)
    order = torch.cat(rows).argsort() if rows else None
    return collector.result(order, bad)


def embed_texts(
    models: Mapping[str, Any],
    preprocessor: Preprocessor,
    name: str,
    texts: Sequence[str | None],
    *,
    describe: Any | None = None,
    batch_size: int = 256,
) -> Embedded:
    """Features of strings (None = absent) by the text modality `name`; fields as of `embed_source`, a row a string."""
    collector = _Collector(models, describe)
    with evaluating([*models.values(), *([] if describe is None else [describe])]):
        for start in range(0, len(texts), batch_size):
            collector.add({name: preprocessor(list(texts[start : start + batch_size]))})
    return collector.result()


def write_embeddings(
    model: Any,
    preprocessors: Mapping[str, Preprocessor],
    source: Any,
    columns: Mapping[str, str | list[str]],
    output_parquet: str | Path,
    *,
    batch_size: int = 256,
    workers: int = 0,
    pooled: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embed all rows of `source` into a parquet file, in constant memory.

    Columns: `row` (int64, from 0), `id` where the data has a column of that name, and for every modality of `columns`
    `<modality>_embedding` (a list of float32 of fixed size: normalised and projected, or with `pooled` the pooled
    state; null where absent) and `<modality>_present` (bool). The file appears under its name only when it is whole.
    Returns {"rows", "present": {modality: count}, "bad": list}. Raises UserError for a path that is a folder,
    RunError when the file cannot be written.
    """
    path = Path(output_parquet)
    if path.is_dir():
        raise UserError(f"output: '{path}' is a folder, expected the name of a parquet file to write")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = _tables(model, preprocessors, source, columns, batch_size, workers, pooled)
        summary = _write(tables, temporary, list(columns), progress)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"could not write {path}: {error}") from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return summary


def _write(
    tables: Iterator[tuple[Any, list[Any]]], path: Path, names: list[str], progress: Progress | None
) -> dict[str, Any]:
    import pyarrow.parquet as pq

    summary: dict[str, Any] = {"rows": 0, "present": dict.fromkeys(names, 0), "bad": []}
    writer = None
    try:
        for table, bad in tables:
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
            summary["rows"] += table.num_rows
            summary["bad"].extend(bad)
            for name in names:
                summary["present"][name] += sum(table[f"{name}_present"].to_pylist())
            if progress is not None:
                progress(summary["rows"])
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise UserError("data: there is no row to embed")
    return summary


def _tables(
    model: Any,
    preprocessors: Mapping[str, Preprocessor],
    source: Any,
    columns: Mapping[str, str | list[str]],
    batch_size: int,
    workers: int,
    pooled: bool,
) -> Iterator[tuple[Any, list[Any]]]:
    """(pyarrow table, broken values) of batch after batch, in the order of the source."""
    import pyarrow as pa

    from ..data.loading import evaluation_batches
    from ..data.sources import column_names

    chosen = {name: preprocessors[name] for name in columns}
    # a second, cheap reading of the one column: it also works where rows cannot be looked up by number
    has_id = "id" in column_names(source)
    ids = (row["id"] for row in source.select_columns(["id"])) if has_id else None
    id_type = source.features.arrow_schema.field("id").type if has_id and source.features else None
    first = 0
    for loaded in evaluation_batches(source, chosen, dict(columns), batch_size=batch_size, workers=workers):
        # not around the loop: a generator must not hold the caller in evaluation mode between two batches
        with evaluating([model]):
            collector = _Collector({"model": model}, None)
            collector.add(loaded.batch)
        part = collector.result()
        count = len(loaded.rows)
        if not torch.equal(loaded.rows.cpu(), torch.arange(first, first + count)):
            raise AssertionError("evaluation batches must come in the order of the source")
        data: dict[str, Any] = {"row": pa.array(range(first, first + count), pa.int64())}
        if ids is not None:
            data["id"] = pa.array([next(ids) for _ in range(count)], id_type)
        for name in columns:
            values = (part.pooled if pooled else part.embeddings)["model"][name]
            present = part.present[name]
            data[f"{name}_embedding"] = pa.FixedSizeListArray.from_arrays(
                pa.array(values.reshape(-1).numpy()), values.shape[1], mask=pa.array((~present).numpy())
            )
            data[f"{name}_present"] = pa.array(present.numpy())
        yield pa.table(data), list(loaded.bad)
        first += count
