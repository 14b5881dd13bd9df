"""A stand-in of the hub on this machine: the part of its interface that a push needs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_token"


@dataclass
class Hub:
    """What the hub holds and was asked. `answers`: a status for a path's beginning, to refuse it."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    address: str = ""

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        """Applies the lines of a commit as huggingface_hub sends them."""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            else:
                assert line["key"] == "file"
                self.repositories[repository][value["path"]] = base64.b64decode(value["content"])


def _answer(hub: Hub, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Returns status and JSON for one request."""
    hub.requests.append(f"{method} {path}")
    for start, status in hub.answers.items():
        if path.startswith(start):
            return status, {"error": f"refused with {status}"}
    parts = path.strip("/").split("/")
    if path == "/api/whoami-v2":
        return 200, {"name": "me", "type": "user", "orgs": []}
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if path == "/api/repos/create":
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        hub.repositories.setdefault(name, {".gitattributes": b""})
        hub.private[name] = asked.get("visibility") == "private" or asked.get("private", False)
        return 200, {"url": f"{hub.address}/{name}", "name": name}
    name = "/".join(parts[2:4])
    if name not in hub.repositories:
        return 404, {"error": "Repository not found"}
    rest = parts[4] if len(parts) > 4 else ""
    if rest == "tree":
        held = hub.repositories[name].items()
        return 200, [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in held]
    if rest == "preupload":
        files = json.loads(body)["files"]
        return 200, {
            "files": [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
        }
    if rest == "commit":
        hub.commit(name, [json.loads(line) for line in body.splitlines()])
        return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": f"{hub.address}/{name}"}
    return 200, {"id": name, "sha": "0" * 40, "siblings": [], "private": hub.private[name]}


@contextmanager
def serving() -> Iterator[Hub]:
    """Serves a hub on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if known or path == "/api/validate-yaml":
                status, content = _answer(hub, self.command, path, body)
            else:
                status, content = 401, {"error": "Invalid credentials"}
            data = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            if status >= 400:
                self.send_header("X-Error-Message", content["error"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _do  # as the server calls them

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: a request is in `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
