"""`mmssl doctor` names the cause and the fix."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from mmssl import doctor

GOOD: list[dict[str, Any]] = [{"start": "torch"}, {"name": "torch", "error": None}]
DEVICES: dict[str, Any] = {
    "devices": [["H200", 130 * 2**30, 140 * 2**30, True]],
    "mps": False,
    "bf16": 61.3,
    "threads": 2,
    "cpu": "AVX2",
    "cuda": "13.0",
}


def test_a_broken_torchvision_is_the_one_problem_and_its_victims_are_a_note() -> None:
    facts = [
        *GOOD,
        {"start": "torchvision"},
        {"name": "torchvision", "error": "RuntimeError: operator torchvision::nms does not exist"},
        {"start": "transformers"},
        {"name": "transformers", "error": "RuntimeError: the same"},
        {"start": "pyarrow"},
        {"name": "pyarrow", "error": "ModuleNotFoundError: No module named 'pyarrow'"},
    ]
    found = {f.level: f for f in doctor._imports(facts)}
    problems = [f for f in doctor._imports(facts) if f.level == "problem"]
    assert [f.text.split("`")[1] for f in problems] == ["import torchvision", "import pyarrow"]
    assert "nms" in problems[0].text and "torchvision" in problems[0].fix and problems[0].fix.startswith("pip install")
    assert problems[1].fix == "pip install --force-reinstall 'pyarrow'"
    assert found["note"].text.endswith(": transformers")


def test_a_cpu_build_gets_the_matching_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.14.1+cpu")
    finding = doctor._broken("torchvision", "RuntimeError: operator torchvision::nms does not exist")
    assert finding.fix.endswith("--index-url https://download.pytorch.org/whl/cpu")


def test_a_crash_is_blamed_on_what_was_being_imported() -> None:
    found = doctor._imports([*GOOD, {"start": "torchaudio"}, {"crash": "died of signal 11"}])
    assert [f.text for f in found if f.level == "problem"] == [
        "`import torchaudio` fails: died of signal 11; a broken torchaudio also breaks transformers"
    ]


def test_versions_outside_the_declared_range(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.15.0", "transformers": "5.23.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    wants = ["torch<2.15,>=2.11", "transformers<6,>=5.20", "rich", "ruff; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wants)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor._versions()
    assert found[0] == doctor.Finding("ok", "installed: torch 2.15.0, transformers 5.23.0")
    assert [(f.level, f.fix) for f in found[1:]] == [
        ("problem", "pip install 'torch<2.15,>=2.11'"),
        ("problem", "pip install 'rich'"),
    ]


def test_every_extra_is_listed_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {
        Requirement(line).name.replace("-", "_"): f"mmssl[{extra}]"
        for extra, lines in project["optional-dependencies"].items()
        if extra not in ("dev", "docs", "bench", "all")
        for line in lines
    }
    extras["umap"], extras["faiss"] = extras.pop("umap_learn"), extras.pop("faiss_cpu")  # as they are imported
    assert {name: doctor.OPTIONAL[name][1] for name in extras} == extras
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = {f.text.split()[1]: (f.level, f.fix) for f in doctor._optional()}
    assert set(found) == set(doctor.OPTIONAL)
    assert found["onnxruntime"] == ("note", "pip install 'mmssl[onnx]'")
    assert found["sentence_transformers"] == ("note", "pip install 'mmssl[sentence-transformers]'")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.0")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["sentence-transformers<7,>=5.4; extra == 'x'"])
    texts = {f.text.split()[1]: f for f in doctor._optional()}
    old = texts["sentence_transformers"]
    assert old.level == "note" and "3.0" in old.text and "(<7,>=5.4)" in old.text and old.fix
    assert texts["onnx"].level == "ok" and "onnx 3.0" in texts["onnx"].text


def test_devices() -> None:
    found = doctor._devices([*GOOD, DEVICES])
    assert "GPU 0: H200, 130 of 140 GiB free; use train.mixed_precision=bf16" in [f.text for f in found]
    for ratio, says in (
        (None, "no bf16: keep train.mixed_precision=no"),
        (61.3, "bf16 products take 61 times as long as those of float32: keep train.mixed_precision=no"),
        (0.4, "bf16 products take 0.4 of the time of float32's: train.mixed_precision=bf16 is faster"),
    ):
        assert doctor._devices([{**DEVICES, "devices": [], "bf16": ratio}])[0].text.endswith(says)
    assert doctor._devices(GOOD) == []


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = type("usage", (), {"free": 2**29})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: full)
    found = doctor._disk(tmp_path / "not" / "there")
    assert [f.level for f in found] == ["problem", "problem"] and "0.5 GiB free" in found[0].text


@pytest.mark.parametrize("levels", [["ok", "note"], ["ok", "problem"]])
def test_exit_code_and_report(levels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [doctor.Finding(level, f"a {level}", "do this" if level != "ok" else "") for level in levels]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    out = io.StringIO()
    assert doctor.main(out) == (1 if "problem" in levels else 0)
    assert "fix: do this" in out.getvalue()


def test_an_import_that_fails_is_told_of_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a package raises while it is imported is known from what it raises while it works."""
    (tmp_path / "sentencepiece.py").write_text(
        "import sys\n"
        "def work():\n    raise ValueError('too long')\n"
        "if not getattr(sys, 'whole', False):\n"
        "    raise RuntimeError('operator torchvision::nms does not exist\\nmore')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sentencepiece", raising=False)
    with pytest.raises(RuntimeError) as broken:
        importlib.import_module("sentencepiece")
    told = doctor.import_failed(broken.value)
    assert isinstance(told, ImportError) and "\n" not in str(told)
    assert "python -m mmssl doctor" in str(told) and "nms does not exist" in str(told)
    monkeypatch.setattr(sys, "whole", True, raising=False)
    with pytest.raises(ValueError) as worked:
        importlib.import_module("sentencepiece").work()
    assert doctor.import_failed(worked.value) is worked.value
    monkeypatch.delitem(sys.modules, "sentencepiece")
    missing = ModuleNotFoundError("No module named 'peft'", name="peft.tuners")
    assert isinstance(doctor.import_failed(missing), ImportError)
    other = ModuleNotFoundError("No module named 'mylab'", name="mylab")
    assert doctor.import_failed(other) is other


@pytest.mark.slow
def test_it_runs_where_torchvision_is_broken(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    run = [sys.executable, "-m", "mmssl", "doctor"]
    done = subprocess.run(run, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "PROBLEM `import torchvision` fails: RuntimeError: operator torchvision::nms" in done.stdout
    for other in (
        [sys.executable, "-c", "import mmssl; mmssl.MMSSLModel"],
        [sys.executable, "-m", "mmssl", "evaluate", str(tmp_path), "--data", "builtin:digits"],
    ):
        failed = subprocess.run(other, capture_output=True, text=True, env=env, check=False)
        assert failed.returncode == 1 and "python -m mmssl doctor" in failed.stderr.splitlines()[-1]
