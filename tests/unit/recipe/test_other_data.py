"""What a recipe says of its own data (their rate, unit, channels) is not taken for other data."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from toys.recordings import heart

from mmssl.cli import main
from mmssl.recipe.loading import load_recipe, recipe_names, recipe_path

SAYING = [name for name in recipe_names() if "source_rate" in recipe_path(name).read_text()]


def test_these_recipes_say_a_rate() -> None:
    expected = "ecg_contrastive ecg_jepa ecg_mae ecg_text_tabular_clip eeg_contrastive eeg_jepa eeg_mae"
    assert set(SAYING) >= {f"examples/{name}" for name in expected.split()}


@pytest.mark.parametrize("name", SAYING)
def test_a_rate_goes_with_its_data(name: str, caplog: pytest.LogCaptureFixture) -> None:
    own = load_recipe(name)
    (kind,) = [key for key, part in own.modalities.items() if getattr(part.config, "source_rate", None)]
    config = own.modalities[kind].config
    path = Path(own.data.path)
    for same in (str(path), f"elsewhere/{path.name}", path.name, f"me/{path.name}/", f"{path.name}/train*.parquet"):
        again = load_recipe(name, [f"data.path={same}"]).modalities[kind].config
        assert again == config, same
    assert not caplog.text
    with caplog.at_level(logging.WARNING, "mmssl"):
        other = load_recipe(name, ["data.path=my_records"]).modalities[kind].config
    assert (other.source_rate, other.source_channels) == (None, None)
    assert other.source_unit == type(config)().source_unit
    (line,) = [record.getMessage() for record in caplog.records]
    assert "source_rate" in line and path.name in line and "my_records" in line and "\n" not in line
    assert other.rate == config.rate and other.highpass == config.highpass, "what the model is given stays"
    said = load_recipe(name, ["data.path=my_records", f"modalities.{kind}.source_rate=500"]).modalities[kind].config
    assert said.source_rate == 500


def test_arrays_of_500_hz_do_not_train_as_100(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [[heart(500, 5, beats).tolist()] * 12 for beats in range(50, 90, 5)]
    pq.write_table(pa.table({"signal": rows}), tmp_path / "train.parquet")
    data = f"data.path={tmp_path / 'train.parquet'}"
    words = ["train.steps=1", "train.batch_size=4", "evaluation.tasks=[]", "train.trackers=[]"]
    out = ["--output", str(tmp_path / "run")]
    assert main(["pretrain", "examples/ecg_mae", data, *words, *out]) == 2
    assert "source_rate" in capsys.readouterr().err
    assert main(["pretrain", "examples/ecg_mae", data, "modalities.ecg.source_rate=100", *words, *out]) == 2
    said = capsys.readouterr().err
    assert "source_rate: at 100 Hz" in said and "times a minute" in said
