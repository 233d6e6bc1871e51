"""`MMSSLProcessor`: raw samples of every modality to the model's inputs, exactly as in training."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.utils import cached_file

from ..errors import UserError, nearest
from ..modality import Batch, Preprocessor, load_modality
from . import privacy
from .configuration_mmssl import MMSSLConfig
from .modeling_mmssl import flatten

PROCESSOR_FILE = "processor_config.json"
LOADER = "mmssl_loader"


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

    def __call__(self, return_tensors: str | None = "pt", **raw: Any) -> BatchFeature:
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

    def _listed(self, name: str, value: Any) -> Sequence[Any]:
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
            }
            for name, p in self.preprocessors.items()
        }
        return {
            "processor_class": type(self).__name__,
            "auto_map": {"AutoProcessor": f"{LOADER}.MMSSLProcessor"},
            "modalities": modalities,
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> list[str]:  # type: ignore[override]
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
            if preprocessor.files():
                (folder / name).mkdir(exist_ok=True)
                preprocessor.save_files(folder / name)
        target = folder / PROCESSOR_FILE
        target.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")
        return [str(target)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:  # type: ignore[override]
        """From a folder or a Hub id. Raises UserError when it is no processor of mmssl, or damaged."""
        known = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub = {k: kwargs[k] for k in known if kwargs.get(k) is not None}
        path = str(pretrained_model_name_or_path)
        try:
            main = cached_file(path, PROCESSOR_FILE, **hub)
            spec = json.loads(Path(str(main)).read_text())
            modalities = spec["modalities"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no {PROCESSOR_FILE} of mmssl could be read ({error})") from error
        preprocessors: dict[str, Preprocessor] = {}
        for name, part in modalities.items():
            package = load_modality(part["type"])
            preprocessor = package.Preprocessor(package.Config(**part["config"]))
            preprocessor.state = part["state"]
            files = [cached_file(path, file, **hub) for file in part["files"]]
            if files:
                preprocessor.load_files(_common_folder(files, part["files"], name))
            preprocessors[name] = preprocessor
        return cls(preprocessors, {name: part["type"] for name, part in modalities.items()})


def _common_folder(found: Sequence[str | None], asked: Sequence[str], name: str) -> Path:
    """The folder `<root>/<name>` in which all fetched files lie."""
    first = Path(str(found[0]))
    depth = len(Path(asked[0]).relative_to(name).parts)
    return first.parents[depth - 1]


AutoProcessor.register(MMSSLConfig, MMSSLProcessor, exist_ok=True)
