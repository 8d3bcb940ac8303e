"""A local file server that breaks, stalls, lies and changes its mind, for the tests of downloads."""

import hashlib
import http.server
import threading
import time

import numpy as np

BODY = np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8).tobytes()
SHA = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; `breaks` lists after how many bytes each request ends, None for never."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.ranges, self.requests = BODY, '"one"', True, []
        self.breaks, self.stalls, self.announced, self.status, self.kind = [], False, None, None, "application/x"
        self.last_modified, self.wrong_range = None, False
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server: Server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file.pt")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        version = server.etag or server.last_modified
        if not server.ranges or (asked and self.headers.get("If-Range") != version):
            start = 0
        if start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            claimed = start + 5 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {claimed}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.last_modified:
            self.send_header("Last-Modified", server.last_modified)
        announced = len(rest) if server.announced is None else server.announced
        if announced >= 0:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(rest if end is None else rest[:end])
        self.wfile.flush()
        if end is not None and server.stalls:
            time.sleep(1)
        self.close_connection = True
