"""`mmssl verify-resume` by shares (`train.parallel: fsdp2`): the quickstart, and a mixture of pairs, pictures, sounds
(benchmarks/certificates.yaml, tiny towers), on two and on four processes, each killed five times at random.

Each certificate is stored in results/verify_resume_NAME.json; the table goes into docs/how-to/resume.md. Needs the real
sets of the shared folder ($MMSSL_SHARED_DATA).

    python -m benchmarks.certificates [NAME ...] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.readers import DATA
from mmssl.training.certify import verify_resume

RESULTS = Path(__file__).parent / "results"
MARKS = ("<!-- python -m benchmarks.certificates -->", "<!-- end of python -m benchmarks.certificates -->")
PAGE = pages.REPO / "docs" / "how-to" / "resume.md"
MIXTURE = "benchmarks/certificates.yaml"
STEPS, KILLS = 12, 5
SHARES = ["train.parallel=fsdp2", "train.report=false"]
OF_MIXTURE = {"data.path": "spoken_written_digits/train.parquet", "data.mix.sounds.path": "fsdd/train.parquet"}
RUNS = {
    "quickstart_fsdp2_2": ("quickstart", 2),
    "quickstart_fsdp2_4": ("quickstart", 4),
    "mixture_fsdp2_2": (MIXTURE, 2),
    "mixture_fsdp2_4": (MIXTURE, 4),
}
"""Name -> recipe, processes."""


def stored(name: str) -> Path:
    """Where a certificate lies."""
    return RESULTS / f"verify_resume_{name}.json"


def certify(name: str) -> None:
    """Make one certificate and store it, without the places of this machine."""
    recipe, processes = RUNS[name]
    paths = [f"{key}={DATA / path}" for key, path in OF_MIXTURE.items()] if recipe == MIXTURE else []
    file = str(pages.REPO / recipe) if recipe == MIXTURE else recipe
    with tempfile.TemporaryDirectory() as folder:
        found = verify_resume(
            file, [*SHARES, *paths], Path(folder) / "runs", steps=STEPS, kills=KILLS, processes=processes
        )
    found.recipe = recipe
    found.overrides = [word.replace(str(DATA), "$MMSSL_SHARED_DATA") for word in found.overrides]
    stored(name).write_text(found.as_json() + "\n")
    print(name, found.text(), flush=True)


def table() -> str:
    """What stands between the marks of the page."""
    lines = ["| recipe, by shares | processes | killed after step (process) | tensors | |", "|---|---|---|---|---|"]
    for name, (recipe, processes) in RUNS.items():
        found: dict[str, Any] = json.loads(stored(name).read_text())
        places = ", ".join(f"{step} ({rank})" for step, rank in found["killed"])
        told = f"`{recipe}`"
        same = "bit for bit" if found["same"] else f"**{len(found['different'])} differ**"
        lines.append(f"| {told} | {processes} | {places} | {found['tensors']} | {same} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; none: all")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if unknown := set(args.names) - set(RUNS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in [] if args.table else args.names or RUNS:
        certify(name)
    if all(stored(name).exists() for name in RUNS):
        pages.write(PAGE, table(), MARKS)


if __name__ == "__main__":
    main()
