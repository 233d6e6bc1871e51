"""mmssl_series: any values to one grid of steps, statistics of channels, patches and raw features."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.refusals import refused

from mmssl.cli import main
from mmssl.errors import BadSample, NoSplit, UserError
from mmssl_series import Config, Modality, open_rows
from mmssl_series.preprocessor import Preprocessor
from mmssl_series.reading import Channel, bridged, evenly, in_bins, seconds_of

NAN = float("nan")


def fitted(samples: list[object], **options: object) -> Preprocessor:
    options = {"window": 2, "normalise": "none", **options}
    return Preprocessor(Config(**options)).fit(samples)


def read(raw: object, **options: object) -> np.ndarray:
    """The channels of one value on the grid, not normalised."""
    sample = Preprocessor(Config(**{"window": 2, "normalise": "none", **options})).prepare(raw)
    assert sample is not None
    return sample.signal


# ------------------------------------------------------------------------------------------------------------ reading


def test_every_form_of_a_series_gives_its_numbers(tmp_path: Path) -> None:
    a, b = np.arange(6.0), 10 - np.arange(6.0)
    rows = np.stack([a, b])
    np.save(tmp_path / "one.npy", rows)
    (tmp_path / "one.csv").write_text(
        "time,a,b\n" + "\n".join(f"{t / 10},{x},{y}" for t, x, y in zip(range(6), a, b, strict=True))
    )
    day = datetime(2024, 1, 1)
    forms = (
        rows,
        rows.T,
        rows.tolist(),
        str(tmp_path / "one.npy"),
        str(tmp_path / "one.csv"),
        {"a": a, "b": b},
        {"signal": rows, "channels": ["a", "b"], "rate": 10},
        {"a": {"values": a}, "b": {"values": b}},
        {"time": [day + timedelta(days=n) for n in range(6)], "a": a, "b": b},
        {"date": ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-06"], "a": a, "b": b},
    )
    for form in forms:
        np.testing.assert_allclose(read(form), rows)


def test_times_of_one_grid_with_gaps_and_jitter_are_steps_and_others_are_not() -> None:
    times = np.array([0.0, 0.11, 0.19, 0.3, 0.6, 0.71])
    even = evenly(Channel(np.arange(6.0), times))
    assert even.times is None and even.rate == pytest.approx(7 / 0.71)
    np.testing.assert_array_equal(even.values, [0, 1, 2, 3, NAN, NAN, 4, 5])
    drifting = np.arange(500) * 0.1001  # a clock that loses half a step in all
    assert evenly(Channel(np.arange(500.0), np.round(drifting, 2))).times is None
    uneven = Channel(np.arange(4.0), np.array([0.0, 0.1, 0.15, 1.7]))
    assert evenly(uneven).times is not None
    with pytest.raises(BadSample, match=r"uneven, 0\.05 to 1\.55 s apart: .*rate"):
        read({"time": uneven.times, "a": uneven.values})


def test_uneven_times_are_means_of_what_lies_in_a_step() -> None:
    rng = np.random.default_rng(0)
    times, values = np.sort(rng.uniform(0, 5, 60)), rng.normal(size=60)
    times -= times[0]
    values[7] = NAN
    found = in_bins(Channel(values, times), 4.0)
    for step in range(len(found)):
        inside = [v for t, v in zip(times, values, strict=True) if round(t * 4) == step and not np.isnan(v)]
        assert found[step] == pytest.approx(np.mean(inside)) if inside else np.isnan(found[step])
    np.testing.assert_allclose(read({"time": times, "a": values}, rate=4)[0], found, rtol=1e-6)


def test_channels_of_different_rates_meet_on_one_grid_from_their_own_beginnings() -> None:
    slow, fast = np.full(4, 200.0), np.full(40, 7.0)
    both = read({"a": {"values": slow, "rate": 1}, "b": {"values": fast, "rate": 10}}, rate=5, length=None)
    assert both.shape == (2, 20)
    np.testing.assert_allclose(both, [[200.0] * 20, [7.0] * 20])
    shared = read({"a": slow, "b": np.full(8, 7.0), "rate": {"a": 1, "b": 2}}, rate=2, length=None)
    np.testing.assert_allclose(shared, [[200.0] * 8, [7.0] * 8])


def test_channels_of_a_table_have_the_rates_that_the_recipe_says() -> None:
    raw = {"acc": np.repeat([1.0, 2.0, 3.0], 40), "heart": np.array([5.0, 6.0, 7.0])}
    found = read(raw, rate=1, source_rate={"acc": 40, "heart": 1})
    np.testing.assert_allclose(found[1], [5, 6, 7], atol=1e-9)
    assert found.shape == (2, 3) and np.corrcoef(found)[0, 1] > 0.9  # three seconds of each, side by side
    np.testing.assert_array_equal(
        read({"heart": [5.0, 6.0]} | {"acc": None}, rate=1, source_rate={"heart": 1}), [[5, 6]]
    )
    with pytest.raises(BadSample, match="source_rate"):
        read(raw, rate=1, source_rate={"acc": 40})


def test_short_gaps_are_bridged_and_long_ones_stay() -> None:
    row = np.array([NAN, 0.0, NAN, 2.0, NAN, NAN, NAN, 6.0, NAN])
    np.testing.assert_array_equal(bridged(row, 1), [NAN, 0, 1, 2, NAN, NAN, NAN, 6, NAN])
    np.testing.assert_array_equal(bridged(row, 3), [NAN, 0, 1, 2, 3, 4, 5, 6, NAN])
    np.testing.assert_array_equal(bridged(row, 0), row)


@pytest.mark.parametrize(
    ("raw", "options", "facts"),
    [
        ({"a": [1.0, 2.0, 3.0], "time": [0.0, 2.0, 1.0]}, {}, ["times", "fall", "1"]),
        ({"a": [1.0, 2.0, 3.0], "time": [0.0, None, 1.0]}, {}, ["times", "1"]),
        ({"a": [1.0, 2.0], "time": [0.0, 1.0, 2.0]}, {}, ["3 times", "2 values"]),
        ({"a": [1.0, 2.0, 3.0]}, {"rate": 2}, ["source_rate"]),
        ({"a": [1.0, float("inf"), 3.0]}, {}, ["infinite"]),
        ({"a": [NAN, NAN, NAN]}, {}, ["no value"]),
        ({"a": {"rate": 3}}, {}, ["channel 'a'", "values"]),
        ({"a": {"values": [1.0, 2.0], "rate": -1}}, {}, ["channel 'a'", "-1"]),
        ({"x": [1.0, 2.0, 3.0]}, {"channels": ["a"]}, ["'x'", "a"]),
        ({"x": [1.0, 2.0, 3.0]}, {"channels": ["a"], "unknown": "drop"}, ["channels a", "x"]),
        ({"x": [1.0, 2.0], "y": [1.0, 2.0]}, {"aliases": {"y": "x"}}, ["'x'", "twice"]),
        ([1.0, 2.0, 3.0], {"window": 8}, ["3 steps", "window of 8"]),
        ("nothing.wav", {}, [".npy"]),
        ({"a": ["red", "blue"]}, {}, ["numbers"]),
    ],
)
def test_a_broken_series_says_what_is_wrong(raw: object, options: dict[str, object], facts: list[str]) -> None:
    with pytest.raises(BadSample) as caught:
        read(raw, **options)
    for fact in facts:
        assert fact in str(caught.value)


def test_options_that_contradict_are_refused() -> None:
    for options, facts in (
        ({"window": 16, "length": 8}, ("length", "8", "16")),
        ({"channels": ["a", "a"]}, ("channels", "'a'")),
        ({"channels": []}, ("channels", "none")),
    ):
        with refused(*facts):
            Config(**options)


# ----------------------------------------------------------------------------------------------------------- learning


def test_channels_are_brought_to_mean_0_and_spread_1_of_the_data_and_keep_their_level() -> None:
    rng = np.random.default_rng(0)
    rows = [{"a": rng.normal(100, 5, 30), "b": rng.normal(-1, 0.1, 30), "c": np.full(30, 4.0)} for _ in range(40)]
    one = fitted(rows, normalise="data")
    every = {k: np.concatenate([row[k] for row in rows]) for k in "abc"}
    np.testing.assert_allclose(one.state["mean"], [every[k].mean() for k in "abc"])
    np.testing.assert_allclose(one.state["std"], [every["a"].std(), every["b"].std(), 1.0], rtol=1e-6)
    signal = one(rows)["signal"].double()
    assert signal.shape == (40, 3, 30) and not signal.isnan().any()
    torch.testing.assert_close(signal.mean((0, 2))[:2], torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0)
    assert signal[:, 2].abs().max() == 0, "what does not vary is a channel all the same"
    high = one([{"a": np.full(30, 110.0), "b": rows[0]["b"]}])["signal"]
    assert float(high[0, 0, 0]) == pytest.approx((110 - every["a"].mean()) / every["a"].std(), rel=1e-4)
    assert high[0, 2].isnan().all(), "a sample may lack a channel"
    own = fitted(rows, normalise="series")(rows[:1])["signal"]
    torch.testing.assert_close(own[0, :2].std(1, correction=0), torch.ones(2))


def test_channels_have_the_models_order_whatever_that_of_a_sample() -> None:
    one = fitted([{"a": np.zeros(4), "b": np.ones(4)}], channels=["b", "a"])
    batch = one([{"a": [0.0, 1.0, 2.0], "b": [5.0, 6.0, 7.0]}, None, {"a": [3.0, 3.0]}])
    assert batch["present"].tolist() == [True, False, True] and batch["holes"].tolist() == [True, True, True]
    assert batch["signal"][0, :, :3].tolist() == [[5, 6, 7], [0, 1, 2]] and batch["signal"].shape == (3, 2, 4)
    assert batch["signal"][2, 0].isnan().all() and batch["signal"][2, 1, :2].tolist() == [3, 3]
    with refused("channels", "'z'"):
        fitted([{"a": np.zeros(4)}], channels=["a", "z"])


def test_a_stretch_of_a_longer_series_is_drawn_or_said() -> None:
    long = {"a": np.arange(100.0)}
    one = fitted([long], length=10)
    assert one.prepare(long).signal[0, 0] == 45, "the middle one"
    starts = {one.prepare(long, choice).signal[0, 0] for choice in range(1, 200)}
    assert min(starts) == 0 and max(starts) == 90 and len(starts) == 91
    assert one.prepare({**long, "start": 30.0}).signal[0].tolist() == list(range(30, 40))
    assert one.seconds == 10 and one.stretches(long) == [(0.0, 100.0)]
    timed = fitted([{**long, "rate": 50}], rate=50, length=100)
    assert timed.seconds == 2 and timed.prepare({**long, "rate": 50, "start": 1.0}).signal[0, 0] == 50
    with pytest.raises(BadSample, match="start: found 200 s, but the series ends at 100 s"):
        one.prepare({**long, "start": 200.0})


# ------------------------------------------------------------------------------------------------------------ patches


@pytest.mark.parametrize("patch", ["channel", "time"])
def test_patches_are_windows_at_their_times_and_come_back(patch: str) -> None:
    one = fitted([{"a": np.arange(8.0), "b": np.arange(8.0) + 10}], rate=2, window=4, patch=patch, source_rate=2)
    inputs = one([{"a": np.arange(8.0), "b": np.arange(8.0) + 10}])
    model = Modality(8, **one.sizes())
    patches = model.patchify(inputs)
    if patch == "channel":
        assert patches.coords[0].tolist() == [[0, 0], [2, 0], [0, 1], [2, 1]]
        assert patches.values[0, 3].tolist() == [14, 15, 16, 17]
    else:
        assert patches.coords[0].tolist() == [[0], [2]]
        assert patches.values[0, 1].tolist() == [4, 5, 6, 7, 14, 15, 16, 17]
    assert torch.equal(model.unpatchify(patches.values, inputs)["signal"], inputs["signal"])


def test_raw_features_are_their_formulas_and_know_nothing_of_padding() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=32), rng.normal(3, 2, 32)
    one = fitted([{"a": a, "b": b}, {"a": rng.normal(size=48)}])
    model = Modality(8, **one.sizes())
    alone = model.raw_features(one([{"a": a, "b": b}])).view(2, -1)
    for row, values in zip(alone, (a, b), strict=True):
        told = [values.mean(), values.std(), values.min(), values.max(), np.abs(np.diff(values)).mean(), values[0]]
        np.testing.assert_allclose(row[:6], told, rtol=1e-4)
        np.testing.assert_allclose(row[6:22], values.reshape(16, 2).mean(1), rtol=1e-4, atol=1e-5)
    beside = model.raw_features(one([{"a": a, "b": b}, {"a": rng.normal(size=48)}])).view(2, 2, -1)
    torch.testing.assert_close(beside[0, :, :22], alone[:, :22])
    assert beside.isfinite().all() and not beside[1, 1].any()


# ------------------------------------------------------------------------------------------------------------- files

TS = """#made
@problemName Toy
@timeStamps false
@univariate false
@classLabel true up down
@data
1,2,3,4:5,6,7,8:up
4,3,?,1:8,7,6:down
"""


def test_ts_files_by_split(tmp_path: Path) -> None:
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"Toy_{split}.ts").write_text(TS)
    reader = Preprocessor(Config(window=2))
    rows = reader.open_rows(tmp_path, "train")
    assert rows["label"][:] == ["up", "down"] and len(reader.open_rows(tmp_path, "all")) == 4
    np.testing.assert_array_equal(read(rows[0]["series"]), [[1, 2, 3, 4], [5, 6, 7, 8]])
    with pytest.raises(BadSample, match="differ"):
        read(rows[1]["series"])
    with refused("Toy_TEST.ts", "'validation'"):
        reader.open_rows(tmp_path, "validation")
    alone = tmp_path / "Toy_TEST.ts"
    assert len(open_rows(str(alone), "train")) == 2  # by itself it is the data, of which rows are held out
    with pytest.raises(NoSplit, match="no split 'test', its splits are train"):
        reader.open_rows(alone, "test")
    (tmp_path / "odd.ts").write_text(TS.replace("4,3,?,1", "4,red,?,1"))
    with refused("odd.ts", "line 8", "'red'"):
        open_rows(str(tmp_path / "odd.ts"), "train")
    stamped = "@timeStamps true\n@classLabel false\n@data\n(0,1.5),(2,2.5),(3,0)\n"
    (tmp_path / "t.ts").write_text(stamped)
    row = open_rows(str(tmp_path / "t.ts"), "train")[0]["series"]
    np.testing.assert_array_equal(read(row, rate=1), [[1.5, NAN, 2.5, 0.0]])


def test_a_table_of_one_row_a_time_is_a_series_an_id(tmp_path: Path) -> None:
    lines = ["subject,t,x,y,label"]
    lines += [f"{s},{t},{t + 10 * n},{-t},{'ab'[n]}" for n, s in enumerate(("u", "v")) for t in (0, 2, 1, 3)]
    file = tmp_path / "long.csv"
    file.write_text("\n".join(lines))
    rows = open_rows(str(file), "train")
    assert rows["subject"][:] == ["u", "v"] and rows["label"][:] == ["a", "b"]
    np.testing.assert_array_equal(read(rows[1]["series"]), [[10, 11, 12, 13], [0, -1, -2, -3]])
    other = tmp_path / "other.csv"
    other.write_text("\n".join(["who,when,x"] + [f"{w},{t},{t}" for w in "uv" for t in range(4)]))
    with refused("other.csv", "id=COLUMN", "who"):
        open_rows(str(other), "train")
    assert len(open_rows(f"{other}?id=who&time=when", "train")) == 2
    with pytest.raises(NoSplit, match="no split 'test'"):
        open_rows(str(file), "test")  # not the rows that were learned from
    parts = tmp_path / "parts.csv"
    parts.write_text(
        "\n".join(["id,t,x,split"] + [f"{i},{t},{t},{s}" for i, s in ((1, "train"), (2, "test")) for t in (0, 1)])
    )
    assert [open_rows(str(parts), split)["id"][:] for split in ("train", "test", "all")] == [[1], [2], [1, 2]]
    with refused("'whom'", "who"):
        open_rows(f"{other}?id=whom", "train")
    with refused("'key'", "id=COLUMN"):
        open_rows(f"{other}?key=who", "train")
    with refused("series:", "gone.csv"):
        open_rows(str(tmp_path / "gone.csv"), "train")


def test_columns_that_hold_an_array_each_are_the_channels() -> None:
    from mmssl.modality.table import Column, Table

    arrays = {n: Column(n, [list(range(20))], [0]) for n in ("x", "y", "time")}
    table = Table({**arrays, "who": Column("who", ["a"], [0])}, {})
    assert Preprocessor(Config()).default_columns(table) == ["x", "y", "time"]
    assert Preprocessor(Config()).default_columns(Table({"x": arrays["x"]}, {})) == "x"


def test_seconds_of_dates_and_numbers() -> None:
    np.testing.assert_allclose(seconds_of(["2024-01-01", "2024-01-02T12:00"]), [0, 129600])
    np.testing.assert_allclose(seconds_of([5, 7.5]), [0, 2.5])
    with pytest.raises(BadSample, match="expected seconds or dates"):
        seconds_of(["yesterday", "today"])


def test_a_folder_of_files_is_learned_from_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for kind in ("slow", "fast"):
        for number in range(12):
            folder = tmp_path / "data" / kind
            folder.mkdir(parents=True, exist_ok=True)
            wave = np.sin(np.arange(40) * (0.2 if kind == "slow" else 0.9) + rng.uniform(0, 6)) + rng.normal(0, 0.1, 40)
            np.savetxt(folder / f"{number}.csv", np.stack([wave, -wave], 1), delimiter=",", header="x,y", comments="")
    tiny = [
        "model.towers.series={width: 16, depth: 1, heads: 2}",
        "objectives.mae.decoder={width: 16, depth: 1, heads: 2}",
    ]
    few = ["train.steps=4", "train.batch_size=8", "evaluation.label=label", "evaluation.tasks=[knn]"]
    run = tmp_path / "run"
    assert main(["pretrain", "series_mae", f"data.path={tmp_path / 'data'}", *tiny, *few, "--output", str(run)]) == 0
    assert "series/accuracy" in capsys.readouterr().out
    broken = ["pretrain", "series_mae", f"data.path={tmp_path / 'data'}", "modalities.series.windw=3"]
    assert main(broken) == 2 and "did you mean 'window'?" in capsys.readouterr().err


def test_user_errors_are_user_errors() -> None:
    with pytest.raises(UserError, match="not fitted"):
        Preprocessor(Config())([np.arange(4.0)])
