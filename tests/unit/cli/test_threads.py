"""How threads wait is settled before torch is imported, and never against what the user has said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mmssl.cli.threads import SPINS, TOLD, wait_briefly

ASKED = """
import os
from mmssl.cli import main
main(['list', 'recipes'])
print('spins', os.environ.get('GOMP_SPINCOUNT'))
"""


def spins_after_a_command(first: str = "", **told: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in TOLD} | told
    done = subprocess.run(
        [sys.executable, "-c", first + ASKED], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()[-1].removeprefix("spins ")


@pytest.mark.parametrize("name", TOLD)
def test_what_the_user_has_said_stays(name):
    environment = {name: "x"}
    assert not wait_briefly(environment)
    assert environment == {name: "x"}


def test_a_command_sets_it_for_its_own_threads():
    assert spins_after_a_command() == SPINS


def test_where_torch_is_already_there_it_would_change_nothing_and_is_left_alone():
    assert spins_after_a_command("import sys; sys.modules['torch'] = None") == "None"
