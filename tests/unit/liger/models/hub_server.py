"""Stands in for the Hugging Face Hub: serves the files of one model over HTTP."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    folder: Path
    model: str
    requested: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        resolve = f"/{self.model}/resolve/{COMMIT}/"
        if path == f"/api/models/{self.model}/revision/main":
            self.send(json.dumps({"id": self.model, "sha": COMMIT, "siblings": self.tree()}).encode(), with_body)
        elif path.startswith(f"/api/models/{self.model}/tree/{COMMIT}"):
            self.send(json.dumps(self.tree()).encode(), with_body)
        elif path.startswith(resolve) and (file := self.folder / path.removeprefix(resolve)).is_file():
            self.requested.append(path.removeprefix(resolve))
            self.send(file.read_bytes(), with_body)
        else:
            self.send(b'{"error": "Repository not found"}', with_body, 404, {"X-Error-Code": "RepoNotFound"})

    def tree(self) -> list[dict[str, object]]:
        files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
        return [
            {
                "type": "file",
                "path": str(file.relative_to(self.folder)),
                "rfilename": str(file.relative_to(self.folder)),
                "oid": "a" * 40,
                "size": file.stat().st_size,
            }
            for file in files
        ]

    def send(self, body: bytes, with_body: bool, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serve_model(folder: Path, model: str) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as a model; give the endpoint and the list of files asked for."""
    requested: list[str] = []
    handler = type("BoundHandler", (Handler,), {"folder": folder, "model": model, "requested": requested})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requested
        finally:
            server.shutdown()
            thread.join()
