"""Adapter-only JEPA against JEPA of the whole encoder: `python -m benchmarks.adapter_jepa memory|probe`.

memory: what one training step holds (a ViT-S/16-like tower, or ViT-B with `--width 768`, 224 px), each version in a
process of its own: peak of the resident set, and the bytes of parameters, teacher, gradients and optimiser state,
which do not depend on the allocator. probe: JEPA through LoRA goes on from a short image MAE on fashion_mnist;
accuracy of kNN and the linear probe before and after.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
PREDICTOR = {"width": 64, "depth": 2, "heads": 4}
MASKS = {"blocks": {"type": "multi-block"}}


def recipe(base: Path, adapter: bool, **train: Any) -> dict[str, Any]:
    towers = {"image": {"adapter": {"type": "lora", "r": 8}}} if adapter else {}
    return {
        "data": {"path": "builtin:digits"},
        "model": {"from": str(base), "towers": towers},
        "masks": MASKS,
        "objectives": {"jepa": {"tower": "image", "mask": "blocks", "predictor": PREDICTOR}},
        "train": {"steps": 1, "trackers": [], **train},
        "evaluation": {"tasks": []},
    }


def saved(folder: Path, width: int, depth: int, heads: int, size: int, patch: int) -> Path:
    """An encoder with random weights as a model folder."""
    from mmssl.models.configuration_mmssl import MMSSLConfig
    from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
    from mmssl.models.options import TowerConfig
    from mmssl.models.processing_mmssl import MMSSLProcessor
    from mmssl.models.saving import save_model
    from mmssl_image import Config, Preprocessor

    image = Preprocessor(Config(size=size, patch=patch, channels=3, mean=[0.5] * 3, std=[0.25] * 3))
    tower = tower_spec(TowerConfig(width=width, depth=depth, heads=heads))
    config = MMSSLConfig(modalities={"image": {"type": "image", **image.sizes()}}, towers={"image": tower})
    save_model(MMSSLModel(config), MMSSLProcessor({"image": image}), folder)
    return folder


def one_step(base: Path, adapter: bool, batch: int, size: int) -> dict[str, Any]:
    """Bytes by what they are, and the peak of the process, over two steps."""
    from mmssl.draws import Draws
    from mmssl.models.opening import open_model
    from mmssl.recipe.loading import load_recipe
    from mmssl.training.building import build_pretraining
    from mmssl.training.optimizer import make_optimizer

    module = build_pretraining(load_recipe(recipe(base, adapter)), open_model(base)[1])
    optimizer = make_optimizer(module, 1e-4, 0.05, (0.9, 0.95), 1e-8)
    # in MiB; ru_maxrss is in KiB on Linux. Reset the peak to what is held now: the base was read twice to be compared
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    for step in range(2):
        pixels = {
            "image": {"pixel_values": torch.randn(batch, 3, size, size), "present": torch.ones(batch, dtype=torch.bool)}
        }
        module(pixels, Draws(step, batch)).total.backward()
        grads = sum(p.grad.numel() * p.grad.element_size() for p in module.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(0.5)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values())
    unique = {id(p): p.numel() * p.element_size() for p in module.parameters()}
    trained = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
    return {
        "peak": peak,
        "rusage_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(unique.values()),
        "gradients": grads,
        "optimiser": state,
        "trained": trained,
    }


def memory(batch: int, width: int) -> dict[str, Any]:
    """Both versions of one step, and their ratios."""
    out: dict[str, Any] = {"tower": f"width {width}, depth 12, 224 px, patch 16", "batch": batch}
    with tempfile.TemporaryDirectory() as scratch:
        base = saved(Path(scratch) / "model", width, 12, width // 64, 224, 16)
        for name in ("full", "adapter"):
            words = [sys.executable, __file__, "step", "--base", str(base), "--kind", name, "--batch", str(batch)]
            text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            out[name] = json.loads(text.strip().splitlines()[-1])
    for key in ("peak", "parameters", "gradients", "optimiser", "trained"):
        out[f"{key}, adapter over full"] = round(out["adapter"][key] / out["full"][key], 4)
    held = {n: sum(out[n][k] for k in ("parameters", "gradients", "optimiser")) for n in ("full", "adapter")}
    out["held, adapter over full"] = round(held["adapter"] / held["full"], 4)
    return out


def probe(seeds: int, steps: int, kind: str) -> dict[str, Any]:
    """kNN accuracy on fashion_mnist's test images of the frozen start and after LoRA-JEPA on the training images."""
    from mmssl.evaluation.evaluate import evaluate
    from mmssl.models.opening import open_model
    from mmssl.recipe.config import DataConfig, EvaluationConfig
    from mmssl.training.pretrain import pretrain

    path = str(DATA / "fashion_mnist")
    data = {"path": path, "columns": {"image": "image"}}
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            start = Path(scratch) / "start"
            quiet = {"evaluation.tasks": [], "train.trackers": []}
            small = {"image": {"width": 96, "depth": 4, "heads": 4}}
            pretrain(
                "examples/image_mae",
                output=start,
                **{
                    "data.path": path,
                    "data.limit": 4000,
                    "train.steps": 300,
                    "train.batch_size": 64,
                    "seed": seed,
                    "modalities": {"image": {"patch": 7}},
                    "model.towers": small,
                    **quiet,
                },
            )
            content = recipe(start, True, steps=steps, batch_size=64, lr=3e-3) | {"data": {**data, "limit": 4000}}
            content["objectives"]["jepa"] |= {"momentum": [0.99, 1.0], "regulariser": {"kind": kind}}
            content["seed"] = seed
            after = pretrain(content, output=Path(scratch) / "jepa")
            scores = {}
            for name, folder in (("start", start), ("after", after.folder)):
                model, processor = open_model(folder)
                report = evaluate(
                    model,
                    processor.preprocessors,
                    DataConfig(**data),
                    EvaluationConfig(label="label", tasks=["knn", "linear"], limit=2000, train_limit=2000),
                )
                scores[name] = {t: next(iter(m.values()))["model"] for t, m in report["tasks"].items()}
            size = (after.model_folder / "adapter_model.safetensors").stat().st_size
        rows.append({"seed": seed, **scores, "adapter_bytes": size})
        print(rows[-1], flush=True)
    return {
        "data": "fashion_mnist, 4,000 training images; probes on 2,000, 2,000 test images",
        "steps": steps,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("what", choices=("memory", "probe", "step"))
    parser.add_argument("--base", type=Path)
    parser.add_argument("--kind", choices=("full", "adapter"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--regulariser", choices=("none", "sigreg", "vicreg"), default="vicreg")
    from mmssl.training.process import prepare_process

    args = parser.parse_args()
    if args.what == "step":
        print(json.dumps(one_step(args.base, args.kind == "adapter", args.batch, 224)))
        return
    if args.what == "memory":
        result, name = memory(args.batch, args.width), f"memory_{args.width}x{args.batch}"
    else:
        prepare_process()
        result, name = probe(args.seeds, args.steps, args.regulariser), f"probe_{args.regulariser}"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"adapter_jepa_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
