"""The page docs/tutorials/add-a-modality.md, followed to the letter outside the source tree by its code blocks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "tutorials" / "add-a-modality.md"

pytestmark = pytest.mark.slow


def blocks() -> dict[str, str]:
    """File name (the comment in a block's first line) -> its text; the commands under "sh"."""
    found = {}
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        name = re.match(r"# (\S+)\n", text)
        found[language if name is None else name[1]] = text
    return found


def run(command: list[str], folder: Path, site: Path) -> str:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(site), str(REPO), str(REPO / "modalities")]))
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_newcomer_gets_from_the_page_to_a_model(tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    files = blocks()
    package = {"mmssl_toy/pyproject.toml", "mmssl_toy/mmssl_toy/__init__.py"}
    assert set(files) == package | {"make_series.py", "toy.yaml", "sh"}
    commands = files.pop("sh").strip().splitlines()
    assert commands == ["pip install ./mmssl_toy", "mkdir series && python make_series.py", "mmssl pretrain toy.yaml"]
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    # as a package of its own, installed; offline, and into a folder, so that the environment stays as it is
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    run([*pip, "--no-index", "--target", str(site), "./mmssl_toy"], work, site)
    assert (site / "mmssl_toy" / "__init__.py").is_file() and list(site.glob("mmssl_toy-0.1.dist-info"))
    away = tmp_path / "away"  # the recipe and its data, without the source of the package
    (away / "series").mkdir(parents=True)
    for name in ("make_series.py", "toy.yaml"):
        (work / name).rename(away / name)
    run([sys.executable, "make_series.py"], away, site)
    mmssl = [sys.executable, "-m", "mmssl"]
    assert "Series of numbers with gaps" in run([*mmssl, "list", "modalities"], away, site)
    run([*mmssl, "pretrain", "toy.yaml", "train.steps=60", "train.log_every=10"], away, site)
    losses = [json.loads(line) for line in (away / "runs/toy/metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["loss/mae"] < losses[0]["loss/mae"]
    scores = json.loads((away / "runs/toy/evaluation.json").read_text())
    assert "toy" in json.dumps(scores) and (away / "runs/toy/model/config.json").is_file()
    code = (
        "import mmssl; from transformers import AutoModel, AutoProcessor\n"
        "m, p = (A.from_pretrained('runs/toy/model') for A in (AutoModel, AutoProcessor))\n"
        "out = m(**p(toy=[[1.0, None, 0.5], None, [0.1] * 9], return_tensors='pt'))\n"
        "print(tuple(out.pooled['toy'].shape), out.present['toy'].tolist())"
    )
    assert run([sys.executable, "-c", code], away, site).strip() == "(3, 64) [True, False, True]"  # mean+std
    own = re.search(r"```\n(model: .*)\n```", PAGE.read_text())
    assert own is not None
    recipe = (away / "toy.yaml").read_text()
    (away / "own.yaml").write_text(re.sub(r"^model: .*$", own[1], recipe, flags=re.MULTILINE))
    run([*mmssl, "pretrain", "own.yaml", "train.steps=60", "train.log_every=10"], away, site)
    losses = [json.loads(line) for line in (away / "runs/own/metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["loss/mae"] < losses[0]["loss/mae"]
    assert "toy" in json.dumps(json.loads((away / "runs/own/evaluation.json").read_text()))
    assert run([sys.executable, "-c", code.replace("toy/model", "own/model")], away, site).strip().startswith("(3, 64)")
    bad = work / "bad.jsonl"
    bad.write_text("\n".join(json.dumps({"series": s, "kind": 0}) for s in [[1.0, 2.0]] * 40 + [[None, None]]) + "\n")
    more = [f"data.path={bad}", "train.steps=3", "train.batch_size=41", "evaluation.tasks=[]", "--output", "bad"]
    run([*mmssl, "pretrain", "toy.yaml", *more], away, site)
    assert "no finite number" in (away / "bad/quarantine.jsonl").read_text()
