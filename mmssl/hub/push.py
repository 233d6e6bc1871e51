"""`mmssl push`: a model or adapter folder to the Hub, in one commit, after a look at what would be published.

Only what belongs to a folder of its kind is sent (`mmssl.hub.contents`): configuration, safetensors, processor and
tokenizer files, the card and its pictures, the few-line loader as mmssl writes it. Weights in pickles, data, tokens and
paths that name people (`mmssl.hub.secrets`) are refused, each by name, and so is a folder that is no whole model. A
push that fails half-way has changed nothing on the Hub, and the same command again goes on: files that the Hub holds
already are not sent twice.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..boundary import kind_of
from ..errors import RunError, UserError, one_line
from ..models.locating import ADAPTER, PEFT_CONFIG, locate
from ..names import refuse_misspelt
from ..saying import Advance, doing, loading
from .contents import lacks, may_hold
from .picture import SAMPLES
from .secrets import findings, text_of

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

T = TypeVar("T")
KINDS = {
    "": ("LICENSE", "NOTICE", ".gitattributes"),
    ".json": None,
    ".jinja": None,
    ".md": None,
    ".yaml": None,
    ".safetensors": None,
    ".onnx": None,
    ".model": None,
    ".txt": None,
    ".bpe": None,  # vocabularies
    ".data": None,  # of a large ONNX file
    ".png": None,
    ".svg": None,  # the card's pictures
    ".py": ("mmssl_loader.py",),
}
"""Suffix -> names allowed with it (None: all). Everything else does not belong to a published model."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npz", ".npy")


@dataclass(frozen=True)
class Pushed:
    """What `push` returns.

    Attributes:
        url: of the commit.
        repo_id: with the user's name.
        files: paths that were published.
        notes: what the user must know.
    """

    url: str
    repo_id: str
    files: list[str]
    notes: list[str] = field(default_factory=list)


def push(
    model: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    base: str | None = None,
) -> Pushed:
    """Publish a folder on the Hub, in one commit.

    Args:
        model: a model, adapter or export folder, or the folder of a run.
        repo_id: where to.
        private: of a repository that is made now; one that exists and is public is refused then.
        revision: a branch, made where it does not exist.
        message: of the commit.
        dry_run: look at everything and send nothing.
        base: of an adapter, the Hub id of the model that it belongs on, which is fetched and compared; it takes the
            place of the local folder in what is published.

    Returns:
        What was sent, or would be. The token is the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        UserError: what cannot be published, a malformed id, no token, no network, or no right to write.
        RunError: the Hub fails; nothing has changed then.
    """
    folder = local_folder(model)
    check_repo_id(repo_id)
    check_revision(revision)
    if base is not None:
        check_repo_id(base)
        if Path(base).exists():
            raise UserError(
                f"--base {base}: this is a folder here, expected a model on the Hub; push it first, and "
                f"name it as others do"
            )
    with tempfile.TemporaryDirectory(prefix="mmssl-push-") as scratch:
        with doing("looking at what would be published"):
            folder, notes = staged(folder, Path(scratch), base)
            files = publishable(folder)
        notes = [*notes, *told_of_samples(files)]
        if dry_run:
            return Pushed("", repo_id, files, notes)
        kind = "adapter" if (folder / PEFT_CONFIG).is_file() else "model"
        said = message or f"Upload {kind} with mmssl"
        return send(folder, files, repo_id, private=private, revision=revision, message=said, notes=notes)


def told_of_samples(files: Sequence[str]) -> list[str]:
    """What is said where the card among these files shows rows of the data."""
    shown = [name for name in files if re.fullmatch(re.escape(SAMPLES).replace(r"\{\}", r"\d+"), name)]
    return [f"its card shows samples of the data: {', '.join(shown)} (train.card_samples)"] if shown else []


def send(
    folder: Path,
    files: Sequence[str],
    repo_id: str,
    *,
    private: bool,
    message: str,
    revision: str | None = None,
    notes: Sequence[str] = (),
    space: bool = False,
) -> Pushed:
    """Send files of a folder, which were looked at, in one commit.

    Args:
        folder: where they lie.
        files: their paths in it.
        repo_id: where to.
        private: of a repository that is made now; one that exists and is public is refused then.
        message: of the commit.
        revision: a branch, made where it does not exist.
        notes: what the user must know.
        space: to a Space, which runs them with Gradio; else to a repository of a model.

    Raises UserError and RunError as `push` does.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError("push: no token found; run `hf auth login`, or set HF_TOKEN to a token that may write")
    api = HfApi()
    kind = "space" if space else "model"
    size = sum((folder / name).stat().st_size for name in files) / 1e6
    with doing(f"sending {len(files)} files ({size:,.1f} MB) to {repo_id}", len(files)) as advance:
        url = _talk(repo_id, lambda: _commit(api, folder, files, repo_id, private, revision, message, kind, advance))
    return Pushed(str(url.commit_url), str(url.repo_url.repo_id), list(files), list(notes))


def staged(folder: Path, scratch: Path, base: str | None) -> tuple[Path, list[str]]:
    """The folder as it is; of an adapter of ours a copy that names its base as others know it."""
    if (folder / ADAPTER).is_file():
        with loading():
            from .staging import stage_adapter

        return stage_adapter(folder, scratch, base)
    if base is not None:
        raise UserError(f"--base {base}: {folder} is no adapter that mmssl trained, it names no base")
    return folder, []


def _commit(
    api: HfApi,
    folder: Path,
    files: Sequence[str],
    repo_id: str,
    private: bool,
    revision: str | None,
    message: str,
    kind: str,
    advance: Advance,
) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd

    sdk = "gradio" if kind == "space" else None
    full = api.create_repo(repo_id, private=private or None, exist_ok=True, repo_type=kind, space_sdk=sdk).repo_id
    # `exist_ok` leaves a repository that is there as public as it is
    if private and not api.repo_info(full, repo_type=kind).private:
        raise UserError(f"--private: {full} exists and is public; make it private on the Hub first, or push elsewhere")
    if revision is not None:
        api.create_branch(full, branch=revision, exist_ok=True)
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
    for number, one in enumerate(added, 1):  # what is large goes first, file by file; the commit names it
        api.preupload_lfs_files(full, additions=[one], repo_type=kind, revision=revision)
        advance(number)
    return api.create_commit(full, added, commit_message=message, repo_type=kind, revision=revision)


def _talk(repo_id: str, work: Callable[[], T]) -> T:
    """What `work` returns, with the Hub client's many errors put into one line each."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    no_answer: Any = HfHubHTTPError.__bases__[0]  # every error of the HTTP library underneath, whichever that is
    where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        return work()
    except OfflineModeIsEnabled as error:
        raise UserError("push: HF_HUB_OFFLINE is set, expected a connection to the Hub; unset it") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        reason = one_line(error.server_message or error)
        if code == 401:
            raise UserError(f"push: the Hub does not accept the token ({reason}); run `hf auth login`") from error
        if code == 403 or isinstance(error, RepositoryNotFoundError):
            raise UserError(f"push: this token may not write to '{repo_id}' ({reason})") from error
        raise RunError(f"push: the Hub answered {code} ({reason}); {_AGAIN}") from error
    except no_answer as error:
        raise UserError(f"push: no connection to {where} ({one_line(error)}); {_AGAIN}") from error
    except (OSError, RuntimeError) as error:
        raise RunError(f"push: {type(error).__name__}: {one_line(error)}; {_AGAIN}") from error


_AGAIN = "no commit was made; run the same command again, it sends only what is not there yet"


# ------------------------------------------------------------------------------------------------------ what is sent


def local_folder(path: str | Path) -> Path:
    """The folder to publish: that of the model, adapter or export at `path`, or of the run there."""
    if not Path(path).is_dir():
        refuse_misspelt(str(path), "push: no such folder", (".", "runs"))
        raise UserError(f"push: '{path}' is no folder, expected that of a model, an adapter or a run")
    return Path(locate(path).place)


_NO_REVISION = re.compile(r"^[-/.]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|[/.]$|\.lock$|\.lock/|^@$|^$")


def check_revision(revision: str | None) -> None:
    """UserError for what git takes for no name of a branch (`git check-ref-format`)."""
    if revision is not None and _NO_REVISION.search(revision):
        raise UserError(f"--revision: found '{revision}', expected the name of a branch: main, v2, user/try-1")


def check_repo_id(repo_id: str) -> None:
    """UserError unless the Hub would take this id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"push: '{repo_id}' is no repository id, expected NAME or OWNER/NAME ({reason})") from None


def publishable(folder: Path) -> list[str]:
    """Paths of all files below `folder`, relative to it; UserError, a line a fault, for what must not be published."""
    faults, files = lacks(folder), []
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        name = path.relative_to(folder).as_posix()
        if ".cache" in path.relative_to(folder).parts[:-1]:
            continue  # the Hub client's own notes
        fault = _kind_fault(path) or next(_content_faults(path), None)
        if fault is None and not may_hold(folder, name):
            fault = "does not belong to a folder of this kind (data, or a leftover?); take it out of the folder"
        if fault:
            faults.append(f"push: {name}: {fault}")
        files.append(name)
    if not any(name.endswith((".safetensors", ".onnx")) for name in files):
        faults.append(f"push: {folder} holds no weights, expected .safetensors")
    if faults:
        raise UserError("\n".join(faults))
    return files


def _kind_fault(path: Path) -> str | None:
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        return f"{kind_of(mode)}, expected a file of its own"
    suffix = path.suffix.lower() if not path.name.startswith(".") else ""
    if suffix in PICKLES:
        return f"found a {suffix} file, expected weights as safetensors and no data; take it out of the folder"
    allowed = KINDS.get(suffix, ())
    if allowed is None or path.name in (allowed or ()):
        return None
    return "does not belong to a model (raw data or a leftover?); take it out of the folder"


def _content_faults(path: Path) -> Iterator[str]:
    content = _header(path) if path.suffix == ".safetensors" else path.read_bytes()
    try:
        text = text_of(path, content)
    except ValueError as error:
        yield str(error)
        return
    yield from findings(text)


def _header(path: Path) -> bytes:
    """A safetensors file's header; UserError when it is none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= path.stat().st_size - 8:
                raise ValueError("its header is cut off")
            header = file.read(length)
        json.loads(header)
    except ValueError as error:
        raise UserError(f"push: {path.name}: no safetensors file ({error})") from None
    return header
