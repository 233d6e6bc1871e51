"""`import mmssl` is enough for the Auto classes, in every order of the two packages; each order in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

KNOWN = """
import sys
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
cls = CONFIG_MAPPING["mmssl"]
assert type(AutoConfig.for_model("mmssl")) is cls is mmssl.MMSSLConfig  # brings the model, too
assert MODEL_MAPPING[cls] is mmssl.MMSSLModel and PROCESSOR_MAPPING[cls] is mmssl.MMSSLProcessor
assert not [f for f in sys.meta_path if type(f).__module__ == "mmssl.models.auto"], "the finder is still there"
"""

ORDERS = {
    "theirs first": "from transformers import AutoModel\nimport mmssl",
    "all of theirs first": "from transformers import AutoConfig, AutoModel, AutoProcessor\nimport mmssl",
    "ours first, and another process": """
import pickle, subprocess
import mmssl
from transformers import AutoModel
data = pickle.dumps(mmssl.MMSSLConfig(towers={}))
lines = "import pickle, sys; config = pickle.loads(sys.stdin.buffer.read()); from transformers import AutoModel"
lines += "; print(AutoModel._model_mapping[type(config)].__name__)"
done = subprocess.run([sys.executable, "-c", lines], input=data, capture_output=True)
assert done.stdout.strip() == b"MMSSLModel", done
""",
    "a part of ours first": """
import mmssl.models.trunk  # whose layer's module imports AutoModel
assert "transformers.models.auto.modeling_auto" in sys.modules and "mmssl.models.modeling_mmssl" not in sys.modules
""",
    "the config alone, then the processor": """
import transformers
import mmssl
assert "mmssl.models.configuration_mmssl" not in sys.modules
transformers.AutoConfig
assert "mmssl.models.configuration_mmssl" in sys.modules
transformers.AutoProcessor
""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_mmssl(order: str) -> None:
    run([sys.executable, "-c", "\n".join(["import sys", ORDERS[order], KNOWN])])


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
