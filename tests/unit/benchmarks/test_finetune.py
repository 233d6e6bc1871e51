"""The README's table of fine-tuning is what benchmarks/finetune.py makes of the stored results."""

from __future__ import annotations

from pathlib import Path

from benchmarks.adapter_continue import RESULTS, SETTINGS
from benchmarks.adapter_continue import table as continued
from benchmarks.finetune import table

README = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_methods_is_current() -> None:
    assert table() in README, "python -m benchmarks.finetune table"


def test_the_table_of_adapter_only_jepa_is_current() -> None:
    import json

    results = json.loads(RESULTS.read_text())
    assert set(results) <= set(SETTINGS)
    assert continued(results) in README, "the table that python -m benchmarks.adapter_continue prints"
