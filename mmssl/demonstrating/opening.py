"""`mmssl demo`: the engine opened, and its page served."""

from __future__ import annotations

from pathlib import Path

from .engine import open_engine
from .options import DemoConfig
from .serving import LOOPBACK, PORT, Page, check_installed, listening, serve


def demo_as(
    model: str | Path, asked: DemoConfig, base: str | None = None, host: str = LOOPBACK[0], port: int = PORT
) -> Page:
    """The page, being served. What is wrong with the address, or not installed, is said before the model is opened.

    Raises:
        UserError: as `open_engine` and `Page` do.
        RunError: embeddings cannot be written.
    """
    check_installed()
    listening(host, port).close()
    return serve(open_engine(model, asked, base), host, port)
