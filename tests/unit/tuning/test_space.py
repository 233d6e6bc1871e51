"""What `mmssl tune` searches: what is read, what is refused, and which combinations come."""

from __future__ import annotations

import pytest
from toys import runs
from toys.refusals import refused

from mmssl.errors import UserError
from mmssl.recipe.loading import merge_overrides
from mmssl.tuning.space import Choice, Range, check_space, combination, count, read_space, space_of, together


def test_words_are_searched_or_stay() -> None:
    words = ["train.steps=5", "a=[1,x]", "b=log(1e-4, 1e-2)", "c=uniform(0.5,1)", "d=int(2,4)", "e=[[p,q]]", "f=[]"]
    fixed, space = read_space(words)
    assert fixed == ["train.steps=5", "f=[]"]
    assert space == {
        "a": Choice((1, "x")),
        "b": Range("log", 1e-4, 1e-2),
        "c": Range("uniform", 0.5, 1.0),
        "d": Range("int", 2, 4),
        "e": Choice((["p", "q"],)),
    }
    assert space == space_of(
        {**{key: str(one) for key, one in space.items() if key in "bcd"}, "a": [1, "x"], "e": [["p", "q"]]}
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a", "no key=value"),
        ("=[1]", "no key=value"),
        ("a=log(0,1)", "above 0"),
        ("a=log(1e-2,1e-4)", "the smaller one first"),
        ("a=uniform(1)", "two numbers"),
        ("a=uniform(x,2)", "two numbers"),
        ("a=int(1,2.5)", "whole numbers"),
        ("a=normal(0,1)", "expected \\[value, value"),
        ("a=[1,1]", "a value twice"),
        ("a=[1,", "not valid YAML"),
        ("a=3", "no key to search over"),
    ],
)
def test_what_is_no_search_is_refused(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_space([word])


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_space(["a=log(0,1)", "b=[1,2]", "b=[3]", "c=int(3,1)"])
    said = str(caught.value)
    assert all(fault in said for fault in ("a: found 'log(0,1)'", "b: found it twice", "c: found 'int(3,1)'"))


def test_keys_and_values_that_the_recipe_does_not_take_are_refused() -> None:
    recipe = runs.recipe()
    good = space_of({"train.lr": "log(1e-4,1e-2)", "masks.half.ratio": [0.5, 0.75], "train.batch_size": [8, 16]})
    check_space(recipe, [], good, None)
    with refused("train.lrr", "lr"):
        check_space(recipe, [], space_of({"train.lrr": [1]}), None)
    with refused("masks.half.ratio", "1.5"):
        check_space(recipe, [], space_of({"masks.half.ratio": "uniform(0.5,1.5)"}), None)
    with refused("train.batch_size", "many"):
        check_space(recipe, [], space_of({"train.batch_size": [8, "many"]}), None)
    big = space_of(
        {f"train.{key}": "int(1,9)" for key in ("batch_size", "steps")}
        | {"masks.half.ratio": [0.1 * i for i in range(1, 10)] + [7]}
    )
    with refused("masks.half.ratio", "7"):  # more combinations than are tried, but each value is
        check_space(recipe, [], big | space_of({"train.log_every": [1, 2]}), None)


def test_each_combination_comes_once_and_in_an_order_that_knows_no_end() -> None:
    space = space_of({"a": [1, 2, 3], "b": "int(0,4)", "c": ["x", None]})
    assert count(space) == 30 and count(space_of({"a": "uniform(0,1)", "b": [1, 2]})) is None
    met = [combination(space, number, 7) for number in range(30)]
    assert len({tuple(values.items()) for values in met}) == 30
    assert met != [combination(space, number, 8) for number in range(30)]
    assert met[0] != {"a": 1, "b": 0, "c": "x"} or met[1] != {"a": 2, "b": 0, "c": "x"}, "random, not the order of keys"
    endless = space_of({f"k{i}": "int(0,1000000)" for i in range(4)})
    assert combination(endless, 3, 0) == combination(endless, 3, 0) != combination(endless, 2, 0)


def test_values_reach_the_recipe_as_they_are() -> None:
    values = {"name": "2024", "train.lr": 1e-05, "evaluation.tasks": ["knn"], "train.warmup": None}
    faults: list[str] = []
    for fixed in ([], {}):
        got = merge_overrides({}, together(fixed, values), faults)
        assert got["name"] == "2024" and got["train"] == {"lr": 1e-05, "warmup": None}
        assert got["evaluation"]["tasks"] == ["knn"] and not faults
