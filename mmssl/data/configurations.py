"""Configurations of data on the Hub, or in a folder with a README.md."""

from __future__ import annotations

import re
import tempfile
from typing import Any

from mmssl.errors import NoConfiguration, nearest

from .uncounted import builder_for


def builder_of(path: str, name: str | None, what: str) -> Any:
    """The builder of a folder or Hub id. Raises UserError with the configurations when `name` is not one of them."""
    import datasets

    try:
        return builder_for(path, name=name)
    except ValueError as error:
        if "onfig name is missing" not in str(error) and not re.search(r"BuilderConfig .* not found", str(error)):
            raise
        known = datasets.get_dataset_config_names(path)
        said = "data.name is missing" if name is None else f"data.name: no configuration '{name}'"
        hint = nearest(name, known) if name else ""
        raise NoConfiguration(f"{said}; {what} has the configurations {', '.join(known)}{hint}", known) from error


def declared(path: str, name: str | None, builder: Any) -> bool:
    """Whether the features of the data are declared, and not what an earlier reading left in the cache."""
    if builder.info.features is None:
        return False
    with tempfile.TemporaryDirectory() as empty:
        return builder_for(path, name=name, cache_dir=empty).info.features is not None
