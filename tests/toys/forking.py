"""Python processes for tests, without importing torch and transformers again: ten seconds of computing time each.

`run(["-c", CODE], level="torch")` is `python -c CODE` in a process that a server forked. The server of a level has
imported that level's packages and nothing else, has computed nothing and has one thread. All pytest processes of a
session share it, and it ends with the last of them. A test that is about an import itself takes a level that has not
done it, or `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEVELS: dict[str, tuple[str, list[str]]] = {
    "torch": ("", ["torch", "torch._dynamo", "torch.distributed.tensor", "safetensors.torch"]),
    "transformers": (
        "torch",
        ["scipy.optimize", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"],
    ),
    "exports": ("transformers", ["peft", "sentence_transformers", "torchvision.transforms.v2"]),
    "mmssl": ("transformers", ["accelerate", "mmssl.cli", "mmssl.training.pretrain"]),
}
"""Level -> the level whose server its own is forked from, and what it has imported besides."""
READ_AT_IMPORT = "HF_"
"""Variables that begin so are read when huggingface_hub is imported, which "torch" has not done."""
BEGINNING = dict(os.environ)
LONGEST_START = 120.0  # seconds
FIRST = 60.0  # seconds that a server waits for somebody

_held: dict[str, socket.socket] = {}
_servers: list[Started] = []


def environment(level: str) -> dict[str, str]:
    """The variables of a level's server: those of this process, and where READ_AT_IMPORT counts, without the Hub."""
    return BEGINNING | ({} if level == "torch" else {"HF_HUB_OFFLINE": "1"})


def run(
    argv: Sequence[str], *, level: str, check: bool = False, timeout: float = 300.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python ARGV` (behind -I, if at all: -c CODE, -m MODULE or a script) and its words; options: those of `start`."""
    done = start(argv, level=level, **options).wait(timeout)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@dataclass
class Started:
    """A process. answers: its group, which is known already, then its exit code."""

    argv: list[str]
    line: socket.socket
    answers: Any
    folder: tempfile.TemporaryDirectory[str]
    group: int = field(init=False)

    def __post_init__(self) -> None:
        self.group = int(self.answers.readline())

    def wait(self, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """TimeoutExpired, and the process killed, if it has not ended by then."""
        self.line.settimeout(timeout)
        with self.folder, self.line:
            try:
                word = self.answers.readline()
            except TimeoutError:
                self.kill()
                raise subprocess.TimeoutExpired(self.argv, timeout) from None
            written = [(Path(self.folder.name) / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self.argv, int(word or -signal.SIGKILL), *written)

    def ended(self) -> bool:
        return bool(select.select([self.line], [], [], 0)[0])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)


def _at_import(variables: dict[str, str]) -> dict[str, str]:
    """Those that libraries read when they are imported; without bars, which change no result."""
    return {k: v for k, v in variables.items() if k.startswith(READ_AT_IMPORT) and not k.endswith("_PROGRESS_BARS")}


def start(
    argv: Sequence[str],
    *,
    level: str,
    env: dict[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: bytes = b"",
) -> Started:
    """env: all its variables, `environment(level)` if None. ValueError where one of them would come too late."""
    env = environment(level) if env is None else env
    if level != "torch":
        asked, given = (_at_import(variables) for variables in (env, environment(level)))
        if asked != given:
            raise ValueError(f"level {level!r} was imported with {given}, asked for are {asked}")
    _hold(level)
    folder = tempfile.TemporaryDirectory(prefix="mmssl-test-")
    (Path(folder.name) / "stdin").write_bytes(stdin)
    request = {"argv": list(argv), "env": env, "cwd": str(cwd or Path.cwd()), "folder": folder.name}
    line = _connected(level)
    assert line is not None, f"the server of {level!r} is gone"
    line.sendall(json.dumps(request).encode() + b"\n")
    return Started(list(argv), line, line.makefile("rb", 0), folder)


def _address(level: str) -> Path:
    """One a session: the processes of pytest-xdist know it by one name."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
    return Path(tempfile.gettempdir()) / f"mmssl-forking-{session}" / level


def _connected(level: str) -> socket.socket | None:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(_address(level)))
    except (FileNotFoundError, ConnectionRefusedError):
        line.close()
        return None
    return line


def _hold(level: str) -> None:
    """Start the server of a level, if there is none; it is there until the last process that holds it ends."""
    if level in _held:
        return
    if LEVELS[level][0]:
        _hold(LEVELS[level][0])
    address = _address(level)
    address.parent.mkdir(mode=0o700, exist_ok=True)
    place = os.open(address.parent, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    try:
        if not _take(level):
            _start_server(level)
            end = time.monotonic() + LONGEST_START
            while not _take(level):
                assert time.monotonic() < end, f"the server of {level!r} does not start"
                time.sleep(0.05)
    finally:
        os.close(place)


def _take(level: str) -> bool:
    line = _connected(level)
    if line is None:
        return False
    with contextlib.suppress(ConnectionError):
        line.sendall(b"hold\n")
        if line.recv(8):
            _held[level] = line
            return True
    line.close()  # it was just ending
    return False


def _start_server(level: str) -> None:
    below, names = LEVELS[level]
    argv = ["-I", __file__, str(_address(level)), *names]
    if below:
        _servers.append(start(argv, level=below, env=environment(level)))
        return
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    first = subprocess.Popen([sys.executable, *argv], env=environment(level), start_new_session=True, **streams)
    atexit.register(_release, first)


def _release(first: subprocess.Popen[bytes]) -> None:
    """At the end of a process alone: what the servers took is counted as its children's."""
    _servers.clear()
    while _held:
        _held.popitem()[1].close()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        first.wait(10)


# --------------------------------------------------------------------------------------------------------- the server


def serve(address: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Import, and fork for who asks. Returns twice: None at the end, and in each forked process what it is to be."""
    before = list(sys.path)
    sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    gc.disable()  # what is imported stays: looking it through for garbage is a sixth of the time
    for name in names:
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    gc.enable()
    sys.path[:] = before
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    selector, holders, end = selectors.DefaultSelector(), 0, time.monotonic() + FIRST
    selector.register(listener, selectors.EVENT_READ)
    while holders or time.monotonic() < end:
        for key, _ in selector.select(1.0):
            if key.fileobj is not listener:  # a holder has ended
                selector.unregister(key.fileobj)
                holders, end = holders - 1, 0.0
                continue
            line = listener.accept()[0]
            asked = line.makefile("rb").readline()
            if asked == b"hold\n":
                line.sendall(b"yes")
                selector.register(line, selectors.EVENT_READ)
                holders += 1
            elif asked:
                if _forked(line, listener):
                    return dict(json.loads(asked))
                line.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    address.unlink()
    with contextlib.suppress(OSError):  # another level's is there
        address.parent.rmdir()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
    return None


def _forked(line: socket.socket, listener: socket.socket) -> bool:
    """Whether this is the new process. Another one, between it and the server, says its group and its exit code."""
    if os.fork():
        return False
    listener.close()
    os.setsid()
    child = os.fork()
    if not child:
        line.close()
        return True
    with contextlib.suppress(ConnectionError):  # who asked has ended
        line.sendall(f"{os.getpid()}\n".encode())
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ConnectionError):
        line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """What `python ARGV` is, with the request's variables, folder and files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = os.open(Path(request["folder"]) / name, os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    random.seed()
    argv = list(request["argv"])
    isolated = argv[0] == "-I"
    kind, *words = argv[isolated:]
    if not isolated:
        first = "" if kind == "-c" else request["cwd"] if kind == "-m" else str(Path(kind).parent)
        sys.path[:0] = [first, *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
    if kind == "-m":
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *words[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), vars(main))
    else:
        sys.argv = [kind, *words]
        runpy.run_path(kind, run_name="__main__")


def ended(request: dict[str, Any]) -> int:
    """The exit code, after all that the interpreter does at its end but for taking a thousand modules apart: each page
    of memory that is written to has to be copied first."""
    try:
        become(request)
        code: Any = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code & 0xFF


if __name__ == "__main__":
    wanted = serve(Path(sys.argv[1]), sys.argv[2:])
    if wanted is not None:
        os._exit(ended(wanted))
