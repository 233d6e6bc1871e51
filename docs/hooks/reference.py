"""The pages of the site that no file in docs/ holds: from options, docstrings, commands and files of the repository.

`mkdocs.yml` names it as a hook: `on_config` puts the pages into the navigation, `on_files` makes them. Every page is a
function of what the package says of itself, so that none of them can go stale.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

REPO = Path(__file__).resolve().parents[2]
SOURCES = [str(REPO), str(REPO / "modalities")]
sys.path[:0] = [str(Path(__file__).parent), *SOURCES]  # what is told of are the sources that stand beside this file

import papers  # noqa: E402
from options import sections, table  # noqa: E402

import mmssl  # noqa: E402
from mmssl.cli import parsers  # noqa: E402
from mmssl.cli.showing import SECTIONS  # noqa: E402
from mmssl.masking import load_mask, mask_names  # noqa: E402
from mmssl.modality import load_modality, modality_names  # noqa: E402
from mmssl.objectives.options import ObjectiveConfig, objective_config, objective_module, objective_names  # noqa: E402
from mmssl.options import describing, plainyaml  # noqa: E402
from mmssl.recipe import listing  # noqa: E402
from mmssl.recipe.config import Recipe  # noqa: E402
from mmssl.recipe.loading import recipe_names, recipe_path  # noqa: E402

CONTRACTS = (
    "mmssl.patches.Patches",
    "mmssl.patches.Split",
    "mmssl.modality.Preprocessor",
    "mmssl.modality.Modality",
    "mmssl.models.tower.Tower",
    "mmssl.models.tower.Encoded",
    "mmssl.objectives.step.Step",
    "mmssl.objectives.base.Objective",
    "mmssl.objectives.base.Loss",
    "mmssl.objectives.pretraining.Pretraining",
)
"""What somebody who adds a modality, a mask or an objective meets."""


# ------------------------------------------------------------------------------------------------------------ pages


def modality_page(name: str) -> str:
    """A modality's own README, with its links made good for the site, and all its options."""
    readme = REPO / "modalities" / f"mmssl_{name}" / "README.md"
    return f"{for_site(readme)}\n\n## All options\n\n`modalities.{name}`:\n\n{table(load_modality(name).Config)}\n"


def objective_page(name: str) -> str:
    """What an objective is, when to use it, its options and where it comes from."""
    config = objective_config(name)
    title, _, rest = markdown(describing.docstring(objective_module(name))).partition("\n")
    facts = f"- **Suits**: {config.suits}\n- **Use it when**: {config.when}\n- **Papers**: {config.papers}"
    return f"# {name}\n\n{title}\n\n{facts}\n{rest}\n\n## Options\n\n`objectives.<name>`:\n\n{table(config)}\n"


def objectives_page() -> str:
    """Which objective suits which data."""
    intro = "Which one suits which data; [Choose an objective](../../how-to/choose.md) goes through configurations."
    rows = re.sub(r"^\| `(\w+)`", r"| [`\1`](\1.md)", listing.objectives_table(), flags=re.MULTILINE)
    common = f"## Options that all have\n\n{table(ObjectiveConfig)}"
    return f"# Objectives\n\n{intro}\n\n{rows}\n\n{common}\n"


def masks_page() -> str:
    """Every mask with its options."""
    intro = "A mask says, from coordinates alone, which patches are kept and which hidden: `masks.<name>` of a recipe."
    parts = [f"## {name}\n\n{docstring(load_mask(name))}\n\n{table(load_mask(name))}" for name in mask_names()]
    return "\n\n".join(["# Masks", intro, *parts]) + "\n"


def recipe_page() -> str:
    """The sections of a recipe."""
    links = (
        "`modalities`, `masks` and `objectives` hold parts of several kinds: see [Modalities](modalities/image.md), "
        "[Masks](masks.md) and [Objectives](objectives/index.md). `views` hold a modality's own augmentations. How to "
        "write one: [Write a recipe](../how-to/recipe.md)."
    )
    parts = [f"## {name}\n\n{docstring(cls)}\n\n{table(cls, name + '.')}" for name, cls in sections(Recipe).items()]
    return "\n\n".join(["# Options of a recipe", links, *parts]) + "\n"


def options_page() -> str:
    """The options of the commands that take `key=value` without a recipe."""
    parts = ["# Options of commands", "`key=value` behind a command, in any order."]
    for name in ("finetune", "evaluate", "embed", "cluster", "select"):
        cls = SECTIONS[name]
        parts += [f"## mmssl {name}", docstring(cls), table(cls)]
    return "\n\n".join(parts) + "\n"


def recipes_page() -> str:
    """The shipped recipes as they are."""
    parts = ["# Recipes", "`mmssl pretrain NAME key.path=value ...` runs one; a copy of it is a start for your own."]
    for name in recipe_names():
        text = recipe_path(name).read_text(encoding="utf-8")
        words = " ".join(str(plainyaml.read(recipe_path(name)).get("description", "")).split())
        parts.append(f"## {name}\n\n{words}\n\n```yaml\n{text.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def formats_page() -> str:
    """What `mmssl export` writes."""
    rows = [f"| `{name}` | {line} |" for name, line in listing.formats()]
    intro = "`mmssl export MODEL --to FORMAT --output DIR` ([how to](../how-to/export.md))."
    return "\n".join(["# Export formats", "", intro, "", "| format | |", "|---|---|", *rows]) + "\n"


def commands_page() -> str:
    """Every command with its arguments, from argparse."""
    intro = "Exit codes: 0 done; 2 the input is wrong (a line for each fault); 1 anything else; 130 interrupted."
    parser, commands = parsers()
    parts = ["# Commands", intro, *(command_part(name, command) for name, command in commands.items())]
    return "\n\n".join(parts) + "\n"


def command_part(name: str, command: argparse.ArgumentParser) -> str:
    """One command's usage and arguments."""
    usage = " ".join(command.format_usage().removeprefix("usage: ").split())
    lines = [f"## mmssl {name}", "", command.description or "", "", f"```\n{usage}\n```", "", "| | |", "|---|---|"]
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            value = f" {action.metavar}" if action.option_strings and action.metavar else ""
            lines.append(f"| `{names}{value}` | {action.help or ''} |".replace("%%", "%"))
    return "\n".join(lines if lines[-1] != "|---|---|" else lines[:-3])


def api_page() -> str:
    """The public names, and the contracts that parts of one's own keep."""
    public = [defined(f"mmssl.{name}") for name in mmssl.__all__ if not name.startswith("__")]
    parts = [
        "# Python",
        "`import mmssl` is enough for `AutoModel` and `AutoProcessor` to know mmssl's models.",
        *(f"::: {name}" for name in public),
        "## Contracts",
        "What a [modality](../tutorials/add-a-modality.md), a mask or an objective of your own keeps to.",
        *(f"::: {defined(name)}" for name in CONTRACTS),
    ]
    return "\n\n".join(parts) + "\n"


def defined(name: str) -> str:
    """Where a name that may be imported from elsewhere is defined; AttributeError when it has moved."""
    module, _, attribute = name.rpartition(".")
    return f"{getattr(importlib.import_module(module), attribute).__module__}.{attribute}"


def pages() -> dict[str, str]:
    """Path in the site's sources -> Markdown, of every page that is made."""
    made: dict[str, Callable[[], str]] = {
        "changelog.md": lambda: for_site(REPO / "CHANGELOG.md"),
        "benchmarks/results.md": lambda: for_site(REPO / "RESULTS.md"),
        "benchmarks/across.md": lambda: for_site(REPO / "benchmarks" / "results" / "crossmodal.md")[1:],
        "reference/commands.md": commands_page,
        "reference/recipe.md": recipe_page,
        "reference/options.md": options_page,
        "reference/masks.md": masks_page,
        "reference/recipes.md": recipes_page,
        "reference/formats.md": formats_page,
        "reference/api.md": api_page,
        "reference/papers.md": papers.page,
        "reference/objectives/index.md": objectives_page,
    }
    text = {path: page() for path, page in made.items()}
    text |= {f"reference/objectives/{name}.md": objective_page(name) for name in objective_names()}
    return text | {f"reference/modalities/{name}.md": modality_page(name) for name in modality_names() if ours(name)}


def ours(name: str) -> bool:
    """Whether a modality is of this repository, and not installed beside it."""
    return (REPO / "modalities" / f"mmssl_{name}").is_dir()


# ------------------------------------------------------------------------------------------------------------- text


def docstring(thing: Any) -> str:
    """The docstring of a class or function as Markdown."""
    return markdown(inspect.getdoc(thing) or "")


def markdown(text: str) -> str:
    """A docstring's text as Markdown: a line that ends in `::` introduces code."""
    out: list[str] = []
    block: list[str] | None = None  # the lines of code that are being read
    for line in [*text.splitlines(), "."]:  # the dot ends a block at the end of the text
        if block is not None and (not line.strip() or line.startswith("    ")):
            block.append(line)
            continue
        if block is not None:
            code = textwrap.dedent("\n".join(block)).strip()
            out += ["", f"```{'yaml' if ':' in code.partition(chr(10))[0] else ''}", code, "```", ""]
            block = None
        if line.endswith("::"):
            out.append(line[:-1])
            block = []
        else:
            out.append(line)
    return "\n".join(out[:-1]).strip()


PLACES = {"benchmarks/results/crossmodal.md": "across.md", "RESULTS.md": "../../benchmarks/results.md"}
"""Links of the repository's own pages -> where their target is in the site; others become plain words."""


def for_site(path: Path) -> str:
    """A page of the repository, its links to files turned to the site's pages or into words."""

    def link(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if target.startswith(("http", "#")):
            return found[0]
        place = PLACES.get(target.removeprefix("../../"))
        return f"[{words}]({place})" if place else words

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, path.read_text(encoding="utf-8")).strip()


# ------------------------------------------------------------------------------------------------------------ hooks


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """`{Modalities: modalities}` in the navigation becomes a page for each."""
    sys.path[:0] = SOURCES  # mkdocs has put back what it was
    found = {
        "MODALITIES": [f"reference/modalities/{name}.md" for name in modality_names() if ours(name)],
        "OBJECTIVES": ["reference/objectives/index.md"] + [f"reference/objectives/{n}.md" for n in objective_names()],
    }
    config.nav = filled(config.nav or [], found)
    return config


def filled(nav: Iterable[Any], found: dict[str, list[str]]) -> list[Any]:
    """The navigation with its words in capitals replaced by pages."""
    out: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            out.append({k: found.get(v, v) if isinstance(v, str) else filled(v, found) for k, v in item.items()})
        else:
            out.append(item)
    return out


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
