"""What modality packages share: the loop over broken samples, views, one linear map, options under postponed types."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn

from mmssl.errors import BadSample, UserError
from mmssl.modality import Preprocessor, load_modality, view_kinds, with_present
from mmssl.modality.faults import view_faults
from mmssl.modality.linear import LinearPatches
from mmssl.modality.raw import as_array, is_blank, load_npy, unwrap
from mmssl.modality.view import View, check_bounds, check_rows
from mmssl.objectives.pretraining import Pretraining
from mmssl.options import option, strict
from mmssl.recipe.loading import load_recipe
from tests.toys import samples as samples_of

OURS = ("audio", "ecg", "eeg", "graph", "image", "tabular", "text", "video")


class Numbers(Preprocessor[float]):
    noun = "a number"

    def read(self, raw, choice=0):
        if raw == "lost":
            raise FileNotFoundError("no such file")
        if raw == "blank":
            return None
        try:
            return float(raw)
        except ValueError as error:
            raise BadSample(f"found {raw!r}") from error


# ------------------------------------------------------------------------------------------------------------ reading


def test_fit_sees_neither_absent_nor_broken_samples() -> None:
    found = Numbers(None).readable(["1", None, "x", "lost", "blank", "2"])
    assert list(found) == [1.0, 2.0]


def test_none_that_can_be_read_says_how_many_and_the_first_reason() -> None:
    with pytest.raises(UserError) as caught:
        list(Numbers(None).readable(["x", None, "lost"]))
    assert str(caught.value) == "none of 3 samples could be read as a number: found 'x'"


def test_users_mistakes_are_not_broken_samples() -> None:
    def refuse(raw: object) -> float:
        raise UserError("the column is wrong")

    with pytest.raises(UserError, match="the column is wrong"):
        list(Numbers(None).readable(["1"], refuse))


def test_fit_may_stop_early() -> None:
    found = Numbers(None).readable(iter(["1", "x"]))
    assert next(found) == 1.0
    found.close()


@pytest.mark.parametrize("name", OURS)
def test_every_package_goes_through_that_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = load_modality(name)
    seen = []
    whole = Preprocessor.readable

    def watched(self, samples, *decode):
        seen.append(type(self).__module__)
        return whole(self, samples, *decode)

    monkeypatch.setattr(Preprocessor, "readable", watched)
    options = samples_of.TINY[name]
    package.Preprocessor(package.Config(**options)).fit(samples_of.made(name))
    assert seen == [f"mmssl_{name}.preprocessor"]


@pytest.mark.parametrize("name", OURS)
def test_who_was_not_fitted_says_so(name: str) -> None:
    package = load_modality(name)
    with pytest.raises(UserError, match=r"not fitted: call fit|no tokenizer yet: call fit"):
        package.Preprocessor(package.Config()).sizes()


def test_present_is_left_out_where_all_are() -> None:
    inputs = {"x": torch.zeros(2)}
    assert with_present(inputs, [1, 2]) is inputs
    assert with_present(inputs, [None, 0])["present"].tolist() == [False, True]


# ---------------------------------------------------------------------------------------------------------- raw values


def test_structs_give_their_bytes_or_else_their_path() -> None:
    assert unwrap({"bytes": b"x", "path": "p"}, "an image") == b"x"
    assert unwrap({"bytes": None, "path": "p"}, "an image") == "p"
    with pytest.raises(UserError, match="an image is read from .* of bytes and path or of frames; found 'pixels'"):
        unwrap({"pixels": 1}, "an image", "frames")


def test_blank_is_absent() -> None:
    assert is_blank(None) and is_blank("  ") and not is_blank("a") and not is_blank(0)


def test_tensors_and_lists_become_arrays() -> None:
    half = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
    np.testing.assert_array_equal(as_array(half, "sound"), np.array([0.5, 2.0], np.float32))
    np.testing.assert_array_equal(as_array(torch.tensor([0, 3]).to_sparse(), "sound"), [0, 3])
    with pytest.raises(BadSample, match="no sound"):
        as_array([[1], [1, 2]], "sound")


def test_npy_is_read_from_bytes_and_files_and_never_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    np.testing.assert_array_equal(load_npy(file.getvalue()), [0, 1, 2])
    np.testing.assert_array_equal(load_npy(io.BytesIO(file.getvalue())), [0, 1, 2])
    with pytest.raises(BadSample, match="npy"):
        load_npy(file.getvalue()[:-4])
    evil = io.BytesIO()
    np.save(evil, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadSample, match="npy"):
        load_npy(evil.getvalue())


# --------------------------------------------------------------------------------------------------------------- views


@strict
@dataclasses.dataclass(kw_only=True)
class Shake(View):
    size: list[float] = option(factory=lambda: [0.0, 1.0])
    chance: float = option(0.0, min=0, max=1)

    def __post_init__(self) -> None:
        check_bounds(self, "size")


def test_a_view_lists_builds_and_refuses_its_options() -> None:
    assert Shake.names() == ("size", "chance")
    assert Shake.build({"chance": 0.5}) == Shake(chance=0.5)
    for spec, line in (
        ({"chanse": 0.5}, "view.chanse: found an unknown key, expected one of size, chance; did you mean 'chance'?"),
        ({"chance": 2}, "view.chance: found 2, expected >= 0 and <= 1"),
        ({"size": [2.0, 1.0]}, r"view: size: found [2.0, 1.0], expected [lowest, highest]"),
        ({"size": [1.0]}, r"view: size: found [1.0], expected [lowest, highest]"),
    ):
        with pytest.raises(UserError) as caught:
            Shake.build(spec)
        assert str(caught.value) == line


def test_draws_for_another_batch_are_refused() -> None:
    check_rows(3, 3)
    with pytest.raises(ValueError, match="draws are for 2 samples, the batch has 3"):
        check_rows(2, 3)


@pytest.mark.parametrize(
    "options", [{"flp": 0.5}, {"corrupt": {"share": 3}}, {"corrupt": {}, "flip": 0.5}, {"corrupt": {"view": "lost"}}]
)
def test_recipe_and_model_refuse_a_view_in_the_same_words(options: dict) -> None:
    views = {"a": {"image": options}}
    lines = view_faults(view_kinds("image"), views, "a", "image")
    assert lines and all(line.startswith("views.a.image.") for line in lines)
    with pytest.raises(UserError) as from_recipe:
        load_recipe("examples/image_mae", {"views": views})
    assert str(from_recipe.value).splitlines() == lines
    model = nn.Module()
    model.modality = lambda name: load_modality("image").Modality  # type: ignore[assignment]
    work = Pretraining.__new__(Pretraining)
    nn.Module.__init__(work)
    work.model, work.views = model, views
    with pytest.raises(UserError) as from_model:
        work._check_views()
    assert str(from_model.value).splitlines() == lines


def test_a_modality_without_views_says_so() -> None:
    still = ((), False)
    assert view_faults(still, {"a": {"x": {"flip": 1}}}, "a", "x") == [
        "views.a.x.flip: found an unknown key, expected none: modality 'x' has no augmented views"
    ]
    assert view_faults(still, {"a": {"x": {"corrupt": {}}}}, "a", "x") == [
        "views.a.x.corrupt: this modality has no corrupted views"
    ]


# ------------------------------------------------------------------------------------------------------ one linear map


class Rows(LinearPatches):
    """Patches of three numbers."""

    numbers = 3

    def __init__(self, width: int) -> None:
        super().__init__()
        self.make_tokens(width)

    def positions(self, width: int) -> nn.Module:
        return nn.Linear(1, width)


def test_weights_start_from_the_same_random_numbers_in_the_same_order() -> None:
    torch.manual_seed(5)
    made = Rows(4)
    torch.manual_seed(5)
    proj, token = nn.Linear(3, 4), torch.empty(4).normal_(std=0.02)
    position = nn.Linear(1, 4)
    assert [name for name, _ in made.named_parameters()][:3] == ["proj.weight", "proj.bias", "mask.token"]
    assert torch.equal(made.proj.weight, proj.weight) and torch.equal(made.mask.token, token)
    assert torch.equal(made.position.weight, position.weight)


@pytest.mark.parametrize("name", ["image", "video", "audio", "eeg", "ecg"])
def test_these_modalities_are_one_linear_map(name: str) -> None:
    modality = load_modality(name).Modality
    assert issubclass(modality, LinearPatches)
    assert modality.embed is LinearPatches.embed and modality.score is LinearPatches.score


# ----------------------------------------------------------------------------------------------------- strict options


def _declared() -> list[type]:
    packages = [load_modality(name) for name in OURS]
    return [cls for package in packages for cls in (package.Config, getattr(package, "View", None)) if cls is not None]


def test_every_option_of_every_package_refuses_another_type() -> None:
    """`from __future__ import annotations` makes types strings, which huggingface_hub's own @strict skips."""
    declared = _declared()
    assert {cls.__module__.partition(".")[0] for cls in declared} >= {f"mmssl_{name}" for name in OURS}
    let_through = []
    for cls in declared:
        for field in dataclasses.fields(cls):
            try:
                cls(**{field.name: object()})
            except StrictDataclassFieldValidationError:
                continue
            let_through.append(f"{cls.__module__}.{cls.__name__}.{field.name}")
    assert not let_through
