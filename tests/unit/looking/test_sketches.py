"""Texts and rows of tables that are nearly the same: all such pairs are found, few others are."""

from __future__ import annotations

import csv
import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from mmssl.looking import sketches
from mmssl.looking.check import check
from mmssl.looking.options import CheckConfig
from mmssl.looking.sketches import ALIKE, CHANCE, alike_rows, alike_texts, overlap, sketch


def sketched(texts: list[str]) -> dict[int, frozenset[int]]:
    return {row: frozenset(parts) for row, text in enumerate(texts) if (parts := sketch(text)) is not None}


def jaccard(one: str, other: str) -> float:
    """Of the words of two texts and the pairs of them, without any hash."""
    sets = []
    for text in (one, other):
        words = text.lower().split()
        sets.append({*words, *zip(words, words[1:], strict=False)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def changed(text: str, words: list[str], rng: random.Random) -> str:
    parts = text.split()
    parts[rng.randrange(len(parts))] = rng.choice(words)
    return " ".join(parts)


def made(count: int, rng: random.Random, least: int = 5, most: int = 30) -> list[str]:
    """Texts of few words, so that many pairs have some in common."""
    return [" ".join(rng.choices("abcdefghij", k=rng.randrange(least, most))) for _ in range(count)]


def test_short_texts_are_compared_exactly() -> None:
    rng = random.Random(0)
    texts = made(40, rng)
    texts += [changed(text, list("xyz"), rng) for text in texts]
    found = sketched(texts)
    for a, b in itertools.combinations(found, 2):
        assert overlap(found[a], found[b]) == pytest.approx(jaccard(texts[a], texts[b]), abs=1e-12)


def test_no_pair_is_missed_by_what_is_compared_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MOST", 10**6)
    rng = random.Random(1)
    texts = made(60, rng)
    texts += [changed(text, list("abcxyz"), rng) for text in texts]
    found = sketched(texts)
    for least in (0.3, 0.5, ALIKE):
        every = {(a, b) for a, b in itertools.combinations(found, 2) if overlap(found[a], found[b]) >= least}
        first = {row for row in found if found[row] not in [found[n] for n in found if n < row]}
        distinct = {(a, b) for a, b in every if {a, b} <= first}
        assert distinct <= set(alike_texts(found, least=least)) <= every and every
        half = {row: parts for row, parts in found.items() if row < 60}, {r: p for r, p in found.items() if r >= 60}
        both = {(a, b) for a in half[0] for b in half[1] if overlap(found[a], found[b]) >= least}
        got = set(alike_texts(*half, least=least))
        assert got <= both and {b for _, b in got} == {b for _, b in both}


def test_a_long_text_is_compared_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    words = [f"w{n}" for n in range(400)]
    texts = [" ".join(rng.choices(words, k=400)) for _ in range(6)]
    found = sketched([*texts, *(changed(text, words, rng) for text in texts)])
    assert max(map(len, found.values())) == sketches.PARTS
    assert alike_texts(found) == [(n, n + 6) for n in range(6)]


def test_equal_texts_are_told_by_the_first_of_them() -> None:
    texts = ["nothing is the matter with this heart"] * 50 + ["another one that beats as it should"]
    assert alike_texts(sketched(texts)) == [(0, n) for n in range(1, 50)]
    assert alike_texts(sketched(texts[50:]), sketched(texts[:3])) == []
    assert alike_texts(sketched(texts[:2]), sketched(texts[:3])) == [(0, 0), (0, 1), (0, 2)]
    assert sketch("three words only") is None and alike_texts({}) == []


def test_one_word_changed_in_real_texts(shared_data: Path) -> None:
    with open(shared_data / "ag_news_mini" / "train.csv", encoding="utf-8") as file:
        texts = [row["description"] for row in itertools.islice(csv.DictReader(file), 300)]
    rng = random.Random(0)
    words = " ".join(texts).split()
    clean = alike_texts(sketched(texts))
    assert len(clean) <= 3
    later = [changed(text, words, rng) if len(text.split()) >= 12 else "" for text in texts]
    found = set(alike_texts(sketched([*texts, *later])))
    assert np.mean([(n, n + 300) in found for n, text in enumerate(later) if text]) > 0.98


def test_one_cell_changed_in_a_real_table(shared_data: Path) -> None:
    with open(next((shared_data / "adult").glob("*.csv")), encoding="utf-8") as file:
        rows = [dict(row) for row in itertools.islice(csv.DictReader(file), 400)]
    cells = dict(enumerate(rows))
    assert len(alike_rows(cells)) <= 1
    copy = {**rows[7], "age": "17.5"}
    assert (7, 400) in alike_rows({**cells, 400: copy}) and alike_rows(cells, {0: copy}) == [(7, 0)]
    assert alike_rows(cells, {0: {**copy, "occupation": "other"}}) == []


def one_cell_apart(one, other):
    """As it is defined, pair by pair."""
    rows = [*one.values(), *(() if other is None else other.values())]
    names = sorted({name for cells in rows for name in cells})
    tries = 2 * np.log(len(rows)) - np.log(2) - np.log(CHANCE)
    for a, mine in one.items():
        for b, theirs in (one if other is None else other).items():
            same = [name for name in names if mine.get(name) == theirs.get(name)]
            if (other is not None or a < b) and len(same) == len(names) - 1:
                rarity = [np.log(len(rows) / sum(of.get(n) == theirs.get(n) for of in rows)) for n in same]
                yield from [(a, b)] if sum(rarity) > tries else []


@pytest.mark.parametrize("values", [4, 200])
@pytest.mark.parametrize("beside", [False, True])
def test_rows_that_differ_in_one_cell_are_those_that_do(values: int, beside: bool) -> None:
    draw = random.Random(values)
    rows = []
    for _ in range(90):
        if rows and draw.random() < 0.5:
            rows.append({**draw.choice(rows), f"c{draw.randrange(12)}": draw.randrange(values)})
        else:
            cells = {f"c{n}": draw.choice([draw.randrange(values), 1.0, "a", None]) for n in range(12)}
            rows.append({name: cell for name, cell in cells.items() if draw.random() > 0.05})
    numbers = list(range(60))
    draw.shuffle(numbers)
    one, other = dict(zip(numbers, rows[:60], strict=True)), dict(enumerate(rows[60:])) if beside else None
    expected = sorted(one_cell_apart(one, other))
    assert alike_rows(one, other) == expected and len(expected) > 5


def test_cells_that_many_rows_share_make_no_copies() -> None:
    rng = np.random.default_rng(0)
    assert alike_rows({n: dict(zip("abcd", rng.integers(0, 3, 4).tolist(), strict=True)) for n in range(300)}) == []


def test_check_names_a_changed_word_a_changed_cell_and_a_cell_that_is_no_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = list("abcdefghijklm")
    rows = [[*rng.normal(size=6).round(4).tolist(), " ".join(rng.choice(words, 20)), "train"] for _ in range(80)]
    rows[40] = [*rows[3][:2], 0.5, *rows[3][3:]]
    rows[50][6] = rows[9][6][:-1] + "zebra"
    rows[20][1] = -9999.0
    for row in rows[60:]:
        row[7] = "test"
    rows[70][6] = rows[11][6] + " more"
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["x", "y", "z", "u", "v", "w", "story", "split"], *rows])
    columns: dict[str, str | list[str]] = {"tabular": ["x", "y", "z", "u", "v", "w"], "text": "story"}
    done = check(CheckConfig(path=str(tmp_path / "t.csv"), workers=0, columns=columns), every=True)
    assert done.repeated["near"] == {"tabular": [(3, 40)], "text": [(3, 40), (9, 50)]}
    assert done.across[0]["near"] == {"text": [(11, 10)]}
    said = [one.text for one in done.findings]
    assert any("with a column that is of another size than usual: row 20 (y)" in text for text in said)
    assert done.modalities["tabular"]["splits"]["train"]["channels"]["x"]["samples"] == 60
