"""Makes `AutoConfig`, `AutoModel` and `AutoProcessor` know mmssl's classes, without importing transformers for it.

Each of the three classes of mmssl registers itself where it is defined. What is left is to import them in time:
transformers loads every Auto class's module only when it is asked for, and `watch`, which `import mmssl` calls, puts
a finder before Python's own that imports mmssl's class right behind it. Where the Auto class is there already, mmssl's
is imported at once. So it makes no difference which of the two packages is imported first, and `import mmssl` alone
costs nothing. A finder that has nothing left to watch for takes itself away.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OURS = {
    "transformers.models.auto.configuration_auto": "mmssl.models.configuration_mmssl",
    "transformers.models.auto.processing_auto": "mmssl.models.processing_mmssl",
}
"""Module of an Auto class -> the module of mmssl that registers with it.

`AutoModel` is not among them: transformers imports its module while our towers, which stand on transformers' layers,
are half imported themselves. It asks for a model by its configuration, so that `MMSSLConfig` brings the model along.
"""


class _Behind(MetaPathFinder):
    """Finds the modules in `OURS` as Python does, and imports mmssl's right after them."""

    def __init__(self, waiting: Sequence[str]) -> None:
        self.waiting = set(waiting)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        self.waiting.discard(fullname)  # before looking: the finders that are asked now include this one
        if not self.waiting:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_both(module: ModuleType) -> None:
            run(module)
            importlib.import_module(OURS[fullname])  # where that is what imports this one, it registers at its end

        spec.loader.exec_module = run_both  # type: ignore[method-assign]
        return spec


def bring_model() -> None:
    """Import `MMSSLModel` and what stands for heads, which register themselves; `MMSSLConfig` calls it when there is
    one to be built."""
    importlib.import_module("mmssl.models.head_elsewhere")


def watch() -> None:
    """Import mmssl's classes as soon as their Auto classes are there."""
    if waiting := [name for name in OURS if name not in sys.modules]:
        sys.meta_path.insert(0, _Behind(waiting))
    for name, ours in OURS.items():
        if name in sys.modules:
            importlib.import_module(ours)
