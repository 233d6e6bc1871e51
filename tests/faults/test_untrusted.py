"""What others publish runs no code here, writes and reads nothing outside its place, and asks no address.

Every file that a folder may hold is attacked, with the working directory, its parent and the folder itself in front of
`sys.path`, through every command and the Auto classes. What runs leaves a canary, what connects is caught.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import runs, tuned
from toys.refusals import refused
from toys.stock import vit
from transformers import AutoModel, AutoProcessor, ViTModel

import mmssl
from mmssl import provenance
from mmssl.cli import main
from mmssl.data.loading import evaluation_batches
from mmssl.data.sources import open_source
from mmssl.errors import UserError
from mmssl.files import replaceable
from mmssl.modality import load_modality, modality_names
from mmssl.models.adapter_files import base_of, write_adapter
from mmssl.models.adapters import add_adapter
from mmssl.models.foreign import describe_foreign
from mmssl.models.options import AdapterConfig
from mmssl.models.peft_config import is_tame
from mmssl.models.privacy import public, without_secrets
from mmssl.models.saving import load_model
from mmssl.models.stock.reading import stock_config
from mmssl.models.stock.transfer import pretrained
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe
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


# ------------------------------------------------------------------------------------------------------ the folders


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, a model of pictures with its card and record, and `tuned`, an adapter on it."""
    root = tmp_path_factory.mktemp("made")
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


@pytest.fixture
def place(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    found = Place(tmp_path, made)
    for entry in (found.downloads, found.tuned, found.model):
        monkeypatch.syspath_prepend(str(entry))
    monkeypatch.chdir(found.model)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "mmssl_evil", "mmssl_lidar")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf_modules"))
    asked: list[object] = []

    def connect(self: socket.socket, address: object, *_: object) -> None:
        asked.append(address)
        raise OSError("no connections in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield found
    assert not found.canary.exists(), "the folder's code was run"
    assert not asked, f"it asked {asked}"


DATA = ["--data", "builtin:digits"]
QUICK = ["train.steps=1", "train.batch_size=8", "train.trackers=[]"]


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
    "modality": (lambda r: r["modalities"]["image"].update(type="theirs.evil"), "theirs.evil"),
    "bare modality": (lambda r: r["modalities"]["image"].update(type="lidar"), "mmssl_lidar"),
    "name": (lambda r: r.update(name="../../x"), "name: found"),
    "absolute name": (lambda r: r.update(name="/tmp/x"), "name: found"),
    "data": (lambda r: r["data"].update(path="/etc"), "data.path=..."),
    "address": (lambda r: r["data"].update(path="http://127.0.0.1:9/x.csv"), "data.path=..."),
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
    code = "import runpy, sys; sys.argv = ['mmssl', 'list', 'formats']; runpy.run_module('mmssl', run_name='__main__')"
    words = [sys.executable, "-m", "mmssl", "list", "modalities"]
    done = subprocess.run(words, cwd=place.model, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "lidar" not in done.stdout and code, done.stderr


# ------------------------------------------------------------------------------------------------------------- rows


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(out, "PNG")
    return out.getvalue()


def read_rows(rows: list[Any], fetch: tuple[str, ...] = (), remote: str | None = None) -> list[str]:
    """Why each row's picture could not be read; empty where it could."""
    import datasets

    from mmssl.data.origins import note_origins

    feature = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    data = datasets.Dataset.from_dict({"image": rows}, features=feature)
    source = open_source(data, fetch=fetch)
    if remote is not None:
        note_origins(source, remote)
    package = load_modality("image")
    preprocessor = package.Preprocessor(package.Config(size=8, patch=4, channels=1, mean=[0.5], std=[0.5]))
    preprocessor.state = {"channels": 1, "mean": [0.5], "std": [0.5]}
    (loaded,) = evaluation_batches(source, {"image": preprocessor}, {}, batch_size=len(rows))
    bad = {fault.index: fault.reason for fault in loaded.bad}
    return [bad.get(index, "") for index in range(len(rows))]


ADDRESSES = [
    "http://127.0.0.1:9/x.png?token=abcdefgh",
    "zip://x.png::http://127.0.0.1:9/x.zip",
    "https://jo:word@127.0.0.1:9/x.png",
    "hf://datasets/me/private/x.png",
    "s3://bucket/x.png",
    "ftp://127.0.0.1/x.png",
    "filecache::http://127.0.0.1:9/x.png",
    "simplecache::http://127.0.0.1:9/x.png",
    "zip://x.png",
    "github://a:b@/x",
    "reference://x::file:///etc/passwd",
    "python://x",
]


def test_addresses_in_rows_are_not_fetched(place: Place) -> None:
    said = read_rows([{"bytes": None, "path": path} for path in ADDRESSES])
    assert all(said), said
    assert not any("abcdefgh" in text or "jo:word" in text for text in said)


def test_data_from_elsewhere_name_files_there_and_none_here(place: Place) -> None:
    here = place.root / "private.png"
    here.write_bytes(picture())
    rows = [{"bytes": None, "path": str(here)}, {"bytes": None, "path": here.as_uri()}]
    assert read_rows(rows) == ["", ""]
    said = read_rows(rows, remote="me/pictures")
    assert all("a place on this machine" in text for text in said)
    said = read_rows([{"bytes": None, "path": "hf://datasets/me/others/x.png"}], remote="me/pictures")
    assert "an address that the data do not come from" in said[0]
    with pytest.raises(UserError, match=r"data.fetch: found 'https://host/x'"):
        read_rows(rows, fetch=("https://host/x",))


def test_a_listed_address_is_fetched(tmp_path: Path) -> None:
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "x.png").write_bytes(picture())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        rows = [{"bytes": None, "path": f"{address}/x.png"}]
        assert read_rows(rows, fetch=(address,)) == [""]
        assert "not fetched (data.fetch)" in read_rows(rows)[0]
    finally:
        server.shutdown()
        server.server_close()


def test_only_regular_files_are_opened(place: Place) -> None:
    pipe, sock = place.root / "pipe.png", socket.socket(socket.AF_UNIX)
    os.mkfifo(pipe)
    sock.bind(str(place.root / "s"))
    paths = ["/dev/zero", "/dev/stdin", str(pipe), str(place.root / "s"), str(place.root), "x\0y", "a" * 5000]
    said = read_rows([{"bytes": None, "path": path} for path in paths])
    sock.close()
    assert all(said), said
    for text, word in zip(said, ["a device", "a ", "a pipe", "a socket", "a folder"], strict=False):
        assert word in text


def test_the_card_of_a_data_folder_names_files_in_it(place: Place) -> None:
    folder = place.root / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("image\n1\n")
    for file in ("http://127.0.0.1:9/x.csv", "../private.csv", "/etc/passwd", "hf://datasets/me/x/a.csv"):
        config = [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}]
        (folder / "README.md").write_text(f"---\n{plainyaml.dump({'configs': config})}---\n")
        with refused("README.md", "expected files in the folder"):
            open_source(str(folder))


def test_data_on_disk_name_files_in_their_folder(place: Place) -> None:
    import datasets

    folder = place.root / "saved"
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(str(folder))
    assert len(open_source(str(folder))) == 1
    state = json.loads((folder / "state.json").read_text())
    for name in ("../private.arrow", "/etc/passwd", 5):
        state["_data_files"] = [{"filename": name}]
        (folder / "state.json").write_text(json.dumps(state))
        with refused("_data_files"):
            open_source(str(folder))


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl.xz", "npz"])
def test_what_unpacks_to_too_much_is_refused(place: Place, kind: str) -> None:
    from mmssl import limits

    content, file = b"a,b\n" + b"1,2\n" * 300_000, place.root / f"x.{kind}"
    if kind == "npz":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("edge_index.npy", npy_header((2, 1 << 40)) + bytes(10**6))
    else:
        file.write_bytes((gzip if kind.endswith("gz") else lzma).compress(content))
    with limits.within(limits.Limits(bytes=100_000)), pytest.raises(UserError, match="data.limits"):
        open_source(f"graph:{file}" if kind == "npz" else str(file))


def npy_header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_a_large_picture_is_refused_before_it_is_decoded() -> None:
    from mmssl import limits
    from mmssl.errors import BadSample

    package = load_modality("image")
    preprocessor = package.Preprocessor(package.Config(size=8, patch=4, channels=1, mean=[0.5], std=[0.5]))
    with (
        limits.within(limits.Limits(pixels=63)),
        pytest.raises(BadSample, match="64 pixels .8 x 8.*data.limits.pixels"),
    ):
        preprocessor.read(picture())
    with pytest.raises(BadSample, match=r"numbers in .npy, expected at most .*data.limits.values"):
        preprocessor.read(npy_header((10**6, 10**6)))
    assert preprocessor.read(picture()) is not None


def test_transparency_in_strips_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.modality.pixels import decode as module

    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    whole = module.decode(out.getvalue(), (10, 20, 30))
    monkeypatch.setattr(module, "STRIP", 100)
    assert np.array_equal(module.decode(out.getvalue(), (10, 20, 30)), whole)


# ------------------------------------------------------------------------------------------------- outputs and bombs


def test_only_a_regular_file_or_nothing_is_replaced(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = commands(place.model, place.root)["embed"][:-1]
    there = place.root / "there.parquet"
    there.write_text("mine")
    link, pipe = place.root / "link.parquet", place.root / "pipe.parquet"
    link.symlink_to(there)
    os.mkfifo(pipe)
    for output in ("/dev/null", str(link), str(pipe)):
        assert main([*words, output]) == 2
        assert "expected a regular file to replace" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device() and there.read_text() == "mine" and link.is_symlink()
    assert main([*words, str(there)]) == 0
    assert replaceable(there).stat().st_size > 100


def test_a_page_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 11)]
    with refused("aliases"):
        plainyaml.parse("\n".join(lines), "bomb.yaml")
    with refused("levels"):
        plainyaml.parse("[" * 20_000, "deep.yaml")
    with refused("levels"):
        plainyaml.parse("&a [*a]", "self.yaml")
    with refused("characters"):
        plainyaml.parse("x" * (1 << 20), "long.yaml")
    assert plainyaml.parse("a: &a [1]\nb: *a", "x") == {"a": [1], "b": [1]}


def test_secrets_and_places_are_taken_out_of_what_is_written() -> None:
    said = "from https://user:password@host.example:8443/data?token=abcd1234#frag, hf_" + "a" * 34
    assert without_secrets(said) == "from https://host.example:8443/data, (taken out)"
    assert public({"source": said, "path": "/home/" + "jo/data"}) == {
        "source": "from https://host.example:8443/data, (taken out)",
        "path": "data",
    }
    recipe = load_recipe(runs.recipe(data={"source": said}))
    from mmssl.hub.card import Facts, card_text

    text = card_text(recipe, None, Facts())
    assert "password" not in text and "abcd1234" not in text and "host.example:8443/data" in text
