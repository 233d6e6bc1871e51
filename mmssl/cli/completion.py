"""Shell completion: a few lines for each shell, which ask `mmssl completion words` what could stand at the cursor.

So a shell knows what the installed mmssl knows: commands and their options, shipped recipes, formats, topics, and the
keys of a recipe. Where nothing is offered the shell offers files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

BASH = """\
_mmssl() {
    local IFS=$'\\n' typed="${COMP_LINE:0:COMP_POINT}" cur="${COMP_WORDS[COMP_CWORD]}"
    local -a words
    IFS=' ' read -ra words <<< "$typed"
    [[ "$typed" == *' ' ]] && words+=('')
    local whole="${words[${#words[@]}-1]}"
    COMPREPLY=($(mmssl completion words -- "${words[@]:1}" 2>/dev/null))
    # bash ends a word at '=': what stands before it is not to be repeated
    [[ "$whole" == *=* && "$cur" != "$whole" ]] && COMPREPLY=("${COMPREPLY[@]#"${whole%"${cur#=}"}"}")
    [[ "${COMPREPLY[0]}" == *[=.] ]] && compopt -o nospace
}
complete -o default -F _mmssl mmssl
"""

ZSH = """\
#compdef mmssl
_mmssl() {
    local -a found
    found=("${(@f)$(mmssl completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n "$found[1]" ]] || { _files; return }
    if [[ "$found[1]" == *[=.] ]]; then compadd -S '' -a found; else compadd -a found; fi
}
compdef _mmssl mmssl
"""

FISH = """\
function __mmssl_words
    set -l typed (commandline -opc) (commandline -ct)
    mmssl completion words -- $typed[2..-1] 2>/dev/null
end
complete -c mmssl -a '(__mmssl_words)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
HOW = {
    "bash": "mmssl completion bash >> ~/.bashrc",
    "zsh": "mmssl completion zsh > ~/.zfunc/_mmssl",
    "fish": "mmssl completion fish > ~/.config/fish/completions/mmssl.fish",
}
"""Shell -> how its script is installed."""


def candidates(words: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """What could stand in place of the last of `words`, which is what has been typed of it so far.

    words: the command line without "mmssl"; commands: the parser of each command.
    """
    typed = words[-1] if words else ""
    if len(words) < 2:
        offered: Iterator[str] = iter([*commands, "--help", "--version", "--quiet", "--log"])
    elif words[0] in commands:
        offered = _of_command(words, commands[words[0]])
    else:
        offered = iter(())
    return [word for word in dict.fromkeys(offered) if word.startswith(typed)]


def _of_command(words: Sequence[str], parser: argparse.ArgumentParser) -> Iterator[str]:
    typed, before, first = words[-1], words[-2], len(words) == 2
    actions = {option: action for action in parser._actions for option in action.option_strings}
    if typed.startswith("-"):
        yield from (option for option in actions if option.startswith("--"))
    elif before in actions and actions[before].nargs != 0:
        yield from _values(before)
    elif first:
        yield from _first(words[0])
    elif words[0] in ("pretrain", "plan", "show", "tune"):
        yield from _keys(typed)


def _values(option: str) -> Iterator[str]:
    """Values of an option; none where they are files or anybody's names."""
    if option == "--to":
        from ..models.stock.formats import format_names

        yield from format_names()
    elif option == "--task":
        from ..recipe.evaluation import TASKS

        yield from TASKS
    elif option == "--by":
        yield from ("rankme", "lidar", "alpha-req", "probe")
    elif option == "--goal":
        from ..looking.options import GOALS

        yield from GOALS
    elif option == "--log":
        from ..saying import LOGS

        yield from LOGS
    elif option == "--peft":
        yield from ("lora", "dora", "ia3", "none", "linear")


def _first(command: str) -> Iterator[str]:
    """What can stand behind a command."""
    from ..recipe.loading import recipe_names

    if command == "list":
        from ..recipe import LISTS

        yield from LISTS
    elif command == "completion":
        yield from SCRIPTS
    elif command in ("check", "plan", "pretrain", "tune"):
        yield from recipe_names()
    elif command == "show":
        from .showing import topic_names

        yield from topic_names()
        yield from recipe_names()


def _keys(typed: str) -> Iterator[str]:
    """Keys of a recipe's sections, as overrides name them."""
    from .showing import SECTIONS, topic

    if "=" in typed:
        return
    for section in ("data", "model", "train", "evaluation"):
        if section in SECTIONS:
            yield from (f"{section}.{one.key}=" for one in topic(section).options if "*" not in one.key)
    yield "seed="
