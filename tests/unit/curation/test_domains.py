"""Classes out of domains that differ by how frequent these are, without a label (DDFA)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmssl import cluster
from mmssl.curation.domains import factored, latent_classes, of_domains
from mmssl.errors import UserError

PRIORS = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7], [0.4, 0.4, 0.2]])
"""(domain, class)."""


def drawn(n: int = 300, far: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    domains = np.repeat(np.arange(4), n)
    y = np.concatenate([rng.choice(3, n, p=own) for own in PRIORS])
    return far * np.eye(5)[y] + rng.normal(size=(4 * n, 5)), domains, y


def matched(priors: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(priors in the order of the classes, which class each number is)."""
    from scipy.optimize import linear_sum_assignment

    own = linear_sum_assignment(np.abs(priors[:, :, None] - wanted[:, None]).sum(0))[1]
    return priors[:, np.argsort(own)], own


def test_chances_given_a_domain_are_bayes_rule():
    """Rows of which the chances of domains are exact: five points, each with its chances of a class."""
    of_points = np.array([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [1 / 3] * 3]).T
    of_points = of_points / of_points.sum(1, keepdims=True)  # (class, point): P(x | y)
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    joint = np.einsum("d,dy,yx->dyx", shares, PRIORS, of_points)
    apart = (joint.sum(1) / joint.sum((0, 1))).T  # (point, domain): P(d | x)
    for domain in range(4):
        wanted = (joint[domain] / joint[domain].sum(0)).T
        found = of_domains(apart, np.full(5, domain), PRIORS, shares)
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_priors_are_the_factors_where_every_class_has_a_cell_of_its_own():
    rng = np.random.default_rng(1)
    counts = np.zeros((4, 6), int)
    of_cells = np.array([[0.5, 0, 0, 0.3, 0.2, 0], [0, 0.6, 0, 0.2, 0, 0.2], [0, 0, 0.7, 0, 0.1, 0.2]])
    for domain in range(4):
        counts[domain] = np.round(100_000 * PRIORS[domain] @ of_cells)
    cells = np.concatenate([np.repeat(np.arange(6), own) for own in counts])
    domains = np.repeat(np.arange(4), counts.sum(1))
    order = rng.permutation(len(cells))
    found, _ = matched(factored(cells[order], domains[order], 4, 3), PRIORS)
    np.testing.assert_allclose(found, PRIORS, atol=0.01)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)


def test_classes_are_found_without_a_label():
    x, domains, y = drawn()
    found = latent_classes(x, domains, 4, 3, 12)
    priors, own = matched(found.priors, PRIORS)
    assert np.abs(priors - PRIORS).max() < 0.12
    assert (own[found.chances.argmax(1)] == y).mean() > 0.8
    np.testing.assert_allclose(found.chances.sum(1), 1, atol=1e-9)


def written(path: Path, **columns: object) -> Path:
    x, domains, _ = drawn(40)
    values = pa.array([None if row == 7 else one.tolist() for row, one in enumerate(x)], pa.list_(pa.float32()))
    names = {"site": [f"s{d}" for d in domains]} | columns
    pq.write_table(pa.table({"row": list(range(160)), "image_embedding": values, **names}), path)
    return path


def test_the_file_has_a_class_and_its_chance_for_each_row(tmp_path):
    how = {"domain": "site", "domain_classes": 3, "clusters": 12}
    done = cluster(written(tmp_path / "e.parquet"), tmp_path / "c.parquet", **how)
    found = pq.read_table(tmp_path / "c.parquet")
    assert found.column_names == ["row", "site", "class", "chance"] and found["class"][7].as_py() is None
    assert set(found["class"].drop_null().to_pylist()) == {0, 1, 2} and done["clustered"] == 159
    assert list(done["priors"]) == ["s0", "s1", "s2", "s3"] and sum(done["priors"]["s0"]) == pytest.approx(1, abs=1e-3)
    cluster(tmp_path / "e.parquet", tmp_path / "d.parquet", **how)
    assert pq.read_table(tmp_path / "d.parquet").equals(found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"domain": "site"}, "domain_classes: found none beside domain"),
        ({"domain_classes": 3}, "domain_classes"),
        ({"domain": "sit", "domain_classes": 3}, "domain: .* has no column 'sit'.*did you mean 'site'"),
        ({"domain": "site", "domain_classes": 5}, "found 4 values of 'site', expected at least domain_classes=5"),
        ({"domain": "hole", "domain_classes": 2}, "domain: 1 rows have no 'hole'"),
        ({"domain": "rare", "domain_classes": 2}, "domain: 'x' of 'rare' has 1 rows"),
        ({"domain": "site", "domain_classes": 3, "balanced": True}, "balanced: found True with domain"),
        ({"domain": "site", "domain_classes": 3, "clusters": [9, 3]}, "clusters: found several levels with domain"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, options, says):
    more = {"hole": [None, *["a", "b"] * 79, "a"], "rare": ["x", *["y"] * 159]}
    with pytest.raises(UserError, match=says) as caught:
        cluster(written(tmp_path / "e.parquet", **more), tmp_path / "c.parquet", **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "c.parquet").exists()
