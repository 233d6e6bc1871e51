"""Plain data to dataclasses: what is accepted as what, and what is said when it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.options import option, plainyaml, strict
from mmssl.options.schema import load, to_dict


@strict
@dataclass(kw_only=True)
class Inner:
    depth: int = option(1, min=1)
    from_: str | None = option(None)

    def validate_depth(self) -> None:
        if self.depth == 13:
            raise ValueError("13 is unlucky")


@strict
@dataclass(kw_only=True)
class Outer:
    lr: float = option(0.1, above=0)
    size: int | list[int] = option(8, min=1)
    ratio: float | dict[str, float] = option(0.5, min=0, max=1)
    pair: tuple[float, str] = option((1.0, "a"))
    rest: tuple[int, ...] = option(())
    mode: Literal["a", "b", 1] = option("a")
    folder: Path = option(Path("x"))
    inner: Inner | None = option(None)
    inners: dict[str, Inner] = option(factory=dict)
    anything: dict[str, Any] = option(factory=dict)


def said(**data: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(Outer, data)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", 1, 1.0),
        ("lr", "1e-4", 1e-4),
        ("lr", "-2.5E+3", None),
        ("size", [4, 8], [4, 8]),
        ("size", 3, 3),
        ("ratio", 1, 1.0),
        ("ratio", {"image": 0}, {"image": 0.0}),
        ("pair", [2, "b"], (2.0, "b")),
        ("rest", [1, 2, 3], (1, 2, 3)),
        ("mode", 1, 1),
        ("folder", "a/b", Path("a/b")),
        ("inner", None, None),
        ("inner", {"depth": 2, "from": "m"}, Inner(depth=2, from_="m")),
        ("anything", {"a": [1, {"b": 2}]}, None),
    ],
)
def test_accepted(key: str, value: Any, expected: Any) -> None:
    if key == "lr" and expected is None:
        assert said(**{key: value}) == [f"lr: found '{value}' (text), expected > 0"]
        return
    found = getattr(load(Outer, {key: value}), key)
    wanted = value if expected is None else expected
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("lr", True, "lr: found true, expected a number"),
        ("lr", "fast", "lr: found 'fast' (text), expected a number"),
        ("lr", 10**400, None),
        ("size", 2.5, "size: found 2.5, expected a whole number or a list (a whole number each)"),
        ("size", True, "size: found true, expected a whole number or a list (a whole number each)"),
        ("size", [4, "x"], "size.1: found 'x' (text), expected a whole number"),
        ("size", [4, 0], "size: found 0, expected >= 1"),
        ("ratio", {"image": "x"}, "ratio.image: found 'x' (text), expected a number"),
        ("ratio", {"a.b": 0.5}, "ratio: found the key 'a.b' (text), expected text without a dot"),
        ("ratio", {3: 0.5}, "ratio: found the key 3, expected text without a dot"),
        ("pair", [1], "pair: found a list of 1, expected a list of 2 (a number each)"),
        ("mode", True, "mode: found true, expected one of 'a', 'b', 1"),
        ("inner", {"dept": 1}, "inner.dept: found an unknown key, expected one of depth, from; did you mean 'depth'?"),
        ("inner", {"frm": "m"}, "inner.frm: found an unknown key, expected one of depth, from; did you mean 'from'?"),
        ("inner", [], "inner: found a list of 0, expected a mapping or null"),
        ("inner", {"depth": 13}, "inner: 13 is unlucky"),
        ("inners", {"a": {"depth": 0}}, "inners.a.depth: found 0, expected >= 1"),
    ],
)
def test_refused(key: str, value: Any, line: str | None) -> None:
    lines = said(**{key: value})
    assert len(lines) == 1
    assert lines[0] == line if line else lines[0].endswith("expected a finite number")


def test_every_fault_is_reported() -> None:
    lines = said(lr="x", size=0, inners={"a": {"depth": 0, "x": 1}, "b": 3}, nope=1)
    assert [line.partition(":")[0] for line in lines] == [
        "nope",
        "lr",
        "size",
        "inners.a.x",
        "inners.a.depth",
        "inners.b",
    ]


def test_defaults_are_not_shared() -> None:
    given: dict[str, Any] = {"anything": {"a": [1]}}
    built = load(Outer, given)
    built.anything["a"].append(2)
    assert given == {"anything": {"a": [1]}} and load(Outer, {}).anything == {}


def test_round_trip() -> None:
    built = load(Outer, {"inner": {"from": "m"}, "pair": [1, "x"], "inners": {"a": {"depth": 3}}, "ratio": {"t": 0.1}})
    plain = to_dict(built)
    assert plain["inner"] == {"depth": 1, "from": "m"} and plain["pair"] == [1.0, "x"] and plain["folder"] == "x"
    assert load(Outer, plain) == built


NUMBERS = st.floats(allow_nan=False) | st.integers()
NUMBERLIKE = st.from_regex(r"[-+]?[0-9._]{1,4}([eE][-+]?[0-9]{1,2})?", fullmatch=True)
WORDS = (
    st.text(max_size=12) | NUMBERLIKE | st.sampled_from(["no", "off", "null", "~", "true", "010", "1:30", "<<", "="])
)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
@settings(max_examples=300, deadline=None)
def test_whatever_is_dumped_is_parsed_back(value: Any) -> None:
    """Numbers as numbers, text as text, also where YAML 1.1 and 1.2 take a word for two things."""
    read = plainyaml.parse(plainyaml.dump(value), "here")
    assert read == value and repr(read) == repr(value)  # 1 == 1.0 == True


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-12, 1e12),
            "size": st.integers(1, 10**9) | st.lists(st.integers(1, 99), min_size=1, max_size=4),
            "ratio": st.floats(0, 1) | st.dictionaries(st.sampled_from("ab"), st.floats(0, 1), max_size=2),
            "pair": st.tuples(st.floats(-1e9, 1e9), WORDS),
            "rest": st.lists(st.integers(), max_size=3).map(tuple),
            "mode": st.sampled_from(["a", "b", 1]),
            "inner": st.none() | st.fixed_dictionaries({"depth": st.integers(1, 12), "from": st.none() | WORDS}),
            "anything": st.dictionaries(WORDS.filter(lambda key: key and "." not in key), WORDS, max_size=2),
        },
    )
)
@settings(max_examples=200, deadline=None)
def test_options_survive_the_file_that_a_run_keeps(options: dict[str, Any]) -> None:
    """load -> to_dict -> config.yaml -> load: the same options, whatever they are."""
    built = load(Outer, options)
    for key in options.keys() - {"inner"}:
        assert getattr(built, key) == options[key]
    again = load(Outer, plainyaml.parse(plainyaml.dump(to_dict(built)), "config.yaml"))
    assert again == built and repr(again) == repr(built)


def test_a_type_that_cannot_be_read_is_the_programmers_fault() -> None:
    @dataclass
    class Wrong:
        x: complex = 0j

    with pytest.raises(TypeError, match="cannot read an option of the type"):
        load(Wrong, {"x": 1})
