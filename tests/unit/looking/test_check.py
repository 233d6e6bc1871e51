"""`mmssl check`: every fault that it knows is found where it is, and in no data without it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys.own_data import pictures, table

import mmssl
from mmssl.cli import main
from mmssl.looking import decoding, findings
from mmssl.looking.check import Checked, check
from mmssl.looking.decoding import small_of, told
from mmssl.looking.findings import alike_pairs, small_ones
from mmssl.looking.options import CheckConfig
from mmssl.looking.sketches import alike_texts, sketches_of
from mmssl.modality.looked import Looked, of_picture


def checked(path: Path, output: Path | None = None, every: bool = True, **options: Any) -> Checked:
    return check(CheckConfig(path=str(path), workers=0, **options), output, every=every)


def kinds(found: Checked, level: str = "") -> set[str]:
    return {one.kind for one in found.findings if level in ("", one.level)}


def cells(folder: Path, **columns: Any) -> Path:
    """A table of 60 rows; `columns` beside two of numbers."""
    rng = np.random.default_rng(0)
    there = {"x": rng.normal(size=60).round(4).tolist(), "y": rng.normal(size=60).round(4).tolist(), **columns}
    table(folder / "t.csv", list(there), [list(row) for row in zip(*there.values(), strict=True)])
    return folder / "t.csv"


def test_of_many_columns_those_with_a_fault_are_told_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = {f"w{n}": rng.normal(size=60).round(4).tolist() for n in range(70)}
    wide["w66"][50] = -9999.0
    found = checked(cells(tmp_path, **wide), tmp_path / "out")
    told = {name for of in found.modalities["tabular"]["splits"].values() for name in of["channels"]}
    assert len(told) == 71 and any("w66" in one.text for one in found.findings)  # y is the label
    page = (tmp_path / "out" / "report.html").read_text()
    assert "from x, w0, w1" in page and "w10 and 59 more)" in page
    assert page.count("and 11 more, which report.json has") == 2
    assert "<td>w66</td>" in page and "<td>w65</td>" not in page


def test_good_data_have_no_fault(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 40)
    found = checked(tmp_path / "p", tmp_path / "out")
    assert not kinds(found, "worthless") and not kinds(found, "wrong")
    assert found.label is not None and sum(map(sum, (c.values() for c in found.label["classes"].values()))) == 40
    assert {"looked-train.jsonl", "report.html", "report.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_broken_files_by_reason(tmp_path: Path) -> None:
    pictures(tmp_path, 20)
    for number in (0, 2, 4):
        (tmp_path / "cats" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * number)
    (tmp_path / "dogs" / "1.png").write_bytes(b"")
    found = checked(tmp_path)
    reasons = [r for of in found.modalities["image"]["splits"].values() for r in of["reasons"]]
    assert sum(r["count"] for r in reasons) == 4 and len(reasons) >= 2, "each kind of fault is told by itself"
    assert kinds(found, "worthless") == {"broken"}, "a run would stop: more than max_bad"


def test_nothing_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    (tmp_path / "r.yaml").write_text(
        f"data: {{path: {tmp_path}}}\nmodalities: {{image: {{size: 16, patch: 8}}}}\n"
        "model: {towers: {image: {width: 16, depth: 1, heads: 2}}}\nmasks: {m: {type: random, ratio: 0.5}}\n"
        "objectives: {mae: {tower: image, mask: m, decoder: {width: 16, depth: 1, heads: 2}}}\ntrain: {steps: 2}\n"
    )
    assert main(["check", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "out")]) == 1
    assert "worthless: image: none of" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["worthless"] is True


def test_constant_and_flat_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(30, 2, 200))
    signals[:, 1] = 3.0
    signals[4, 0] = 1.0
    signals[7, 0] = np.clip(signals[7, 0], -0.3, 0.3)
    signals[9, 0] *= 1e6
    pq.write_table(pa.table({"signal": signals.tolist()}), tmp_path / "t.parquet")
    found = checked(tmp_path / "t.parquet")
    (of,) = [of for split, of in found.modalities["series"]["splits"].items() if split == "train"]
    first, second = of["channels"].values()
    assert len(second["flat"]) == second["samples"], "the channel that never varies"
    rows = {key: {name for name, c in of["channels"].items() if c[key]} for key in ("saturated", "outliers")}
    assert len(rows["saturated"]) == 1 and len(rows["outliers"]) == 1 and len(first["flat"]) <= 1
    assert {"flat", "saturated", "outlier"} <= kinds(found)


def test_repeated_rows_and_leaks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(40, 3)).round(4)
    numbers[5] = numbers[3]
    split = ["train"] * 30 + ["test"] * 10
    numbers[30:36] = numbers[:6]
    rows = [[*row, s, f"p{n % 7}", "ab"[n % 2]] for n, (row, s) in enumerate(zip(numbers.tolist(), split, strict=True))]
    table(tmp_path / "t.csv", ["x", "y", "z", "split", "patient", "label"], rows)
    found = checked(tmp_path / "t.csv")
    assert found.repeated["exact"] == [[3, 5]]
    (across,) = found.across
    assert across["splits"] == ["train", "test"] and len(across["exact"]) == 6 and len(across["groups"]) == 7
    assert {"repeated", "leak", "group-leak"} <= kinds(found)
    assert next(one for one in found.findings if one.kind == "leak").level == "worthless", "six of ten test rows"


def test_rows_of_other_labels(tmp_path: Path) -> None:
    numbers = [*range(30), 7, 8]
    rows = [[n, -n, "train", "ab"[place % 2]] for place, n in enumerate(numbers)]
    rows += [[n, -n, "test", "ab"[n % 2]] for n in range(100, 110)]
    table(tmp_path / "t.csv", ["x", "y", "split", "label"], rows)
    (one,) = [
        one
        for one in checked(tmp_path / "t.csv", columns={"tabular": ["x", "y"]}).findings
        if one.kind == "other-label"
    ]
    assert one.text.startswith("train: 2 groups") and one.rows in ([7, 30], [8, 31])


def test_a_label_among_the_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cells(tmp_path, label=["ab"[n % 2] for n in range(60)], word=["no", "yes"] * 30)
    words = ["check", "tabular_mae", f"data.path={path}", "--output", str(tmp_path / "out"), "--label", "label"]
    assert main([*words, "--column", "tabular=x,label"]) == 1
    assert "reads as an input" in capsys.readouterr().out
    assert main([*words, "--column", "tabular=x,y,word"]) == 1
    assert "'word', an input of tabular, tells the label" in capsys.readouterr().out
    assert main([*words, "--column", "tabular=x,y"]) == 0


def test_a_column_that_tells_the_label_is_named_where_init_leaves_it_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [[*rng.normal(size=2).round(3), n % 3 * 10, n % 3 + rng.normal(0, 0.05), n % 3] for n in range(90)]
    table(tmp_path / "t.csv", ["x", "y", "code", "guess", "label"], rows)
    found = [one for one in check(CheckConfig(path=str(tmp_path / "t.csv"))).findings if one.kind == "label-told"]
    assert [one.text.split("'")[1] for one in found] == ["code", "guess"]


def test_a_broken_file_among_the_first_makes_no_other_column_of_it(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 12)
    files = sorted(path for path in (tmp_path / "p").rglob("*") if path.suffix == ".png")
    rows = [{"bytes": path.read_bytes() if n != 2 else b"no picture", "path": None} for n, path in enumerate(files)]
    pq.write_table(pa.table({"image": rows, "label": [n % 2 for n in range(len(rows))]}), tmp_path / "t.parquet")
    done = check(CheckConfig(path=str(tmp_path / "t.parquet")))
    assert list(done.modalities) == ["image"] and any(one.kind == "broken" for one in done.findings)


def test_one_class_and_strange_classes(tmp_path: Path) -> None:
    assert "one-class" in kinds(checked(cells(tmp_path, label=["a"] * 60), label="label"), "worthless")
    split, label = ["train"] * 40 + ["test"] * 20, ["ab"[n % 2] for n in range(58)] + ["c", "c"]
    found = checked(cells(tmp_path, label=label, split=split))
    assert "unknown-class" in kinds(found, "wrong")


def test_presence(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 20)
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "p").rglob("*.png"))
    lines = [
        {"file": f, "caption": f"a picture of {n} small boats there" if n < 4 else None} for n, f in enumerate(files)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = checked(tmp_path / "t.jsonl", columns={"image": "file", "text": "caption"})
    assert {tuple(of["modalities"]): of["rows"] for of in found.presence}[("image",)] > 10
    assert "incomplete" in kinds(found)


# ------------------------------------------------------------------------------------------------------- signatures


def test_what_looks_nearly_the_same() -> None:
    rng = np.random.default_rng(0)
    one = np.asarray(
        Image.fromarray(rng.integers(0, 255, (6, 7, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
    )
    alike = np.asarray(Image.fromarray(one).resize((80, 60)).resize((64, 48)))
    other = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 7, 3), np.uint8)).resize((64, 48)))
    bright = np.clip(one * 1.1 + 5, 0, 255).astype(np.uint8)
    found = {n: told(of_picture(picture))["small"] for n, picture in enumerate((one, alike, other, bright))}
    facts = [{"row": n, "modalities": {"image": {"small": code}}} for n, code in found.items()]
    assert alike_pairs(small_ones(facts, "image")) == [(0, 1), (0, 3), (1, 3)]
    assert alike_pairs(small_ones(facts[:1], "image"), small_ones(facts, "image")) == [(0, 0), (0, 1), (0, 3)]
    assert alike_pairs({}) == []
    sound = np.sin(np.arange(4000) / 20) * np.exp(-np.arange(4000) / 900)
    noise = sound + rng.normal(0, 0.01, 4000)
    facts = [{"row": n, "modalities": {"s": told(Looked(channels={"s": of}))}} for n, of in enumerate((sound, noise))]
    assert alike_pairs(small_ones(facts, "s")) == [(0, 1)]
    words = "the old river ran past a quiet mill and many small boats lay there in winter"
    texts = [words, words.upper() + "!", "nothing of that kind was ever seen by anybody who lived near this sea"]
    facts = [{"row": n, "modalities": {"text": told(Looked(text=text))}} for n, text in enumerate(texts)]
    assert alike_texts(sketches_of(facts, "text")) == [(0, 1)]
    assert small_of(Looked(channels={"a": np.zeros(900)})) is None, "silence looks like all silence"
    volume = np.random.default_rng(0).normal(size=(12, 12, 12))
    assert small_of(Looked(channels={"a": volume})) is None, "in little all heads look alike"


def test_of_very_many_rows_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "COMPARED", 6)
    rng = np.random.default_rng(0)
    small = {row: rng.integers(-127, 127, 72).astype(np.int8) for row in range(0, 20, 2)}
    rows, units = findings._units(small)
    assert len(rows) == 6 and set(rows.tolist()) < set(small) and rows.tolist() == sorted(rows.tolist())
    np.testing.assert_allclose((units**2).sum(1), 1, rtol=1e-5)
    assert alike_pairs(small, {3: small[int(rows[2])]}) == [(int(rows[2]), 3)]


def test_channels_in_numbers() -> None:
    time = np.arange(1000) / 100
    facts = told(
        Looked(
            channels={"s": np.sin(time), "cut": np.clip(np.sin(time), -0.5, 0.5), "n": np.full(9, np.nan)}, signal=True
        )
    )
    mean, spread, low, high, flat, saturated = facts["channels"]["s"]
    assert (flat, saturated) == (0, 0) and abs(spread - np.sin(time).std()) < 1e-5 and -1 <= low < mean < high <= 1
    assert facts["channels"]["cut"][5] == 1 and facts["channels"]["n"][4] == 1


# ------------------------------------------------------------------------------------------------ resuming, the page


def test_an_interrupted_look_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "p", 12)
    whole = checked(tmp_path / "p", tmp_path / "out").plain()
    kept = next((tmp_path / "out").glob("looked-train.jsonl"))
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:4]) + lines[4][:20])  # killed within a line
    read: list[int] = []
    real = decoding.Looker.facts
    monkeypatch.setattr(decoding.Looker, "facts", lambda self, row, n: (read.append(n), real(self, row, n))[1])
    again = checked(tmp_path / "p", tmp_path / "out").plain()
    assert again == whole and kept.read_text().splitlines(keepends=True)[:4] == lines[:4]
    assert sorted(kept.read_text().splitlines()) == sorted("".join(lines).splitlines())
    done = {json.loads(line)["row"] for line in lines[1:4]}
    assert not done & set(read)
    pictures(tmp_path / "p", 14)  # other data: nothing that is known of the former counts
    assert (
        checked(tmp_path / "p", tmp_path / "out").splits["train"]["looked_at"] > whole["splits"]["train"]["looked_at"]
    )


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_words_of_strangers_are_escaped_and_nothing_is_fetched(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    rng = np.random.default_rng(0)
    rows = [
        [float(x), evil if n % 2 else "b", f"{evil} many words that are said here of number {n}"]
        for n, x in enumerate(rng.normal(size=40))
    ]
    table(tmp_path / "t.csv", ['x"><script>', "label", "text"], rows)
    out = tmp_path / "out"
    checked(tmp_path / "t.csv", out)
    tags = Tags()
    text = (out / "report.html").read_text()
    tags.feed(text)
    assert "alert(1)" in text and not [t for t, _ in tags.found if t in ("script", "link", "iframe")]
    assert not [a for _, of in tags.found for a in of if a.startswith("on")]
    assert all((of.get("src") or "data:").startswith("data:") for _, of in tags.found)
    assert not re.search(r"https?://", text)


def test_the_page_shows_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 12)
    found = checked(tmp_path / "p", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("data:image/png;base64,") >= 4 and "<svg" in text
    plain = json.loads((tmp_path / "out" / "report.json").read_text())
    assert plain == json.loads(json.dumps(found.plain())) and plain["format"] == 1


def test_from_python(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 12)
    found = mmssl.check(tmp_path / "p", sample=5, workers=0)
    assert found.splits["train"]["looked_at"] == 5 and found.lines()


@pytest.mark.parametrize("words", [["nowhere.yaml"], ["nowhere/"], ["{p}", "sample=0"], ["{p}", "--label", "lable"]])
def test_bad_input_is_exit_2(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "p")
    named = [word.format(p=tmp_path / "p") for word in words]
    assert main(["check", *named, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("error:") == 1 and not (tmp_path / "out").exists()


def test_worker_processes_tell_the_same(tmp_path: Path) -> None:
    pictures(tmp_path / "p", 12)
    (tmp_path / "p" / "cats" / "0.png").write_bytes(b"no picture")
    alone = checked(tmp_path / "p").plain()
    assert check(CheckConfig(path=str(tmp_path / "p"), workers=1), every=True).plain() == alone
