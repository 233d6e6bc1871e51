"""Example cards: `python -m benchmarks.cards` renders hub_cards/RECIPE.md anew from hub_cards/RECIPE.json.

`python -m benchmarks.cards --train quickstart` trains the shipped recipe first and keeps what its card was made of (the
facts of the run, the scores, the picture). A test holds every example against the template's current rendering.
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

CARDS = Path(__file__).resolve().parents[1] / "hub_cards"


def render(name: str, folder: Path = CARDS) -> str:
    """The card of the shipped recipe `name`, of the run that its .json describes."""
    kept: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return card_text(load_recipe(name), kept["report"], Facts(**kept["facts"]))


def train(name: str, folder: Path = CARDS) -> None:
    """Run the recipe; keep the facts and scores that went into its card, and the card's picture."""
    seen: list[Facts] = []
    real = training.write_card

    def write_card(place: Path, recipe: Any, report: Any, facts: Facts) -> Path:
        seen.append(facts)
        return real(place, recipe, report, facts)

    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(training, "write_card", write_card):
        run = training.pretrain(name, output=Path(scratch) / "run", train={"trackers": []})
        facts = dataclasses.asdict(seen[-1])
        if facts["picture"]:
            picture = f"{name}{Path(facts['picture']).suffix}"
            shutil.copyfile(run.model_folder / facts["picture"], folder / picture)
            facts["picture"] = picture
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


if __name__ == "__main__":
    main()
