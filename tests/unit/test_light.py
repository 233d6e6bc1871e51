"""What only reads and tells imports nothing heavy: `--help`, `list`, `show`, faults in a recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "torchaudio",
    "torchvision",
    "open_clip",
    "sklearn",
    "scipy",
    "pandas",
    "numpy",
    "pyarrow",
    "PIL",
    "httpx",
)
"""Import names; numpy is among them because it alone is a tenth of a second."""

COMMANDS = f"""
import contextlib, io, sys
from mmssl.cli import main
from mmssl.recipe import LISTS

def run(code, *words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = main(list(words))
        except SystemExit as end:  # argparse's own --help and --version
            found = end.code
    text = out.getvalue() + err.getvalue()
    assert found == code, (words, found, text)
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, (words, heavy)
    return text

run(0, "--help")
run(0, "--version")
run(2, "lits")
run(2, "pretrain", "quickstrat")
for what in LISTS:
    run(0, "list", what)
    run(0, "list", what, "--json")
from mmssl.cli import showing
for name in showing.topic_names():
    assert len(run(0, "show", name)) > 80, name
for name in showing.recipe_names():
    run(0, "show", name)
run(0, "show", name, "--defaults")
run(0, "show", "--schema")
assert "train.stpes" in run(2, "pretrain", "quickstart", "train.stpes=3")
assert "did you mean 'steps'" in run(2, "show", "quickstart", "train.stpes=3")
assert "expected a number" in run(2, "pretrain", "quickstart", "train.lr=fast")
assert "'jepa'" in run(2, "pretrain", "quickstart", "objectives.x.type=jpea")
assert "objectives.clip.tower" in run(2, "pretrain", "quickstart", "objectives.clip.tower=image")
run(2, "pretrain", "quickstart", "views.a.image.flap=0.5")
for shell in ("bash", "zsh", "fish"):
    run(0, "completion", shell)
assert "quickstart" in run(0, "completion", "words", "--", "pretrain", "quick")
assert list(main.__globals__) and "mmssl.models.auto" in sys.modules
"""


def test_commands_that_tell_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", COMMANDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LONG = f"""
import contextlib, io, os, sys
from mmssl.cli import main

class Reached(BaseException):
    pass

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY!r}:
            raise Reached(name)

def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except Reached:
            return err.getvalue()
    raise AssertionError((words, out.getvalue(), err.getvalue()))

sys.meta_path.insert(0, Guard())
digits = ("--data", "builtin:digits")
for words in (
    ("init", "builtin:digits"),
    ("check", "builtin:digits"),
    ("plan", "quickstart"),
    ("pretrain", "quickstart"),
    ("tune", "quickstart", "train.lr=[0.1,0.2]"),
    ("verify-resume", "quickstart"),
    ("reproduce", "model"),
    ("embed", "model", *digits, "--output", "e.parquet"),
    ("cluster", "e.parquet", "--output", "c.parquet"),
    ("select", "builtin:digits", "--output", "s.parquet"),
    ("evaluate", "model"),
    ("evaluate", "model", "other", *digits),
    ("finetune", "model", *digits, "--label", "label"),
    ("export", "model", "--to", "onnx", "--output", "o"),
    ("push", "adapter", "me/it", "--dry-run"),
    ("push", "model", "me/it", "--space", "space"),
    ("report", "run"),
    ("demo", "model"),
):
    said = run(*words)
    assert said == "... loading torch and transformers\\n", (words, said)
assert run("plan", "quickstart", "--quiet") == ""
"""


def test_what_takes_long_says_so_before_it_imports_anything_heavy(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mmssl_adapter.json").write_text("{}")
    done = subprocess.run([sys.executable, "-c", LONG], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_of_mmssl_is_light_and_its_names_come_when_asked_for() -> None:
    line = (
        f"import sys, mmssl; print([name for name in {HEAVY!r} + ('huggingface_hub', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_stands_for_a_module_gives_its_place_to_it(tmp_path: Path) -> None:
    """A module that `later` declared is the module itself after its first use, in all that declared it. Any module of
    the name will do, and torch itself takes seconds."""
    (tmp_path / "torch.py").write_text("arange = range\n")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    lines = """
import sys
from mmssl import draws, patches
from mmssl.masking import patchwise, splits
assert "torch" not in sys.modules and patches.torch is not splits.torch
assert splits.torch.arange is range
import torch
assert all(module.torch is torch for module in (draws, patches, patchwise, splits))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", lines], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
