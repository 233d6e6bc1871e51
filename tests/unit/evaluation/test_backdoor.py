"""The backdoor's trigger, and what is measured of it (CTRL)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from toys import tuned
from toys.refusals import refused

from mmssl.cli import main
from mmssl.draws import Draws
from mmssl.evaluation.backdoor import backdoor, poisoned_rows, target_of, trigger_of, with_poison
from mmssl.evaluation.embedding import Embedded
from mmssl.evaluation.rows import Labels
from mmssl.evaluation.tasks import Features
from mmssl.modality.pixels.trigger import pattern, with_trigger
from mmssl.recipe.config import EvaluationConfig


def test_the_trigger_is_two_coefficients_of_each_block():
    x = torch.full((1, 1, 64, 64), 0.5)
    changed = (with_trigger(x, 40.0, [15, 31]) - x)[0, 0].double().numpy() * 255
    for block in (changed[:32, :32], changed[32:, 32:]):
        found = dctn(block, norm="ortho")
        assert found[15, 15] == pytest.approx(40, abs=1e-3) and found[31, 31] == pytest.approx(40, abs=1e-3)
        found[15, 15] = found[31, 31] = 0
        assert np.abs(found).max() < 1e-3
    small = dctn(pattern(8, 16, [15, 31]).double().numpy(), norm="ortho")
    assert small[3, 7] == pytest.approx(1, abs=1e-5) == small[7, 15], "smaller pictures are one block"
    assert np.abs(dctn(pattern(4, 4, [0]).double().numpy(), norm="ortho")[0, 0]) == pytest.approx(1, abs=1e-6)


def test_colours_change_and_not_the_luminance():
    x = torch.full((2, 3, 32, 32), 0.5)
    red, green, blue = (with_trigger(x, 50.0, [15, 31]) - x)[1]
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    assert luminance.abs().max() < 1e-3 < 0.01 < blue.abs().max()
    assert with_trigger(torch.ones(1, 3, 32, 32), 50.0, [15, 31]).max() == 1.0


def test_it_is_a_view_of_pictures():
    model, _ = tuned.image_model()
    modality = model.modality("image")
    pixels = torch.zeros(2, 1, 8, 8)
    seen = modality.augment({"pixel_values": pixels}, Draws(0, 2), trigger=30.0)["pixel_values"]
    centre, scale = (float(getattr(modality, name)[0]) for name in ("mean", "std"))
    wanted = (with_trigger(pixels * scale + centre, 30.0, [15, 31]) - centre) / scale
    torch.testing.assert_close(seen, wanted)
    assert not seen.equal(pixels)


def features(planted: torch.Tensor) -> tuple[Features, Embedded]:
    """30 training and 15 test rows of three classes, told apart by an axis each; the test rows with a trigger."""
    y, truth = torch.arange(30) % 3, torch.arange(15) % 3
    x, x_test = torch.eye(8)[y], torch.eye(8)[truth]
    torch.manual_seed(0)
    x, x_test = (part + 0.01 * torch.randn(part.shape) for part in (x, x_test))

    def rows(of: torch.Tensor) -> Embedded:
        return Embedded({"image": torch.ones(len(of), dtype=torch.bool)}, pooled={"model": {"image": of}})

    return Features(rows(x_test), rows(x), frozenset(), truth, y), rows(x_test + planted)


def test_a_trigger_that_rules_the_features_is_told_of():
    planted = torch.zeros(8)
    planted[3:] = 20.0
    found, triggered = features(planted)
    rows = poisoned_rows(found.y_train, 2, 0.2, 0)
    assert len(rows) == 6 and bool((found.y_train[rows] == 2).all())
    x = found.train.features("model", "image")[rows] + planted
    poisoned = Embedded({"image": torch.ones(6, dtype=torch.bool)}, pooled={"model": {"image": x}})
    clean, _ = backdoor(found, triggered, 2, 3, 0)
    assert set(clean) == {
        f"image/{what}, {way}"
        for what in ("clean accuracy", "attack success", "taken for it anyway")
        for way in ("linear", "knn")
    }
    found.train = with_poison(found.train, rows, poisoned)
    metrics, skipped = backdoor(found, triggered, 2, 3, 0)
    assert not skipped
    for way in ("linear", "knn"):
        assert metrics[f"image/clean accuracy, {way}"]["model"] == 1.0
        success = metrics[f"image/attack success, {way}"]
        assert success["model"] == 1.0 and success["n"] == 10
        assert metrics[f"image/taken for it anyway, {way}"]["model"] == 0.0
    assert clean["image/attack success, knn"]["model"] < 1.0
    harmless, _ = backdoor(*features(torch.zeros(8)), 2, 3, 0)
    assert harmless["image/attack success, linear"]["model"] == 0.0
    assert set(found.answers) == {"image/clean accuracy, linear", "image/clean accuracy, knn"}


def test_poisoned_rows_are_of_the_class_and_drawn_by_the_seed():
    y = torch.tensor([0, 1, 1, 1, 1, -1, 1, 0])
    assert len(poisoned_rows(y, 1, 0.0, 0)) == 0 and len(poisoned_rows(y, 1, 0.01, 0)) == 1
    drawn = {tuple(poisoned_rows(y, 1, 3 / 7, seed).tolist()) for seed in range(9)}
    assert len(drawn) > 1 and all(len(rows) == 3 and set(rows) <= {1, 2, 3, 4, 6} for rows in drawn)
    with refused("backdoor_share", "4", "has 2"):
        poisoned_rows(y, 0, 0.5, 0)


def test_what_is_asked_for_is_checked():
    labels = Labels("y", [0, 2], torch.zeros(1), None, ["ant", "bee", "cat"])
    assert [target_of(word, labels) for word in (None, "cat", "2", "ant")] == [0, 1, 1, 0]
    with refused("backdoor_class", "cta", "did you mean 'cat'"):
        target_of("cta", labels)
    types = {"image": "image", "tabular": "tabular"}
    assert trigger_of(EvaluationConfig(), types) == {"trigger": {"image": {"trigger": 100.0}}}
    assert trigger_of(EvaluationConfig(), {"text": "text"}) == {"trigger": {}}
    with refused("backdoor", "triger", "trigger"):
        trigger_of(EvaluationConfig(backdoor={"image": {"triger": 9}}), types)


def test_the_task_of_the_command(tmp_path, capsys):
    import datasets
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    pictures = list((x[:160].reshape(-1, 8, 8) * 15).astype(np.uint8))
    of = {"image": pictures, "label": y[:160].tolist()}
    rows = datasets.Dataset.from_dict(of).cast_column("image", datasets.Image())
    (data := tmp_path / "data").mkdir()
    for split, part in (("train", range(100)), ("test", range(100, 160))):
        rows.select(part).to_parquet(data / f"{split}.parquet")
    base = tuned.image_base(tmp_path / "model")
    words = ["evaluate", str(base), "--data", str(data), "--task", "backdoor", "label=label", "k=5"]
    out = tmp_path / "out"
    more = ["backdoor_class=1", "backdoor_share=0.1", "backdoor={image: {trigger: 2000}}", "--output", str(out)]
    assert main([*words, *more]) == 0
    report = {row["metric"]: row for row in json.loads((out / "suite.json").read_text())["rows"]}
    success = report["image/attack success, linear"]
    assert success["score"] > 0.5 and success["baselines"]["untrained"] is not None and success["n"] == 40
    assert report["image/taken for it anyway, linear"]["score"] < 0.3
    assert main([*words, "backdoor_class=9"]) == 2
    assert "backdoor_class: found '9'" in capsys.readouterr().err
