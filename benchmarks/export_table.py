"""The table of exports in docs/how-to/export.md: `python -m benchmarks.export_table` measures all and writes it there.

Tiny models with random weights everywhere (those of tests/export); what is measured is the export, not the training.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmssl.exporting.writing import Exported, export_several

from . import pages

MARKS = ("<!-- exports: python -m benchmarks.export_table -->", "<!-- end of exports -->")
TABLE = (
    "ast",
    "clip",
    "dinov2",
    "dinov3_vit",
    "ijepa",
    "onnx",
    "open_clip",
    "sentence-transformers",
    "siglip",
    "stock",
    "timm",
    "videomae",
    "vision-text-dual-encoder",
    "vit",
    "vit_mae",
    "vjepa2",
)
"""One case a format, of the same name."""
HEAD = "| format | class | float32 | bfloat16 | sizes | loads without mmssl | pipeline |"


def row_of(done: Exported) -> str:
    """One line: the largest differences in float32 and bfloat16, how many sizes, what loads and works."""
    proof = done.proof
    folders = {
        "open_clip": "`open_clip` folder",
        "timm": "`timm` folder",
        "onnx": "`encoder.onnx`",
        "sentence_transformers": "`SentenceTransformer` folder",
    }
    name = done.job.cls or folders[done.job.library]
    half = any(row.dtype == "bfloat16" for row in proof.rows)
    compared = "bfloat16" if half else "float32"
    sizes = len({row.trial for row in proof.rows if row.dtype == compared})
    pipeline = proof.pipeline.partition(":")[0]
    numbers = f"{proof.largest('float32'):.1e} | {format(proof.largest('bfloat16'), '.1e') if half else '-'} | {sizes}"
    return f"| `{done.format}` | {name} | {numbers} | yes | {pipeline} |"


def markdown(exports: Sequence[Exported]) -> str:
    return "\n".join([HEAD, "|---|---|---|---|---|---|---|", *(row_of(done) for done in exports)])


def measured(folder: Path) -> list[Exported]:
    """Every case of `TABLE`, exported below `folder` and compared."""
    sys.path.insert(0, str(pages.REPO / "tests"))
    from toys.export import CASES

    return export_several([(CASES[name][1](), CASES[name][0], folder / name, None) for name in TABLE])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = markdown(measured(Path(folder)))
    print(table)
    pages.write(pages.EXPORTS, table, MARKS)


if __name__ == "__main__":
    main()
