"""What `benchmarks.steps` and `benchmarks.gpu` race is one loss: from the same weights both sides give the same number
and the same gradient."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import audio_mae_step, clip_step, jepa_step, mae_step, steps, videomae_step, view_steps
from benchmarks.pairs import SIZES, Pair, ViT, apart

TINY = SIZES["tiny"]
DECODER = (32, 2, 4)
TRANSFORMERS: dict[str, Callable[[], Pair]] = {
    "mae": lambda: mae_step.pair(TINY, 3, DECODER),
    "videomae": lambda: videomae_step.pair(TINY, 3, DECODER),
    "audio_mae": lambda: audio_mae_step.pair(TINY, 3, DECODER, frames=64),
    "ijepa": lambda: jepa_step.pair(ViT(48, 2, 4, 64, 8), 3, predictor=DECODER, keep=14, scale=0.2),
}
CLIP: dict[str, Callable[[], Pair]] = {
    "clip": lambda: clip_step.pair(clip_step.Sizes(TINY, (32, 2, 4), 16, 12, 100), 3)
}
LIGHTLY: dict[str, Callable[[], Pair]] = {
    "simclr": lambda: view_steps.simclr(TINY, 5, hidden=64),
    "dino": lambda: view_steps.dino(TINY, 5, hidden=64, prototypes=32),
    "byol": lambda: view_steps.byol(TINY, 5, hidden=64),
    "barlow": lambda: view_steps.barlow(TINY, 5, hidden=64),
}
ALL = TRANSFORMERS | CLIP | LIGHTLY


def made(name: str) -> Pair:
    if name in LIGHTLY:
        pytest.importorskip("lightly", reason="make bench installs it: pip install 'mmssl[bench]'")
    torch.manual_seed(0)
    return ALL[name]()


def norm(parameters: Any) -> torch.Tensor:
    return torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()


def test_every_step_of_the_table_is_compared() -> None:
    assert list(ALL) == list(steps.PAIRS)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_both_have_one_loss_and_one_gradient(name: str) -> None:
    pair = made(name)
    ours, theirs = pair.losses()
    assert apart(ours, theirs) < 2e-6
    ours.backward()
    theirs.backward()
    # CLIP's positions are a parameter there and a table here
    towers = [pair.work.model.towers.parameters(), (p for part in pair.parts for p in part.parameters())]
    if name != "clip":
        towers[0] = pair.work.parameters()
        torch.testing.assert_close(norm(towers[0]), norm(towers[1]), rtol=1e-4, atol=0)
    before = [p.detach().clone() for p in pair.parts[-1].parameters()]
    for step in pair.steps("f32"):
        step(0)
    assert any(not torch.equal(a, b) for a, b in zip(before, pair.parts[-1].parameters(), strict=True))


def row(step: str, dtype: str, ours: float, threads: int = 2) -> dict[str, Any]:
    machine = {"processor": "P", "model": "m", "features": ["AVX2"], "cores": 2, "threads": threads}
    return {
        "step": step,
        "dtype": dtype,
        "batch": 4,
        "peer": "lightly",
        "losses_apart": 1e-7,
        "rounds": 3,
        "peer_seconds": 3.0,
        "our_seconds": ours,
        "ratio": round(3.0 / ours, 3),
        "ratios": [1.1, 1.2, 1.25],
        "products_seconds": 1.5,
        "products_gflop": 100.0,
        "load": [0.1, 2.34],
        "machine": {**machine, "packages": {"torch": "2"}},
    }


def test_a_row_takes_the_place_of_an_earlier_one_of_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    for one in (row("byol", "f32", 2.0), row("mae", "bf16", 2.0), row("mae", "f32", 2.0), row("mae", "f32", 2.5)):
        steps.keep(one, path)
    steps.keep(row("mae", "f32", 2.4, threads=1), path)
    found = [(r["step"], r["dtype"], r["our_seconds"], r["machine"]["threads"]) for r in json.loads(path.read_text())]
    assert found == [("mae", "f32", 2.5, 2), ("mae", "f32", 2.4, 1), ("mae", "bf16", 2.0, 2), ("byol", "f32", 2.0, 2)]


def test_the_table_says_shares_ranges_and_on_what() -> None:
    text = steps.table([row("mae", "f32", 2.5), row("mae", "f32", 2.0, threads=1)])
    assert "| MAE, decoder 512 x 8 | f32 | lightly | 3.00 | 2.50 | 1.20x (1.10-1.25) | 1.50 | 60% | 2.00x |" in text
    assert "load of the machine 0.1 to 2.3" in text and "AVX2; 2 cores" in text
    assert text.count("| ratio at most |") == 2 and "of the processor on one thread" in text and "on 2 threads" in text


def test_rounds_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(steps, "set_process", lambda tuned: order.append("tuned" if tuned else "plain"))
    seconds = steps.race(lambda n: order.append(f"peer {n}"), lambda n: order.append(f"ours {n}"), 2)
    assert order[:4] == ["plain", "peer -1", "tuned", "ours -1"]
    assert order[4:10] == ["tuned", "ours 0", "ours 0", "plain", "peer 0", "peer 0"]
    assert order[10:12] == ["plain", "peer 1"]
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_pair_that_is_not_equal_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor(1.001), torch.tensor(1.0)

    monkeypatch.setitem(steps.PAIRS, "mae", ("MAE", lambda batch: Other()))
    monkeypatch.setattr(steps, "set_process", lambda tuned: None)
    with pytest.raises(SystemExit, match=r"mae: the losses differ by 1\.0e-03"):
        steps.measure("mae", "f32", 4, 1)
