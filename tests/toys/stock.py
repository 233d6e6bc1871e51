"""Stock models with random weights, saved as their own classes do: what towers start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, PreTrainedTokenizerFast, ViTConfig, ViTModel

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = "a the handwritten digit number figure image of zero one two three four five six seven eight nine".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = len(SPECIAL) + len(WORDS)
END = VOCABULARY - 1  # of CLIP: the largest id, where open_clip pools


def tokenizer(folder: Path) -> None:
    """A word-level tokenizer that puts [CLS] in front and [SEP] behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([*SPECIAL[:3], *WORDS, SPECIAL[3]])}
    assert vocabulary["[SEP]"] == END
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", END)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def vit(folder: Path, channels: int = 1) -> ViTModel:
    model = ViTModel(ViTConfig(hidden_size=16, image_size=8, patch_size=4, num_channels=channels, **LAYERS))
    model.save_pretrained(folder)
    return model.eval()


def bert(folder: Path) -> BertModel:
    model = BertModel(BertConfig(vocab_size=VOCABULARY, hidden_size=16, max_position_embeddings=16, **LAYERS))
    model.save_pretrained(folder)
    tokenizer(folder)
    return model.eval()


def clip(folder: Path) -> CLIPModel:
    ids = {"eos_token_id": END, "bos_token_id": 2, "pad_token_id": 0}
    text = {"vocab_size": VOCABULARY, "hidden_size": 16, "max_position_embeddings": 16, **LAYERS, **ids}
    vision = {"hidden_size": 24, "image_size": 8, "patch_size": 4, "num_channels": 1, **LAYERS}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    model.save_pretrained(folder)
    tokenizer(folder)
    return model.eval()


def open_clip(folder: Path, **text: Any) -> Any:
    from open_clip import CustomTextCLIP

    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 16, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2, **text},
    }
    model = CustomTextCLIP(**config).eval()
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tokenizer(folder)
    return model
