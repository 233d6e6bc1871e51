"""Which axis is which: told by the shape where only one can be, else refused, and said by the option `layout`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.refusals import refused

from mmssl.errors import BadSample
from mmssl.modality import load_modality

RNG = np.random.default_rng(0)
FIRST, LAST = "channels_first", "channels_last"


def made(kind: str, **options: Any) -> Any:
    package = load_modality(kind)
    return package.Preprocessor(package.Config(**options))


def decoded(kind: str, raw: object, **options: Any) -> np.ndarray:
    """What the modality makes of a raw value before it is fitted."""
    sizes = {"size": 8, "patch": 4} if kind in ("image", "video") else {}
    pre = made(kind, **sizes, **options)
    if kind in ("eeg", "ecg"):
        return pre.prepare(raw).signal
    if kind == "audio":
        return pre.read(raw)
    return pre._decode(raw) if kind == "image" else pre._decode(raw)[0]


SIGNAL: dict[str, Any] = {"source_rate": 100.0, "rate": 100.0, "window": 0.05, "seconds": None}
EEG = SIGNAL | {"source_unit": "uV"}
NAMES = ["Fp1", "Cz", "O2", "C3", "C4", "Pz", "F3", "F4"]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_square_of_signals(count: int) -> None:
    x = RNG.normal(size=(count, count)) * 20
    given = {"signal": np.kron(x, np.ones((1, 1))), "channels": NAMES[:count]}
    options = EEG | {"window": 0.02}
    with refused("layout", FIRST, LAST, error=BadSample):
        decoded("eeg", given, **options)
    with refused("layout", FIRST, LAST, error=BadSample):
        decoded("eeg", x, source_channels=NAMES[:count], **options)
    first, last = (decoded("eeg", given, layout=layout, **options) for layout in (FIRST, LAST))
    turned = decoded("eeg", given | {"signal": x.T}, layout=LAST, **options)
    np.testing.assert_array_equal(first, turned)
    assert not np.array_equal(first, last)
    pads = np.pad(x, ((0, 0), (0, 50)), "reflect" if count > 50 else "wrap")
    np.testing.assert_array_equal(  # two names and two channels: nothing is open
        decoded("eeg", given | {"signal": pads}, **options), decoded("eeg", given | {"signal": pads.T}, **options)
    )


def test_a_layout_that_the_names_do_not_fit(tmp_path: Path) -> None:
    x = RNG.normal(size=(3, 90)) * 20
    options = EEG | {"source_channels": NAMES[:3]}
    same = decoded("eeg", x, layout=FIRST, **options)
    np.testing.assert_array_equal(same, decoded("eeg", x, **options))
    with refused("layout", (3, 90), LAST, error=BadSample):
        decoded("eeg", x, layout=LAST, **options)
    np.save(tmp_path / "a.npy", x[:, :3])
    with refused("layout", error=BadSample):
        decoded("eeg", str(tmp_path / "a.npy"), **options)
    # one channel needs no layout
    np.testing.assert_array_equal(
        decoded("eeg", x[0], source_channels=["Cz"], layout=LAST, **EEG),
        decoded("eeg", x[0], source_channels=["Cz"], **EEG),
    )


@pytest.mark.parametrize("shape", [(2, 2), (300, 300), (500, 700), (65, 66)])
def test_sounds_whose_channels_are_open(shape: tuple[int, int], tmp_path: Path) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    for raw in (x, x.tolist(), {"array": x, "sampling_rate": 16000}, str(tmp_path / "a.npy")):
        with refused("layout", FIRST, LAST, error=BadSample):
            decoded("audio", raw, features="waveform", patch=1)
    options: dict[str, Any] = {"features": "waveform", "patch": 1, "seconds": None, "source_rate": 16000.0}
    np.testing.assert_allclose(decoded("audio", x, layout=LAST, **options), x.mean(1), atol=1e-6)
    np.testing.assert_allclose(decoded("audio", x, layout=FIRST, **options), x.mean(0), atol=1e-6)


def test_sounds_whose_channels_are_clear() -> None:
    x = RNG.normal(size=(900, 2)).astype(np.float32)
    for raw in (x, x.T, x[:, :1], x[:, :1].T, x[:, 0]):
        wave = decoded("audio", raw, features="waveform", patch=1, source_rate=16000.0)
        np.testing.assert_allclose(wave, x.mean(1) if raw.ndim == 2 and 2 in raw.shape else x[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((3, 9, 3), 3), ((3, 9, 3), None), ((8, 8, 8), None), ((1, 8, 1), None), ((5, 9, 5), 3)]
    # RGBA or RGB, and a patch of 200 bands
    + [((4, 3, 3), None), ((3, 3, 4), None), ((9, 9, 200), None), ((200, 9, 9), None)],
)
def test_pictures_whose_channels_are_open(shape: tuple[int, int, int], channels: int | None, tmp_path: Path) -> None:
    x = RNG.integers(0, 256, shape).astype(np.uint8)
    np.save(tmp_path / "a.npy", x)
    for raw in (x, x.tolist(), str(tmp_path / "a.npy")):
        with refused("layout", FIRST, LAST, error=BadSample):
            decoded("image", raw, channels=channels)
    with refused("layout", error=BadSample):
        decoded("video", x[None], channels=channels)
    from mmssl.modality.pixels.decode import from_array

    np.testing.assert_array_equal(from_array(x, channels, LAST), x)
    np.testing.assert_array_equal(from_array(x, channels, FIRST), x.transpose(1, 2, 0))
    if channels in (None, shape[0]):
        assert decoded("video", x[None], layout=FIRST).shape == (1, 8, 8, shape[0])


@pytest.mark.parametrize(
    "shape",
    [(8, 8, 3), (3, 8, 8), (8, 8, 1), (1, 8, 8), (8, 8), (9, 4, 3), (3, 9, 4), (4, 4, 3), (13, 64, 64), (64, 60, 13)],
)
def test_pictures_whose_channels_are_clear(shape: tuple[int, ...]) -> None:
    x = RNG.integers(0, 256, shape).astype(np.uint8)
    assert decoded("image", x).shape[2] == (1 if len(shape) == 2 else min(shape[0], shape[-1]))


def test_a_picture_is_no_video() -> None:
    with refused((24, 32, 3), "a picture", error=BadSample):
        decoded("video", np.zeros((24, 32, 3), np.uint8))
    assert decoded("video", np.zeros((5, 24, 32), np.uint8)).shape[1:] == (8, 8, 1)


@pytest.mark.parametrize("edges", [[[0, 0], [1, 2]], [[0, 1], [2, 3]], [[0, 1], [2, 0]]])
def test_two_edges_between_open_ends(edges: list[list[int]], tmp_path: Path) -> None:
    raw = {"edge_index": edges, "num_nodes": 4}
    with refused("edge_index", (2, 2), "ends_first", "ends_last", error=BadSample):
        made("graph")._graph(raw)
    pairs = {
        layout: {(int(a), int(b)) for a, b in zip(graph.source, graph.target, strict=True)}
        for layout in ("ends_first", "ends_last")
        for graph in [made("graph", layout=layout, directed=True)._graph(raw)]
    }
    assert pairs["ends_last"] == {(a, b) for a, b in edges if a != b}
    assert pairs["ends_first"] == {(a, b) for a, b in zip(*edges, strict=True) if a != b}
    np.savez(tmp_path / "g.npz", edge_index=np.array(edges), num_nodes=4)
    with refused("edge_index", "layout", error=BadSample):
        made("graph")._graph({"path": str(tmp_path / "g.npz")})
    assert made("graph", layout="ends_last")._graph({"path": str(tmp_path / "g.npz")}).nodes == 4


def test_edges_whose_ends_are_clear() -> None:
    three = np.array([[0, 1, 2], [1, 2, 0]])
    for edges in (three, three.T, [[0], [1]], [[0, 1]], [[0, 1], [1, 0]], [[0, 1], [1, 2]], np.zeros((2, 0))):
        made("graph")._graph({"edge_index": edges, "num_nodes": 3})
    with refused("layout says ends_last", error=BadSample):
        made("graph", layout="ends_last")._graph({"edge_index": three, "num_nodes": 3})
    data = pytest.importorskip("torch_geometric.data", reason="torch_geometric is not installed")
    import torch

    graph = made("graph", directed=True)._graph(data.Data(edge_index=torch.tensor([[0, 0], [1, 2]]), num_nodes=3))
    assert graph.source.tolist() == [0, 0] and graph.target.tolist() == [1, 2]
