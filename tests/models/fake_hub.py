"""A hub of Hugging Face on this machine, with as much of its protocol as a download needs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEMBER_TOKEN = "hf_member"


@dataclass
class Hub:
    """Repositories by name, each a folder; and what was asked of it."""

    repositories: Mapping[str, Path]
    endpoint: str = ""
    gated: set[str] = field(default_factory=set)
    breaks_off: set[str] = field(default_factory=set)
    """Files of which the first answer ends in the middle."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of each request."""

    def files(self, repository: str) -> dict[str, Path]:
        """Give the files of a repository by their names."""
        root = self.repositories[repository]
        found = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path for path in found}

    def fetched(self) -> list[str]:
        """Name the files that were asked for, not only looked at."""
        paths = [path for method, path, _ in self.requests if method == "GET"]
        return sorted(
            {path.partition("/resolve/main/")[2] for path in paths if "/resolve/" in path}
        )


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer requests while the block runs."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        is_listing = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        if repository not in self.hub.repositories:
            self._refuse(404, "RepoNotFound")
        elif repository in self.hub.gated and MEMBER_TOKEN not in self._token():
            self._refuse(403 if self._token() else 401, "GatedRepo")
        elif (rest or ["revision", "main"])[1] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif is_listing:
            siblings = [{"rfilename": name} for name in self.hub.files(repository)]
            content = {"id": repository, "sha": COMMIT, "siblings": siblings}
            self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})
        elif "/".join(rest[2:]) not in self.hub.files(repository):
            self._refuse(404, "EntryNotFound")
        else:
            self._send_file("/".join(rest[2:]), self.hub.files(repository)["/".join(rest[2:])])

    def _token(self) -> str:
        return self.headers.get("Authorization", "")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, name: str, path: Path) -> None:
        content = path.read_bytes()
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if self.command == "GET" and name in self.hub.breaks_off:
            self.hub.breaks_off.remove(name)
            self._send(content, headers, num_sent=len(content) // 2)
            self.close_connection = True
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self._send(content, headers, start=start)

    def _send(
        self,
        content: bytes,
        headers: Mapping[str, str],
        *,
        start: int = 0,
        num_sent: int | None = None,
    ) -> None:
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:] if num_sent is None else content[:num_sent])
