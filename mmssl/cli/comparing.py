"""`mmssl finetune --compare`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..saying import loading, result

if TYPE_CHECKING:
    from ..finetuning.options import FinetuneConfig


def compare(args: argparse.Namespace, options: FinetuneConfig) -> int:
    """Run it, and print its tables."""
    from ..finetuning.asking import refuse_teacher

    refuse_teacher(args.teacher)
    with loading():
        from ..finetuning.compare import run_comparison
        from ..finetuning.comparison import plain, rich_tables
        from ..training.process import prepare_process

    prepare_process()
    found = run_comparison(args.model, options, output=args.output, base=args.base, resume=args.resume or False)
    if sys.stdout.isatty():
        result(rich_tables(found.report))
    else:
        result(plain(found.report))
    result(f"\nthe comparison, with every draw: {found.folder}")
    return 0
