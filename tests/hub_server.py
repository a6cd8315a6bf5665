"""As much of the hub's protocol as downloads need, on this machine: the listing with hashes, and files with ranges."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """A hub with the repositories that are folders ``org/name`` in ``root``."""

    root: Path
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """File and range of every download."""
    tokens: set[str | None] = field(default_factory=set)
    """Authorizations that were sent."""
    lies: dict[str, str] = field(default_factory=dict)
    """Hashes that the listing states, where they are not the true ones: sha256 of big files, git's sha1 of others."""
    elsewhere: str = ""
    """Address of another server to which requests for files are sent on."""

    def listing(self, repository: str) -> dict:
        """What the hub's API says of a repository."""
        folder = self.root / repository
        siblings = []
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            blob = self.lies.get(name, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
            entry: dict = {"rfilename": name, "size": len(content), "blobId": blob}
            if path.suffix in (".safetensors", ".pt", ".bin"):
                digest = self.lies.get(name, hashlib.sha256(content).hexdigest())
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.tokens.add(self.headers.get("Authorization"))
        path = urlparse(self.path).path.lstrip("/")
        if path.startswith("api/models/"):
            repository, _, revision = path.removeprefix("api/models/").partition("/revision/")
            if not (self.hub.root / repository).is_dir():
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("", "main", "v1", COMMIT):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            else:
                content = json.dumps(self.hub.listing(repository)).encode()
                self._answer(200, content, {"Content-Type": "application/json"})
            return
        if self.hub.elsewhere:
            self._answer(302, b"", {"Location": f"{self.hub.elsewhere}/{path}"})
            return
        repository, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        content, asked = (self.hub.root / repository / name).read_bytes(), self.headers.get("Range")
        self.hub.requests.append((name, asked))
        if asked is None:
            self._answer(200, content, {})
        else:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206, content[start:], {"Content-Range": span})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests are quiet."""


@contextmanager
def serve_hub(root: Path) -> Iterator[FakeHub]:
    """Serve the repositories in ``root`` until the block ends."""
    hub = FakeHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
