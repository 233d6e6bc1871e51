"""`mmssl doctor`: the environment in plain words, with the fix for what is wrong.

Standard library only, and heavy packages are imported in a process of their own: a torchvision or torchaudio that
does not fit torch takes `import transformers` down with it, and a crash there must not be a crash here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

IMPORTED = (
    "torch",
    "torchvision",
    "torchaudio",
    "transformers",
    "accelerate",
    "datasets",
    "peft",
    "open_clip",
    "timm",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "sentencepiece",
    "scipy",
    "sklearn",
    "pyarrow",
    "PIL",
    "yaml",
    "rich",
    "mmssl",
)
"""Import names, in an order in which the first that fails is the cause and not a victim."""

FOREIGN = IMPORTED[: IMPORTED.index("mmssl")]
"""Those that are not mmssl's own."""

OPTIONAL = {
    "soundfile": ("reads audio", "mmssl[audio]"),
    "av": ("reads video, and its sound", "mmssl[video]"),
    "mne": ("reads EEG files", "mmssl[eeg]"),
    "wfdb": ("reads ECG records", "mmssl[ecg]"),
    "nibabel": ("reads NIfTI and MGH volumes", "mmssl[volume]"),
    "torch_geometric": ("reads TUDatasets", "mmssl[graph]"),
    "networkx": ("reads GraphML and GML", "mmssl[graph]"),
    "onnx": ("writes ONNX files: mmssl export --to onnx", "mmssl[onnx]"),
    "onnxscript": ("needed for that as well", "mmssl[onnx]"),
    "onnxruntime": ("runs ONNX files, and so proves them", "mmssl[onnx]"),
    "sentence_transformers": ("mmssl export --to sentence-transformers", "mmssl[sentence-transformers]"),
    "tensorboard": ("curves while a run trains", "mmssl[tensorboard]"),
    "gradio": ("the page of mmssl demo", "mmssl[demo]"),
    "fastapi": ("that page, too", "mmssl[demo]"),
    "uvicorn": ("serves it", "mmssl[demo]"),
    "matplotlib": ("the card's picture of the run", "mmssl[plots]"),
    "faiss": ("finds the nearest of very many centres of clusters", "mmssl[faiss]"),
    "umap": ("lays out the map of report.html", "mmssl[umap]"),
    "zarr": ("reads Zarr stores: data.path=X.zarr", "mmssl[zarr]"),
    "optuna": ("searches: mmssl tune", "mmssl[tune]"),
    "bitsandbytes": ("an optimiser with a state of 8 bits: train.optimizer=adamw_8bit", "mmssl[bitsandbytes]"),
    "wandb": ("the tracker of train.trackers=[wandb]", "wandb"),
}
"""Import name -> what it is for, and what pip installs."""

STACK = ("torch", "torchvision", "torchaudio")
NEED_STACK = ("torchvision", "torchaudio", "transformers", "accelerate", "peft", "open_clip", "timm", "mmssl")
"""Import names that fail when one of `STACK` does."""

PAIR = "pip install --force-reinstall 'torch>=2.11,<2.16' 'torchaudio>=2.11.1,<2.12' torchvision"
"""What is known to work together. torchaudio 2.11.0 raises beside torch 2.15, whose CUDA has another minor version."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's builds without CUDA: all three of `STACK`, or none, have to come from there."""

_PROBE = """
import importlib, json, sys
def say(**facts): print("\\n" + json.dumps(facts), flush=True)
for name in sys.argv[1].split(","):
    say(start=name)
    try:
        module = importlib.import_module(name)
        if name == "mmssl":
            module.MMSSLModel, module.MMSSLProcessor, module.pretrain  # what it imports when they are asked for
    except BaseException as error:
        say(name=name, error=f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        say(name=name, error=None)
try:
    import torch
except BaseException:  # reported above
    sys.exit()
gpus = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    with torch.cuda.device(i):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    gpus.append([torch.cuda.get_device_name(i), free, total, native])
try:
    from mmssl.training.device import bf16_slowdown
    bf16 = bf16_slowdown()
except BaseException:  # no mmssl, which is reported above, or no such products
    bf16 = None
mps = torch.backends.mps.is_available()
say(devices=gpus, mps=mps, bf16=bf16, threads=torch.get_num_threads(), cpu=torch.backends.cpu.get_cpu_capability(),
    cuda=torch.version.cuda)
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. level: ok, note (worth knowing) or problem (mmssl will not work). fix: what to type."""

    level: str
    text: str
    fix: str = ""


def examine(folder: Path | None = None) -> list[Finding]:
    """Everything the doctor looks at; `folder` is where runs would be written (default: here)."""
    found = [_python()]
    found += _versions()
    facts = probe()
    found += _imports(facts)
    found += _devices(facts)
    found += _optional()
    found += _disk(folder or Path.cwd())
    return found


def main(out: TextIO | None = None) -> int:
    """Print the report. Returns 0 when nothing is wrong, 1 otherwise."""
    out = out or sys.stdout
    findings = examine()
    marks = {"ok": "  ok      ", "note": "  note    ", "problem": "  PROBLEM "}
    for finding in findings:
        print(marks[finding.level] + finding.text, file=out)
        if finding.fix:
            print(f"            fix: {finding.fix}", file=out)
    problems = sum(f.level == "problem" for f in findings)
    line = "nothing is wrong" if not problems else f"{problems} problem{'s' if problems > 1 else ''} to mend, see above"
    print(f"mmssl doctor: {line}", file=out)
    return 1 if problems else 0


def import_failed(error: Exception) -> Exception:
    """What to raise where one of mmssl's parts was to be imported: ImportError with the way out, if it was the import
    that failed; the error itself otherwise."""
    if not import_broke(error):
        return error
    line = str(error).splitlines()[0] if str(error) else ""
    return ImportError(
        f"mmssl cannot start; `python -m mmssl doctor` says what is wrong and how to mend it ({type(error).__name__}: "
        f"{line})"
    )


def import_broke(error: BaseException) -> bool:
    """Whether an error, or one that it came of, says that one of the packages in `IMPORTED` is missing, or was raised
    while one was imported."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in FOREIGN:
            return True
        trace = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_code.co_name == "<module>" and str(frame.f_globals.get("__name__")).split(".")[0] in FOREIGN:
                return True
            trace = trace.tb_next
        error = error.__cause__ or error.__context__ or error
    return False


def probe(names: tuple[str, ...] = IMPORTED) -> list[dict[str, Any]]:
    """Import `names` in a fresh process and look at the devices; one dict of facts after the other."""
    command = [sys.executable, "-c", _PROBE, ",".join(names)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return [*_facts(text), {"crash": "gave no answer within ten minutes"}]
    facts = _facts(done.stdout)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        died = f"died of signal {-done.returncode}" if done.returncode < 0 else f"failed: {last[0]}"
        facts.append({"crash": died})
    return facts


def _facts(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _python() -> Finding:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Finding("ok", text)


def _versions() -> list[Finding]:
    """Installed versions against the ranges that mmssl declares."""
    try:
        declared = importlib.metadata.requires("mmssl") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("note", "mmssl runs from a source tree and is not installed", "pip install -e .")]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Finding("problem", "the package 'packaging' is missing", "pip install packaging")]
    found = []
    versions = []
    for line in declared:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding("problem", f"{requirement.name} is not installed", f"pip install '{wanted}'"))
            continue
        versions.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version} is outside the range that mmssl was tested with ({wanted})"
            found.append(Finding("problem", text, f"pip install '{wanted}'"))
    found.insert(0, Finding("ok", "installed: " + ", ".join(sorted(versions, key=str.lower))))
    return found


def _imports(facts: list[dict[str, Any]]) -> list[Finding]:
    """One problem a cause; what fails only because of it is named in one line."""
    found: list[Finding] = []
    good: list[str] = []
    victims: list[str] = []
    current, stack_broken = "", False
    for fact in facts:
        current = fact.get("start", current)
        if "name" in fact and fact["error"] is None:
            good.append(fact["name"])
        elif "name" in fact or "crash" in fact:
            name = fact.get("name", current)
            if stack_broken and name in NEED_STACK:
                victims.append(name)
                continue
            found.append(_broken(name, fact.get("error") or fact["crash"]))
            stack_broken = stack_broken or name in STACK
    if victims:
        found.append(Finding("note", f"fail too, most likely because of that: {', '.join(victims)}"))
    return [Finding("ok", "they import: " + ", ".join(good)), *found] if good else found


def _broken(name: str, error: str) -> Finding:
    text = f"`import {name}` fails: {error}"
    if name in STACK:
        text += "" if name == "torch" else f"; a broken {name} also breaks transformers"
        if name != "torch" and _cpu_build():
            text += f"; torch is a CPU-only build and needs the {name} built with it"
            return Finding("problem", text, f"{PAIR} --index-url {CPU_INDEX}")
        return Finding("problem", text, PAIR)
    if name == "mmssl":
        return Finding("problem", text, "pip install --force-reinstall --no-deps mmssl")
    package = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "open_clip": "open_clip_torch"}
    return Finding("problem", text, f"pip install --force-reinstall '{package.get(name, name)}'")


def _cpu_build() -> bool:
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _devices(facts: list[dict[str, Any]]) -> list[Finding]:
    devices = next((fact for fact in facts if "devices" in fact), None)
    if devices is None:
        return []  # torch did not import, which is in the list already
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bf16 = _bf16(devices["bf16"])
    found = [Finding("ok", f"CPU: {cores} cores, {devices['threads']} torch threads, {devices['cpu']}; {bf16}")]
    for i, (name, free, total, bf16) in enumerate(devices["devices"]):
        precision = "bf16" if bf16 else "fp16 (no bf16 in hardware)"
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        text = f"GPU {i}: {name}, {memory}; use train.mixed_precision={precision}"
        found.append(Finding("ok", text))
    if devices["mps"]:
        found.append(Finding("ok", "GPU: Apple MPS"))
    elif not devices["devices"]:
        driver = shutil.which("nvidia-smi")
        if driver and devices["cuda"] is None:
            text = "there is an NVIDIA driver, but torch is a CPU-only build: training will not use the GPU"
            found.append(Finding("note", text, PAIR))
        elif driver:
            text = f"there is an NVIDIA driver, but torch (CUDA {devices['cuda']}) sees no GPU: it will use the CPU"
            found.append(Finding("note", text, "compare the driver's CUDA version in the first lines of `nvidia-smi`"))
        else:
            found.append(Finding("note", "no GPU: training runs on the CPU, which is enough for the quickstart"))
    return found


def _bf16(slowdown: float | None) -> str:
    """What products of bfloat16 cost on the processor. slowdown: in times of those of float32; None: there are none."""
    if slowdown is None:
        return "no bf16: keep train.mixed_precision=no"
    if slowdown > 1:
        return f"bf16 products take {slowdown:.2g} times as long as those of float32: keep train.mixed_precision=no"
    return f"bf16 products take {slowdown:.2g} of the time of float32's: train.mixed_precision=bf16 is faster"


def _optional() -> list[Finding]:
    """What extras bring: there or not, and in the version that mmssl was tested with."""
    found = []
    for name, (purpose, requirement) in OPTIONAL.items():
        fix = f"pip install '{requirement}'"
        if importlib.util.find_spec(name) is None:
            found.append(Finding("note", f"optional: {name} ({purpose}) is not installed", fix))
            continue
        version, wanted = _optional_version(name)
        text = f"optional: {name}{f' {version}' if version else ''} ({purpose}) is installed"
        if wanted:
            found.append(Finding("note", f"{text}, outside the range that mmssl was tested with ({wanted})", fix))
        else:
            found.append(Finding("ok", text))
    return found


def _optional_version(name: str) -> tuple[str, str]:
    """(installed version, the declared range where it lies outside of it), "" for what is not known."""
    try:
        version = importlib.metadata.version(name)  # names are compared with _ and - alike
        declared = importlib.metadata.requires("mmssl") or []
        from packaging.requirements import Requirement
    except (importlib.metadata.PackageNotFoundError, ImportError):  # reported above
        return "", ""
    for line in declared:
        one = Requirement(line)
        if one.name.replace("-", "_") == name and not one.specifier.contains(version, prereleases=True):
            return version, str(one.specifier)
    return version, ""


def _disk(folder: Path) -> list[Finding]:
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    found = []
    for what, path, variable in (("runs", folder, ""), ("Hugging Face cache", cache, "HF_HOME")):
        there = next(p for p in (path, *path.resolve().parents) if p.exists())
        free = shutil.disk_usage(there).free / 2**30
        move = f"free some space, or set {variable} to a folder elsewhere" if variable else "use --output elsewhere"
        if not os.access(there, os.W_OK):
            found.append(Finding("problem", f"{what}: {there} cannot be written to", move))
        elif free < 2:
            found.append(Finding("problem", f"{what}: only {free:.1f} GiB free in {there}", move))
        else:
            found.append(Finding("ok" if free >= 10 else "note", f"{what}: {free:.0f} GiB free in {there}"))
    return found
