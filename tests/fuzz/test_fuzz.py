"""A few variants of every format; `make fuzz` tries thousands."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import runs, tuned

from fuzz.mutations import damaged_json
from fuzz.running import try_variant
from fuzz.targets import targets
from mmssl.errors import UserError
from mmssl.models.opening import open_model
from mmssl.recipe.loading import load_recipe

SLOW = {"adapter_config.json", "mmssl_adapter.json", "model.safetensors", "csv", "parquet", "jsonl"}
SETTINGS = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", targets())
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    for seed in range(4 if name in SLOW else 10):
        outcome = try_variant(name, seed, tmp_path / "variant")
        assert outcome.kind in ("read", "refused"), f"variant {seed}: {outcome.why}"


def test_a_matlab_file_that_ended_the_process_is_refused(tmp_path: Path) -> None:
    for seed in (88, 89, 90, 91):  # of which one did, in SciPy's compiled reader
        assert try_variant("eeglab .set", seed, tmp_path / "variant").kind in ("read", "refused")


@pytest.mark.parametrize("name", targets())
def test_the_files_are_right_before_they_are_damaged(name: str, tmp_path: Path) -> None:
    target = targets()[name]
    for other, data in target.files.items():
        (tmp_path / other).write_bytes(data)
    target.read(tmp_path, (target.damaged or tuple(target.files))[0])


def test_the_same_number_is_the_same_damage() -> None:
    import random

    text = json.dumps(runs.recipe()).encode()
    assert damaged_json(text, random.Random(7)) == damaged_json(text, random.Random(7)) != text


def test_a_fault_is_told_from_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [try_variant("graph json", seed, tmp_path / "variant").kind for seed in range(8)]
    assert "fault" not in kinds and "refused" in kinds

    def broken(*words: object) -> None:
        raise KeyError("nodes")

    monkeypatch.setattr("mmssl.modality.contract.reading_sample", contextlib.nullcontext)
    monkeypatch.setattr("mmssl_graph.Preprocessor._graph", broken)
    assert "fault" in [try_variant("graph json", seed, tmp_path / "variant").kind for seed in range(8)]


def leaves(value: Any) -> list[tuple[Any, Any]]:
    found = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        found += leaves(item) if isinstance(item, dict | list) else []
    return found


@SETTINGS
@given(st.integers(0, 10**6), ODD)
def test_any_value_at_any_place_of_a_recipe(number: int, value: Any) -> None:
    recipe = json.loads(json.dumps(runs.image_text()))
    places = leaves(recipe)
    holder, key = places[number % len(places)]
    holder[key] = value
    try:
        load_recipe(recipe)
    except UserError as error:
        assert str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned.image_base(tmp_path_factory.mktemp("fuzz") / "model")


@pytest.mark.parametrize("file", ["config.json", "processor_config.json"])
@SETTINGS
@given(number=st.integers(0, 10**6), value=ODD)
def test_any_value_at_any_place_of_a_model(folder: Path, file: str, number: int, value: Any) -> None:
    before = (folder / file).read_text()
    data = json.loads(before)
    places = leaves(data)
    holder, key = places[number % len(places)]
    holder[key] = value
    try:
        (folder / file).write_text(json.dumps(data))
        open_model(folder)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
    finally:
        (folder / file).write_text(before)
