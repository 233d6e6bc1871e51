"""Every command on the pages of docs/, in README and in those of modalities: its words, options and values are valid.

Each is given to the command line as it is printed, up to where its options and recipe were read; nothing is computed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from collections.abc import Iterator

import pytest

from benchmarks.pages import REPO
from mmssl.cli import parse, parsers
from mmssl.curation.options import ClusterConfig, SelectConfig
from mmssl.demonstrating.options import DemoConfig
from mmssl.errors import UserError
from mmssl.evaluation.options import EmbedConfig, EvaluateConfig
from mmssl.finetuning.options import FinetuneConfig
from mmssl.looking.options import InitConfig
from mmssl.recipe.loading import command_options, load_recipe, recipe_names
from mmssl.tuning.space import check_space, read_space

pytestmark = pytest.mark.docs
PAGES = sorted(
    [REPO / "README.md", *(REPO / "docs").rglob("*.md"), *(REPO / "modalities").glob("*/README.md")],
    key=lambda page: str(page),
)
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
MODEL = re.compile(r"model\.(?:from|towers\.\w+\.from)=")
INLINE = re.compile(r"`(mmssl [a-z][^`]*)`")
OPTIONS = {
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "embed": EmbedConfig,
    "cluster": ClusterConfig,
    "select": SelectConfig,
    "demo": DemoConfig,
    "init": InitConfig,
}
"""Commands with options of their own -> what these are."""
OF_RECIPES = ("pretrain", "plan", "verify-resume")
PLACES = re.compile(r"no such folder here|no file |is no folder")
"""What is wrong of a command on a page in an empty folder."""


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """(a command, whether it is in a block, and so whole): lines of blocks, those that go on behind a backslash put
    together; and what is named in sentences."""
    for block in FENCED.findall(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.strip().startswith("mmssl "):
                yield line.strip(), True
    for said in INLINE.findall(FENCED.sub("", text)):
        yield " ".join(said.split()), False


FOUND = sorted(
    {(str(page.relative_to(REPO)), *found) for page in PAGES for found in commands(page.read_text(encoding="utf-8"))}
)


def faults(said: str, whole: bool) -> list[str]:
    """What is wrong with a command, but for data and models that are not there."""
    said = re.sub(r"=\.\.\.", "=SOMETHING", said).replace(" ...", "")
    words = list(itertools.takewhile(lambda word: word not in (">", "2>", "|"), shlex.split(said, comments=True)))[1:]
    if words[0] not in parsers()[1]:
        return [f"no command '{words[0]}'"]
    try:
        args = parse(words)
        if args.command in OPTIONS and not is_suite(args):
            command_options(OPTIONS[args.command], args.overrides, {})
        elif args.command in OF_RECIPES and args.config in recipe_names():
            own = [word for word in args.overrides if not MODEL.match(word)]
            load_recipe(args.config, own, preset=args.preset)
        elif args.command == "tune":
            fixed, space = read_space(args.overrides)
            if args.config in recipe_names():
                check_space(args.config, fixed, space, args.preset)
    except UserError as error:
        if not whole and "arguments are required" in str(error):
            return []
        return [line for line in str(error).splitlines() if not PLACES.search(line)]
    return []


def is_suite(args: argparse.Namespace) -> bool:
    return args.command == "evaluate" and any("=" not in word for word in args.overrides)


@pytest.mark.parametrize(("page", "said", "whole"), FOUND)
def test_it_is_valid(page: str, said: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert faults(said, whole) == []


@pytest.mark.parametrize(
    "said",
    [
        "mmssl finetune runs/x --data y lables=3",
        "mmssl pretrain image_mae data.path=pictures train.setps=3",
        "mmssl pretrain image_mae data.path=pictures --preset huge",
        "mmssl tune image_mae 'train.lr=log(0,1e-2)'",
        "mmssl embedd runs/x",
        "mmssl embed runs/x",
    ],
)
def test_a_wrong_one_is_seen(said: str) -> None:
    assert faults(said, whole=True)


def test_commands_of_blocks_and_sentences_are_found() -> None:
    text = "Say `mmssl list\nrecipes`:\n```yaml\na: 1\n```\n```\nmmssl pretrain x \\\n  a=1   # why\n```\n"
    assert list(commands(text)) == [("mmssl pretrain x  a=1   # why", True), ("mmssl list recipes", False)]
    assert len(FOUND) > 100
