"""`mmssl embed`: the embeddings of all rows in one parquet file, in constant memory, restartable.

Rows go into parts of a fixed number of rows beside the file; each appears under its name only when it is whole. What is
interrupted goes on after the last whole part, if model, data and columns are still the same. At the end the parts are
joined.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.fingerprint import fingerprint, sketch
from ..data.listing import ROW, START, whole_of
from ..data.loading import evaluation_batches
from ..data.quarantine import refuse_share
from ..data.row_files import about_of, parquet_place, with_about
from ..data.sources import column_names, used_columns
from ..errors import RunError, UserError
from ..files import whole_file
from ..modality import Preprocessor
from ..modality.table import ID_NAME
from ..models.codes import code_ids
from ..models.running import device_of, evaluating, to_device
from ..models.saving import weights_hash
from ..saying import doing
from .embedding import Collector, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.quarantine import Bad
    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel

PART_ROWS = 8192
STATE = "state.json"
BAD = b"mmssl_bad"
"""Key of a part's metadata: the broken values that were left out, as JSON."""


def write_embeddings(
    model: MMSSLModel,
    preprocessors: Mapping[str, Preprocessor],
    source: Source,
    columns: Mapping[str, str | list[str]],
    output_parquet: str | Path,
    *,
    batch_size: int = 256,
    workers: int = 0,
    broken: str = "part",
    pooled: bool = False,
    codes: bool = False,
    reuse: bool = False,
    part_rows: int = PART_ROWS,
    max_bad: float = 1.0,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Embed all rows of `source` into a parquet file.

    Columns: `row` (int64, from 0), those that tell the rows apart (`id_columns`), and for every modality of `columns`
    `<modality>_embedding` (a list of float32 of fixed size; null where absent) and `<modality>_present` (bool). The
    file appears under its name only when it is whole; until then finished parts lie in `.NAME.parts/`, from where the
    same call goes on.

    Args:
        model: the encoder.
        preprocessors: modality -> what reads and collates it.
        source: the data.
        columns: modality -> column(s), for the modalities to embed.
        output_parquet: the file.
        batch_size: rows that are encoded at a time.
        workers: processes that decode; 0: this one does.
        broken: what a broken part of a row costs: that "part" alone, or the whole "row".
        pooled: write the pooled states instead of the normalised and projected ones.
        codes: write the ids of the patches, too (`codes_columns`).
        reuse: take the file that is there, where the same model made it of the same rows.
        part_rows: rows of a part, about.
        max_bad: share of broken rows above which it stops (`max_bad`); the parts that are whole stay.
        progress: is called with the number of rows done.

    Returns:
        {"rows", "present": {modality: count}, "bad": list, "resumed": rows that were there already}.

    Raises:
        UserError: a path that is a folder or says another format, data without rows, too many broken ones, `codes` of
            a model that has none.
        RunError: a file cannot be written.
    """
    path = parquet_place(output_parquet)
    named = codes_columns(model, list(columns)) if codes else {}
    folder = path.with_name(f".{path.name}.parts")
    size = max(part_rows // batch_size, 1) * batch_size
    key = file_key(model, source, columns, pooled, size) | {"broken": broken, "codes": named}
    if reuse and (whole := _whole(path, key, list(columns))) is not None:
        return whole
    try:
        parts = _begin(folder, key)
        resumed = len(parts) * size
        bad_rows = {one["index"] for part in parts for one in _broken(part)}
        with doing("embedding the rows", len(source) if hasattr(source, "__len__") else None) as advance:
            tables = _tables(
                model, preprocessors, source, columns, batch_size, workers, broken, pooled, named, resumed, advance
            )
            for number, (table, bad) in enumerate(_joined(tables, size), len(parts)):
                parts.append(_write_part(folder, number, table, bad))
                bad_rows |= {one.index for one in bad}
                done = number * size + table.num_rows
                refuse_share(bad, len(bad_rows), done, max_bad, "max_bad")
                if progress is not None:
                    progress(done)
        if not parts:
            raise UserError("data: there is no row to embed")
        with doing("joining the parts"):
            about = {**sketch(source, used_columns(columns)), "made": json.loads(json.dumps(key))}
            summary = _join(parts, path, list(columns), about)
            shutil.rmtree(folder)
    except OSError as error:
        kept = sorted(folder.glob("part-*")) if folder.is_dir() else []
        hint = "; free some space and run the same command again, it goes on from there" if kept else ""
        raise RunError(f"could not write {path}: {error}{hint}") from error
    return summary | {"resumed": resumed}


def file_key(
    model: MMSSLModel, source: Source, columns: Mapping[str, str | list[str]], pooled: bool, size: int
) -> dict[str, object]:
    """What parts must have in common to belong together: weights, data, columns, kind and size."""
    return {
        "weights": weights_hash(model.state_dict().items()) if isinstance(model, torch.nn.Module) else None,
        "data": fingerprint(source, used_columns(columns), rows=100),
        "columns": dict(columns),
        "pooled": pooled,
        "rows": size,
    }


def _whole(path: Path, key: Mapping[str, Any], names: list[str]) -> dict[str, object] | None:
    """What is in the file that a call with the same key has written; None where there is none."""
    import pyarrow.parquet as pq

    if not path.is_file() or about_of(path, "output").get("made") != json.loads(json.dumps(key)):
        return None
    table = pq.read_table(path, columns=[f"{name}_present" for name in names])
    present = {name: sum(table[f"{name}_present"].to_pylist()) for name in names}
    return {"rows": table.num_rows, "present": present, "bad": [], "resumed": table.num_rows}


def _begin(folder: Path, key: Mapping[str, Any]) -> list[Path]:
    """The whole parts of an earlier call with the same key, in order; otherwise an empty folder."""
    state = folder / STATE
    try:
        same = state.is_file() and json.loads(state.read_text()) == json.loads(json.dumps(key))
    except ValueError:  # it was cut off
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        state.write_text(json.dumps(key))
    for rest in folder.glob("*.partial"):
        rest.unlink()
    parts: list[Path] = []
    while (part := _part(folder, len(parts))).is_file():
        parts.append(part)
    if parts and _rows_of(parts[-1]) < key["rows"]:  # the last one of data that were shorter then
        parts.pop()
    return parts


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def _rows_of(part: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(part).num_rows)


def _broken(part: Path) -> list[dict[str, object]]:
    """The broken values of a part, as it notes them."""
    import pyarrow.parquet as pq

    noted: list[dict[str, object]] = json.loads(pq.read_schema(part).metadata[BAD])
    return noted


def _joined(tables: Iterator[tuple[pa.Table, list[Bad]]], size: int) -> Iterator[tuple[pa.Table, list[Bad]]]:
    """Tables of `size` rows (the last one shorter) from tables of batches, which divide it."""
    import pyarrow as pa

    held: list[pa.Table] = []
    bad: list[Bad] = []
    for table, broken in tables:
        held.append(table)
        bad += broken
        if sum(t.num_rows for t in held) >= size:
            yield pa.concat_tables(held), bad
            held, bad = [], []
    if held:
        yield pa.concat_tables(held), bad


def _write_part(folder: Path, number: int, table: pa.Table, bad: list[Bad]) -> Path:
    import pyarrow.parquet as pq

    path = _part(folder, number)
    noted = json.dumps([dataclasses.asdict(one) for one in bad]).encode()
    with whole_file(path) as partial:
        pq.write_table(table.replace_schema_metadata({BAD: noted}), partial)
    return path


def _join(parts: list[Path], path: Path, names: list[str], about: dict[str, Any]) -> dict[str, object]:
    """Write the parts into one file, part after part, and count what is in it. about: the data, and how it was made."""
    import pyarrow.parquet as pq

    summary: dict[str, Any] = {"rows": 0, "present": dict.fromkeys(names, 0), "bad": []}
    about = about | {"rows": sum(map(_rows_of, parts))}  # of a stream it is known only now
    schema = with_about(pq.read_schema(parts[0]), about)
    with whole_file(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for part in parts:
            table = pq.read_table(part)
            summary["bad"] += _broken(part)
            writer.write_table(table.replace_schema_metadata(None).cast(schema))
            summary["rows"] += table.num_rows
            for name in names:
                summary["present"][name] += sum(table[f"{name}_present"].to_pylist())
    return summary


def id_columns(source: Source) -> list[str]:
    """The columns whose names say that they tell rows apart (id, uuid, file, row numbers), with plain values."""
    import datasets

    features = source.features or {}
    known = column_names(source)
    found = [name for name in known if ID_NAME.fullmatch(name) and name != "row"]
    found += [c for c in (ROW, START) if whole_of(known) and c in known and c not in found]  # of a window
    return [name for name in found if isinstance(features.get(name, datasets.Value("string")), datasets.Value)]


def codes_columns(model: MMSSLModel, names: Sequence[str]) -> dict[str, list[str]]:
    """Name of a model's codes of these modalities -> the columns that hold them, one a codebook.

    `<modality>_codes`; of several books `<modality>_codes_1`, `_2`, ...; where several objectives have left codes of
    one modality, the objective's name stands behind the modality's. UserError where the model has none of these.
    """
    specs = {key: spec for key, spec in (model.config.codes or {}).items() if spec["modality"] in names}
    if not specs:
        raise UserError(
            f"codes: found true, but the model has no codes of {', '.join(names)}, expected one that was trained with "
            "codes of its own targets (`codes` of mae), or a tokenizer"
        )
    found = {}
    for key, spec in specs.items():
        name = spec["modality"]
        alone = sum(other["modality"] == name for other in specs.values()) == 1
        column = f"{name}_codes" if alone else f"{name}_{key.removesuffix(f'-{name}')}_codes"
        books = len(model.get_submodule(f"codes.{key}").sizes)  # type: ignore[arg-type]
        found[key] = [column] if books == 1 else [f"{column}_{book + 1}" for book in range(books)]
    return found


def _code_lists(ids: torch.Tensor, columns: Sequence[str]) -> dict[str, pa.Array]:
    """ids (B, N, C), -1 where no patch is -> column -> B lists of the ids of the patches that are there, in order."""
    import pyarrow as pa

    there = ids[..., 0] >= 0
    ends = [0, *there.sum(1).cumsum(0).tolist()]
    offsets = pa.array(ends, pa.int32())
    return {
        column: pa.ListArray.from_arrays(offsets, pa.array(ids[..., book][there].int().numpy()))
        for book, column in enumerate(columns)
    }


def _tables(
    model: MMSSLModel,
    preprocessors: Mapping[str, Preprocessor],
    source: Source,
    columns: Mapping[str, str | list[str]],
    batch_size: int,
    workers: int,
    broken: str,
    pooled: bool,
    codes: Mapping[str, Sequence[str]],
    skip: int,
    advance: Progress,
) -> Iterator[tuple[pa.Table, list[Bad]]]:
    """(pyarrow table, broken values) of batch after batch, in the order of the source, from row `skip` on.

    codes: see `codes_columns`. advance: is called with the number of rows done.
    """
    import pyarrow as pa

    chosen = {name: preprocessors[name] for name in columns}
    if skip:
        if hasattr(source, "__len__") and skip >= len(source):
            return
        source = source.skip(skip)
    # a second, cheap reading of these columns: it also works where rows cannot be looked up by number
    names = id_columns(source)
    ids = iter(source.select_columns(names)) if names else None
    types = {name: source.features.arrow_schema.field(name).type if source.features else None for name in names}
    first = 0
    batches = evaluation_batches(source, chosen, dict(columns), batch_size=batch_size, workers=workers, broken=broken)
    for loaded in batches:
        # not around the loop: a generator must not hold the caller in evaluation mode between two batches
        with evaluating([model]):
            collector = Collector({"model": model}, None)
            collector.add(loaded.batch)
            coded = code_ids(model, to_device(loaded.batch, device_of(model))) if codes else {}
        part = collector.result()
        count = len(loaded.rows)
        if not torch.equal(loaded.rows.cpu(), torch.arange(first, first + count)):
            raise AssertionError("evaluation batches must come in the order of the source")
        data: dict[str, pa.Array] = {"row": pa.array(range(skip + first, skip + first + count), pa.int64())}
        if ids is not None:
            told = [next(ids) for _ in range(count)]
            data |= {name: pa.array([row[name] for row in told], types[name]) for name in names}
        for name in columns:
            values = (part.pooled if pooled else part.embeddings)["model"][name]
            present = part.present[name]
            data[f"{name}_embedding"] = pa.FixedSizeListArray.from_arrays(
                pa.array(values.reshape(-1).numpy()), values.shape[1], mask=pa.array((~present).numpy())
            )
            data[f"{name}_present"] = pa.array(present.numpy())
        for key, names_of in codes.items():
            data |= _code_lists(coded[key].cpu(), names_of)
        bad = [dataclasses.replace(one, index=one.index + skip) for one in loaded.bad]
        first += count
        advance(skip + first)
        yield pa.table(data), bad
