"""`mmssl verify-resume`: a short run of a recipe, left alone, and once more killed at random places and resumed.

The killed run is started again by the same command (`--resume auto`), as a scheduler does it. A kill is SIGKILL, which
no process can answer: it hits one of them in the middle of a step, of a look, or of a checkpoint that is being written.
Both runs end with a checkpoint, and the certificate compares the bits of all its tensors: weights, teachers and the
optimiser's state.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from ..errors import RunError, UserError
from . import checkpoints

FEWEST = 3
"""Steps of a run that can be killed between two of its checkpoints."""
OTHERS = 120.0
"""Seconds in which the other processes must have ended once one is killed."""
SAVE_EVERY = 2
"""Steps between checkpoints: a kill then costs up to so many, which are done again."""


class Child(Protocol):
    """A process of a run."""

    def ended(self) -> bool: ...

    def kill(self) -> None: ...

    def code(self) -> int: ...


Launch = Callable[[Sequence[str], Mapping[str, str], Path], Child]
"""(words behind `mmssl`, variables besides this process's own, file for what it says) -> the process."""


class Process:
    """A new process of this Python, in a group of its own: workers die with it."""

    def __init__(self, words: Sequence[str], variables: Mapping[str, str], said: Path) -> None:
        argv = [sys.executable, "-m", "mmssl", *words]
        with said.open("ab") as file:
            self.process = subprocess.Popen(
                argv, env={**os.environ, **variables}, stdout=file, stderr=file, start_new_session=True
            )

    def ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL for it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def code(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait()


@dataclass
class Certificate:
    """What was found.

    Attributes:
        recipe, overrides: what was run.
        steps, processes: of each of the two runs.
        kills: how many were asked for; a run may have ended before one.
        killed: after which logged step and in which process; one a kill.
        tensors: how many the last checkpoint has.
        sha256: of all of them, of the run that was left alone.
        different: those that are others in the resumed run.
        torch_version: what trained.
        device: what was trained on.
    """

    recipe: str
    overrides: list[str]
    steps: int
    processes: int
    kills: int
    killed: list[tuple[int, int]] = field(default_factory=list)
    tensors: int = 0
    sha256: str = ""
    different: list[str] = field(default_factory=list)
    torch_version: str = str(torch.__version__)
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def same(self) -> bool:
        """Whether both runs ended with the same bits, and one of them was killed."""
        return self.tensors > 0 and bool(self.killed) and not self.different

    def text(self) -> str:
        """For the user."""
        places = ", ".join(
            f"after step {step}" + (f" in process {rank}" if self.processes > 1 else "") for step, rank in self.killed
        )
        if self.same:
            result = f"the resumed run is the one that was left alone: {self.tensors} tensors, bit for bit"
        else:
            some = ", ".join(self.different[:3])
            result = f"DIFFERENT: {len(self.different)} of {self.tensors} tensors, {some}"
        lines = [
            f"{self.recipe} {' '.join(self.overrides)}".rstrip(),
            f"{self.steps} steps, {self.processes} x {self.device}, torch {self.torch_version}",
            f"killed {len(self.killed)} of {self.kills} times that were asked for, and resumed: {places}",
            result,
        ]
        return "\n".join([*lines, f"sha256 {self.sha256}"])

    def as_json(self) -> str:
        """For programs."""
        return json.dumps({**asdict(self), "same": self.same}, indent=2)


@dataclass
class Trial:
    """Starts and watches the runs of one certificate.

    Attributes:
        words: `pretrain RECIPE key.path=value ...`.
        processes: of each run.
        folder: of both runs.
        launch: starts a process.
        pace: seconds of a step, as far as seen.
    """

    words: list[str]
    processes: int
    folder: Path
    launch: Launch = Process
    pace: float = 0.1

    def start(self, name: str) -> list[Child]:
        """The processes of a run, which goes on where it is."""
        words = [*self.words, "--output", str(self.folder / name), "--resume", "auto"]
        if self.processes == 1:
            return [self.launch(words, {}, self.folder / f"{name}.log")]
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        shared = {"WORLD_SIZE": str(self.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if not torch.cuda.is_available():
            shared["ACCELERATE_USE_CPU"] = "true"
        return [
            self.launch(words, shared | {"RANK": str(n), "LOCAL_RANK": str(n)}, self.folder / f"{name}.log")
            for n in range(self.processes)
        ]

    def finish(self, name: str, children: Sequence[Child]) -> dict[str, str]:
        """Wait for a run's end; tensor of its last checkpoint -> SHA-256. RunError where it failed."""
        try:
            while not all(child.ended() for child in children):
                if any(child.ended() and child.code() for child in children):
                    self._end(name, children)  # whoever failed says so last
                time.sleep(0.05)
        finally:
            for child in children:
                child.kill()
        codes = [child.code() for child in children]
        if any(codes):
            said = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise RunError(f"verify-resume: the run ended with exit code {max(map(abs, codes))}: {' '.join(said)}")
        last = checkpoints.latest(self.folder / name / "checkpoints")
        if last is None:
            raise RunError("verify-resume: the run ended without a checkpoint")
        return checkpoints.digests(last)

    def kill_after(self, name: str, step: int, children: Sequence[Child], rank: int, draw: random.Random) -> int | None:
        """SIGKILL a process of a run at a random place of the step behind one that it has logged; wait for the others.

        Returns:
            The last step it had logged; None where it had ended before.

        Raises:
            RunError: the others do not end.
        """
        before, seen, since = self._logged(name), None, 0.0
        while seen is None or seen < step:
            if any(child.ended() for child in children):
                return None
            time.sleep(0.002)
            now = self._logged(name)
            if now != before:  # what this start has logged, not what an earlier one had
                if seen is not None and now > seen:
                    self.pace = (time.monotonic() - since) / (now - seen)
                before, seen, since = now, now, time.monotonic()
        time.sleep(draw.uniform(0, min(self.pace, 60.0)))
        if any(child.ended() for child in children):
            return None
        logged = self._logged(name)
        children[rank].kill()
        self._end(name, children)
        return logged

    def _end(self, name: str, children: Sequence[Child]) -> None:
        until = time.monotonic() + OTHERS
        while not all(child.ended() for child in children):
            if time.monotonic() > until:
                for child in children:
                    child.kill()
                raise RunError(f"verify-resume: a process of the run was gone, and others waited {OTHERS:.0f} s for it")
            time.sleep(0.02)

    def _logged(self, name: str) -> int:
        """The last step in a run's log; 0 where there is none."""
        try:
            rows = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        except OSError:
            return 0
        for row in reversed(rows):
            with suppress(ValueError, KeyError, TypeError):  # half a line, of a write that goes on
                return int(json.loads(row)["step"])
        return 0


def verify_resume(
    recipe: str,
    overrides: Sequence[str],
    folder: Path,
    *,
    steps: int = 8,
    kills: int = 3,
    processes: int = 1,
    seed: int = 0,
    preset: str | None = None,
    launch: Launch = Process,
) -> Certificate:
    """Run a recipe twice, and compare; writes `certificate.json`.

    Args:
        recipe: its name or path.
        overrides: `key.path=value`.
        folder: of both runs; empty, or not there yet.
        steps: of each run.
        kills: how often the second one is killed.
        processes: of each run, on this machine.
        seed: of the places.
        preset: size of a shipped recipe.
        launch: starts a process.

    Raises:
        UserError: the numbers do not go together, or the folder holds something.
        RunError: a run failed by itself, or had ended before each of the kills.
    """
    if steps < FEWEST or not 1 <= kills < steps or processes < 1:
        raise UserError(
            f"verify-resume: found steps {steps}, kills {kills}, processes {processes}; expected at least {FEWEST} "
            "steps, a process, and fewer kills than steps"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--output {folder}: found files, expected an empty folder")
    own = [f"train.steps={steps}", "train.epochs=null", "train.log_every=1", f"train.save_every={SAVE_EVERY}"]
    own += ["train.save_minutes=null", "train.time_limit=null", "train.trackers=[]", "evaluation.tasks=[]"]
    words = ["pretrain", recipe, *overrides, *own, *(["--preset", preset] if preset else [])]
    trial = Trial(words, processes, folder, launch)
    found = Certificate(recipe, list(overrides), steps, processes, kills)
    straight = trial.finish("straight", trial.start("straight"))
    draw = random.Random(seed)
    for step in sorted(draw.sample(range(1, steps), kills)):
        children, rank = trial.start("resumed"), draw.randrange(processes)
        at = trial.kill_after("resumed", step, children, rank, draw)
        if at is not None:
            found.killed.append((at, rank))
    if not found.killed:
        raise RunError(
            f"verify-resume: none of {kills} kills hit the run, which had ended before: this proves nothing; more "
            f"--steps than {steps}"
        )
    resumed = trial.finish("resumed", trial.start("resumed"))
    found.tensors = len(straight)
    found.sha256 = hashlib.sha256(json.dumps(straight, sort_keys=True).encode()).hexdigest()
    found.different = sorted({name for name, _ in straight.items() ^ resumed.items()})
    (folder / "certificate.json").write_text(found.as_json() + "\n")
    return found
