"""A Hub on the loopback: the calls that creating, committing (LFS and regular files), branching and downloading need.

It keeps everything in memory. `fail` holds (method, part of the path, status) that are answered with that status, once
each; `log` every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """A running server; `with Hub() as hub: ...hub.url, hub.repos["me/x"]["files"]`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict] = {}
        self.objects: dict[str, bytes] = {}
        self.fail: list[tuple[str, str, int]] = []
        self.log: list[tuple[str, str]] = []
        self.commits = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = unquote(urlsplit(self.path).path)
                hub.log.append((self.command, path))
                for rule in hub.fail:
                    if rule[0] == self.command and rule[1] in path:
                        hub.fail.remove(rule)
                        return self._send({"error": "the disk of the test is full"}, rule[2])
                if not path.startswith("/lfs/") and self.headers.get("Authorization") != "Bearer hf_test":
                    return self._send({"error": "Invalid username or password."}, 401)
                self._send(*hub.answer(self.command, path, body))

            def _send(self, content: object, status: int = 200, headers: dict | None = None) -> None:
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = _handle

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            there = name in self.repos
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            kind = asked.get("type") or "model"
            self.repos.setdefault(
                name, {"private": private, "branches": {"main": {}}, "type": kind, "sdk": asked.get("sdk")}
            )
            return {"url": f"{self.url}/{'spaces/' * (kind == 'space')}{name}", "name": name}, 409 if there else 200
        if path == "/api/validate-yaml":
            return ({"errors": [], "warnings": []},)
        if path == "/api/whoami-v2":
            return ({"name": "me", "type": "user"},)
        if parts[0] == "lfs":
            if method == "PUT":
                self.objects[parts[1]] = body
            return ({},)
        if ".git/info/lfs/objects/batch" in path:
            return (self._batch(json.loads(body)),)
        if path.startswith(("/api/models/", "/api/spaces/")):
            return self._model("/".join(parts[2:4]), parts[4:], method, body)
        name = "/".join(parts[:2])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve(name, "/".join(parts[4:]))
        return {"error": f"unknown call {method} {path}"}, 404

    def _batch(self, asked: dict) -> dict:
        objects = []
        for item in asked["objects"]:
            entry: dict = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                href = f"{self.url}/lfs/{item['oid']}"
                entry["actions"] = {"upload": {"href": href}, "verify": {"href": href}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def _model(self, name: str, rest: list[str], method: str, body: bytes) -> tuple:
        repo = self.repos.get(name)
        if repo is None:
            return {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"}
        if rest[:1] == ["preupload"]:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".model")) else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return ({"files": modes},)
        if rest[:1] == ["branch"]:
            there = rest[1] in repo["branches"]
            repo["branches"].setdefault(rest[1], dict(repo["branches"]["main"]))
            return {}, 409 if there else 200
        if rest[:1] == ["commit"]:
            files = {}
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    files[entry["value"]["path"]] = self.objects[entry["value"]["oid"]]
            repo["branches"][rest[1]].update(files)
            self.commits += 1
            sha = f"{self.commits:040x}"
            return ({"commitOid": sha, "commitUrl": f"{self.url}/{name}/commit/{sha}"},)
        files = repo["branches"]["main"]
        if rest[:1] == ["tree"]:
            return ([{"type": "file", "oid": blob_id(d), "size": len(d), "path": p} for p, d in files.items()],)
        sha = f"{self.commits:040x}"
        siblings = [{"rfilename": p} for p in files]
        return ({"id": name, "sha": sha, "private": repo["private"], "siblings": siblings},)

    def _resolve(self, name: str, path: str) -> tuple:
        files = self.repos[name]["branches"]["main"]
        if path not in files:
            return {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"}
        headers = {"ETag": f'"{blob_id(files[path])}"', "X-Repo-Commit": f"{self.commits:040x}"}
        return files[path], 200, headers
