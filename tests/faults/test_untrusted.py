"""What others publish runs no code here, writes and reads nothing outside its place, and asks no address.

Every file that a folder may hold is attacked, with the working directory, its parent and the folder itself in front of
`sys.path`, through every command and the Auto classes. What runs leaves a canary, what connects is caught.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs
from toys.refusals import refused
from toys.stock import vit
from toys.strangers import DATA, Place, commands
from transformers import AutoModel, AutoProcessor, ViTModel

import mmssl
from mmssl import provenance
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.modality import load_modality, modality_names
from mmssl.models.peft_config import is_tame
from mmssl.models.saving import load_model
from mmssl.models.stock.reading import stock_config
from mmssl.models.stock.transfer import pretrained
from mmssl.models.wrapping import describe_foreign
from mmssl.options import plainyaml
from mmssl_text.tokenizers import Pretrained

READERS: dict[str, Callable[[str], Any]] = {
    "kind of a folder": stock_config,
    "wrapped tower": describe_foreign,
    "model": load_model,
    "tokenizer": lambda path: Pretrained(path, True),
}


@pytest.mark.parametrize("name", READERS)
def test_code_in_a_folder_is_not_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ran = tmp_path / "theirs", tmp_path / "ran"
    folder.mkdir()
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}})
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.suppress(UserError):
        assert READERS[name](str(folder)) is None
    assert not ran.exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with refused("safetensors") as caught:
        pretrained(ViTModel, str(tmp_path), ignore=())
    assert "\n" not in str(caught.value)


def attack(place: Place, folder: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What each of the commands, and the Auto classes, said; none may do more than refuse."""
    out = place.root / "out"
    out.mkdir()
    said = {}
    for name in names:
        words = commands(folder, out)[name]
        before = place.files()
        code = main(words)
        printed = capsys.readouterr()
        assert code == 2, f"{name}: code {code}: {printed.out} {printed.err}"
        assert "Traceback" not in printed.err
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 or name == "push", printed.err
        said[name] = printed.err
        written = {path for path in place.files() - before if not path.startswith("out/")}
        assert not written, f"{name} wrote {written}"
    return said


def auto(folder: Path) -> None:
    """Both Auto classes refuse the folder, or do without what is wrong in it."""
    for cls in (AutoModel, AutoProcessor):
        with contextlib.suppress(UserError):
            cls.from_pretrained(str(folder), trust_remote_code=False)


ALL = ["embed", "evaluate", "finetune", "export", "pretrain", "show"]
TYPES = ["theirs.evil", "evil", "lidar", "mmssl_lidar", "os", ""]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "both"])
def test_a_type_runs_nothing(place: Place, capsys: pytest.CaptureFixture[str], kind: str, file: str) -> None:
    for name in ("config.json", "processor_config.json"):
        if file in (name, "both"):
            place.change("model", name, lambda data: data["modalities"]["image"].update(type=kind))
    # through every command where both files agree, through those that read them otherwise for each file alone
    some = ["embed"] if file == "config.json" else ["embed", "show"]
    said = attack(place, place.model, ALL if file == "both" and kind == "theirs.evil" else some, capsys)
    if kind == "theirs.evil":
        assert all("theirs.evil" in text for text in said.values())
    auto(place.model)


@pytest.mark.parametrize("trunk", ["theirs.evil.Config", "mmssl_lidar.Config", "evil.Config", "os.Config", "a..b", 5])
def test_a_trunk_runs_nothing(place: Place, capsys: pytest.CaptureFixture[str], trunk: Any) -> None:
    place.change("model", "config.json", lambda data: data["towers"]["image"].update(trunk=trunk))
    said = attack(place, place.model, ALL if trunk == "theirs.evil.Config" else ["embed", "pretrain"], capsys)
    if trunk == "theirs.evil.Config":
        assert all("--trust theirs.evil" in text for text in said.values())
    if isinstance(trunk, str) and ".." not in trunk:
        auto(place.model)
    record = json.loads((place.model / "reproduction.json").read_text())
    record["recipe"]["model"]["towers"]["image"]["trunk"] = trunk
    (place.model / "reproduction.json").write_text(json.dumps(record))
    assert main(commands(place.model, place.root)["reproduce"]) == 2


def test_the_installed_package_is_taken_and_no_other_of_its_name(place: Place) -> None:
    assert "lidar" not in modality_names() and "evil" not in modality_names()
    assert Path(str(load_modality("image").__file__)).is_relative_to(Path(mmssl.__file__).parents[1])
    for name in ("mmssl_video", "mmssl_text"):
        sys.modules.pop(name, None)
        found = provenance.installed(name)
        assert found is not None and Path(str(found.__file__)).parent.name == name


def test_what_the_user_trusts_is_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("config.json", "processor_config.json"):
        place.change("model", file, lambda data: data["modalities"]["image"].update(type="theirs.evil"))
    words = commands(place.model, place.root)["embed"]
    assert main(words) == 2
    assert "--trust theirs.evil" in capsys.readouterr().err and not place.canary.exists()
    assert main([*words, "--trust", "no module"]) == 2
    try:
        assert main([*words, "--trust", "theirs.evil"]) == 0
        assert place.canary.exists()
    finally:
        provenance._TRUSTED.discard("theirs.evil")
        place.canary.unlink(missing_ok=True)


NAMES = ["/abs", "../up", "a/b", "..", "~", "", "train", "image\x00", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_modalities_are_those_of_a_recipe(place: Place, capsys: pytest.CaptureFixture[str], name: str) -> None:
    name = str(place.root / "abs") if name == "/abs" else name

    def rename(data: dict[str, Any]) -> None:
        data["modalities"] = {name: {**data["modalities"]["image"], "type": "image"}}
        if "towers" in data:
            data["towers"]["image"]["modalities"] = [name]

    place.change("model", "config.json", rename)
    place.change("model", "processor_config.json", rename)
    attack(place, place.model, ["embed", "finetune"], capsys)
    auto(place.model)


@pytest.mark.parametrize(
    "name", ["image/../../x", "/etc/passwd", "../x", "other/x", "image/", "image/./x", 5, "image//x"]
)
def test_files_of_a_modality_lie_in_its_folder(place: Place, capsys: pytest.CaptureFixture[str], name: Any) -> None:
    place.change("model", "processor_config.json", lambda data: data["modalities"]["image"].update(files=[name]))
    attack(place, place.model, ["embed", "export"], capsys)
    auto(place.model)


def test_links_and_devices_in_a_folder(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    outside = place.root / "secret.json"
    outside.write_text((place.model / "config.json").read_text())
    (place.model / "config.json").unlink()
    (place.model / "config.json").symlink_to(outside)
    said = attack(place, place.model, ["embed", "pretrain"], capsys)
    assert "a link to a place outside" in said["embed"]
    (place.model / "config.json").unlink()
    shutil.copy(outside, place.model / "config.json")
    (place.model / "processor_config.json").unlink()
    os.mkfifo(place.model / "processor_config.json")
    assert main(commands(place.model, place.root)["embed"]) == 2
    assert "is a pipe" in capsys.readouterr().err


SHARDS = [
    "../../w.safetensors",
    "/etc/passwd",
    "model.bin",
    "..",
    "",
    "http://127.0.0.1:9/w.safetensors",
    "a/../../w.safetensors",
]


@pytest.mark.parametrize("name", SHARDS)
def test_an_index_of_weights_names_safetensors_of_the_folder(
    place: Place, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """transformers opens whatever the index names, and unpickles what does not end in .safetensors."""
    from safetensors import safe_open

    file = place.model / "model.safetensors"
    with safe_open(file, "pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), name)}
    shutil.move(file, place.root / "w.safetensors")
    shutil.copy(place.root / "w.safetensors", place.downloads / "w.safetensors")
    (place.model / "model.bin").write_bytes(b"a pickle")
    (place.model / "model.safetensors.index.json").write_text(json.dumps(index))
    said = attack(place, place.model, ["embed", "pretrain"], capsys)
    assert "model.safetensors.index.json" in said["embed"]
    with refused("model.safetensors.index.json"):
        AutoModel.from_pretrained(str(place.model))


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "other.safetensors.index.json"])
def test_an_index_of_stock_weights_does_so_too(tmp_path: Path, name: str) -> None:
    """config.json may name another one."""
    vit(tmp_path)
    shutil.move(tmp_path / "model.safetensors", tmp_path.parent / "w.safetensors")
    (tmp_path / name).write_text(json.dumps({"metadata": {}, "weight_map": {"x": "../w.safetensors"}}))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with refused(name):
        pretrained(ViTModel, str(tmp_path), ignore=())


@pytest.mark.parametrize(
    ("name", "options"),
    [("other.safetensors.index.json", {}), ("model.safetensors.index.fp16.json", {"variant": "fp16"})],
)
def test_so_does_an_index_that_the_config_or_the_caller_names(place: Place, name: str, options: dict[str, str]) -> None:
    (place.model / "model.safetensors").unlink()
    (place.model / "w.bin").write_bytes(b"a pickle")
    (place.model / name).write_text(json.dumps({"metadata": {}, "weight_map": {"x": "w.bin"}}))
    if not options:
        config = json.loads((place.model / "config.json").read_text())
        (place.model / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with refused(name, "expected the name of a .safetensors file"):
        AutoModel.from_pretrained(str(place.model), **options)


def test_an_mmssl_model_is_not_unpickled_by_the_auto_class_either(place: Place) -> None:
    (place.model / "model.safetensors").unlink()
    torch.save({}, place.model / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        AutoModel.from_pretrained(str(place.model))


CONFIGS: dict[str, Callable[[dict[str, Any]], None]] = {
    "kernels": lambda data: data.update(attn_implementation="theirs/kernel"),
    "quantised": lambda data: data.update(quantization_config={"quant_method": "bitsandbytes"}),
    "a wrapped timm": lambda data: data["towers"]["image"].update(
        foreign={"library": "transformers", "config": {"model_type": "timm_wrapper", "architecture": "hf-hub:me/x"}}
    ),
    "a backbone": lambda data: data["towers"]["image"].update(
        foreign={"library": "transformers", "config": {"model_type": "dpt", "backbone": "me/x"}}
    ),
    "open_clip of timm": lambda data: data["towers"]["image"].update(
        foreign={
            "library": "open_clip",
            "config": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "x"}, "text_cfg": {"hf_model_name": "me/x"}},
        }
    ),
    "no library": lambda data: data["towers"]["image"].update(foreign={"library": "theirs.evil", "config": {}}),
    "no type": lambda data: data["towers"]["image"].update(
        foreign={
            "library": "transformers",
            "config": {"model_type": "theirs", "auto_map": {"AutoModel": "theirs.evil"}},
        }
    ),
    "towers": lambda data: data.update(towers=[1]),
    "modalities": lambda data: data.update(modalities="image"),
    "width": lambda data: data["towers"]["image"].update(width="wide"),
    "size": lambda data: data["modalities"]["image"].update(size=[10**9, 10**9]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_leads_nowhere(place: Place, capsys: pytest.CaptureFixture[str], name: str) -> None:
    place.change("model", "config.json", CONFIGS[name])
    attack(place, place.model, ["embed"], capsys)


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "objective": (lambda r: r["objectives"]["mae"].update(type="theirs.evil"), "theirs.evil"),
    "mask": (lambda r: r["masks"]["half"].update(type="theirs.evil.Mask"), "theirs.evil"),
    "mask within masks": (
        lambda r: r["masks"]["half"].update(type="mixture", kinds={"a": {}, "b": {"type": "theirs.evil.Mask"}}),
        "theirs.evil",
    ),
    "modality": (lambda r: r["modalities"]["image"].update(type="theirs.evil"), "theirs.evil"),
    "bare modality": (lambda r: r["modalities"]["image"].update(type="lidar"), "mmssl_lidar"),
    "name": (lambda r: r.update(name="../../x"), "name: found"),
    "absolute name": (lambda r: r.update(name="/tmp/x"), "name: found"),
    "data": (lambda r: r["data"].update(path="/etc"), "data.path=..."),
    "address": (lambda r: r["data"].update(path="http://127.0.0.1:9/x.csv"), "data.path=..."),
    "run before": (lambda r: r["train"].update(after="/srv/x"), "train.after=..."),
    "start": (lambda r: r["model"].update({"from": "/srv/x"}), "model.from=..."),
    "tracker": (lambda r: r["train"].update(trackers=["wandb"]), "train.trackers=[]"),
    "no recipe": (lambda r: r.clear(), "data"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_no_recipe_of_the_user(place: Place, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, words = RECORDS[name]
    place.change("model", "reproduction.json", lambda data: change(data["recipe"]))
    if name == "no recipe":
        assert main(commands(place.model, place.root)["reproduce"]) == 2
        assert "Traceback" not in capsys.readouterr().err
        return
    said = attack(place, place.model, ["reproduce"], capsys)
    assert words in said["reproduce"]


ADAPTERS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "megatron": ("adapter_config.json", lambda d: d.update(megatron_config={"x": 1}, megatron_core="theirs.evil")),
    "type": ("adapter_config.json", lambda d: d.update(peft_type="XLORA")),
    "slow": ("adapter_config.json", lambda d: d.update(target_modules=r"(\w+\w*)*x")),
    "slow rank": ("adapter_config.json", lambda d: d.update(rank_pattern={"(.*)*x": 2})),
    "rank": ("adapter_config.json", lambda d: d.update(r=10**12)),
    "architecture": (
        "mmssl_adapter.json",
        lambda d: (
            d.update(base=None, base_path=None, origins={"image": "../model"}),
            d["architecture"]["modalities"]["image"].update(type="theirs.evil"),
        ),
    ),
    "base is an address": ("mmssl_adapter.json", lambda d: d.update(base_path="http://127.0.0.1:9/x")),
    "base is a list": ("mmssl_adapter.json", lambda d: d.update(base_path=["x"])),
    "processor": ("processor_config.json", lambda d: d["modalities"]["image"].update(type="theirs.evil")),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_leads_nowhere(place: Place, capsys: pytest.CaptureFixture[str], name: str) -> None:
    file, change = ADAPTERS[name]
    place.change("tuned", file, change)  # type: ignore[arg-type]
    attack(place, place.tuned, ["embed", "finetune", "export"], capsys)


def test_patterns_that_take_no_time() -> None:
    assert is_tame(r"towers\.(?:image|a-b)\.trunk\.blocks\.\d+\.(?:attention\.(?:qkv|proj)|mlp\.(?:fc1|fc2))")
    assert is_tame(r"towers\.(?:image)\.(?:.*\.)?(?:fc1|fc2)")
    for slow in ("(a+)+", "(a|a)*", "(.*a){9}x", ".*.*.*.*x", "(?:a*)*", "(", "((x+)?)+", r"(a)\1*"):
        assert not is_tame(slow), slow


def test_modules_of_sentence_transformers(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for path, kind in (("", "theirs.evil"), ("../../x", "sentence_transformers.models.Transformer")):
        modules = [{"idx": 0, "name": "0", "path": path, "type": kind}]
        (place.model / "modules.json").write_text(json.dumps(modules))
        assert main(commands(place.model, place.root)["embed"]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_run_folder_of_somebody_else(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """`config.yaml` beside a model is read to find what the run started from."""
    run = place.root / "run"
    shutil.copytree(place.model, run / "model", ignore=lambda *_: ["theirs", "mmssl_evil"])
    recipe = runs.recipe()
    recipe["objectives"]["mae"]["type"] = "theirs.evil"
    (run / "config.yaml").write_text(plainyaml.dump(recipe))
    main(["evaluate", str(run), *DATA, "limit=24", "--task", "rankme"])
    assert "Traceback" not in capsys.readouterr().err


def test_python_m_does_not_search_the_working_directory(place: Place) -> None:
    (place.model / "rich.py").write_text(f"open({str(place.canary)!r}, 'w').close()\n")
    root = Path(mmssl.__file__).parents[1]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), str(root / "modalities")]))
    words = [sys.executable, "-m", "mmssl", "list", "modalities"]
    done = subprocess.run(words, cwd=place.model, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "lidar" not in done.stdout, done.stderr
