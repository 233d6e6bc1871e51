"""The page on this machine: it listens on the loopback, asks nobody anything, and has the browser ask nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RunError, UserError, one_line
from ..modality import installed
from ..saying import doing, say

if TYPE_CHECKING:
    from .engine import Engine

LOOPBACK = ("127.0.0.1", "localhost")
PORT = 7860
LARGEST_UPLOAD = "200mb"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; form-action 'self'; base-uri 'self'"
)
"""What a browser may load: what the page holds or this server gives. Gradio's frontend evaluates its templates."""
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Settings of the environment under which Gradio tells nobody anything, and keeps nothing."""


def check_installed() -> None:
    """UserError where what draws or serves the page is not there."""
    for name in ("gradio", "uvicorn", "matplotlib"):
        if not installed(name):
            raise UserError(f"demo: {name} is not installed: pip install 'mmssl[demo]'")


class Page:
    """A page that is being served; `with ...:` closes it at the end.

    Attributes:
        url: where it is.
        engine: what answers.
    """

    def __init__(self, engine: Engine, host: str, port: int) -> None:
        """Serve it. UserError where the port is taken, or the address is none of this machine's."""
        self.engine = engine
        self._socket = listening(host, port)
        self._over = contextlib.ExitStack()
        self._over.callback(self._socket.close)
        try:
            self._over.enter_context(_quiet())
            self._serve(host)
        except BaseException:
            self._over.close()
            raise
        found = self._socket.getsockname()[1]
        self.url = f"http://{'[' + host + ']' if ':' in host else host}:{found}"

    def _serve(self, host: str) -> None:
        import uvicorn

        config = uvicorn.Config(
            application(self.engine, host), log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="mmssl-demo", daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RunError("demo: the server ended before it had begun; its own words stand above")
            time.sleep(0.02)

    def wait(self) -> None:
        """Serve until Ctrl-C, or `close` in another thread."""
        with contextlib.suppress(KeyboardInterrupt):
            while self._thread.is_alive():
                self._thread.join(0.5)
        self.close()

    def close(self) -> None:
        """End it; what was uploaded is gone then."""
        self._server.should_exit = True
        self._thread.join(10)
        self._over.close()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listening(host: str, port: int) -> socket.socket:
    """A socket at this address. UserError where it is taken or none of this machine's."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port: found {port}, expected 0 (any that is free) to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--host: found '{host}', expected an address of this machine ({one_line(error)})") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise UserError(
            f"--port: {host}:{port} cannot be listened at ({one_line(error)}), expected another --port, or 0 for any"
        ) from error
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """As long as the page is there: Gradio's settings, and a folder for uploads that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mmssl-demo-", ignore_cleanup_errors=True) as folder:
        settings = {**QUIET, "GRADIO_TEMP_DIR": folder}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def application(engine: Engine, host: str) -> Any:
    """The page as an application; at a loopback address it answers nobody who calls this machine by another name."""
    import gradio
    from fastapi import FastAPI
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    from .cards import style
    from .page import blocks, theme

    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks(engine),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        max_file_size=LARGEST_UPLOAD,
        theme=theme(),
        css=style(),
    )
    app.add_middleware(_Policy)
    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    return app


class _Policy:
    """Adds what the browser may load to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, told if scope["type"] == "http" else send)


def serve(engine: Engine, host: str = LOOPBACK[0], port: int = PORT) -> Page:
    """Serve the page about an engine, and say where."""
    with doing("starting the page"):
        page = Page(engine, host, port)
    if host not in LOOPBACK:
        say(f"whoever reaches {host} can use the page and see the rows; without --host only this machine can")
    say(f"{page.url}  (Ctrl-C ends it)")
    return page
