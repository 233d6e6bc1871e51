"""csv files as they come: with and without a header, names twice, comments, decimal commas beside other separators."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmssl.data import open_source
from mmssl.data.csv_layout import csv_layout, has_names, has_units
from mmssl.data.explained import _told
from mmssl.errors import UserError
from mmssl.reading import Reading


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test hears its warnings."""
    _told.clear()


def table(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.split("\n")]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2",
        "name,town\nAnna,Rome\nBob,Bern",
        "id,2019,2020,2021\n1,3.5,4,5\n2,3,4,5",
        "2019,2020,2021\n3.5,4,5\n3,4,5",
        "0,1,2,3\n5.1,3.5,1.4,0.2\n4.9,3.0,1.4,0.2",
        ",a,b\n0,1,2\n1,3,4",
        "country,2019\nDE,5\nFR,6",
        "text\nhello\nyou",
        "when,what\n2024-01-01,a\n2024-01-02,b",
        "label,text\nham,hello\nspam,win\nlabel,text",
        "a,b\n?,x\n1,y\n2,z",
        "No,Yes\n1,2\n2,3",
        "only,names",
    ],
)
def test_a_first_row_of_names(text: str) -> None:
    assert has_names(table(text))


@pytest.mark.parametrize(
    "text",
    [
        "T,2,8,3\nI,5,12,3\nD,4,11,6",
        "1,2.5\n3,4.5",
        "5.1,3.5,setosa\n4.9,3.0,setosa\n6.1,2.2,virginica",
        "39,State-gov,2174\n50,Private,0",
        "p,x,s,n\ne,x,s,y\ne,b,s,w\np,x,y,w",
        "ham,Go until jurong\nspam,Free entry\nham,Ok lar",
        "2024-01-01,3\n2024-01-02,4",
        "M,0.455,0.365,?\nF,0.35,0.265,3\nI,0.44,0.2,2",
        "12,7\n3,9\n5,1",
    ],
)
def test_a_first_row_of_values(text: str) -> None:
    assert not has_names(table(text))


def test_columns_without_names_are_numbered_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    path.write_text("T,2,8\nI,5,12\nD,4,11\n")
    for _ in range(2):  # the second time the rows are in the cache
        _told.clear()
        caplog.clear()
        assert open_source(path)[0] == {"column_1": "T", "column_2": 2, "column_3": 8}
        assert "no header, and the columns are called column_1 to column_3" in caplog.text
    assert open_source(path, reading=Reading(header=True)).column_names == ["T", "2", "8"]
    path.write_text("a,b\nx,y\n")
    assert open_source(path, reading=Reading(header=False))["column_1"][:] == ["a", "x"]


def test_a_part_without_a_header_has_the_names_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_text("2,x\n3,y\n")
    (tmp_path / "part-1.csv").write_text("n,text\n1,x\n4,z\n")
    for streaming in (False, True):
        assert sorted(row["n"] for row in open_source(tmp_path, streaming=streaming)) == [1, 2, 3, 4]


def test_names_twice_and_numbers_as_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x, x,x_2,,2019\n1,2,3,4,5\n")
    assert open_source(path).column_names == ["x", "x_3", "x_2", "Unnamed: 3", "2019"]
    assert "names that stand there twice are numbered (x_3)" in caplog.text


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("1,5;2,3;3\n2,5;3,3;4\n", ";"),
        ("a;b\n1,5;2,3\n2;3\n", ";"),
        ("a,b;c\n1,2\n3,4\n", ","),
        ("id;size (w, h)\n1;2\n3;4\n", ";"),
        ("a\tb, c\n1\t2\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("text,n\nI like it; really,5\nnot; so; much,3\n", ","),
        ("word\nx\n", ","),
    ],
)
def test_the_separator(tmp_path: Path, text: str, separator: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert csv_layout(str(path), path.name).separator == separator


def test_encodings_are_said_or_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,n\ncafé “x” 5 €,1\n".encode("cp1252"))
    assert open_source(path)["text"][:] == ["café “x” 5 €"] and "it is read as cp1252" in caplog.text
    path.write_bytes("text,n\nпривет мир,1\n".encode("cp1251"))
    with pytest.raises(UserError, match="data.encoding=NAME"):
        open_source(path)
    assert open_source(path, reading=Reading(encoding="cp1251"))["text"][:] == ["привет мир"]


def test_a_long_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("# one\n# two\na,b\n1,2\n\n3,4,5\n")
    with pytest.raises(UserError, match=r"a\.csv' line 6 has 3 fields, the header 2"):
        open_source(path)


def test_folders_of_text_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        file = tmp_path / "few" / ("pos" if number % 2 else "neg") / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"one {number}\n\ntwo\nthree\n")
    data = open_source(tmp_path / "few")
    assert len(data) == 6 and "each file of the 6 text files is a sample" in caplog.text
    assert {row["label"] for row in data} == {"pos", "neg"} and data[0]["text"].startswith("one 0\n\ntwo")
    lines = open_source(tmp_path / "few", reading=Reading(texts="line"))
    assert len(lines) == 18 and lines.column_names == ["text"]
    parts = open_source(tmp_path / "few" / "neg" / "0.txt", reading=Reading(texts="paragraph"))
    assert parts["text"][:] == ["one 0", "two three"]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (["1,5", "2,25", "-0,1", "n/a"], "double"),
        (["7", "2,25"], "double"),
        (["1,234", "2,345"], "string"),
        (["1,234", "2,5"], "double"),
        (["1,5", "2.5"], "string"),
        (["01,5", "2,5"], "string"),
    ],
)
def test_numbers_with_decimal_commas_are_numbers(fields: list[str], kind: str, tmp_path: Path) -> None:
    """Such a column could not be a label of amounts: it was text. 1,234 alone may also be more than a thousand."""
    (tmp_path / "t.csv").write_text("a;b\n" + "".join(f"{field};x\n" for field in fields))
    rows = open_source(str(tmp_path / "t.csv"), split="train")
    assert str(rows.features["a"].dtype) == {"double": "float64"}.get(kind, kind)
    if kind == "double":
        wanted = [None if field == "n/a" else float(field.replace(",", ".")) for field in fields]
        assert list(rows["a"]) == wanted


@pytest.mark.parametrize(
    "above",
    [
        "Report of the ward\n",
        "Report of the ward;;\nAs of: 1.2.2023;;\n;;\n",
        "Report, of 3 wards, in 2 towns\n\n",
        '"Report\nof the ward";;\n',
    ],
)
def test_titles_above_a_table_are_no_names(above: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text(above + "name;hb;seen\n" + "a;7,5;1.2.2023\n" * 6 + ";;\n")
    rows = open_source(str(tmp_path / "t.csv"), split="train")
    assert rows.column_names == ["name", "hb", "seen"] and list(rows["hb"]) == [7.5] * 6
    assert "are no rows of the table" in caplog.text and "1 rows without a value are passed over" in caplog.text


@pytest.mark.parametrize(
    "text", ["note\na,b,c\nd", "a,b,c\n1,2,3\n,,4", "a;b;c\n1,5;2,5;3,5\n", "a\n\nb\nc", "a,b,c\n,,\n1,2,3"]
)
def test_a_table_without_a_title(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert csv_layout(str(tmp_path / "t.csv"), "t.csv").skip == 0


def test_a_row_of_units_is_no_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One word below the names made words of every column of numbers."""
    body = "".join(f"{n},{90 + n},{37 + n / 10:.1f},x\n" for n in range(8))
    (tmp_path / "t.csv").write_text(f"id,pressure,heat,group\n,mmHg,°C,\n{body}")
    rows = open_source(str(tmp_path / "t.csv"), split="train")
    assert len(rows) == 8 and list(rows["pressure"]) == [90 + n for n in range(8)]
    assert "its second row (mmHg, °C) says units" in caplog.text


@pytest.mark.parametrize("second", ["low,high,x", "1,mmHg,x", "mmHg,?,x"])
def test_a_second_row_of_values(second: str) -> None:
    numbers = "\n".join(f"{n},{n + 1},x" for n in range(8))
    words = "\n".join("low,high,x" for _ in range(8))
    assert not has_units(table(f"a,b,c\n{second}\n{words if second.startswith('low') else numbers}"))


@pytest.mark.parametrize(("between", "told"), [("\t", True), (" ", False)])
def test_a_table_that_is_called_a_text(
    between: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What spreadsheets call Unicode text: its labels would be words of the texts."""
    lines = [between.join([f"text {n}", "yes", str(n)]) for n in range(12)]
    (tmp_path / "t.txt").write_text("\n".join(lines), "utf-16")
    assert len(open_source(str(tmp_path / "t.txt"), split="train")) == 12
    assert ("called .tsv it is read as a table" in caplog.text) == told
