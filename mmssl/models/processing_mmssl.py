"""`MMSSLProcessor`: raw samples of every modality to the model's inputs, exactly as in training."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.utils import cached_file

from ..boundary import inside, own_file, read_json_object, reading_of
from ..errors import UserError, nearest, one_line
from ..modality import Batch, Preprocessor, load_modality, name_fault
from . import privacy
from .configuration_mmssl import MMSSLConfig
from .loader import LOADER, write_loader
from .modeling_mmssl import flatten

PROCESSOR_FILE = "processor_config.json"


USUAL = {"images": "image", "image": "image", "text": "text", "texts": "text", "audio": "audio", "videos": "video"}
"""Keyword of a transformers processor -> the type of modality that it means."""


class SavedModality(TypedDict):
    """A modality in `processor_config.json`: its type, the options and the state of its preprocessor, its files, the
    column(s) it was fitted on, where these are known, and further ones by name, where there are any."""

    type: str
    config: dict[str, Any]
    state: dict[str, Any]
    files: list[str]
    columns: NotRequired[str | list[str] | None]
    further: NotRequired[dict[str, str | list[str]]]


class MMSSLProcessor(ProcessorMixin):
    """The fitted preprocessors of a model. `processor(image=[...], text=[...], return_tensors="pt")`.

    A modality takes a list with one raw value a sample (None = absent), or one single value; the batch is as long as
    the longest list and modalities that are not passed are left out. Saved as `processor_config.json` and each
    modality's own files in a folder of its name.
    """

    def __init__(self, preprocessors: Mapping[str, Preprocessor], types: Mapping[str, str] | None = None) -> None:
        self.preprocessors = dict(preprocessors)
        self.types = {name: (types or {}).get(name, name) for name in self.preprocessors}
        self.chat_template = None

    @property
    def model_input_names(self) -> list[str]:
        """The modalities: what a call takes; the model's inputs are `<modality>_<key>`."""
        return list(self.preprocessors)

    def __call__(self, *given: object, return_tensors: str | None = "pt", **raw: object) -> BatchFeature:
        if len(given) > 1 or (given and len(self.preprocessors) > 1):
            raise ValueError(f"expected samples by name: {', '.join(f'{name}=[...]' for name in self.preprocessors)}")
        if given:
            raw[next(iter(self.preprocessors))] = given[0]
        raw = {self._known_as(name): value for name, value in raw.items()}
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}")
        samples = {name: self._listed(name, value) for name, value in raw.items() if value is not None}
        if not samples:
            raise ValueError(f"nothing to process: pass some of {', '.join(self.preprocessors)}")
        lengths = {name: len(values) for name, values in samples.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"modalities differ in the number of samples: {lengths}; use None for absent ones")
        batch: Batch = {name: self.preprocessors[name](values) for name, values in samples.items()}
        return BatchFeature(data=flatten(batch))

    def _known_as(self, name: str) -> str:
        """The modality that a keyword of transformers' processors means: `images` the one that reads images."""
        kind = USUAL.get(name)
        found = [own for own, of in self.types.items() if of == kind]
        return found[0] if name not in self.preprocessors and len(found) == 1 else name

    def _listed(self, name: str, value: object) -> Sequence[object]:
        if name not in self.preprocessors:
            known = list(self.preprocessors)
            raise ValueError(f"unknown modality '{name}', this model has {', '.join(known)}{nearest(name, known)}")
        return value if isinstance(value, list) else [value]

    def to_dict(self, public: bool = True) -> dict[str, Any]:
        """What `processor_config.json` holds. public: paths of this machine are cut, as in all that is written."""
        cut = privacy.public if public else lambda value: value
        modalities = {
            name: {
                "type": self.types[name],
                "config": cut(dataclasses.asdict(p.config)),
                "state": p.state,
                "files": [f"{name}/{file}" for file in p.files()],
                "columns": p.read_from,
                **({"further": p.further} if p.further else {}),
            }
            for name, p in self.preprocessors.items()
        }
        return {
            "processor_class": type(self).__name__,
            "auto_map": {"AutoProcessor": f"{LOADER}.MMSSLProcessor"},
            "modalities": modalities,
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> list[str]:  # type: ignore[override]
        """Write the options of the preprocessors, and their files into a folder each.

        Args:
            save_directory: made where it does not exist.
            **kwargs: what transformers hands on; nothing of it is used.

        Returns:
            The path of the written `processor_config.json`.

        Raises:
            ValueError: `push_to_hub` is asked for.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save first, then push the folder: huggingface_hub.upload_folder")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, preprocessor in self.preprocessors.items():
            for written in (name, PROCESSOR_FILE, f"{LOADER}.py"):
                own_file(folder, folder / written)
            if preprocessor.files():
                (folder / name).mkdir(exist_ok=True)
                preprocessor.save_files(folder / name)
        target = folder / PROCESSOR_FILE
        target.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")
        write_loader(folder)
        return [str(target)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:  # type: ignore[override]
        """From a folder or a Hub id. Raises UserError when it is no processor of mmssl, or damaged."""
        known = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub = {k: kwargs[k] for k in known if kwargs.get(k) is not None}
        path = str(pretrained_model_name_or_path)
        try:
            if Path(path).is_dir():
                own_file(Path(path), Path(path) / PROCESSOR_FILE)
            main = cached_file(path, PROCESSOR_FILE, **hub)
        except OSError as error:
            raise UserError(f"{path}: no {PROCESSOR_FILE} of mmssl could be read ({one_line(error)})") from error
        parts = saved_modalities(read_json_object(Path(str(main)), f"{path}: its {PROCESSOR_FILE}"), path)
        preprocessors: dict[str, Preprocessor] = {}
        for name, part in parts.items():
            with reading_of(f"{path}: modality '{name}' in its {PROCESSOR_FILE} cannot be read"):
                package = load_modality(part["type"], path)
                preprocessor = package.Preprocessor(package.Config(**part["config"]))
                found = [_fetched(path, file, hub) for file in part["files"]]
                depth = len(part["files"][0].split("/")) - 1 if found else 0
                preprocessor.restore(part["state"], found[0].parents[depth - 1] if found else None)
                preprocessor.collate([None])  # a state that is no such modality's shows here, not at the first sample
                preprocessor.read_from, preprocessor.further = part.get("columns"), part.get("further") or {}
                preprocessors[name] = preprocessor
        return cls(preprocessors, {name: part["type"] for name, part in parts.items()})


def saved_modalities(spec: Mapping[str, object], place: str) -> dict[str, SavedModality]:
    """What `processor_config.json` says of each modality, checked as a recipe's names are.

    UserError naming `place`: a part is missing or of another kind, or a name leads out of the folder.
    """
    modalities = spec.get("modalities")
    where = f"{place}: its {PROCESSOR_FILE}"
    if not isinstance(modalities, dict) or not modalities:
        raise UserError(f"{where} names no modalities, expected what mmssl writes there")
    for name, part in modalities.items():
        fault = name_fault(name)
        if fault:
            raise UserError(f"{where}: modalities: {fault}")
        kinds = {"type": str, "config": dict, "state": dict, "files": list}
        for key, kind in kinds.items():
            value = part.get(key) if isinstance(part, dict) else None
            if not isinstance(value, kind):
                raise UserError(f"{where}: modalities.{name}.{key}: found {value!r:.80}, expected a {kind.__name__}")
        further = part.get("further", {})
        if not isinstance(further, dict) or any(name_fault(column, module=False) for column in further):
            raise UserError(f"{where}: modalities.{name}.further: found {further!r:.80}, expected names and columns")
        read = {"columns": part.get("columns") or [], **{f"further.{n}": of for n, of in further.items()}}
        for key, columns in read.items():
            listed = [columns] if isinstance(columns, str) else columns
            if not isinstance(listed, list) or not all(isinstance(column, str) for column in listed):
                raise UserError(f"{where}: modalities.{name}.{key}: found {columns!r:.80}, expected names of columns")
        for file in part["files"]:
            inside(Path(), file, f"{where}: modalities.{name}.files")
            if not file.startswith(f"{name}/"):
                raise UserError(f"{where}: modalities.{name}.files: found '{file}', expected names below '{name}/'")
    return modalities


def _fetched(place: str, name: str, hub: Mapping[str, object]) -> Path:
    """One file of a folder, which must lie in it, or of a repository on the Hub."""
    if Path(place).is_dir():
        own_file(Path(place), Path(place) / name)
    return Path(str(cached_file(place, name, **hub)))


AutoProcessor.register(MMSSLConfig, MMSSLProcessor, exist_ok=True)
