"""The numbers of a run on axes of their own, and its options beside the defaults."""

from __future__ import annotations

import math
import re

from toys import runs

from mmssl.recipe.loading import load_recipe
from mmssl.reporting.drawing import apart, line_plot
from mmssl.reporting.panels import MOST_POINTS, Line, panels, thinned
from mmssl.reporting.settings import changed, differences

ROWS = [
    {
        "step": step,
        "epoch": 0.1 * step,
        "loss": 3.0 - step,
        "loss/clip": 2.0 - step,
        "loss/clip.temperature": 100.0,
        "lr": 0.1,
        "wall_time": 1e9 + step,
        "health/image/rankme": 5.0,
        "health/text/rankme": None if step == 1 else 6.0,
        "samples_per_second": 10,
    }
    for step in (1, 2, 3)
]


def test_each_part_of_the_loss_has_axes_of_its_own() -> None:
    found = {(p.group, p.title): [line.label for line in p.lines] for p in panels({"a": ROWS})}
    losses = [title for group, title in found if group == "Loss"]
    assert losses == ["all objectives together", "clip", "clip.temperature"]
    assert found["Health", "effective rank (RankMe): low is collapse"] == ["image", "text"]
    assert not {"epoch", "wall_time", "step"} & {title for _, title in found}
    assert [p.group for p in panels({"a": ROWS})][-1] == "Pace"


def test_runs_share_panels_and_keep_their_colour() -> None:
    found = panels({"a": ROWS, "b": ROWS[:1]})
    for panel in found:
        for line in panel.lines:
            assert line.colour == ["a", "b"].index(line.label.partition(" ")[0])
    (rank,) = [p for p in found if p.title.startswith("effective rank")]
    assert [line.label for line in rank.lines] == ["a · image", "a · text", "b · image"]  # b's text was never finite
    assert rank.lines[1].steps == [2.0, 3.0]


def test_numbers_of_an_axis_are_told_apart_in_few_digits() -> None:
    assert apart([0.0, 0.05, 0.1]) == ["0", "0.05", "0.1"] and apart([2.0, 2.0]) == ["2", "2"]
    assert apart([1.0705, 1.071, 1.0715]) == ["1.0705", "1.071", "1.0715"]
    assert apart([4.56, 4.5625, 4.565, 4.5675]) == ["4.56", "4.5625", "4.565", "4.5675"]
    words = re.findall(r">([^<>]+)</", line_plot([Line("memory", 0, [10, 20, 30], [1.0702, 1.0711, 1.0716])], "m"))
    numbers = [word for word in words if word.startswith("1.07")]
    assert len(numbers) > 2 and len(set(numbers)) == len(numbers)


def test_what_is_no_finite_number_is_left_out() -> None:
    rows = [{"step": 1, "loss": math.nan, "loss/x": "text", "loss/y": True}, {"step": 2, "loss": math.inf}]
    assert panels({"a": rows}) == []


def test_long_lines_are_thinned_to_means_and_keep_their_end() -> None:
    values = [float(v) for v in range(4003)]
    found = thinned(values)
    assert len(found) <= MOST_POINTS and found[-1] == 4002.0 and found[0] == 5.0  # the mean of 0..10
    assert all(a < b for a, b in zip(found, found[1:], strict=False))
    assert thinned(values[:MOST_POINTS]) == values[:MOST_POINTS]


def test_only_options_that_are_not_the_default_are_named() -> None:
    recipe = load_recipe(runs.recipe(train={"weight_decay": 0.05}))
    found = {key: (value, default) for key, value, default in changed(recipe)}
    assert found["train.steps"] == ("6", "null") and found["train.batch_size"] == ("16", "256")
    assert found["data.path"] == ("builtin:digits", "") and found["model.towers.image.width"][0] == "16"
    assert found["masks.half.type"] == ("random", "") and found["objectives.mae.decoder.depth"][0] == "1"
    assert "train.weight_decay" not in found and "name" not in found


def test_runs_differ_where_a_value_is_another_or_not_there() -> None:
    first, second = runs.recipe(), runs.recipe(train={"lr": 0.5})
    second["name"] = "other"
    del second["evaluation"]
    found = dict(differences([first, second]))
    assert found == {"train.lr": ["0.001", "0.5"], "evaluation.tasks": ["[]", ""]}
    assert differences([first, first]) == []
