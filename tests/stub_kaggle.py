"""Kaggle's server as the kaggle command sees it, on loopback: it answers what a push needs and records what it is sent.

The command talks plain HTTP to `localhost` under KAGGLE_API_ENVIRONMENT=LOCALHOST, and to this server through
http_proxy; nothing leaves the machine.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlparse


class Stub:
    """`calls`: (method of the API, request as parsed JSON); `uploads`: name of a file -> its bytes.

    `archive`: bytes of the competition's files; `stop_at`: a download hangs after so many bytes (0: none does);
    `ranges`: the Range headers of the downloads.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.uploads: dict[str, bytes] = {}
        self.archive, self.stop_at, self.ranges, self.released = b"", 0, [], Event()
        handler = type("Handler", (_Handler,), {"stub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """What the command runs in: this server, made-up credentials, an empty home."""
        proxy = f"http://127.0.0.1:{self.server.server_port}"
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("KAGGLE")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        own = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLE_USERNAME": "me", "KAGGLE_KEY": "not-a-key"}
        own |= {"HOME": str(home), "KAGGLE_CONFIG_DIR": str(home), "http_proxy": proxy, "PATH": path}
        return {**kept, **own}

    def kaggle(self, home: Path, *words: str) -> str:
        """Run the kaggle command; what it printed. Fails if it does."""
        command = [str(Path(sys.executable).with_name("kaggle")), *words]
        ran = subprocess.run(command, env=self.environment(home), cwd=home, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def of(self, method: str) -> list[dict]:
        """The requests to one method of the API."""
        return [request for name, request in self.calls if name == method]


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        method = urlparse(self.path).path.rpartition("/")[2]
        request = json.loads(self._body() or b"{}")
        self.stub.calls.append((method, request))
        host = "http://localhost"
        if method == "GetDatasetStatus":
            self._answer(404, {"code": 404, "message": "no such data set"})
        elif method == "StartBlobUpload":
            self._answer(200, {"token": request["name"], "createUrl": f"{host}/upload/{request['name']}"})
        elif method == "DownloadDataFiles":
            self.send_response(302)
            self.send_header("Location", f"{host}/files/archive.zip")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            ok = {"error": "", "status": "ok", "url": f"{host}/made", "ref": "me/made", "versionNumber": 1}
            self._answer(200, {**ok, "message": "Successfully submitted"} if method.endswith("Submission") else ok)

    def do_PUT(self) -> None:
        self.stub.uploads[urlparse(self.path).path.rpartition("/")[2]] = self._body()
        self._answer(200, {})

    def do_GET(self) -> None:
        content, asked = self.stub.archive, self.headers.get("Range", "")
        self.stub.ranges.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - first))
        for name, value in (("Accept-Ranges", "bytes"), ("ETag", '"one"')):
            self.send_header(name, value)
        self.send_header("Last-Modified", "Mon, 06 Jan 2020 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(content[first : self.stub.stop_at or None])
        if self.stub.stop_at:
            self.stub.released.wait(60)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, code: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
