"""The command line: parses, calls, prints. `mmssl COMMAND --help` explains each command.

Exit codes: 0 done; 2 the user's input is wrong (a line for each fault); 75 `train.time_limit` is over, a checkpoint is
written; 130 interrupted; 1 anything else.
This module imports nothing heavy, so that `mmssl doctor` runs where torch or transformers do not import.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import LostProcess, RunError, TimeUp, UserError, nearest, one_line, out_of_memory, shown, unknown
from ..models.privacy import hidden
from ..provenance import trust
from ..saying import doing, loading, result, say, secrets_hidden, speaker, told_as
from . import curating, demonstrating, evaluating, looking, reporting, tuning, verifying
from .results import print_report, show_run
from .telling import add_commands
from .threads import wait_briefly
from .words import add_log, columns_of, command_first, listed, wanted_log

MODEL = "a folder (of a model, a run, an adapter, a fine-tuning, or one that transformers loads), or an id on the Hub"
BASE = "the model that an adapter belongs on, where it is not at the place that the adapter remembers"
PATIENCE = 10.0
"""Seconds that a process other than the first waits before it tells of its own fault."""
DATA = "a folder, file, glob, Hub id or builtin:NAME; default: what the run of MODEL learned from"


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with told_as(*wanted_log(words)):
        try:
            args = parse(words)
            if "torch" not in sys.modules:
                wait_briefly(os.environ)
            trust(*getattr(args, "trust", ()))
            with secrets_hidden(), doing(f"mmssl {args.command}"):
                return args.call(args)
        except UserError as error:
            return _complain(error, 2)
        except RunError as error:
            return _complain(error, 75 if isinstance(error, TimeUp) else 1)
        except KeyboardInterrupt:
            if _first():
                speaker.complain(["interrupted"], 130, mark="")
            return 130
        except Exception as error:
            return _broken(error)


def _broken(error: Exception) -> int:
    """An error that is nobody's word to the user: told whole, but for the memory that is out."""
    if out_of_memory(error):
        said = f"out of memory ({one_line(error, 200)}); a smaller batch_size or model needs less"
        return _complain(RunError(said), 1)
    traceback.print_exc()
    from ..doctor import import_broke, import_failed

    if import_broke(error):
        return _complain(import_failed(error), 1)
    if speaker.json:
        return _complain(RunError(f"{type(error).__name__}: {one_line(error)}"), 1)
    return 1


def _complain(error: Exception, code: int) -> int:
    """Say why the command ends; returns its exit code. Of several processes the first speaks, unless it is gone."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # a process that dies with its group open takes the others down by SIGABRT
    lines = list(map(shown, hidden(str(error)).rstrip("\n").split("\n")))
    if isinstance(error, LostProcess | TimeUp):
        alone = isinstance(error, LostProcess) and error.speaks
    elif alone := not _first():
        # a launcher ends all when the first of them fails: the fault that all have is for the first process to tell
        time.sleep(PATIENCE)
    if alone or _first():
        speaker.complain(lines, code)
    return code


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


# ---------------------------------------------------------------------------------------------------------- parsing


def parse(argv: list[str]) -> argparse.Namespace:
    """The parsed command; UserError naming the nearest valid command or option."""
    parser, commands = parsers()
    argv = command_first(argv)
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise unknown("command", argv[0], commands)
    args, rest = parser.parse_known_args(_explicit(argv) if "--resume" in argv else argv)
    for word in rest:
        # argparse stops filling `key=value ...` at the first option; what stands behind it arrives here
        if hasattr(args, "overrides") and "=" in word and not word.startswith("-"):
            args.overrides.append(word)
            continue
        if word.startswith("-"):
            options = [o for a in commands[argv[0]]._actions for o in a.option_strings if o.startswith("--")]
            raise UserError(f"unknown option '{word}' of mmssl {argv[0]}{nearest(word.partition('=')[0], options)}")
        expected = "; options of the recipe are key.path=value" if hasattr(args, "overrides") else ""
        raise UserError(f"unexpected argument '{word}' of mmssl {argv[0]}{expected}")
    return args


def _explicit(argv: list[str]) -> list[str]:
    """`--resume` and `--resume auto` as one word each: argparse would take any word behind, also a key.path=value."""
    words: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        if word == "auto" and before == "--resume":
            words[-1] = "--resume=auto"
        else:
            words.append("--resume=last" if word == "--resume" else word)
    return words


def parsers() -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    """(the parser, command -> its own parser)."""
    from .. import __version__

    parser = _Parser(prog="mmssl", description="Self-supervised pretraining on any modality.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mmssl {__version__}")
    add_log(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(call=call, command=name)
        add_log(sub)
        return sub

    sub = command("pretrain", _pretrain, "Pretrain a model as a recipe says.")
    sub.add_argument("config", metavar="CONFIG", help="a .yaml file or a shipped recipe (see `mmssl list recipes`)")
    sub.add_argument("overrides", metavar="key.path=value", nargs="*", help="change the recipe, e.g. train.steps=500")
    sub.add_argument("--output", metavar="DIR", type=Path, help="folder of the run (default: runs/NAME_OF_RECIPE)")
    _add_resume(sub)
    help = "size of a shipped recipe: demo (minutes on a CPU), small, base; default: by data and device, and said"
    sub.add_argument("--preset", metavar="NAME", help=help)

    sub = command("evaluate", lambda args: evaluating.evaluate(args, _flags), evaluating.HELP)
    evaluating.add_arguments(sub, MODEL, DATA, BASE)
    _add_label(sub)

    sub = command("embed", _embed, "Write the embeddings of every sample to a parquet file.")
    _add_model_and_data(sub)
    sub.add_argument("--output", metavar="FILE.parquet", type=Path, required=True)
    sub.add_argument("--codes", action="store_true", help="write the ids of the patches, too (codes=true)")
    sub.add_argument(
        "overrides", metavar="key=value", nargs="*", help="options, e.g. name=CONFIGURATION split=test limit=100"
    )

    help = "Prove for a recipe that a run that is killed and resumed is the one that never stopped."
    verifying.add_arguments(command("verify-resume", verifying.verify, help))

    tuning.add_arguments(command("tune", tuning.tune, tuning.HELP))
    reporting.add_arguments(command("report", reporting.report, "Write one page of HTML about a run, or several."))

    sub = command("demo", lambda args: demonstrating.demo(args, _flags), demonstrating.HELP)
    demonstrating.add_arguments(sub, MODEL, _add_data)

    _add_push(command("push", _push, "Publish a model or adapter folder on the Hub."))
    sub = command("reproduce", _reproduce, "Train a model again from its card, and compare.")
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    sub.add_argument("overrides", metavar="key.path=value", nargs="*", help="where things are here: data.path=...")
    sub.add_argument("--output", metavar="DIR", type=Path, help="folder of the new run")

    _add_finetune(
        command("finetune", _finetune, "Train a task on an encoder: whole, its head alone, or through an adapter.")
    )
    _add_export(command("export", _export, "Write a model as a stock class that needs no mmssl, and prove it equal."))

    curating.add_commands(command, _add_data, _flags)
    trusting = ("pretrain", "evaluate", "embed", "demo", "report", "push", "reproduce", "finetune", "export")
    for name in (*trusting, "cluster", "select", "tune"):
        _add_trust(commands.choices[name])
    looking.add_commands(command)
    add_commands(command, commands.choices)
    return parser, dict(commands.choices)


def _add_resume(sub: argparse.ArgumentParser) -> None:
    help = "go on from the last complete checkpoint; auto: where there is a run, and start it where there is none"
    sub.add_argument("--resume", metavar="auto", nargs="?", const="last", help=help)


def _add_push(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    sub.add_argument("repo_id", metavar="REPO_ID", help="NAME or OWNER/NAME")
    sub.add_argument("--private", action="store_true", help="make the repository private")
    sub.add_argument("--revision", metavar="BRANCH", help="push to this branch; it is made where there is none")
    sub.add_argument("--message", metavar="TEXT", help="of the commit")
    sub.add_argument("--base", metavar="MODEL", help=f"{BASE}; here an id on the Hub, by which others find it")
    sub.add_argument("--dry-run", action="store_true", help="look at everything, show it, send nothing")
    demonstrating.add_space(sub)


def _add_finetune(sub: argparse.ArgumentParser) -> None:
    _add_model_and_data(sub)
    _add_label(sub)
    help = "a result of `mmssl finetune` to be distilled into MODEL, without labels (those of --label only measure it)"
    sub.add_argument("--teacher", metavar="RESULT", help=help)
    help = (
        "measure the reason to pretrain: fine-tuned from MODEL and from scratch, linear probes, boosting and linear on "
        "raw features, all from the same labels=[20,100,1000] or fraction=[0.01,0.1,1], over draws=5; one table"
    )
    sub.add_argument("--compare", action="store_true", help=help)
    help = "rows without labels to learn from, too: DATA, or rest: those of --data whose label is empty or not used"
    sub.add_argument("--unlabelled", metavar="DATA", help=help)
    sub.add_argument("--rounds", metavar="N", type=int, help="how often these are labelled anew (default: 3)")
    help = "make MODEL forget training rows: those with this value, or that a file of `mmssl select` keeps"
    sub.add_argument("--forget", metavar="COLUMN=VALUE|FILE", help=help)
    help = (
        "lora (default), dora, ia3 or another of PEFT's types; none: train everything (default with --compare); "
        "linear: the head alone"
    )
    sub.add_argument("--peft", metavar="TYPE", help=help)
    sub.add_argument("--output", metavar="DIR", type=Path, help="folder of the result (default: runs/finetune)")
    _add_resume(sub)
    help = "options, e.g. split=train fraction=0.1 group=patient_id task=regression adapter.r=4 train.epochs=20"
    sub.add_argument("overrides", metavar="key=value", nargs="*", help=help)


def _add_export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    sub.add_argument("--to", metavar="FORMAT", required=True, help="see `mmssl list formats`")
    sub.add_argument("--output", metavar="DIR", type=Path, required=True, help="a folder that is not there yet")
    sub.add_argument("--tower", metavar="NAME", help="which tower, where the model has several that would do")
    help = "MODEL is an adapter: write its base to DIR/base and the adapter for that to DIR/adapter, not merged"
    sub.add_argument("--adapter", action="store_true", help=help)
    sub.add_argument("--base", metavar="MODEL", help=BASE)


def _add_trust(sub: argparse.ArgumentParser) -> None:
    help = "a module that the folder of a MODEL names, whose code may be run: mylab.lidar; may be repeated"
    sub.add_argument("--trust", metavar="MODULE", action="append", default=[], help=help)


def _add_model_and_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    _add_data(sub)


def _add_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--base", metavar="MODEL", help=BASE)
    sub.add_argument("--data", metavar="DATA", help=DATA)
    help = "column(s) that hold a modality, e.g. image=img; may be repeated"
    sub.add_argument("--column", metavar="MODALITY=COLUMN[,COLUMN]", action="append", default=[], help=help)


def _add_label(sub: argparse.ArgumentParser) -> None:
    help = "column of the labels; several, separated by commas, for `mmssl finetune`"
    sub.add_argument("--label", metavar="COLUMN[,COLUMN]", help=help)


# --------------------------------------------------------------------------------------------------------- commands


def _pretrain(args: argparse.Namespace) -> int:
    from ..recipe.loading import load_recipe

    load_recipe(args.config, args.overrides, preset=args.preset)  # before the loop's imports: seconds earlier
    with loading():
        from ..training.choosing import Asked
        from ..training.pretrain import run_pretraining
        from ..training.process import prepare_process

    prepare_process()
    asked = Asked(args.config, args.overrides, args.preset)
    run = run_pretraining(asked, output=args.output, resume=args.resume or False)
    if os.environ.get("RANK", "0") == "0":
        show_run(run)
    return 0


def _embed(args: argparse.Namespace) -> int:
    from ..evaluation.options import EmbedConfig
    from ..recipe.loading import command_options

    words = [*args.overrides, "codes=true"] if args.codes else args.overrides
    options = command_options(EmbedConfig, words, _flags(args))
    with loading():
        from ..api import embed_as

    summary = embed_as(args.model, options, args.output, args.base)
    if summary["resumed"]:
        result(f"went on after {summary['resumed']} rows that an interrupted run had embedded")
    counts = ", ".join(f"{n} with {name}" for name, n in summary["present"].items())
    result(f"{args.output}: {summary['rows']} rows, {counts}, {len(summary['bad'])} broken values left out")
    return 0


def _push(args: argparse.Namespace) -> int:
    if args.space is not None:
        return demonstrating.push_space(args, _flags)
    demonstrating.refuse_data(args)
    from ..hub.push import push

    done = push(
        args.model,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        message=args.message,
        dry_run=args.dry_run,
        base=args.base,
    )
    for note in done.notes:
        say(f"note: {note}")
    if args.dry_run:
        result("\n".join(["would be published:", *(f"  {name}" for name in done.files)]))
    else:
        result(f"{done.repo_id}: {len(done.files)} files, {done.url}")
    return 0


def _reproduce(args: argparse.Namespace) -> int:
    with loading():
        from ..training.process import prepare_process
        from ..training.reproduce import reproduce

    prepare_process()  # as the run that is done again
    found = reproduce(args.model, args.overrides, output=args.output)
    result(found.text())
    return 0 if found.reproduced else 1


def _export(args: argparse.Namespace) -> int:
    from ..models.stock.formats import load_format, refuse_unknown

    refuse_unknown(args.to)  # a wrong name shows before anything is loaded
    with loading():
        load_format(args.to)
        from ..exporting.adapting import export_adapter
        from ..exporting.card import proof_text
        from ..exporting.writing import export_model

    with doing(f"exporting as {args.to}"):
        write = export_adapter if args.adapter else export_model
        done = write(args.model, args.to, args.output, args.tower, args.base)
    result(proof_text(done.job, done.proof))
    for note in done.job.notes:
        say(f"note: {note}")
    result(f"\n{args.output}: {done.job.cls or args.to}, largest difference {done.proof.largest('float32'):.1e}")
    return 0


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """key -> value of those options of a command that stand for a key (`FLAGS`), where they were given."""
    flags = {"path": args.data, "columns": columns_of(args.column), "label": listed(getattr(args, "label", None))}
    names = {"tasks": "task", **{name: name for name in ("peft", "compare", "unlabelled", "rounds", "forget")}}
    flags |= {key: getattr(args, name, None) for key, name in names.items()}
    return {key: value for key, value in flags.items() if value or type(value) is int}


def _finetune(args: argparse.Namespace) -> int:
    with loading():
        from ..finetuning.asking import load_options
        from ..training.process import prepare_process

    options = load_options(args.overrides, _flags(args))
    if options.compare:
        from .comparing import compare

        return compare(args, options)
    with loading():
        from ..finetuning.finetune import run_finetuning

    prepare_process()
    run = run_finetuning(
        args.model, options, output=args.output, base=args.base, teacher=args.teacher, resume=args.resume or False
    )
    if os.environ.get("RANK", "0") == "0":
        print_report(run.report)
        size = sum(run.report["parameters"]["bytes"].values()) / 1e6
        result(f"\nthe result, with its card: {run.model_folder} ({size:.2f} MB)")
    return 0
