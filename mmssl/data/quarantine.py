"""Broken samples: left out, counted, listed in the run folder, and the end of the run when there are too many."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmssl.errors import RunError, UserError
from mmssl.files import replaceable

logger = logging.getLogger("mmssl")

ENOUGH = 50
"""Samples to have read before a share of broken ones means anything."""


@dataclass(frozen=True)
class Bad:
    """What was not used of a sample.

    Attributes:
        index: its number in the opened data.
        modality: where the fault is ("*": all of them).
        column: likewise.
        reason: one line.
        source: of which of several data it is.
    """

    index: int
    modality: str
    column: str
    reason: str
    source: str | None = None

    @property
    def where(self) -> str:
        """Which sample, in words."""
        return f"sample {self.index}" if self.source is None else f"sample {self.index} of {self.source}"


def refuse_share(
    bad: Sequence[Bad], broken: int, read: int, most: float, option: str, more: str = "", what: str = "samples read"
) -> None:
    """UserError once more than the share `most` of the samples are broken, after `ENOUGH` of them or where all are.

    Args:
        bad: the last of them, for an example; without any nothing is said.
        broken: how many samples were.
        read: how many samples there were.
        most: the largest share.
        option: sets it.
        more: is said at the end.
        what: they are called.
    """
    if not bad or not read:
        return
    if broken / read > most and (read >= ENOUGH or broken == read):
        fault = bad[0]
        raise UserError(
            f"{broken:,} of {read:,} {what} are broken ({broken / read:.0%}), more than {option} = {most:g} "
            f"allows; e.g. {fault.where} ({fault.modality}, column {fault.column}): {fault.reason}{more}"
        )


class Quarantine:
    """The list of broken samples of one run, kept in `folder/quarantine.jsonl` across resumes.

    Knows nothing of processes: the caller gathers `Loaded.bad` and the number of samples read, and records them on
    the main process. max_bad: share of the samples read that may be broken (data.max_bad). folder None: count and warn,
    but write no list (a process that is not the main one).
    """

    def __init__(
        self,
        folder: str | Path | None,
        max_bad: float = 0.05,
        place: Callable[[int], tuple[str | None, int]] | None = None,
        share: Callable[[str], float] | None = None,
    ) -> None:
        """place: of a sample's number, (which of several data it is of, the number of its row there); None: the same
        number of the only data. share: of the samples, that each of several data has."""
        self.place, self.share = place, share
        self.path = None if folder is None else Path(folder) / "quarantine.jsonl"
        self.max_bad = max_bad
        self.read = 0
        self.bad = 0
        self._of: dict[str, int] = {}
        self._since = 0  # of this process
        self._listed = self._load()

    def record(self, bad: Iterable[Bad], read: int) -> None:
        """Count `read` samples, of which `bad` were broken; list and report those seen for the first time.

        A sample counts once, however many of its parts are broken.

        Raises UserError once more than `max_bad` of the samples are broken, all together or of one of several data,
        RunError when the list cannot be written.
        """
        bad = [self._placed(one) for one in bad]
        rows = {(fault.source, fault.index) for fault in bad}
        self.read += read
        self._since += read
        self.bad += len(rows)
        for source in {source for source, _ in rows if source is not None}:
            self._of[source] = self._of.get(source, 0) + sum(source == of for of, _ in rows)
        for fault in bad:
            if _key(fault) not in self._listed:
                self._listed[_key(fault)] = fault
                self._append(fault)
                logger.warning("broken %s (%s, column %s): %s", fault.where, fault.modality, fault.column, fault.reason)
        where = "" if self.path is None else f"; all are listed in {self.path}"
        refuse_share(bad, self.bad, self.read, self.max_bad, "data.max_bad", where)
        for source, count in self._of.items():
            part = 0.0 if self.share is None else self.share(source)
            seen = max(int(self._since * part), count)  # to within chance: data come in a drawn order
            if seen >= ENOUGH:
                one = [fault for fault in bad if fault.source == source]
                said = f"or so samples read of {source}"
                refuse_share(one, count, seen, self.max_bad, "data.max_bad", where, said)

    def _placed(self, fault: Bad) -> Bad:
        if self.place is None:
            return fault
        source, row = self.place(fault.index)
        return dataclasses.replace(fault, index=row, source=source)

    def summary(self) -> str:
        """One line for the run's end."""
        if not self.bad:
            return f"no broken samples among {self.read:,} read"
        rows = len({(source, index) for source, index, _ in self._listed})
        return (
            f"{self.bad:,} of {self.read:,} samples read were broken, in whole or in part "
            f"({rows:,} different{'' if self.path is None else f', listed in {self.path.name}'})"
        )

    def _append(self, fault: Bad) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replaceable(self.path).open("a", encoding="utf-8") as file:
                said = {key: value for key, value in dataclasses.asdict(fault).items() if value is not None}
                file.write(json.dumps(said) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _load(self) -> dict[tuple[str | None, int, str], Bad]:
        """What an earlier part of the run listed. A last line torn by a crash is cut off, it will be listed again."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            text = self.path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                logger.warning("%s ended in the middle of a line, which was cut off", self.path)
                replaceable(self.path).write_bytes(whole)
        except OSError as error:
            raise RunError(f"cannot read {self.path}: {error.strerror or error}") from error
        listed = {}
        for number, line in enumerate(whole.decode("utf-8", errors="replace").split("\n")[:-1], 1):
            try:
                fault = Bad(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise RunError(f"{self.path} line {number} is not a quarantine entry; move the file away") from error
            listed[_key(fault)] = fault
        return listed


def _key(fault: Bad) -> tuple[str | None, int, str]:
    return fault.source, fault.index, fault.modality
