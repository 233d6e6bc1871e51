"""Runs the tutorials of docs/tutorials, which are notebooks, and keeps what they show: `make pictures`.

    python -m benchmarks.notebooks --data ../shared/data --encoders ../encoders [NAME ...]

A notebook names its data by short names (`symbols`, `ptbxl_500`, `encoders/all-MiniLM-L6-v2`). It runs in an empty
folder where these stand, so that nothing of this machine gets into it. Encoders: `python -m benchmarks.stock_encoders`.
What is kept are results and what was printed; not what was said on stderr of the time that something took. The picture
of a cell whose metadata name one (`"picture": "neighbours.png"`) is kept in docs/assets, too.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pages import REPO
from .stock_encoders import IMAGE, TEXT

FOLDER = REPO / "docs" / "tutorials"
ASSETS = REPO / "docs" / "assets"
SECONDS = 3600
"""Of one cell, at most."""
COLOURS = 64
"""Of a picture that README or another page shows, too."""


@dataclass(frozen=True)
class Needs:
    """What a notebook reads. data: name in the notebook -> place among the shared data; encoders: by name; make:
    called with the shared data and the notebook's folder, for what has to be brought into another form."""

    data: dict[str, str]
    encoders: tuple[str, ...] = ()
    make: Callable[[Path, Path], None] | None = None


def write_symbols(shared: Path, folder: Path) -> None:
    """Pictures as somebody brings them: a table of pairs, and a folder of classes. They are of matplotlib's fonts."""
    import csv

    from . import glyphs

    known = glyphs.fonts()
    (folder / "symbols").mkdir()
    with (folder / "symbols" / "symbols.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "other"])
        for number, row in enumerate(glyphs.rows("train", known)):
            names = [f"{number:05d}-{which}.png" for which in ("a", "b")]
            for name, column in zip(names, ("image", "other"), strict=True):
                (folder / "symbols" / name).write_bytes(row[column]["bytes"])
            table.writerow(names)
    for split, part in (("train", "validation"), ("test", "test")):
        for row in glyphs.rows(part, known):
            place = folder / "letters" / split / called(row["label"])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row['font']}.png").write_bytes(row["image"]["bytes"])


def called(character: str) -> str:
    """A folder's name for a letter or digit, where `a` and `A` may be one."""
    kind = "digit" if character.isdigit() else "capital" if character.isupper() else "small"
    return f"{kind} {character}"


NOTEBOOKS = {
    "images": Needs({}, make=write_symbols),
    "ecg-reports": Needs({"ptbxl_500": "ptbxl_500"}),
    "table": Needs({"adult.csv": "adult/adult.csv"}),
    "retrieval": Needs({"emoji": "emoji"}, (TEXT, IMAGE)),
    "lora": Needs({"reviews.csv": "clothing_reviews/reviews.csv"}, (TEXT,)),
}


def lacking(name: str, encoders: Path) -> str | None:
    """What of the encoders is not there; None: all is."""
    absent = [one for one in NOTEBOOKS[name].encoders if not (encoders / one).is_dir()]
    return f"no {', '.join(absent)} in {encoders}: python -m benchmarks.stock_encoders {encoders}" if absent else None


def place(name: str, shared: Path, encoders: Path, folder: Path) -> None:
    """Put what a notebook reads into the folder that it runs in, under the names that it uses."""
    needs = NOTEBOOKS[name]
    for called, where in needs.data.items():
        source = shared / where
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / called)
    for one in needs.encoders:
        shutil.copytree(encoders / one, folder / "encoders" / one)
    if needs.make is not None:
        needs.make(shared, folder)


def run(name: str, shared: Path, encoders: Path, change: Callable[[str], str] = lambda code: code) -> Any:
    """A notebook with what its cells gave. nbclient's CellExecutionError where one fails.

    change: makes another code of each cell's, for a quick look; the notebook keeps its own.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    sources = [cell.source for cell in book.cells]
    with tempfile.TemporaryDirectory(prefix="mmssl-notebook-") as scratch, environment(Path(scratch) / "jupyter"):
        folder = Path(scratch) / "work"
        folder.mkdir()
        place(name, shared, encoders, folder)
        for cell in book.cells:
            cell.source = change(cell.source) if cell.cell_type == "code" else cell.source
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{scratch}/kernel")  # no open port
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(book, kernel, timeout=SECONDS, startup_timeout=SECONDS, resources=where).execute()
    for cell, source in zip(book.cells, sources, strict=True):
        cell.source = source
        if cell.cell_type == "code":
            cell.outputs = kept_of(cell.outputs)
            cell.metadata.pop("execution", None)
    book.metadata.pop("widgets", None)
    book.metadata.language_info = {"name": "python"}  # not the version that it happened to run under
    return book


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """This interpreter and these sources for the kernel, whatever is installed or set elsewhere; one thread. What
    Jupyter itself writes goes into `folder`."""
    before = dict(os.environ)
    paths = [str(REPO), str(REPO / "modalities"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        os.environ[name] = str(folder / name.lower())
        (folder / name.lower()).mkdir(parents=True)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


PACE = re.compile(r"^a step takes .*\n|  [\d,.]+ samples/s.*$|^[\d,]+ labels, draw .*\n", re.MULTILINE)
"""What a run says of the machine."""


def kept_of(outputs: list[Any]) -> list[Any]:
    """What is kept of a cell's outputs: what was printed, in one piece and without the pace of this machine; pictures
    and tables without a second form of them."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            text = PACE.sub("", re.sub(r"\x1b\[[0-9;]*m", "", output.text))
            if output.name == "stderr" or not text:
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += text
                continue
            output.text = text
        data = output.get("data", {})
        for better, other in (("image/png", "text/plain"), ("image/png", "image/jpeg"), ("text/html", "text/plain")):
            if better in data:
                data.pop(other, None)
        kept.append(output)
    return kept


def pictures(book: Any) -> dict[str, Any]:
    """What cells gave whose metadata have a `picture`, by that name, in few colours: small files for other pages."""
    from PIL import Image

    found = {}
    for cell in book["cells"]:
        if "picture" in cell["metadata"]:
            coded = next(data for output in cell["outputs"] if (data := output.get("data", {}).get("image/png")))
            shown = Image.open(io.BytesIO(base64.b64decode("".join(coded))))
            found[cell["metadata"]["picture"]] = shown.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NOTEBOOKS)}; default: all")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MMSSL_SHARED_DATA", "../shared/data")))
    parser.add_argument("--encoders", type=Path, default=Path("../encoders"))
    args = parser.parse_args()
    odd = set(args.names) - set(NOTEBOOKS)
    if odd:
        parser.error(f"found {', '.join(sorted(odd))}, expected some of {', '.join(NOTEBOOKS)}")
    import nbformat

    for name in args.names or NOTEBOOKS:
        absent = lacking(name, args.encoders)
        if absent:
            raise SystemExit(f"{name}: {absent}")
        book = run(name, args.data, args.encoders)
        nbformat.write(book, FOLDER / f"{name}.ipynb")
        print(f"docs/tutorials/{name}.ipynb", flush=True)
        for file, picture in pictures(book).items():
            picture.save(ASSETS / file, optimize=True)
            print(f"docs/assets/{file}", flush=True)


if __name__ == "__main__":
    main()
