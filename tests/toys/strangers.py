"""A downloaded folder with code in it and around it, for the tests of what others publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmssl.models.adapter_files import base_of, write_adapter
from mmssl.models.adapters import add_adapter
from mmssl.models.options import AdapterConfig
from mmssl.models.saving import load_model
from toys import runs, tuned

DATA = ["--data", "builtin:digits"]
QUICK = ["train.steps=1", "train.batch_size=8", "train.trackers=[]"]


def make(root: Path) -> Path:
    """`model`, a model of pictures with its card and record, and `tuned`, an adapter on it."""
    tuned.image_base(root / "model")
    recipe = runs.recipe(data={"path": "builtin:digits", "limit": 64})
    record = {"version": 1, "recipe": recipe, "data": {"rows": 64, "hashed": 64, "sha256": "0" * 64}}
    record |= {"weights_sha256": "0" * 64, "scores": {}, "versions": {}, "device": "cpu"}
    (root / "model" / "reproduction.json").write_text(json.dumps(record))
    (root / "model" / "README.md").write_text("# theirs\n")
    model, processor = load_model(root / "model")
    base = base_of(model, str(root / "model"))
    (root / "tuned").mkdir()
    handle = add_adapter(model, AdapterConfig(r=2), ["image"])
    write_adapter(handle, base, processor, root / "tuned", root / "tuned")
    (root / "tuned" / "README.md").write_text("# theirs\n")
    return root


EVIL = """
open({canary!r}, "a").close()
from mmssl_image.options import Config
from mmssl_image.preprocessor import Preprocessor
from mmssl_image.modality import Modality
"""


class Place:
    """A downloaded folder with code in it and around it, all of which is in front of `sys.path`."""

    def __init__(self, root: Path, made: Path) -> None:
        self.root, self.canary = root, root / "canary"
        self.downloads = root / "downloads"
        self.model, self.tuned = self.downloads / "model", self.downloads / "tuned"
        shutil.copytree(made, self.downloads)
        evil = EVIL.format(canary=str(self.canary))
        for place in (self.downloads, self.model, self.tuned):
            for package in ("theirs", "mmssl_evil", "mmssl_lidar"):
                (place / package).mkdir()
                (place / package / "__init__.py").write_text(evil if package != "theirs" else "")
            (place / "theirs" / "evil.py").write_text(evil)
            # it says of itself that it is installed
            info = place / "mmssl_lidar-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmssl_lidar\nVersion: 1.0\n")
            (info / "RECORD").write_text("mmssl_lidar/__init__.py,,\nmmssl_lidar-1.0.dist-info/METADATA,,\n")
            (info / "direct_url.json").write_text(json.dumps({"url": place.as_uri(), "dir_info": {"editable": True}}))
            for shadow in ("mmssl_video", "mmssl_text"):  # in the way of mmssl's own
                (place / f"{shadow}.py").write_text(evil)

    def change(self, folder: str, file: str, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.downloads / folder / file
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    def files(self) -> set[str]:
        there = (p for p in self.root.rglob("*") if "__pycache__" not in p.parts)
        return {str(p.relative_to(self.root)) for p in there}


def commands(folder: Path, out: Path) -> dict[str, list[str]]:
    tune = [*QUICK, "limit=24", "--label", "label", "--peft", "linear"]
    recipe = runs.write(out, runs.recipe(train={"steps": 1, "trackers": []}, data={"limit": 32}))
    return {
        "embed": ["embed", str(folder), *DATA, "limit=4", "--output", str(out / "e.parquet")],
        "evaluate": ["evaluate", str(folder), *DATA, "limit=24", "--task", "rankme"],
        "finetune": ["finetune", str(folder), *DATA, *tune, "--output", str(out / "tuned")],
        "export": ["export", str(folder), "--to", "vit", "--output", str(out / "exported")],
        "pretrain": ["pretrain", str(recipe), f"model.from={folder}", "--output", str(out / "run")],
        "push": ["push", str(folder), "me/x", "--dry-run"],
        "reproduce": ["reproduce", str(folder), "--output", str(out / "again")],
        "show": ["show", str(recipe), f"model.from={folder}"],
    }
