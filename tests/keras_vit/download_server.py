"""A server on this machine that sends weights, well or badly."""

import hashlib
import http.server
import re
import urllib.parse

CONTENT = hashlib.shake_256(b"weights").digest(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `behaviours` are used up first, one a request, then it behaves well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"v1"'
        self.headers = {}
        self.requests = []  # (method, path, headers)
        self.behaviours = []
        self.routes = {}  # path -> (status, headers, body), instead of all of the above
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self):
        return [headers.get("Range") for _, _, headers in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        server = self.server
        server.requests.append((self.command, self.path, dict(self.headers)))
        if server.routes:
            path = urllib.parse.urlsplit(self.path).path
            status, headers, body = server.routes.get(path, (404, {}, b""))
            self.answer(status, {"Content-Length": len(body)} | headers, body)
        elif server.behaviours:
            server.behaviours.pop(0)(self)
        else:
            well_behaved(self)

    do_HEAD = do_GET  # noqa: N815


def well_behaved(handler, body_of=lambda body: body):
    """Answers ranges as RFC 9110 says; `body_of` may cut what is sent."""
    server = handler.server
    content, headers = server.content, {"ETag": server.etag} | server.headers
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if asked and handler.headers.get("If-Range", server.etag) == server.etag:
        start, total = int(asked[1]), len(content)
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body, status = content[start:], 206
    else:
        body, status = content, 200
    headers["Content-Length"] = len(body)
    handler.answer(status, headers, body_of(body))


def cut(handler):
    """Half of what it promised, then the connection is closed."""
    well_behaved(handler, lambda body: body[: len(body) // 2])


def no_ranges(handler):
    handler.answer(200, {"Content-Length": len(CONTENT), "ETag": '"v1"'}, CONTENT)


def status(code, **headers):
    return lambda handler: handler.answer(code, {"Content-Length": 0} | headers)
