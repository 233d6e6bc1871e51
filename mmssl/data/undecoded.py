"""What `datasets`' own builders are used with: features of pictures, sounds and videos that leave files as they are
stored ({"bytes", "path"}), and a look through what they unpack.

Those of `datasets` itself change values also without decoding: every sound goes through torchcodec, which nothing here
needs, and the bytes of a file give way to a file of the working directory that happens to have the same name.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .archives import Members, check_zip, refuse_bombs
from .explained import warn_once
from .packed import bound_fsspec


def _as_stored(value: object) -> dict[str, object] | None:
    """A file as its bytes, or as its name; None: the value is something else."""
    if isinstance(value, (str, Path)):
        return {"bytes": None, "path": str(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, Mapping) and (value.get("bytes") is not None or value.get("path") is not None):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    return None


class Image(datasets.Image):
    """`datasets.Image`, whose rows are files as they are stored."""

    def encode_example(self, value: object) -> object:
        """{"bytes", "path"} of a picture."""
        stored = _as_stored(value)
        return super().encode_example(value) if stored is None else stored


class Video(datasets.Video):
    """`datasets.Video`, whose rows are files as they are stored."""

    def encode_example(self, value: object) -> object:
        """{"bytes", "path"} of a video."""
        stored = _as_stored(value)
        return super().encode_example(value) if stored is None else stored


class Audio(datasets.Audio):
    """`datasets.Audio`, whose rows are files as they are stored; numbers become a WAV file of float32."""

    def encode_example(self, value: object) -> object:
        """{"bytes", "path"} of a sound."""
        if isinstance(value, Mapping) and value.get("array") is not None:
            import soundfile

            out = io.BytesIO()
            soundfile.write(
                out, np.asarray(value["array"], np.float32).T, value["sampling_rate"], "FLOAT", format="WAV"
            )
            return {"bytes": out.getvalue(), "path": None}
        stored = _as_stored(value)
        return super().encode_example(value) if stored is None else stored


OURS: dict[type[Any], Any] = {datasets.Image: Image, datasets.Audio: Audio, datasets.Video: Video}


def plain(feature: object) -> Any:
    """A feature with those of media files in it, at any depth, undecoded.

    Not all that has `decode`: `datasets.Json` without it gives its values in JSON's quotes.
    """
    if isinstance(feature, dict):
        return type(feature)({key: plain(value) for key, value in feature.items()})
    for theirs, ours in OURS.items():
        if isinstance(feature, theirs):
            fields = {f.name: getattr(feature, f.name) for f in dataclasses.fields(feature) if f.init}
            return feature if type(feature) is ours and not feature.decode else ours(**{**fields, "decode": False})
    if dataclasses.is_dataclass(feature) and hasattr(feature, "feature"):
        return dataclasses.replace(feature, feature=plain(feature.feature))  # type: ignore[type-var]
    return feature


def keep_undecoded(builder: datasets.DatasetBuilder) -> None:
    """Let a builder of `datasets` write media files as they are stored."""
    split_generators = builder._split_generators

    def undecoded(manager: object, *given: object, **named: object) -> object:
        _bound(manager)
        found = split_generators(manager, *given, **named)
        if builder.info.features is not None:
            builder.info.features = plain(builder.info.features)
        return found

    builder._split_generators = undecoded
    if builder.name in ("parquet", "arrow"):
        builder._generate_tables = functools.partial(_bounded_tables, builder)


def _bound(manager: Any) -> None:
    """Let what a builder opens files with go through archives that are looked at before."""
    from datasets.utils.file_utils import xopen
    from datasets.utils.py_utils import map_nested

    bound_fsspec()
    config = manager.download_config

    def iter_archive(path: object) -> object:
        return Members.from_buf(path) if hasattr(path, "read") else Members.from_urlpath(path, download_config=config)

    manager.iter_archive = iter_archive
    if not manager.is_streaming:
        return  # `_LookedThrough`
    extract = manager.extract

    def looked_through(urls: object) -> object:
        found = extract(urls)
        archives: set[str] = set()
        map_nested(lambda path: archives.add(path.partition("::")[2]) if path.startswith("zip://") else None, found)
        for path in sorted(archives):
            with xopen(path, "rb", download_config=config) as file:
                check_zip(file, path)
        return found

    manager.extract = looked_through


def _bounded_tables(
    builder: Any, files: Sequence[str], row_groups_list: Sequence[Sequence[int] | None] | None = None
) -> Iterator[tuple[object, object]]:
    """What the builders of parquet and arrow files generate, read by `arrow_tables`: they decode a row group or a batch
    whole, whatever it gets to.
    """
    import pyarrow as pa
    from datasets.builder import Key

    from .arrow_files import arrow_tables

    config = builder.config
    columns, filters = getattr(config, "columns", None), getattr(config, "filters", None)
    if isinstance(filters, list):
        import pyarrow.parquet as pq

        filters = pq.filters_to_expression(filters)
    for number, file in enumerate(files):
        groups = None if row_groups_list is None else row_groups_list[number]
        try:
            read = columns if filters is None else None
            for part, table in enumerate(arrow_tables(file, file, builder.name, read, groups)):
                if filters is not None:
                    table = table.filter(filters).select(columns or table.column_names)
                yield Key(number, part), builder._cast_table(table)
        except (pa.ArrowInvalid, ValueError) as error:
            if getattr(config, "on_bad_files", "error") == "error":
                raise
            warn_once(f"'{file}' is passed over, as the README.md of the data says of damaged files: {error}")


class _LookedThrough(datasets.DownloadManager):
    """Gives files that are no bombs."""

    def download(self, url_or_urls: object) -> object:
        """The files, on this disk. Raises UserError where one gets too large when it is unpacked."""
        found = super().download(url_or_urls)
        refuse_bombs({str(name): str(path) for name, path in self.downloaded_paths.items()})
        return found


def prepare(builder: datasets.DatasetBuilder) -> None:
    """As `download_and_prepare`, which copies rows into the cache, but what it unpacks is looked through before."""
    config = datasets.DownloadConfig(
        cache_dir=builder._cache_downloaded_dir,
        use_etag=False,
        token=builder.token,
        storage_options=builder.storage_options,
    )
    base = builder.base_path
    manager = _LookedThrough(builder.dataset_name, builder.config.data_dir, config, base, record_checksums=False)
    builder.download_and_prepare(dl_manager=manager)
