"""`mmssl init --ask`: what was found is told, and asked after, with it as the answer that stands already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import UserError, nearest
from ..modality.table import joined
from .options import GOALS, InitConfig

Ask = Callable[[str], str]
"""A question -> what was answered, "" for what stands already."""
Tell = Callable[[str], None]
NONE = "none"
SIZES = ("demo", "small", "base")
SHOWN = 6
"""Columns of what stands already that are named."""


def answered(asked: InitConfig, recipe: dict[str, Any], columns: Sequence[str], ask: Ask, tell: Tell) -> InitConfig:
    """What is asked for, with the answers; as it was where all of them are what stands already.

    Args:
        asked: what the user said before.
        recipe: that was made of it, plain.
        columns: of the data.
        ask: asks.
        tell: says what is wrong with an answer, before it is asked again.
    """
    evaluation, data = recipe.get("evaluation", {}), recipe["data"]
    changes: dict[str, Any] = {}

    def put(question: str, now: str, read: Callable[[str], Any]) -> Any:
        """The answer as it is read; None for what stands already."""
        while True:
            given = ask(f"{question} [{now}]: ").strip()
            if given in ("", now):
                return None
            try:
                return read(given)
            except UserError as error:
                tell(str(error))

    def column(text: str) -> str:
        if text not in columns:
            raise UserError(f"found '{text}', expected one of {joined(list(columns))}{nearest(text, columns)}")
        return text

    def several(text: str) -> str | list[str]:
        found = [column(part.strip()) for part in text.split(",")]
        return found if len(found) > 1 else found[0]

    goal = put(f"What is the encoder for ({', '.join(GOALS)})", asked.goal or "whatever the data allow", _one_of(GOALS))
    changes |= {} if goal is None else {"goal": goal}
    if columns:
        for key, question in (
            ("label", "Which column is to be predicted (it is no input)"),
            ("group", "Rows of one value of which column stay on one side of every split"),
        ):
            found = put(question, evaluation.get(key) or NONE, column)
            changes |= {} if found is None else {key: found}
        own: dict[str, Any] = {}
        for modality in recipe["modalities"]:
            stands = data.get("columns", {}).get(modality, modality)
            now = stands if isinstance(stands, str) else joined(stands, SHOWN)
            found = put(f"Column(s) of {modality}, separated by commas", now, several)
            own |= {} if found is None else {modality: found}
        changes |= {"columns": {**asked.columns, **own}} if own else {}
    size = put(f"Size of the model ({', '.join(SIZES)})", asked.preset or "by the rows and the device", _one_of(SIZES))
    changes |= {} if size is None else {"preset": size}
    return replace(asked, **changes) if changes else asked


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise UserError(f"found '{text}', expected one of {', '.join(known)}{nearest(text, known)}")
        return text

    return read
