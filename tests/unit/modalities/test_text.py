"""The text modality: tokenizers of both kinds, padding, patches, targets, word dropout."""

from __future__ import annotations

import ast
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toys.refusals import refused

import mmssl_image
import mmssl_text
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl_text.tokenizers import LONGEST_SENTENCE, SentencePiece, _sentences

CORPUS = [
    f"a {size} {colour} {thing}"
    for size in ("small", "large", "tiny")
    for colour in ("red", "green", "blue")
    for thing in ("cat", "house", "tree", "river")
]


def fitted(samples: list[Any] = CORPUS, **options: Any) -> mmssl_text.Preprocessor:  # type: ignore[assignment]
    return mmssl_text.Preprocessor(mmssl_text.Config(**options)).fit(samples)


def reloaded(preprocessor: mmssl_text.Preprocessor, folder: Path) -> mmssl_text.Preprocessor:
    """Saved and read back as the processor does it; asserts that exactly the announced files were written."""
    preprocessor.save_files(folder)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == preprocessor.files()
    other = mmssl_text.Preprocessor(preprocessor.config)
    other.state = preprocessor.state
    other.load_files(folder)
    return other


def decoded(preprocessor: mmssl_text.Preprocessor, ids: list[int]) -> str:
    return preprocessor.tokenizer.processor.decode(ids)  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def bert(tmp_path: Path) -> Callable[[], str]:
    """A folder with a small WordPiece tokenizer that has CLS, SEP and PAD, as BERT's."""

    def make() -> str:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "house", "##s", "red", "."]
        tokenizer = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        folder = tmp_path / "bert"
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(folder)
        return str(folder)

    return make


# ----------------------------------------------------------------------------------------------- trained tokenizers


def test_training_on_real_prose(shared_data: Path) -> None:
    text = (shared_data / "prose_republic" / "train.txt").read_text()[:200_000]
    paragraphs = [p for p in text.split("\n\n") if p.strip()]
    p = fitted(paragraphs, vocab_size=800, max_length=400)
    assert p.sizes()["vocab_size"] == 800 and p.tokenizer.pad == 0
    held_out = (shared_data / "prose_republic" / "test.txt").read_text().split("\n\n")[5:15]
    for paragraph in held_out:
        tokens = p.read(paragraph)
        if tokens is not None and len(tokens.ids) < 400:
            assert decoded(p, tokens.ids) == " ".join(paragraph.split())
            assert tokens.words[-1] + 1 == len(paragraph.split())  # a word is what white space divides
    unknown = p.read("Ελληνικά 🦉")  # not one letter of it in the corpus: bytes, never `unk`
    assert unknown is not None and 1 not in unknown.ids and decoded(p, unknown.ids) == "Ελληνικά 🦉"


@pytest.mark.parametrize("kind", ["unigram", "bpe", "word", "char"])
def test_tiny_corpora_of_every_kind(kind: str) -> None:
    for corpus in (["a"], ["one two", "two three"], CORPUS):
        p = fitted(corpus, model_type=kind)
        assert 257 < p.sizes()["vocab_size"] < 4000
        tokens = p.read(corpus[-1])
        assert tokens is not None and decoded(p, tokens.ids) == corpus[-1]
        assert all(0 < i < p.sizes()["vocab_size"] for i in tokens.ids)


def test_training_is_deterministic_and_long_lines_count() -> None:
    a, b = (fitted(CORPUS, vocab_size=300).tokenizer.processor.serialized_model_proto() for _ in range(2))  # type: ignore[attr-defined]
    assert a == b
    word = "incomprehensibilities"
    line = " ".join([word] * 3000)  # 66,000 bytes: as one sentence the trainer would skip it
    pieces = list(_sentences([line, "", " \n two\nlines "]))
    assert max(len(piece.encode()) for piece in pieces) <= LONGEST_SENTENCE and pieces[-2:] == ["two", "lines"]
    assert " ".join(pieces[:-2]) == line
    tokens = fitted([line], model_type="word").read(word)
    assert tokens is not None and len(tokens.ids) == 1


def test_too_small_a_vocabulary_is_the_users_fault() -> None:
    characters = ["".join(chr(0x4E00 + n) for n in range(first, first + 30)) for first in range(0, 300, 3)]
    with pytest.raises(UserError, match=r"vocab_size: found 260, this corpus needs at least \d+"):
        fitted(characters, vocab_size=260)
    assert 550 < fitted(characters).sizes()["vocab_size"] <= 4000, "the size follows the corpus where nobody says it"
    many = ["".join(chr(0x4E00 + n) for n in range(first, first + 100)) for first in range(0, 5000, 50)]
    assert fitted(many).sizes()["vocab_size"] > 5000 + 256
    with pytest.raises(Exception, match="vocab_size"):
        mmssl_text.Config(vocab_size=100)
    with pytest.raises(UserError, match="no tokenizer yet"):
        mmssl_text.Preprocessor(mmssl_text.Config()).sizes()
    with pytest.raises(UserError, match="no sample has any text"):
        fitted([None, "", "  ", 5, [None]])


def test_saved_and_loaded_trained_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    p = fitted(lowercase=True)
    other = reloaded(p, tmp_path)
    texts = ["A small RED cat", "unseen wörds", "tree"]
    first, second = p(texts), other(texts)
    assert set(first) == {"input_ids", "attention_mask", "word_ids"} == set(second)
    assert all(torch.equal(first[k], second[k]) for k in first) and p.sizes() == other.sizes()
    clone = pickle.loads(pickle.dumps(p))  # as a worker process gets it
    assert torch.equal(clone(texts)["input_ids"], first["input_ids"])
    (tmp_path / "spiece.model").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"spiece\.model: not a readable SentencePiece model"):
        reloaded_from = mmssl_text.Preprocessor(p.config)
        reloaded_from.load_files(tmp_path)


# --------------------------------------------------------------------------------------------- pretrained tokenizers


def test_pretrained_tokenizer_with_special_tokens(bert: Callable[[], str], tmp_path: Path) -> None:
    p = fitted([], tokenizer=bert(), special_tokens=True, max_length=6)
    inputs = p(["a red cats", "a"])
    assert inputs["input_ids"].tolist() == [[2, 5, 9, 6, 8, 3], [2, 5, 3, 0, 0, 0]]
    assert inputs["word_ids"].tolist() == [[-1, 0, 1, 2, 2, -1], [-1, 0, -1, 0, 0, 0]]
    assert inputs["special_tokens_mask"].tolist() == [[1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0]]
    assert p.sizes()["vocab_size"] == 11
    assert p(["a red cat house red ."])["input_ids"].tolist() == [[2, 5, 9, 6, 7, 3]]  # SEP survives the cut
    patches = mmssl_text.Modality(8, **p.sizes()).patchify(inputs)
    assert patches.fixed is not None
    assert patches.fixed.tolist() == [[True, *[False] * 4, True], [True, False, True, *[False] * 3]]
    other = reloaded(p, tmp_path / "saved")
    assert torch.equal(other(["a red cats", "a"])["input_ids"], inputs["input_ids"])


def test_pretrained_tokenizer_without_special_tokens(bert: Callable[[], str]) -> None:
    p = mmssl_text.Preprocessor(mmssl_text.Config(tokenizer=bert()))  # needs no fit
    assert p.files() and p(["red cats"])["input_ids"].tolist() == [[9, 6, 8, 0, 0, 0, 0, 0]]
    with pytest.raises(BadSample, match="no tokens"):
        p.read("\x00\x01")


def test_a_loaded_tokenizer_does_not_need_its_origin(bert: Callable[[], str], tmp_path: Path) -> None:
    p = fitted([], tokenizer=bert())
    saved = tmp_path / "saved"
    saved.mkdir()
    p.save_files(saved)
    Path(str(p.config.tokenizer)).rename(tmp_path / "gone")
    other = mmssl_text.Preprocessor(p.config)
    other.state = p.state
    other.load_files(saved)
    assert torch.equal(other(["red cats"])["input_ids"], p(["red cats"])["input_ids"])


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer: '.*empty' could not be loaded"):
        (tmp_path / "empty").mkdir()
        fitted([], tokenizer=str(tmp_path / "empty"))


# ------------------------------------------------------------------------------------------------- reading, padding


def test_read_picks_among_captions_and_skips_blank_ones() -> None:
    p = fitted()

    def text_of(raw: Any, choice: int) -> str:
        tokens = p.read(raw, choice)
        assert tokens is not None
        return decoded(p, tokens.ids)

    captions = ["red cat", "", "blue tree", None, "green house"]
    assert [text_of(captions, c) for c in range(4)] == ["red cat", "blue tree", "green house", "red cat"]
    assert text_of({"first": "red cat", "second": ["tree", None]}, 1) == "tree"
    for absent in (None, "", " \n\t", [], [None, " "]):
        assert p.read(absent) is None
    for broken in (5, b"bytes", ["red", 7], 1.5):
        with pytest.raises(BadSample, match="expected text"):
            p.read(broken)
    with refused("Unicode", error=BadSample):
        p.read("half a \ud800 surrogate")


def test_padding_and_absent_rows() -> None:
    p = fitted(max_length=20)
    short, long = "red cat", " ".join(CORPUS[:9])
    a = p([short, None, ""])
    assert a["input_ids"].shape == (3, 8) and a["present"].tolist() == [True, False, False]
    assert a["attention_mask"][1:].sum() == 0 and (a["input_ids"][1:] == 0).all()
    n = int(a["attention_mask"][0].sum())
    assert (a["input_ids"][0, n:] == 0).all() and (a["input_ids"][0, :n] > 0).all()
    b = p([short, long])
    assert b["input_ids"].shape == (2, 20) and "present" not in b and b["attention_mask"][1].all()
    assert torch.equal(b["input_ids"][0, :8], a["input_ids"][0])
    assert p([None])["input_ids"].shape == (1, 8)
    assert all(t.dtype == torch.int64 for t in b.values())


# -------------------------------------------------------------------------------------------------- patches, targets


def tokens_of(ids: list[list[int]], **more: Any) -> dict[str, torch.Tensor]:
    x = torch.tensor(ids)
    return {"input_ids": x, "attention_mask": (x > 0).long()} | {k: torch.tensor(v) for k, v in more.items()}


def test_patches_by_hand() -> None:
    m = mmssl_text.Modality(8, 10, 16)
    inputs = tokens_of([[4, 5, 6, 0], [7, 8, 9, 3]], word_ids=[[0, 0, 1, 0], [0, 1, 2, 2]], present=[True, False])
    patches = m.patchify(inputs)
    assert patches.values is inputs["input_ids"] and not patches.full and patches.fixed is None
    assert patches.coords.tolist() == [[[0, 0], [1, 0], [2, 1], [3, 0]], [[0, 0], [1, 1], [2, 2], [3, 2]]]
    assert patches.valid.tolist() == [[True, True, True, False], [False] * 4]
    back = m.unpatchify(patches.values, inputs)
    assert set(back) == set(inputs) and all(torch.equal(back[k], inputs[k]) for k in inputs)
    alone = m.patchify({"input_ids": inputs["input_ids"]})
    assert alone.valid.all() and alone.coords[0].tolist() == [[n, n] for n in range(4)]


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_hidden_tokens_lose_content_and_keep_position(positions: str) -> None:
    m = mmssl_text.Modality(8, 10, 16, positions=positions)
    hidden = torch.tensor([[False, True, False, True]])
    x = m.embed(m.patchify(tokens_of([[4, 5, 6, 7]])), hidden)
    y = m.embed(m.patchify(tokens_of([[4, 8, 6, 9]])), hidden)
    assert torch.equal(x, y) and not torch.allclose(x[0, 1], x[0, 3])
    z = m.embed(m.patchify(tokens_of([[4, 8, 6, 9]])))
    assert torch.equal(x[~hidden], z[~hidden]) and not torch.isclose(x[hidden], z[hidden]).all(-1).any()


def test_position_depends_on_the_token_number_alone() -> None:
    m = mmssl_text.Modality(8, 10, 16)
    a = m.embed(m.patchify(tokens_of([[4, 5, 6]], word_ids=[[0, 0, 1]])))
    b = m.embed(m.patchify(tokens_of([[4, 5, 6]], word_ids=[[0, 1, 2]])))
    assert torch.equal(a, b)
    steps = torch.arange(3.0)[:, None] * 10000 ** -(torch.arange(4.0) / 4)
    expected = m.table.weight[[4, 5, 6]] * 8**0.5 + torch.cat([steps.sin(), steps.cos()], 1)
    torch.testing.assert_close(a[0], expected)
    half = m.to(torch.bfloat16)
    assert half.embed(half.patchify(tokens_of([[4, 5, 6]]))).dtype == torch.bfloat16
    with pytest.raises(UserError, match="learned positions end at 3"):
        longer = mmssl_text.Modality(8, 10, 4, positions="learned")
        longer.embed(longer.patchify(tokens_of([[1, 2, 3, 4, 5]])))


def test_score_is_the_cross_entropy_of_each_token() -> None:
    m = mmssl_text.Modality(8, 10, 16)
    inputs = tokens_of([[4, 5, 6], [7, 8, 9]])
    patches = m.patchify(inputs)
    pred = torch.randn(2, 3, m.pred_width())
    score = m.score(pred, m.target(inputs, patches), patches)
    expected = -F.log_softmax(pred.double(), -1).gather(2, inputs["input_ids"][..., None])[..., 0]
    torch.testing.assert_close(score.double(), expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(UserError, match="target 'words' is not one of ids"):
        m.target(inputs, patches, "words")


def test_raw_features_count_ordinary_tokens() -> None:
    m = mmssl_text.Modality(8, 10, 16)
    inputs = tokens_of([[2, 5, 5, 3], [2, 7, 3, 0]], special_tokens_mask=[[1, 0, 0, 1], [1, 0, 1, 0]])
    expected = torch.zeros(2, 10)
    expected[0, 5], expected[1, 7] = torch.tensor(3.0).log(), torch.tensor(2.0).log()
    torch.testing.assert_close(m.raw_features(inputs), expected)
    absent = m.raw_features(inputs | {"present": torch.tensor([True, False])})
    assert torch.equal(absent[0], m.raw_features(inputs)[0]) and (absent[1] == 0).all()


# ----------------------------------------------------------------------------------------------------- word dropout


def test_word_dropout_drops_whole_words_per_sample() -> None:
    m = mmssl_text.Modality(8, 100, 64)
    ids = torch.arange(1, 41).expand(200, 40).clone()
    words = (torch.arange(40) // 2).expand(200, 40)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "word_ids": words}
    whole = m.augment(inputs, Draws(5, 200), drop=0.3)["attention_mask"]
    assert torch.equal(whole[:, 0::2], whole[:, 1::2]) and abs(float(whole.float().mean()) - 0.7) < 0.02
    part = m.augment({k: v[50:90] for k, v in inputs.items()}, Draws(5, 40, 50, 200), drop=0.3)["attention_mask"]
    assert torch.equal(part, whole[50:90])
    padded = {k: F.pad(v, (0, 8)) for k, v in inputs.items()}
    assert torch.equal(m.augment(padded, Draws(5, 200), drop=0.3)["attention_mask"], F.pad(whole, (0, 8)))
    assert m.augment(inputs, Draws(5, 200))["attention_mask"].all() and inputs["attention_mask"].all()


def test_word_dropout_leaves_special_tokens_and_one_word() -> None:
    m = mmssl_text.Modality(8, 100, 64)
    inputs = tokens_of(
        [[2, 5, 6, 3]] * 50 + [[0] * 4], word_ids=[[-1, 0, 1, -1]] * 51, special_tokens_mask=[[1, 0, 0, 1]] * 51
    )
    mask = m.augment(inputs, Draws(5, 51), drop=0.99)["attention_mask"]
    assert mask[:50, [0, 3]].all() and (mask[:50, 1:3].sum(1) >= 1).all() and (mask[:50, 1:3].sum(1) == 1).any()
    assert mask[50].sum() == 0  # an absent text stays absent


@pytest.mark.parametrize("spec", [{"dorp": 0.1}, {"drop": 1.0}, {"drop": -0.1}, {"drop": "x"}, {"drop": True}])
def test_wrong_views_are_refused(spec: dict[str, Any]) -> None:
    with refused("drop"):
        mmssl_text.Modality(8, 10, 16).augment(tokens_of([[1, 2]]), Draws(0, 1), **spec)


def test_importing_the_packages_needs_torch_and_mmssl_alone() -> None:
    allowed = {"torch", "numpy", "mmssl", *sys.stdlib_module_names}
    for package in (mmssl_text, mmssl_image):
        for file in Path(str(package.__file__)).parent.glob("*.py"):
            for node in ast.parse(file.read_text()).body:  # at the top level: what an import runs
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [str(node.module)]
                assert {n.split(".")[0] for n in names} <= allowed, f"{file.name}: {names}"


def test_sentencepiece_missing_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with refused("pip install sentencepiece"):
        SentencePiece.train(["a"], 300, "unigram")
