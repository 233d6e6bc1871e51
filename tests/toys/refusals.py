"""That something is refused, told by what must stand in the message and not by how the sentence reads.

A message's wording is asserted in one place, with `pytest.raises(..., match=...)` beside the unit that raises it. All
other tests that meet the message ask with `refused` for the facts in it: the key, the file, what was found, what was
expected. A reworded message then breaks one test, a wrong one breaks all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mmssl.errors import UserError


@contextmanager
def refused(
    *facts: object, meant: str | None = None, error: type[Exception] = UserError
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises `error`, in one line in which each of `facts` stands as a word of its own.

    `meant` is the valid name that the line offers for the one that was found ("did you mean ...?").
    """
    assert facts or meant, "an error of some kind is too little: say what its line must name"
    with pytest.raises(error) as caught:
        yield caught
    line = str(caught.value)
    assert "\n" not in line, f"more than one line: {line}"
    missing = [str(fact) for fact in facts if not re.search(rf"(?<!\w){re.escape(str(fact))}(?!\w)", line)]
    assert not missing, f"{missing} not in: {line}"
    assert meant is None or f"did you mean '{meant}'" in line, f"'{meant}' not offered in: {line}"
