"""The tabular modality: types and scales, wrong columns, broken cells, real tables."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.refusals import refused
from toys.tables import fitted, module, table, whole

import mmssl_tabular
from mmssl.errors import BadSample, UserError
from mmssl_tabular import cells

# ------------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, 3], "numeric"),
        (["1", "-2.5", " 3e4 "], "numeric"),
        ([0, 1, 1.0], "boolean"),
        (["0", "1"], "boolean"),
        ([True, False], "boolean"),
        (["True", "false"], "boolean"),
        (["007", "123"], "categorical"),
        (["a", "b"], "categorical"),
        (["1", "b"], "categorical"),
        (["nan", "1"], "categorical"),
        (["2024-05-31", "2024-05-31 12:30"], "date"),
        ([dt.datetime(2024, 5, 31), dt.date(2024, 1, 1)], "date"),
        ([np.datetime64("2024-05-31")], "date"),
        ([dt.timedelta(hours=1)], "numeric"),
        ([np.int64(5), np.float32(2)], "numeric"),
        ([], "categorical"),
    ],
)
def test_types_are_found(values: list[Any], kind: str) -> None:
    assert cells.infer(values) == kind


@pytest.mark.parametrize("value", [None, math.nan, np.float32("nan"), np.datetime64("NaT"), "", " ? ", "NA"])
def test_what_is_missing(value: Any) -> None:
    assert cells.is_missing(value, cells.NO_VALUE)
    assert not any(cells.is_missing(v, frozenset(["?"])) for v in (0, False, "no", "", np.datetime64("2024-01-01")))


def test_the_schema_of_a_table_with_every_type() -> None:
    p = whole()
    assert [(c.name, c.kind) for c in p.columns] == [
        ("age", "numeric"),
        ("pay", "numeric"),
        ("job", "categorical"),
        ("member", "boolean"),
        ("born", "date"),
        ("grade", "ordinal"),
    ]
    assert p.columns[2].categories == ["baker", "clerk", "smith"] and p.columns[2].missing == pytest.approx(0.1)
    assert p.columns[5].categories == ["low", "mid", "high"] and not p.columns[4].clock
    related = p.state["related"]
    assert related[0][0] == 1 and related[1][0] == 0  # age and pay tell most of each other
    assert all(sorted([i, *others]) == list(range(6)) for i, others in enumerate(related))
    assert json.loads(json.dumps(p.state)) == p.state


def test_cells_by_hand() -> None:
    rows = [{"n": float(v), "c": c} for v, c in zip([1, 2, 3, 4], ["b", "a", "b", None], strict=True)]
    p = fitted(rows, scale="standard")
    inputs = p([{"n": 5.0, "c": "a"}, {"n": None, "c": "new"}, {"n": "2.5", "c": " b "}, None])
    std = math.sqrt(1.25)
    expected = torch.tensor([[2.5 / std, 1], [math.nan, 0], [0.0, 2], [math.nan, math.nan]])
    torch.testing.assert_close(inputs["cells"][..., 0], expected, equal_nan=True)
    assert inputs["present"].tolist() == [True, True, True, False]
    patches = module(p).patchify(inputs)
    assert patches.coords[0, :, 0].tolist() == [0.0, 1.0]  # the column's number
    assert patches.valid.tolist() == [[True, True]] * 3 + [[False, False]]  # an empty cell is a value


def test_quantile_scale_is_a_normal_score_that_outliers_cannot_stretch() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(3 * rng.normal(size=5000))
    p = fitted([{"n": v, "k": 1.0} for v in values])
    z = p([{"n": v, "k": 1.0} for v in values])["cells"][:, 0, 0]
    assert abs(float(z.mean())) < 0.01 and abs(float(z.std()) - 1) < 0.01
    order = np.argsort(values)
    assert bool((z[order].diff() >= 0).all())
    ends = p([{"n": -1e9, "k": 1.0}, {"n": 1e12, "k": 1.0}])["cells"][:, 0, 0]
    assert ends.tolist() == [float(z.min()), float(z.max())]
    assert bool((p([{"n": 1.0, "k": 7.0}])["cells"][0, 1] == 0).all())  # a constant column
    two = fitted([{"n": v} for v in [0, 0, 0, 5]])  # ties share their middle rank
    low, high = two([{"n": 0}, {"n": 5}])["cells"][:, 0, 0].tolist()
    assert 3 * low + high == pytest.approx(0, abs=1e-6) and (3 * low**2 + high**2) / 4 == pytest.approx(1)


def test_dates_are_a_time_and_three_circles() -> None:
    monday = dt.datetime(2024, 1, 1)
    p = fitted([{"d": monday + dt.timedelta(hours=h)} for h in range(0, 24 * 14, 6)])
    inputs = p([{"d": "2024-01-01 06:00"}, {"d": "2024-01-03T12:00+06:00"}, {"d": np.datetime64("2024-01-01T06:00")}])
    a, b, c = inputs["cells"][:, 0]
    week, day = 2 * math.pi * 0.25 / 7, math.pi / 2
    torch.testing.assert_close(
        a[3:], torch.tensor([math.sin(week), math.cos(week), 1.0, math.cos(day)]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(a, c)
    torch.testing.assert_close(b[5:], a[5:], atol=1e-6, rtol=0)  # noon, six hours east of Greenwich
    assert float(b[0]) > float(a[0])
    plain = fitted([{"d": dt.date(2024, 1, i)} for i in range(1, 20)])([{"d": "2024-01-01"}])["cells"][0, 0]
    assert bool(plain[5:].isnan().all()) and not bool(plain[:5].isnan().any())  # no time of the day
    torch.testing.assert_close(plain[3:5], torch.tensor([0.0, 1.0]))  # 1 January 2024 was a Monday


def test_very_many_unseen_and_rare_categories(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": f"user{i}", "c": "often" if i % 2 else f"rare{i % 6}"} for i in range(600)]
    p = fitted(rows, max_categories=50, min_count=2)
    assert p.sizes()["columns"][0]["categories"] == 0 and "is it an identifier" in caplog.text
    p = fitted(rows, max_categories=2)
    assert p.columns[1].categories == ["often", "rare0"]
    assert p([{"id": "?", "c": "rare2"}, {"id": "new", "c": "unseen"}])["cells"][:, 1, 0].tolist() == [0.0, 0.0]


def test_types_can_be_set_and_a_likely_mistake_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"zip": 10115 + i % 4, "paid": str(i) if i % 3 else "unknown"} for i in range(50)]
    p = fitted(rows, types={"zip": "categorical"})
    assert p.columns[0].kind == "categorical" and p.columns[0].categories[0] == "10115"
    assert "'unknown' is not; set types.paid: numeric" in caplog.text
    q = fitted(rows, types={"paid": "numeric"}, missing=["unknown"])
    assert q.columns[1].kind == "numeric" and q.columns[1].missing == pytest.approx(0.34)
    csv_like = p([{"zip": 10115.0, "paid": "1"}, {"zip": "10115", "paid": "1"}])["cells"][:, 0, 0]
    assert csv_like.tolist() == [1.0, 1.0]
    ordered = fitted([{"s": i % 3} for i in range(9)], types={"s": "ordinal"})
    assert ordered.columns[0].categories == ["0", "1", "2"]


def test_faults_of_the_user_are_one_line() -> None:
    rows = table(20)
    for options, said in (
        ({"types": {"agge": "numeric"}}, "types.agge: no such column.*did you mean 'age'"),
        ({"types": {"job": "numeric"}}, "types.job: no value of the column is numeric"),
        ({"types": {"grade": "ordinal"}}, "orders.grade: an ordinal column of text needs its order"),
    ):
        with pytest.raises(UserError, match=said):
            fitted(rows, **options)
    with pytest.raises(Exception, match="one of 'numeric'"):
        mmssl_tabular.Config(types={"age": "number"})
    with pytest.raises(UserError, match="orders.age: found an order, but types.age is numeric"):
        mmssl_tabular.Config(types={"age": "numeric"}, orders={"age": [1, 2]})
    with pytest.raises(UserError, match="not fitted"):
        mmssl_tabular.Preprocessor(mmssl_tabular.Config()).sizes()
    with refused("data.columns"):
        fitted([1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(UserError, match="column 'v' holds list"):
        fitted([{"v": [1, 2]}])
    with pytest.raises(UserError, match="rows differ in their columns"):
        fitted([{"a": 1, "b": 1}, {"a": 1}])


def test_wrong_columns_are_named() -> None:
    p = whole()
    row = table(1)[0]
    renamed = {("Age" if k == "age" else k): v for k, v in row.items()}
    with pytest.raises(
        UserError, match=r"no column 'age'; unknown column 'Age'; did you mean 'age'\?.*it knows age, pay"
    ):
        p([renamed])
    with refused("'extra'"):
        p([row | {"extra": 1}])
    with refused("'pay', 'job'"):
        p([{k: v for k, v in row.items() if k not in ("pay", "job")}])
    torch.testing.assert_close(p([dict(reversed(row.items()))])["cells"], p([row])["cells"], equal_nan=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": "old"}, "column 'age': found 'old', expected a number"),
        ({"age": math.inf}, "column 'age': found inf, expected a finite number"),
        ({"pay": [1]}, "column 'pay': found list"),
        ({"job": {"a": 1}}, "column 'job': found dict"),
        ({"member": "maybe"}, "column 'member': found 'maybe', expected true or false"),
        ({"born": "yesterday"}, "column 'born': found 'yesterday', expected a date"),
        ({"grade": "top"}, "column 'grade': found 'top', expected one of low, mid, high"),
    ],
)
def test_broken_cells_are_bad_samples(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSample, match=said):
        whole().read(table(1)[0] | change)


def test_broken_rows_are_quarantined_and_empty_ones_are_absent(tmp_path: Path) -> None:
    from mmssl.data.loading import evaluation_batches
    from mmssl.data.sources import open_source

    rows = [{"a": str(i), "b": "x"} for i in range(20)] + [{"a": "oops", "b": "x"}, {"a": "", "b": "?"}]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    p = fitted(rows[:20])
    source = open_source(tmp_path / "t.csv", columns={"tabular": ["a", "b"]})
    (loaded,) = evaluation_batches(source, {"tabular": p}, {"tabular": ["a", "b"]}, batch_size=30)
    assert [(bad.index, bad.reason) for bad in loaded.bad] == [
        (20, "column 'a': found 'oops', expected a number"),
        (21, "no modality present"),
    ]
    assert loaded.batch["tabular"]["present"].tolist() == [True] * 20 + [False] * 2


def test_pandas_and_arrow() -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rows = table(5)
    p = whole()
    expected = p(rows)["cells"]
    frame = pandas.DataFrame(rows)
    for given in (frame, [frame], pyarrow.Table.from_pylist(rows), [series for _, series in frame.iterrows()]):
        torch.testing.assert_close(p(given)["cells"], expected, equal_nan=True)
    assert bool(p([rows[0] | {"job": pandas.NA, "born": pandas.NaT}])["cells"][0, [2, 4]].isnan().all())


# --------------------------------------------------------------------------------------------------------- real data


def read_csv(path: Path, split: str, n: int) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("split") == split]
    return rows[:n]


def test_adult(shared_data: Path) -> None:
    rows = read_csv(shared_data / "adult" / "adult.csv", "train", 3000)
    for row in rows:
        row.pop("income")
    p = fitted(rows)
    numeric = {c.name for c in p.columns if c.kind == "numeric"}
    assert numeric == {"age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"}
    assert {c.name for c in p.columns if c.missing} == {"workclass", "occupation", "native_country"}
    by_name = {c.name: i for i, c in enumerate(p.columns)}
    related = p.state["related"]
    assert related[by_name["education"]][0] == by_name["education_num"]  # the same thing twice
    assert {related[by_name["relationship"]][0], related[by_name["marital_status"]][0]} == {
        by_name["marital_status"],
        by_name["relationship"],
    }
    held_out = [
        {k: v for k, v in row.items() if k != "income"}
        for row in read_csv(shared_data / "adult" / "adult.csv", "test", 500)
    ]
    inputs = p(held_out)
    m = module(p)
    assert inputs["cells"].shape == (500, 14, 1) and bool(torch.isfinite(m.raw_features(inputs)).all())
    patches = m.patchify(inputs)
    loss = m.score(torch.zeros(500, 14, m.pred_width()), m.target(inputs, patches), patches)
    assert float(loss[:, by_name["sex"]].mean()) == pytest.approx(math.log(4))  # female, male, other, missing


def test_letter_recognition(shared_data: Path) -> None:
    rows = read_csv(shared_data / "letter_recognition" / "letter.csv", "train", 2000)
    letters = [row.pop("letter") for row in rows]
    p = fitted(rows)
    assert [c.kind for c in p.columns] == ["numeric"] * 16
    x = module(p).raw_features(p(rows))
    assert x.shape == (2000, 32) and len(set(letters)) == 26
    cell = p(rows)["cells"][:, :, 0]
    torch.testing.assert_close(cell.std(0, correction=0), torch.ones(16), rtol=0, atol=1e-3)


def test_missing_alone_says_what_is_missing_in_a_csv(tmp_path: Path) -> None:
    from mmssl.data.loading import read_rows
    from mmssl.data.sources import open_source

    lines = [
        f"{['NA', 'DE', 'FR'][i % 3]},{i % 7:05d},{i}.0,{i % 2}.0,{['None', '1.5', '2'][i % 3]}" for i in range(30)
    ]
    (tmp_path / "t.csv").write_text("country,zip,n,flag,x\n" + "\n".join(lines) + "\n")
    names = ["country", "zip", "n", "flag", "x"]
    for streaming in (False, True):
        rows = read_rows(open_source(tmp_path / "t.csv", columns={"tabular": names}, streaming=streaming), names, 30)
        p = fitted(rows, missing=[])
        assert [column.kind for column in p.columns] == [
            "categorical",
            "categorical",
            "numeric",
            "boolean",
            "categorical",
        ]
        assert p.columns[0].categories == ["DE", "FR", "NA"] and p.columns[0].missing == 0
        assert p.columns[1].categories == [f"{i:05d}" for i in range(7)]
        q = fitted(rows, missing=["NA", "None"])
        assert q.columns[0].missing == pytest.approx(1 / 3) and q.columns[4].kind == "numeric"


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (["1,379", "2,001", "12", "3.5"], [1379, 2001, 12, 3.5]),
        (["1.379,5", "2,5", "3"], [1379.5, 2.5, 3]),
        (["1 379", "2\u202f001", "3\u00a0555"], [1379, 2001, 3555]),
        (["1'379.50", "2\u2019001.00"], [1379.5, 2001]),
        (["$5.00", "$1,200", "$3", "NA"], [5, 1200, 3, None]),
        (["5 €", "7,50 €", "-"], [5, 7.5, None]),
        (["12 %", "5%"], [12, 5]),
        (["(1,200.0)", "35", "\u22125"], [-1200, 35, -5]),
        (["10 kg", "12.5 kg", "?"], [10, 12.5, None]),
        (["1 year", "5 years"], [1, 5]),
        (["0,5", "0,25", ""], [0.5, 0.25, None]),
    ],
)
def test_numbers_as_people_write_them(values: list[str], read: list[float | None]) -> None:
    p = fitted([{"x": value, "y": i} for i, value in enumerate(values)])
    kept = mmssl_tabular.Preprocessor(p.config)
    kept.restore(json.loads(json.dumps(p.state)), None)  # embed reads the field as training did
    assert p.columns[0].kind == "numeric"
    found = [kept.read({"x": value, "y": 0})[0] for value in values]  # type: ignore[index]
    assert [None if math.isnan(v) else v for v in found] == read
    with pytest.raises(BadSample, match="column 'x': found 'much', expected a number"):
        kept.read({"x": "much", "y": 0})


@pytest.mark.parametrize(
    "values", [["12", "12a"], ["5 kg", "5 g"], ["T1", "T2"], ["1.2.3", "1.3.0"], ["007", "1,5"], ["10-20", "20-30"]]
)
def test_codes_and_several_units_stay_words(values: list[str]) -> None:
    assert cells.infer(values) == "categorical"


def test_what_the_column_leaves_open_is_decided_by_the_table_or_said(caplog: pytest.LogCaptureFixture) -> None:
    alone = fitted([{"x": v} for v in ("1,379", "2,001")])
    assert alone.read({"x": "1,379"})[0] == 1379  # type: ignore[index]
    assert "column 'x': '1,379' is read as 1379" in caplog.text and "set modalities.tabular.decimal" in caplog.text
    told = fitted([{"x": v} for v in ("1,379", "2,001")], decimal=",")
    assert told.read({"x": "1,379"})[0] == 1.379  # type: ignore[index]
    beside = fitted([{"x": v, "y": w} for v, w in (("1,379", "2,5"), ("2,001", "3,25"))])
    assert beside.read({"x": "1,379", "y": "0"})[0] == 1.379  # type: ignore[index]
    points = fitted([{"x": v, "y": w} for v, w in (("1.379", "2,5"), ("2.001", "3,25"))])
    assert points.read({"x": "1.379", "y": "0"})[0] == 1379  # type: ignore[index]


@pytest.mark.parametrize(
    ("values", "second"),
    [
        (["31/05/2024", "01/06/2024"], "2024-06-01"),
        (["5/31/2024", "6/1/2024"], "2024-06-01"),
        (["31.5.2024 12:30", "1.6.2024 9:05"], "2024-06-01T09:05"),
        (["05/31/2024 1:00 AM", "06/01/2024 2:30 PM"], "2024-06-01T14:30"),
        (["May 31, 2024", "June 1, 2024"], "2024-06-01"),
        (["31-May-24", "01-Jun-24"], "2024-06-01"),
        (["31. Mai 2024", "1. Juni 2024"], "2024-06-01"),
        (["2024/05/31", "2024/06/01"], "2024-06-01"),
        (["1/4/2024", "1/5/2024", "1/6/2024"], "2024-05-01"),
        (["2024-05", "2024-06", "NA"], "2024-06-01"),
    ],
)
def test_dates_as_people_write_them(values: list[str], second: str) -> None:
    p = fitted([{"x": value, "y": i} for i, value in enumerate(values)])
    assert p.columns[0].kind == "date"
    assert p.read({"x": values[1], "y": 0})[0] == cells.seconds_of(second)  # type: ignore[index]
    with pytest.raises(BadSample, match="column 'x': found 'soon', expected a date such as"):
        p.read({"x": "soon", "y": 0})


def test_day_or_month_is_not_guessed(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"x": value} for value in ("3/4/2024", "5/6/2024")]
    assert fitted(rows).columns[0].kind == "categorical"
    assert "no value says whether day or month comes first" in caplog.text and "dates.x: day_first or" in caplog.text
    told = fitted(rows, dates={"x": "month_first"})
    assert told.read(rows[0])[0] == cells.seconds_of("2024-03-04")  # type: ignore[index]


@pytest.mark.parametrize(
    "pair", ["yes no", "Y N", "T F", "TRUE False", "1 0", "ja nein", "on off", "Oui non", "wahr falsch"]
)
def test_truth_values_in_every_writing(pair: str) -> None:
    yes, no = pair.split()
    p = fitted([{"x": value} for value in (yes, no, "NA", "", yes)])
    assert p.columns[0].kind == "boolean" and p.columns[0].missing == pytest.approx(0.4)
    assert [p.read({"x": value})[0] for value in (yes, no)] == [2, 1]  # type: ignore[index]


@pytest.mark.parametrize("words", [["F", "M"], ["no", "se", "dk"], ["y"], ["N", "NA"]])
def test_words_that_look_like_truth_values_stay_words(words: list[str]) -> None:
    p = fitted([{"x": value} for value in words])
    assert p.columns[0].kind == "categorical" and p.columns[0].categories == sorted(words)


def test_a_number_that_means_nothing_can_be_named() -> None:
    p = fitted([{"x": value} for value in (1, 2, -999, 3.5, -999.0)], missing=["-999"])
    assert p.columns[0].missing == pytest.approx(0.4) and p.read({"x": -999}) is None


def test_a_placeholder_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fitted([{"x": value, "y": -1 - value} for value in (1, 2, -999, 3.5, -999.0)])
    assert "column 'x': -999 stands there 2 times" in caplog.text and "column 'y'" not in caplog.text


@pytest.mark.parametrize(
    "values",
    [["red", "blue"], ["001", "002"], ["A12", "B13"], ["1-2", "3-4"], ["192.168.1.1", "10.0.0.1"], ["M", "F"]]
    + [["New York", "LA"], ["1st", "2nd"], ["<=50K", ">50K"], ["v1.2.3", "v1.2.4"]],
)
def test_words_are_no_numbers_of_another_notation(values: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert fitted([{"x": value} for value in values]).columns[0].kind == "categorical"
    assert not caplog.records
