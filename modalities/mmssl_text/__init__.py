"""Text as tokens: any Hugging Face tokenizer, or one trained on the user's own corpus. See README.md in this folder."""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["Config", "Modality", "Preprocessor"]
