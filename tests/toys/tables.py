"""A small table of every type and what the tabular modality makes of it, for its tests."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import torch

import mmssl_tabular
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig

JOBS = ["clerk", "baker", "smith"]


def table(n: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of every type; `pay` follows `age`, `born` has no time of the day, a tenth of the jobs is missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        age = int(rng.integers(18, 80))
        rows.append(
            {
                "age": age,
                "pay": 100.0 * age + float(rng.normal()),
                "job": None if i % 10 == 3 else JOBS[int(rng.integers(3))],
                "member": bool(rng.integers(2)),
                "born": dt.date(1950, 1, 1) + dt.timedelta(days=int(rng.integers(20000))),
                "grade": ["low", "mid", "high"][int(rng.integers(3))],
            }
        )
    return rows


def fitted(rows: list[dict[str, Any]], **options: Any) -> mmssl_tabular.Preprocessor:
    return mmssl_tabular.Preprocessor(mmssl_tabular.Config(**options)).fit(rows)


def whole(**options: Any) -> mmssl_tabular.Preprocessor:
    return fitted(table(), orders={"grade": ["low", "mid", "high"]}, **options)


def module(preprocessor: mmssl_tabular.Preprocessor, width: int = 16) -> mmssl_tabular.Modality:
    torch.manual_seed(0)
    return mmssl_tabular.Modality(width, **preprocessor.sizes())


def model(preprocessor: mmssl_tabular.Preprocessor) -> MMSSLModel:
    torch.manual_seed(0)
    config = MMSSLConfig(
        modalities={"tabular": {"type": "tabular", **preprocessor.sizes()}},
        towers={"tabular": tower_spec(TowerConfig(width=24, depth=2, heads=2))},
    )
    return MMSSLModel(config).eval()
