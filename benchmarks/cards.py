"""Example cards: `python -m benchmarks.cards` renders hub_cards/RECIPE.md anew from hub_cards/RECIPE.json.

`python -m benchmarks.cards --train quickstart` trains the shipped recipe first and keeps what its card was made of (the
facts of the run, the scores, the pictures). A test holds every example against the template's current rendering. The
quickstart's scores also stand in README and docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from mmssl.hub.card import Facts, card_text
from mmssl.recipe.loading import load_recipe
from mmssl.training import pretrain as training
from mmssl.training.process import prepare_process

from . import pages

CARDS = pages.REPO / "hub_cards"
CHANGES = {"train.card_samples": True}
"""The data of these recipes are free to be shown."""
MARKS = ("<!-- quickstart: python -m benchmarks.cards -->", "<!-- /quickstart -->")
ROWS = {
    "zero-shot accuracy": ("zero-shot", "image/accuracy"),
    "nearest neighbours, accuracy": ("knn", "image/accuracy"),
    "picture to caption, first hit": ("retrieval", "image->text/R@1"),
    "caption to picture, first hit": ("retrieval", "text->image/R@1"),
}
"""A row of the quickstart's table -> its task and measure in a report."""


def render(name: str, folder: Path = CARDS) -> str:
    """The card of the shipped recipe `name`, of the run that its .json describes."""
    kept: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return card_text(load_recipe(name, CHANGES), kept["report"], Facts(**kept["facts"]))


def quickstart(folder: Path = CARDS) -> str:
    """The quickstart's table: pretrained with its 95 % interval, untrained, raw features, chance."""
    report = json.loads((folder / "quickstart.json").read_text())["report"]
    rows = []
    for words, (task, measure) in ROWS.items():
        scores = report["tasks"][task][measure]
        low, high = scores["interval"]["model"]
        rest = " | ".join(f"{scores[arm]:.3f}" for arm in ("untrained", "raw", "chance"))
        rows.append(f"| {words} | {scores['model']:.3f} ({low:.3f}-{high:.3f}) | {rest} |")
    head = f"| {report['n_test']} held-out digits | pretrained | untrained | raw features | chance |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def train(name: str, folder: Path = CARDS) -> None:
    """Run the recipe; keep the facts and scores that went into its card, and the card's picture."""
    seen: list[Facts] = []
    real = training.write_card

    def write_card(place: Path, recipe: Any, report: Any, facts: Facts) -> Path:
        seen.append(facts)
        return real(place, recipe, report, facts)

    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(training, "write_card", write_card):
        run = training.pretrain(name, output=Path(scratch) / "run", **{"train.trackers": []}, **CHANGES)
        facts = dataclasses.asdict(seen[-1])

        def kept(picture: str, called: str) -> str:
            shutil.copyfile(run.model_folder / picture, folder / called)
            return called

        facts["picture"] = facts["picture"] and kept(facts["picture"], f"{name}.png")
        facts["pictures"] = {kept(file, f"{name}-{file}"): words for file, words in facts["pictures"].items()}
    (folder / f"{name}.json").write_text(json.dumps({"facts": facts, "report": run.report}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", metavar="RECIPE", action="append", default=[])
    args = parser.parse_args()
    prepare_process()
    for name in args.train:
        train(name)
    for path in sorted(CARDS.glob("*.json")):
        (CARDS / f"{path.stem}.md").write_text(render(path.stem), encoding="utf-8")
        print(f"hub_cards/{path.stem}.md")
    for page in (pages.README, pages.BENCHMARKS):
        pages.write(page, quickstart(), MARKS)


if __name__ == "__main__":
    main()
