"""Trackers of others: what they are called with, and what their failures cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toys.refusals import refused

from mmssl.errors import RunError
from mmssl.recipe.loading import load_recipe
from mmssl.training import trackers
from mmssl.training.trackers import check_trackers, start_trackers, track, track_settings


class Service:
    """An accelerator whose trackers belong to a service that may be away."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[Any] = []
        self.project_configuration = SimpleNamespace(set_directories=lambda folder: None, logging_dir="")

    def init_trackers(self, name: str, init_kwargs: dict[str, Any]) -> None:
        self.log(init_kwargs, name)

    def log(self, values: dict[str, Any], step: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append((step, values))


def test_a_run_has_the_name_of_its_folder_in_a_project_of_its_recipe(tmp_path: Path) -> None:
    service: Any = Service()
    start_trackers(service, ["tensorboard"], "recipe", tmp_path / "run-2")
    ((project, own),) = service.calls
    assert project == "recipe" and own["wandb"] == {"name": "run-2", "dir": str(tmp_path / "run-2")}
    assert own["trackio"]["name"] == own["mlflow"]["run_name"] == "run-2"


def test_settings_go_to_those_that_list_them_without_what_is_private(caplog: pytest.LogCaptureFixture) -> None:
    told: dict[str, Any] = {}

    def kept(name: str) -> Any:
        return SimpleNamespace(name=name, store_init_configuration=lambda values: told.update({name: values}))

    recipe = load_recipe(
        "quickstart", ["train.lr=0.002", "train.trackers=[]", "data.path=https://me:secret@host/somewhere/rows.parquet"]
    )
    track_settings(SimpleNamespace(trackers=[kept("tensorboard"), kept("mlflow"), kept("wandb")]), recipe)
    assert set(told) == {"mlflow", "wandb"} and told["mlflow"] == told["wandb"]
    # numbers as numbers, to sort and filter by
    assert [told["wandb"][key] for key in ("train.lr", "train.nesterov", "train.trackers")] == [0.002, False, "[]"]
    assert "secret" not in str(told) and not {"null", "None"} & set(map(str, told["wandb"].values()))
    track_settings(SimpleNamespace(trackers=[SimpleNamespace(name="aim")]), recipe)
    assert "the trackers took no settings" in caplog.text


def test_one_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    service: Any = Service(LookupError("no key\nlog in"))
    with refused("train.trackers", "tensorboard", "LookupError: no key log in"):
        start_trackers(service, ["tensorboard"], "recipe", tmp_path)
    service = Service(OSError(28, "No space left"))
    with refused("No space left", error=RunError):
        start_trackers(service, ["tensorboard"], "recipe", tmp_path)


def test_one_that_fails_on_the_way_costs_its_curves_alone(caplog: pytest.LogCaptureFixture) -> None:
    row = {"step": 3, "loss": 1.0, "health/x": None, "wall_time": 17.0, "seconds_left": 5.0}
    service: Any = Service()
    assert track(service, row) and service.calls == [(3, {"loss": 1.0})]
    service = Service(LookupError("the server is away"))
    assert not track(service, row)
    assert "the trackers failed (the server is away); the run goes on without" in caplog.text


def test_unknown_and_lacking_ones_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    with refused("train.trackers", "wandbb", meant="wandb"):
        check_trackers(["wandbb"])
    with refused("wandb", "pip install wandb"):
        check_trackers(["wandb"])
