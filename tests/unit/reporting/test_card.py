"""The card's pictures: what they show, and what they keep to themselves unless somebody asks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmssl.hub.card import Facts, card_text
from mmssl.hub.contents import may_hold
from mmssl.hub.picture import MAP
from mmssl.modality.shown import Curves, Frames, Shown, Words
from mmssl.recipe.loading import load_recipe
from mmssl.reporting.card import draw_pictures
from mmssl.reporting.embedding import Colouring, Plane
from mmssl.reporting.looking import Made, Seen

ROWS = 6
ALL = {MAP, "samples-1.png", "samples-2.png"}


def seen_of(bright: float = 0.2, names: tuple[str, str] = ("a", "b")) -> Seen:
    """Two modalities with a map, three of which something was hidden."""
    seen = Seen(list(range(ROWS)), f"{ROWS} rows")
    for name in ("image", "ecg"):
        seen.planes[name] = [Plane("PCA: 50%", [(row / ROWS, row * row / ROWS**2) for row in range(ROWS)])]
        seen.there[name] = list(range(ROWS))
    seen.colourings = [Colouring("kind", list(names), [0, 1, -1] * 2, [])]
    pixels, flags = np.full((1, 8, 8, 1), bright, np.float32), np.zeros((1, 8, 8), bool)
    flags[:, :4] = True
    wave = np.sin(np.arange(50, dtype=np.float32))[None].repeat(2, 0)
    shown: dict[str, Shown] = {
        "text": Words(["secret"], [True]),
        "image": Frames(pixels, flags),
        "ecg": Curves(wave, ["I", "II"], 0.1, wave > 0),
    }
    seen.made = {("mae", name): [Made(row, one, one) for row in range(3)] for name, one in shown.items()}
    return seen


def test_by_itself_it_shows_a_map_that_names_nothing(tmp_path: Path) -> None:
    found = draw_pictures(seen_of(), tmp_path, "kind", samples=False)
    assert found == {MAP: "Embeddings of 6 rows, each a point, coloured by `kind`."}
    assert [path.name for path in tmp_path.iterdir()] == [MAP]
    was = (tmp_path / MAP).read_bytes()
    draw_pictures(seen_of(bright=0.9, names=("c", "someone")), tmp_path, "kind", samples=False)
    assert (tmp_path / MAP).read_bytes() == was, "no sample and no name of a class is in it"
    assert len(was) < 150_000 and Image.open(io.BytesIO(was)).size[0] > 500
    draw_pictures(seen_of(), tmp_path, None, samples=False)
    assert (tmp_path / MAP).read_bytes() != was, "no colours"


def test_samples_where_asked_and_gone_where_not_any_more(tmp_path: Path) -> None:
    found = draw_pictures(seen_of(), tmp_path, "kind", samples=True)
    assert set(found) == {path.name for path in tmp_path.iterdir()} == ALL, "words are not drawn"
    assert "`mae` hid of image" in found["samples-1.png"] and "of ecg" in found["samples-2.png"]
    was = {name: (tmp_path / name).read_bytes() for name in ALL}
    draw_pictures(seen_of(0.9, ("c", "d")), tmp_path, "kind", samples=True)
    assert {name for name in ALL if (tmp_path / name).read_bytes() != was[name]} == {MAP, "samples-1.png"}
    draw_pictures(seen_of(), tmp_path, "kind", samples=False)
    assert [path.name for path in tmp_path.iterdir()] == [MAP]


def test_what_was_not_predicted_is_not_said(tmp_path: Path) -> None:
    seen = seen_of()
    seen.made["mae", "image"] = [Made(one.row, one.was, None) for one in seen.made["mae", "image"]]
    assert "predicted" not in draw_pictures(seen, tmp_path, None, samples=True)["samples-1.png"]
    assert draw_pictures(Seen([], "nothing"), tmp_path, None, samples=True) == {} and not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["kind", "[x](y)`"])
def test_the_card_shows_them_and_a_push_takes_them(tmp_path: Path, label: str) -> None:
    seen = seen_of()
    seen.colourings[0] = Colouring(label, ["a", "b"], [0, 1, -1] * 2, [])
    facts = Facts(pictures=draw_pictures(seen, tmp_path, label, samples=True))
    text = card_text(load_recipe("quickstart"), None, facts)
    (tmp_path / "README.md").write_text(text)
    assert f"coloured by `{label}`." in text and "![What mae hid of image, and what was" in text
    assert all(may_hold(tmp_path, name) for name in ALL) and not may_hold(tmp_path, "other.png")
