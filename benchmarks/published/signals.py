"""ECG-JEPA (Weimann and Conrad 2024): which way of learning from 12-lead recordings without labels is worth most to a
linear model. The paper has a million recordings and finds jepa before masked autoencoders and contrast; here the three
recipes of the matrix learn from `ptbxl_500` and are judged by its protocol: folds by patient, one probe, mean AUC.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.matrix.cells import local, read_cells
from benchmarks.matrix.judging import difference, judge, make_folds, mean_score
from benchmarks.matrix.run import read_rows, trained
from mmssl.recipe.loading import load_recipe

from .claims import Claim

PAIRS = (("jepa", "mae"), ("jepa", "contrastive"), ("jepa", "raw"))


def run(seed: int, folder: Path) -> dict[str, Any]:
    """One seed: the three encoders, and the raw features, on the same folds."""
    outputs = {}
    for cell in read_cells():
        if cell.data != "ptbxl_500":
            continue
        quiet = {"seed": seed, "evaluation": {"tasks": []}, "train": {"trackers": []}}
        recipe = load_recipe(local(cell.recipe_data()), quiet)
        model, processor, _ = trained(recipe, folder / f"{cell.objective}-{seed}-{cell.training()}")
        rows = read_rows(cell, recipe, model, processor)
        folds = make_folds(rows.y, rows.split, rows.columns, cell.protocol)
        groups, metric = rows.columns[cell.protocol["group"]], cell.metric
        arms = {cell.objective: rows.arms["pretrained"]}
        if "raw" not in outputs:
            arms["raw"] = rows.arms["raw"]
        outputs |= judge(arms, rows.y, groups, folds, metric)
    less = {
        f"{one} less {other}": difference(outputs[one], outputs[other], rows.y, folds, groups, metric)
        for one, other in PAIRS
    }
    scores = {arm: mean_score(found, rows.y, folds, metric) for arm, found in outputs.items()}
    return {"scores": scores, "less": less, "tested": len(rows.y)}


CLAIMS = {
    "ptbxl": Claim(
        "ECG-JEPA, the order of three objectives by a linear probe (500 recordings)", "AUC", PAIRS, "jepa first", run
    )
}
