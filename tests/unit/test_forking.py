"""What the tests have for `python ARGV` is what that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toys import forking

SAYS = """
import os, sys
print(sys.argv, __name__, os.getcwd(), os.environ["IT"], sys.stdin.read(), file=sys.stderr)
print(sys.path, [name for name in ("torch", "transformers", "mmssl", "toys", "pytest") if name in sys.modules])
raise SystemExit(3)
"""


def test_it_has_its_words_variables_and_folder_and_imports_what_python_would(tmp_path: Path) -> None:
    env = forking.environment("torch") | {"IT": "here", "PYTHONPATH": str(tmp_path)}
    argv = ["-c", SAYS, "a", "b"]
    found = forking.run(argv, level="torch", env=env, cwd=tmp_path, stdin=b"given")
    python = subprocess.run(
        [sys.executable, *argv], env=env, cwd=tmp_path, input="given", capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (python.returncode, python.stderr) and found.returncode == 3
    assert found.stdout == python.stdout.replace("[]", "['torch']")


def test_a_script_and_a_module(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import sys, beside; print(__name__, sys.argv[1:], beside.VALUE)")
    (tmp_path / "beside.py").write_text("VALUE = 4")
    for argv in ([str(tmp_path / "job.py")], ["-m", "job"]):
        assert forking.run([*argv, "x"], level="torch", cwd=tmp_path, check=True).stdout == "__main__ ['x'] 4\n"
    isolated = forking.run(["-I", str(tmp_path / "job.py")], level="torch")
    assert isolated.returncode == 1 and "No module named 'beside'" in isolated.stderr


def test_how_it_ends() -> None:
    assert forking.run(["-c", "import sys; sys.exit('why')"], level="torch").stderr == "why\n"
    failed = forking.run(["-c", "raise ValueError('why')"], level="torch")
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1] == "ValueError: why"
    killed = forking.run(["-c", "import os; os.kill(os.getpid(), 9)"], level="torch")
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        forking.run(["-c", "import time; time.sleep(60)"], level="torch", timeout=0.2)
    with pytest.raises(AssertionError, match="ValueError: why"):
        forking.run(["-c", "raise ValueError('why')"], level="torch", check=True)


def test_a_variable_that_comes_too_late_is_refused() -> None:
    with pytest.raises(ValueError, match="HF_ENDPOINT"):
        forking.run(["-c", ""], level="transformers", env=dict(os.environ) | {"HF_ENDPOINT": "http://127.0.0.1:9"})
