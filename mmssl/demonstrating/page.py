"""The questions as a page of Gradio: what somebody gives goes to the engine, and its answer comes back as HTML.

Whatever cannot be answered becomes a sentence at the place of the answer. What nobody foresaw stays an error, which
Gradio tells of on the page and with its traceback in the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadSample, RunError, UserError, one_line
from . import cards
from .uploads import as_lines, endings, first_row, has_parts

if TYPE_CHECKING:
    from .engine import Engine, Sample

COUNT, MOST = 12, 48
"""Rows that are found, and how many at most."""
LONGEST = 600
"""Characters of a sentence."""


def answered(work: Callable[[], str], noun: str = "") -> str:
    """The answer, or the sentence that says why there is none. noun: what a sample was expected to be."""
    try:
        return work()
    except BadSample as error:
        what = f"This is not read as {noun}: " if noun else ""
        return cards.refused(f"{what}{one_line(error, LONGEST)}")
    except (UserError, RunError) as error:
        return cards.refused(one_line(error, LONGEST))


def theme() -> Any:
    """Gradio's own, in fonts that this machine has: its default ones would be asked of somebody else."""
    import gradio

    sans = [gradio.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gradio.themes.Font(name) for name in ("ui-monospace", "monospace")]
    return gradio.themes.Default(font=sans, font_mono=mono)


def blocks(engine: Engine) -> Any:
    """The page."""
    import gradio

    with gradio.Blocks(
        analytics_enabled=False, title=f"{engine.title} – mmssl", fill_width=True, delete_cache=(600, 3600)
    ) as page:
        gradio.HTML(cards.about(engine))
        with gradio.Tabs():
            with gradio.Tab("Search"), gradio.Tabs():
                for name in engine.names:
                    if engine.way(name) is not None and engine.targets(name):
                        with gradio.Tab(f"by {name}"):
                            _search(engine, name)
            with gradio.Tab("Neighbours"):
                _neighbours(engine)
            if engine.classified():
                with gradio.Tab("Own words"), gradio.Tabs():
                    for name in engine.classified():
                        with gradio.Tab(name):
                            _own_words(engine, name)
    return page


Asking = Callable[..., "Sample"]


def _given(engine: Engine, name: str) -> tuple[list[Any], Asking]:
    """(the fields by which a sample of a modality is given, the function from their values to it)."""
    import gradio

    way = engine.way(name)
    if way == "text":
        field = gradio.Textbox(label=f"{name}: words", lines=2, elem_id=f"{name}-words")
        return [field], lambda words: engine.words(name, words)
    reader = engine.readers[name]
    if way == "file":
        several = has_parts(reader)
        field = gradio.File(
            label=f"{name}: {'files of one sample' if several else 'a file'}",
            file_count="multiple" if several else "single",
            height=140,
        )
        gradio.Markdown(f"{endings(reader)}", elem_classes="mm-endings")  # in the label they would lie over the field
        return [field], lambda paths: engine.files(name, _listed(paths))
    columns = engine.cells(name)
    first = as_lines(engine.cells_in(name, 0)) if name in engine.columns else as_lines(dict.fromkeys(columns))
    lines = gradio.Textbox(label=f"{name}: a line a column", value=first, lines=min(len(columns), 12), max_lines=24)
    table = gradio.File(label="or the first row of a csv file", height=140)
    said = gradio.HTML()

    def read(path: str | None, before: str) -> tuple[str, str]:
        if path is None:
            return before, ""
        try:
            return first_row(path, columns), ""
        except BadSample as error:
            return before, cards.refused(one_line(error, LONGEST))

    table.change(read, [table, lines], [lines, said])
    return [lines], lambda text: engine.cells_of(name, text)


def _listed(paths: str | Sequence[str] | None) -> list[str]:
    return [] if paths is None else [paths] if isinstance(paths, str) else list(paths)


def _target(engine: Engine, name: str, chosen: str | None = None) -> Any:
    import gradio

    known = engine.targets(name)
    return gradio.Radio(known, value=chosen or known[0], label="find")


def _count() -> Any:
    import gradio

    return gradio.Slider(1, MOST, COUNT, step=1, label="how many")


def _search(engine: Engine, name: str) -> None:
    """Fields, button and answer of a search by samples of a modality."""
    import gradio

    fields, asking = _given(engine, name)
    with gradio.Row():
        target, count = _target(engine, name), _count()
    button = gradio.Button(f"Search by {name}", variant="primary")
    answer = gradio.HTML()

    def ask(chosen: str, many: int, *values: Any) -> str:
        def work() -> str:
            sample = asking(*values)
            return cards.found(engine, sample, chosen, engine.search(sample, chosen, many))

        return answered(work, engine.readers[name].noun)

    button.click(ask, [target, count, *fields], answer)
    if engine.way(name) == "text":
        fields[0].submit(ask, [target, count, *fields], answer)


def _neighbours(engine: Engine) -> None:
    """What lies near to a row of the data."""
    import gradio

    names = engine.index.names
    with gradio.Row():
        number = gradio.Number(0, label=f"row (0 to {len(engine.source) - 1:,})", precision=0)
        own = gradio.Radio(names, value=names[0], label="by its")
        target = _target(engine, names[0], names[0])
        count = _count()
    button = gradio.Button("Find neighbours", variant="primary")
    answer = gradio.HTML()

    def ask(row: float | None, name: str, chosen: str, many: int) -> str:
        def work() -> str:
            sample = engine.row(name, row)
            return cards.found(engine, sample, chosen, engine.search(sample, chosen, many))

        return answered(work)

    own.change(lambda name: _target(engine, name, name), own, target)
    button.click(ask, [number, own, target, count], answer)
    number.submit(ask, [number, own, target, count], answer)


def _own_words(engine: Engine, name: str) -> None:
    """Which of one's own words fit a sample: one that is given, or a row."""
    import gradio

    at_first = "\n".join(engine.known_words)
    words = gradio.Textbox(at_first, label="words, a line each", lines=4, max_lines=20)
    sentences = gradio.Textbox("\n".join(engine.templates), label="sentences around them, {} for the word", lines=2)
    fields: list[Any] = []
    asking: Asking | None = None
    row = gradio.Number(0, label=f"row (0 to {len(engine.source) - 1:,})", precision=0)
    if engine.way(name) is not None:
        fields, asking = _given(engine, name)
    with gradio.Row():
        by_row = gradio.Button("Classify the row", variant="primary", interactive=name in engine.index.names)
        by_sample = gradio.Button("Classify what I give", visible=asking is not None)
    answer = gradio.HTML()

    def told(sample: Sample, text: str | None, around: str | None) -> str:
        found = engine.zero_shot(sample, (text or "").splitlines(), (around or "").splitlines())
        return cards.classified(engine, sample, found)

    def ask_row(text: str | None, around: str | None, number: float | None) -> str:
        return answered(lambda: told(engine.row(name, number), text, around))

    def ask_sample(text: str | None, around: str | None, *values: Any) -> str:
        assert asking is not None
        return answered(lambda: told(asking(*values), text, around), engine.readers[name].noun)

    by_row.click(ask_row, [words, sentences, row], answer)
    if asking is not None:
        by_sample.click(ask_sample, [words, sentences, *fields], answer)
