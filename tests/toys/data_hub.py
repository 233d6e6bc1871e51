"""Data sets on a Hub on the loopback: what `datasets` asks of it to list files and to stream them.

It keeps everything in memory and asks for no token.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from .hub_server import blob_id

SHA = f"{1:040x}"


class DataHub:
    """A running server; `with DataHub({"me/x": {"a.csv.gz": b"..."}}) as hub: ...hub.url`."""

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        hub = self
        self.repos = repos
        self.sent = 0
        """Bytes of files that were fetched."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                parts = unquote(urlsplit(self.path).path).strip("/").split("/")
                if parts[0] == "datasets" and parts[3:4] == ["resolve"]:
                    return self._file("/".join(parts[1:3]), "/".join(parts[5:]))
                if parts[:2] == ["api", "datasets"] and "/".join(parts[2:4]) in hub.repos:
                    return self._send(json.dumps(hub.said("/".join(parts[2:4]), parts[4:], body)).encode())
                return self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

            def _file(self, name: str, path: str) -> None:
                content = hub.repos.get(name, {}).get(path)
                if content is None:
                    return self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
                headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if asked is None:
                    return self._send(content, 200, headers)
                part = content[int(asked[1]) : int(asked[2] or len(content)) + 1]
                headers["Content-Range"] = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}"
                return self._send(part, 206, headers)

            def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    hub.sent += len(data) if "ETag" in (headers or {}) else 0
                    self.wfile.write(data)

            do_GET = do_POST = do_HEAD = _handle

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> DataHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def said(self, name: str, rest: list[str], body: str) -> object:
        """The answer to a call of `/api/datasets/NAME`."""
        files = self.repos[name]
        listed = [{"type": "file", "oid": blob_id(d), "size": len(d), "path": p} for p, d in files.items()]
        if rest[:1] == ["tree"]:
            return listed
        if rest[:1] == ["paths-info"]:
            return [entry for entry in listed if entry["path"] in unquote(body)]
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": SHA, "private": False, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
