"""`import mmssl` is enough for the Auto classes, in every order of the two packages; each order in a process that has
imported neither."""

from __future__ import annotations

import pytest
from toys import forking

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
    "ours first": """
import pickle
import mmssl
from transformers import AutoModel
print(pickle.dumps(mmssl.MMSSLConfig(towers={})).hex())
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


UNPICKLED = """
import pickle, sys
config = pickle.loads(bytes.fromhex(sys.stdin.read()))
from transformers import AutoModel
print(AutoModel._model_mapping[type(config)].__name__)
"""


EITHER = ("ours first", "theirs first")
"""The orders that people write; the others are imported in processes of their own by `make test-slow`."""


@pytest.mark.parametrize("order", [o if o in EITHER else pytest.param(o, marks=pytest.mark.slow) for o in ORDERS])
def test_auto_classes_know_mmssl(order: str) -> None:
    """And the processes that get a config from one that has imported both, without an import of ours."""
    lines = "\n".join(["import sys", ORDERS[order], KNOWN])
    said = forking.run(["-c", lines], level="torch", check=True).stdout
    assert bool(said) is (order == "ours first")
    if said:
        other = forking.run(["-c", UNPICKLED], level="torch", check=True, stdin=said.encode())
        assert other.stdout.strip() == "MMSSLModel", other
