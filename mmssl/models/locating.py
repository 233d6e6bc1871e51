"""What a MODEL is and where it lies: the one place that decides it, for every command.

MODEL is a folder of mmssl's, the folder of a run (whose `model/` is meant), an adapter, the result of a fine-tuning, an
export or any other folder that transformers or sentence-transformers load, or the id of one of these on the Hub.
Nothing is loaded here but small files; `mmssl.models.opening.open_model` loads what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..boundary import check_folder, inside, own_file, read_json_object, reading_of
from ..errors import UserError, one_line
from ..names import asking_the_hub, refuse_misspelt

CONFIG, PROCESSOR = "config.json", "processor_config.json"
ADAPTER, PEFT_CONFIG, PEFT_WEIGHTS = "mmssl_adapter.json", "adapter_config.json", "adapter_model.safetensors"
TASK, HEAD = "mmssl_task.json", "head.safetensors"
MODULES = "modules.json"

Kind = Literal["mmssl", "adapter", "peft", "stock", "sentence-transformers"]
WORDS = {
    "mmssl": "a model of mmssl",
    "adapter": "an adapter that mmssl trained",
    "peft": "an adapter of another library",
    "stock": "a model of transformers",
    "sentence-transformers": "a model of sentence-transformers",
}
"""Kind -> what messages call it."""

MARKERS: tuple[tuple[str, Kind], ...] = (
    (ADAPTER, "adapter"),
    (PEFT_CONFIG, "peft"),
    (MODULES, "sentence-transformers"),
)
"""Files that say by their presence what a folder holds; without any of them `config.json` says it."""
ELSEWHERE = {
    "*.onnx": "an ONNX file, which onnxruntime runs; name the model that it was exported from",
    "open_clip_config.json": "a folder of open_clip; a tower starts from it (model.towers.image.from=open_clip:FOLDER)",
    "config.yaml": "a run that has no model yet; let it end, or go on with --resume",
}
"""Files of what cannot be opened as a MODEL -> what it is, and what to do."""


@dataclass(frozen=True)
class Located:
    """Where a MODEL lies.

    Attributes:
        name: as the user called it.
        place: its own folder, or its id on the Hub.
        kind: what it is, see `WORDS`.
        task: whether a fine-tuned head lies beside it.
    """

    name: str
    place: str
    kind: Kind
    task: bool = False

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return Path(self.place).is_dir()

    @property
    def title(self) -> str:
        """What it is called: a run by its own name rather than that of the `model/` in it."""
        if not self.local:
            return self.place
        path = Path(self.place).resolve()
        return path.parent.name if path.name == "model" else path.name

    def file(self, name: str) -> Path | None:
        """A file of it, fetched where it lies on the Hub; None where it has none of that name."""
        return fetched(self.place, name)

    def text(self, name: str) -> str:
        """What a file of it says; empty where it has none of that name."""
        path = self.file(name)
        with reading_of(f"{self.name}: its {name} is damaged"):
            return "" if path is None else path.read_text(encoding="utf-8")

    def folder(self) -> Path:
        """Its folder; a repository on the Hub is fetched, all but weights in pickles."""
        if self.local:
            return Path(self.place)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.place, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name}: it cannot be fetched ({one_line(error)})") from error


def locate(name: str | Path) -> Located:
    """Find out what MODEL is and where it lies.

    Args:
        name: a folder (of a model, an adapter, an export, or of a run that holds one) or an id on the Hub.

    Raises:
        UserError: in one line, when there is nothing of that name, or nothing that could be opened.
    """
    path = Path(name)
    if path.is_dir():
        # a run's `model/`; `adapter/` of an export with --adapter
        for folder in (path, path / "model", path / "adapter"):
            kind = _kind(str(folder)) if folder.is_dir() else None  # else it would be taken for an id on the Hub
            if kind is not None:
                check_folder(folder)
                return Located(str(name), str(folder), kind, (folder / TASK).is_file())
        known = next((what for file, what in ELSEWHERE.items() if any(path.glob(file))), None)
        raise UserError(f"{name}: found {known}" if known else f"{name}: no {CONFIG}, expected the folder of a model")
    if path.exists():
        raise UserError(f"{name}: this is a file, expected the folder of a model, or an id on the Hub")
    refuse_misspelt(str(name), "no such folder here", (".", "runs"))
    with asking_the_hub():
        return _on_hub(str(name))


def _on_hub(repo: str) -> Located:
    """A repository on the Hub. UserError, with what the Hub said, where there is none or it cannot be reached.

    The client tries five times to reach the Hub, for 23 s: after the first failure only its cache is looked into.
    """
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HFValidationError

    files: dict[str, Path] = {}
    why = ""
    for name in (CONFIG, *(marker for marker, _ in MARKERS), TASK):
        try:
            file = _hub_file(repo, name, cached=bool(why))
        except (OSError, HFValidationError) as error:
            why = why or ("it cannot be reached, and its cache has none" if is_offline_mode() else one_line(error))
            continue
        if file is not None:
            files[name] = file
    kind = next((kind for marker, kind in MARKERS if marker in files), None)
    if kind is None and CONFIG in files:
        kind = _kind_by_config(repo, files[CONFIG])
    if kind is None:
        why = why or f"it has no {CONFIG}"
        raise UserError(f"{repo}: no such folder here, and no model of that name on the Hub ({why})")
    return Located(repo, repo, kind, TASK in files)


def _kind(folder: str) -> Kind | None:
    for marker, kind in MARKERS:
        if fetched(folder, marker) is not None:
            return kind
    config = fetched(folder, CONFIG)
    return None if config is None else _kind_by_config(folder, config)


def _kind_by_config(place: str, config: Path) -> Kind:
    data = read_json_object(config, f"{place}: its {config.name}")
    return "mmssl" if data.get("model_type") == "mmssl" else "stock"


def fetched(place: str, name: str) -> Path | None:
    """The file `name` of a folder, or of a repository on the Hub; None where it has none, or cannot be reached.

    UserError where the name, or a link of that name, leads out of the folder.
    """
    file = inside(Path(place), name, place)
    if Path(place).is_dir():
        own_file(Path(place), file)
        return file if file.is_file() else None
    from huggingface_hub.errors import HFValidationError

    try:
        return _hub_file(place, name)
    except (OSError, HFValidationError):  # no repository of that name, or no name that one could have
        return None


def _hub_file(repo: str, name: str, cached: bool = False) -> Path | None:
    """A file of a repository, None where it has none of that name; `cached`: without asking the Hub.

    OSError or HFValidationError where there is no such repository or it cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, local_files_only=cached))
    except GatedRepoError as error:
        raise UserError(f"{repo}: {gated(error, repo)}") from error
    except LocalEntryNotFoundError as error:  # one of the other kind, but it says that nobody could be asked
        raise OSError(one_line(error)) from error
    except EntryNotFoundError:
        return None


def gated(error: BaseException | None, repo: str) -> str | None:
    """What to do about a repository that the Hub gives to nobody who has not accepted its terms; None: it is not that.

    Args:
        error: what was raised on the way to it, the Hub's own answer among its causes.
        repo: its id.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError):
            return (
                f"it is gated: accept its terms at {constants.ENDPOINT}/{repo} and log in (hf auth login, or "
                f"HF_TOKEN), or download it elsewhere and name its folder instead"
            )
        error = error.__cause__ or error.__context__
    return None


def read_json(place: str, name: str) -> dict[str, object]:
    """A JSON file of a model. UserError, in one line, where it lacks it or it is damaged."""
    file = fetched(place, name)
    if file is None:
        raise UserError(f"{place}: it has no {name}")
    return read_json_object(file, f"{place}: its {name}")
