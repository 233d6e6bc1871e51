"""Text as tokens: any Hugging Face tokenizer, or one trained on the user's own corpus.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor"]

READS = "strings, or lists of strings of which one is picked"
NEEDS: dict[str, str] = {}
