"""`kill -9` while a command writes: the same command goes on, or begins again, and ends as one that was not killed;
nothing half-written stays, and the data are as they were."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from toys import broken, forking, runs, tuned

CODE = """
import os, signal, sys
from mmssl.cli import main
left, real = int(sys.argv[1]), os.replace
def replace(*words, **more):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*words, **more)
os.replace = replace
code = main(sys.argv[2:])
print("written", int(sys.argv[1]) - left)
sys.exit(code)
"""
"""`main` that is killed when it puts the file of this number in its place, the first being 1."""
NEVER = 1_000_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, pictures of three classes, their embeddings, and a recipe."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("killed")
    x, y = load_digits(n_class=3, return_X_y=True)
    pictures = list((x[:120].reshape(-1, 8, 8) * 15).astype(np.uint8))
    rows = datasets.Dataset.from_dict({"image": pictures, "label": y[:120].tolist()})
    rows = rows.cast_column("image", datasets.Image())
    (folder / "data").mkdir()
    rows.select(range(90)).to_parquet(folder / "data" / "train.parquet")
    rows.select(range(90, 120)).to_parquet(folder / "data" / "test.parquet")
    tuned.image_base(folder / "m")
    tuned.image_base(folder / "n", seed=1)
    recipe = runs.recipe(data={"path": "data", "limit": 60}, train={"save_every": 2, "report": False})
    runs.write(folder, recipe)
    return folder


def run(place: Path, left: int, *words: str) -> tuple[int, int]:
    """(exit code, files that were put in their place)."""
    done = forking.run(["-c", CODE, str(left), *words], level="mmssl", cwd=place)
    written = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("written ")]
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, written[0] if written else 0


def table(path: Path) -> Any:
    return pq.read_table(path).to_pydict()


def scores(folder: Path) -> Any:
    return json.loads((folder / "suite.json").read_text())["rows"]


def trials(folder: Path) -> Any:
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def weights(folder: Path) -> Any:
    found = {str(p.name): load_file(p) for p in sorted(folder.glob("model/*.safetensors"))}
    return {name: {key: value.tolist() for key, value in of.items()} for name, of in found.items()}


CLUSTER = "cluster m --data data clusters=5 --output OUT.parquet"
SELECT = "select data --embeddings m --drop-duplicates 0.99 --keep 0.5 --by typicality --output OUT.parquet"
FINETUNE = (
    "finetune m --data data --label label labels=24 --peft none --unlabelled rest --rounds 2 few=0 validation_share=0 "
    "train.steps=3 train.batch_size=16 train.save_every=2 --resume auto --output OUT"
)
SUITE = "evaluate m n --data data label=label --task knn --task linear --resume auto --output OUT"
TUNE = "tune tiny.yaml train.lr=log(1e-4,1e-2) --trials 2 --resume auto --output OUT"
COMMANDS = {
    "cluster": (CLUSTER, ".parquet", table),
    "select": (SELECT, ".parquet", table),
    "finetune": (FINETUNE, "", weights),
    "suite": (SUITE, "", scores),
    "tune": (TUNE, "", trials),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_command_ends_as_if_it_had_not_been_killed(place: Path, command: str) -> None:
    words, ending, read = COMMANDS[command]
    data = {path: path.read_bytes() for path in (place / "data").iterdir()}
    code, count = run(place, NEVER, *words.replace("OUT", f"{command}-straight").split())
    assert code == 0 and count
    for at in sorted({(count + 1) // 2, count}):
        asked = words.replace("OUT", f"{command}-{at}").split()
        assert run(place, at, *asked)[0] == -signal.SIGKILL
        assert run(place, NEVER, *asked)[0] == 0
        assert read(place / f"{command}-{at}{ending}") == read(place / f"{command}-straight{ending}")
    assert broken.nothing_half_written(place), [p for p in place.rglob("*") if "partial" in p.name]
    assert {path: path.read_bytes() for path in (place / "data").iterdir()} == data
