"""Calibration, Frechet mean, H0 persistence, outliers, few labels: formulas against independent computations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import runs

from mmssl.cli import main
from mmssl.evaluation import attentive
from mmssl.evaluation.calibration import bootstrap, expected_calibration_error
from mmssl.evaluation.frechet import angles, frechet_predict, probabilities
from mmssl.evaluation.outliers import outlier_score
from mmssl.evaluation.separability import persistence_times, separability
from mmssl.evaluation.zero_shot import ensembles


def test_ece_is_the_papers_sum_over_bins():
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0.05, 1, 500), rng.random(500) < 0.6
    expected = 0.0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    found = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct), bins=10)
    assert found == pytest.approx(expected, abs=1e-12)
    sure = torch.ones(4)
    assert expected_calibration_error(sure, torch.tensor([True] * 4)) == 0.0
    assert expected_calibration_error(sure, torch.tensor([True, False] * 2)) == pytest.approx(0.5)
    with pytest.raises(ValueError):
        expected_calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_bootstrap_of_a_mean_is_the_normal_interval():
    x = torch.from_numpy(np.random.default_rng(1).normal(size=400))
    low, high = bootstrap(lambda rows: float(x[rows].mean()), len(x), resamples=2000)
    half = 1.96 * float(x.std()) / 20
    assert low == pytest.approx(float(x.mean()) - half, abs=0.012)
    assert high == pytest.approx(float(x.mean()) + half, abs=0.012)


def test_frechet_mean_equals_argmax_under_the_zero_one_metric():
    p = torch.softmax(torch.randn(200, 7, generator=torch.Generator().manual_seed(0)), 1)
    assert torch.equal(frechet_predict(p, 1.0 - torch.eye(7)), p.argmax(1))


def test_frechet_mean_answers_with_an_unobserved_class_between_two():
    places = torch.tensor([0.0, 1.0, 2.0])  # the class at 1 was never asked about
    distances = (places[:, None] - places[[0, 2]][None]).abs()
    assert frechet_predict(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), distances).tolist() == [1, 0]
    with pytest.raises(ValueError, match="expected"):
        frechet_predict(torch.ones(2, 3), torch.ones(4, 2))


def test_angles_and_probabilities():
    v = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    expected = torch.tensor([[0, math.pi / 2, math.pi], [math.pi / 2, 0, math.pi / 2], [math.pi, math.pi / 2, 0]])
    torch.testing.assert_close(angles(v), expected.double(), atol=1e-7, rtol=0)
    p = probabilities(torch.tensor([[2.0, 0.0]]), v, 0.5)
    raw = np.exp(np.array([1, 0, -1]) / 0.5)
    np.testing.assert_allclose(p.numpy()[0], raw / raw.sum(), atol=1e-12)


def test_templates_that_answer_one_by_one():
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.ones(4), size=(3, 50))  # templates, samples, classes
    p[:, 0] = [[0.5, 0.3, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.2, 0.1, 0.6, 0.1]]  # a vote that is open
    found = ensembles(torch.from_numpy(one) for one in p)
    for row in range(50):
        mean = sum(p[t, row] for t in range(3)) / 3
        assert found["mean"][0][row] == mean.argmax()
        assert float(found["mean"][1][row]) == pytest.approx(mean.max(), abs=1e-12)
        surest = max(range(3), key=lambda t: p[t, row].max())
        assert found["max"][0][row] == p[surest, row].argmax()
        assert float(found["max"][1][row]) == pytest.approx(p[surest, row].max(), abs=1e-12)
        votes = np.bincount([p[t, row].argmax() for t in range(3)], minlength=4)
        most = [c for c in range(4) if votes[c] == votes.max()]
        assert found["vote"][0][row] == max(most, key=lambda c: mean[c])
        assert float(found["vote"][1][row]) == pytest.approx(votes.max() / 3, abs=1e-12)
    with pytest.raises(ValueError, match="no template"):
        ensembles([])


@pytest.mark.parametrize(("n", "width"), [(2, 3), (60, 5), (300, 32)])
def test_persistence_times_are_the_edges_of_the_minimum_spanning_tree(n, width):
    x = np.random.default_rng(2).normal(size=(n, width))
    x[: n // 4] = x[0]  # some coincide: edges of length zero
    points = torch.from_numpy(x)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    nearest, left, lengths = distance[0].copy(), np.ones(n, bool), []  # Prim's algorithm
    left[0] = False
    while left.any():
        at = int(np.where(left, nearest, np.inf).argmin())
        lengths.append(nearest[at])
        left[at] = False
        np.minimum(nearest, distance[at], out=nearest)
    expected = np.sort(lengths) / max(lengths)
    np.testing.assert_allclose(persistence_times(points).numpy(), expected, atol=1e-15, rtol=0)


def test_separability_is_high_for_far_clusters_and_ignores_rotation_and_scale():
    rng = np.random.default_rng(3)
    centres = np.eye(4)[rng.integers(0, 4, 200)]
    clusters = torch.from_numpy(centres + 0.01 * rng.normal(size=(200, 4)))
    cloud = torch.from_numpy(rng.normal(size=(200, 4)))
    high, span = separability(clusters)
    low, _ = separability(cloud)
    assert high > 0.9 > low and span[0] <= high <= span[1]
    rotation = torch.linalg.qr(torch.from_numpy(rng.normal(size=(4, 4))))[0]
    assert separability(7 * clusters @ rotation)[0] == pytest.approx(high, abs=1e-4)
    assert float(persistence_times(torch.ones(5, 2)).sum()) == 0.0


def test_outlier_score_is_the_distance_to_the_kth_neighbour():
    train, test = torch.randn(30, 4), torch.randn(5, 4)
    cosine = torch.nn.functional.cosine_similarity(test[:, None].double(), train[None].double(), dim=2)
    expected = 1 - cosine.sort(1, descending=True).values[:, 2]
    torch.testing.assert_close(outlier_score(train, test, k=3).double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(outlier_score(train, test, k=99).double(), 1 - cosine.amin(1), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_tasks_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attentive, "FEWEST", 4)
    monkeypatch.setattr(attentive, "MOST", 8)
    assert runs.cli(tmp_path, content=runs.image_text()) == 0
    capsys.readouterr()
    words = ["--task", "linear", "--task", "zero-shot", "--task", "labels", "--task", "separability", "--task", "ood"]
    words += ["--task", "attentive"]
    options = ["limit=80", "train_limit=150", "temperature=0.1", "label_shares=[0.1, 1.0]", "ood=builtin:digits"]
    options += ["templates=['{}', 'the digit {}']"]
    assert main(["evaluate", str(tmp_path / "run"), "--data", "builtin:digits", *words, *options]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "image/" in line]
    found = {" ".join(line.split("0.")[0].split()): line for line in lines}
    for name in (
        "linear image/accuracy",
        "linear image/ECE",
        "attentive image/accuracy",
        "attentive image/ECE",
        "zero-shot image/accuracy",
        "zero-shot image/ECE",
        "zero-shot image/accuracy, Frechet mean",
        "zero-shot image/accuracy, vote of templates",
        "zero-shot image/ECE, max of templates",
        "labels image/accuracy at 10 % of labels",
        "labels image/accuracy at 100 % of labels",
        "separability image/1 - mean persistence",
        "ood image/AUROC",
    ):
        assert name in found, (name, list(found))
    numbers = [float(w.strip("()")) for w in found["ood image/AUROC"].split() if w.replace(".", "").isdigit()]
    assert 0.3 < numbers[0] < 0.7  # the training split of the same digits is not out of distribution


def test_ood_without_data_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.cli(tmp_path) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--data", "builtin:digits", "--task", "ood", "limit=50"]) == 2
    assert "ood: it needs other data" in capsys.readouterr().err
