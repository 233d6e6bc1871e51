"""The commands that only tell: `list`, `show`, `completion`, `doctor`. None of them imports anything heavy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from ..errors import UserError, nearest
from ..saying import result


class Command(Protocol):
    """Adds a command to the parser."""

    def __call__(self, name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser: ...


def add_commands(command: Command, parsers: Mapping[str, argparse.ArgumentParser]) -> None:
    """Add these commands; `parsers` will hold those of all commands."""
    from ..recipe import LISTS
    from .completion import SCRIPTS

    sub = command("list", _list, "List what can be named in a recipe.")
    sub.add_argument("what", metavar="|".join(LISTS), type=one_of(LISTS))
    sub.add_argument("--json", action="store_true", help="as JSON: names and what is said of them")

    sub = command("show", _show, "Show a recipe, or options: type, default, range, help, and when they do anything.")
    help = "a recipe, or e.g. train, towers, finetune, objectives.jepa, masks.block, modalities.image, views.image"
    sub.add_argument("what", metavar="RECIPE|OPTIONS", nargs="?", help=help)
    sub.add_argument("overrides", metavar="key.path=value", nargs="*", help="change the recipe that is shown")
    sub.add_argument("--defaults", action="store_true", help="of a recipe: all options, also those at their defaults")
    sub.add_argument("--preset", metavar="NAME", help="of a recipe: this size of it, see `mmssl pretrain --help`")
    sub.add_argument("--schema", action="store_true", help="the JSON schema of a recipe, for editors")

    sub = command("completion", lambda args: _completion(args, parsers), "Print the completion script of a shell.")
    sub.add_argument("shell", metavar="|".join(SCRIPTS), type=one_of([*SCRIPTS, "words"]))
    sub.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    command("doctor", _doctor, "Examine the environment, with the fix for what is wrong.")


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """An argparse type: one of these words; what else is found is told of with the nearest one."""
    known = list(choices)

    def check(text: str) -> str:
        if text not in known:
            hint = nearest(text, known)
            raise argparse.ArgumentTypeError(f"found '{text}', expected one of {', '.join(known)}{hint}")
        return text

    return check


def _list(args: argparse.Namespace) -> int:
    from ..recipe import listing

    rows = getattr(listing, args.what)()
    if args.json:
        found: list[dict[str, object]] = []
        for name, line in rows:
            if name:
                found.append({"name": name, "about": line, "facts": []})
            else:  # it goes on about the one above
                facts = found[-1]["facts"]
                assert isinstance(facts, list)
                facts.append(line)
        result(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        result("\n".join(f"{name:25} {line}".rstrip() for name, line in rows))
    return 0


def _show(args: argparse.Namespace) -> int:
    from . import showing

    if args.schema:
        if args.what:
            raise UserError(f"show: found '{args.what}' beside --schema, which is of any recipe")
        result(json.dumps(showing.recipe_schema(), indent=1, ensure_ascii=False))
    elif args.what is None:
        raise UserError("show: found nothing to show, expected a recipe, options (see `mmssl show --help`) or --schema")
    else:
        result(showing.show(args.what, args.overrides, args.defaults, args.preset))
    return 0


def _completion(args: argparse.Namespace, parsers: Mapping[str, argparse.ArgumentParser]) -> int:
    from .completion import SCRIPTS, candidates

    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    text = "\n".join(candidates(words, parsers)) if args.shell == "words" else SCRIPTS[args.shell].rstrip("\n")
    if text:
        result(text)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from .. import doctor

    return doctor.main()
