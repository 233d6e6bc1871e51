"""Builders of `datasets`, which tell nobody that somebody reads files of this machine."""

from __future__ import annotations

from typing import Any


def builder_for(path: str, **options: Any) -> Any:
    """`datasets.load_dataset_builder` without the request to a server of its maker's by which it counts loads.

    It is sent for local files, too, and a network that drops it holds every opening up for seconds.
    """
    import datasets

    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        return datasets.load_dataset_builder(path, **options)
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = before
