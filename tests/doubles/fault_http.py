"""The wire of the fault server: HTTP/1.1 with keep-alive, OpenAI's format."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from fault_replies import Reply

if TYPE_CHECKING:
    from fault_server import FaultServer, Request

# Faults of the service, whatever the model would have said.
HTTP_FAULTS = (
    "429",
    "500",
    "time-out",  # the reply never comes; the client must give up
    "disconnect",  # the connection is closed without a word
    "broken body",  # 200, JSON that ends too soon
    "html",  # 200, a web page
    "error body",  # 200, {"error": ...}
    "null choices",  # 200, {"choices": null}
    "empty",  # 200, a message with nothing in it
    "only reasoning",  # 200, thoughts beside a message with nothing in it
    "ended in error",  # 200, half a message, and finish_reason "error"
)


class FaultHTTP(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # else a burst of connections is refused

    def __init__(self, owner: FaultServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.owner = owner
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """End the connections that clients keep alive, too."""
        super().server_close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    server: FaultHTTP

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server.owner
        if self._refused():
            return
        listed = [{"id": name, "object": "model"} for name in owner.models]
        self._send(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        name = json.loads(raw)["model"]
        if owner.models and name not in owner.models:
            self._error(404, f"The model `{name}` does not exist", "model_not_found")
            return
        request, rng = owner.admit(raw, self.headers.get("Authorization", ""))
        if not self._wait(owner.latency):
            return
        while owner.stop_after is not None and (
            len(owner.delivered) >= owner.stop_after
        ):
            if not self._wait(0.02):
                return
        fault = request.fault
        if fault == "time-out":
            while self._wait(0.05):
                pass
        elif fault == "disconnect":
            self.close_connection = True
        elif fault == "429":
            request.status = 429
            wait = {"Retry-After": f"{owner.retry_after:g}"}
            self._error(429, "Rate limit reached", "rate_limit_exceeded", wait)
        elif fault == "500":
            request.status = 500
            self._error(500, "The server had an error", "server_error")
        else:
            self._complete(request, rng)

    def _complete(self, request: Request, rng: random.Random) -> None:
        owner = self.server.owner
        reply = owner.compose(request, rng)
        request.content = reply.content
        sent = sum(len(str(m["content"])) for m in request.body["messages"]) // 4
        got = len(reply.content) // 4
        body: dict[str, Any] = {
            "id": f"chatcmpl-{rng.getrandbits(32):08x}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": request.body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": reply.content},
                    "finish_reason": reply.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": sent,
                "completion_tokens": got,
                "total_tokens": sent + got,
            },
        }
        if request.fault == "null choices":
            body["choices"] = None
        elif request.fault in ("empty", "only reasoning"):
            body["choices"][0]["message"]["content"] = rng.choice([None, "", " \n"])
            if request.fault == "only reasoning":
                body["choices"][0]["message"]["reasoning_content"] = reply.content
        elif request.fault == "ended in error":
            body["choices"][0]["finish_reason"] = "error"
        elif request.fault == "error body":
            body = {"error": {"message": "upstream timed out", "type": "server_error"}}
        data, kind = json.dumps(body).encode(), "application/json"
        if request.fault == "html":
            data, kind = b"<html><body>Bad gateway</body></html>", "text/html"
        elif request.fault == "broken body":
            data = data[: rng.randrange(1, len(data))]
        if request.fault in HTTP_FAULTS:
            reply = Reply("", [])
        request.status = 200 if request.fault not in HTTP_FAULTS else 0
        if self._gone():
            return
        # First the note: a quick client may ask for it as soon as the reply is there.
        owner.confirm(request, reply)
        self._send(200, data, kind=kind)

    def _refused(self) -> bool:
        key = self.server.owner.key
        given = self.headers.get("Authorization", "")
        if key is None or given == f"Bearer {key}":
            return False
        # As services do, it quotes the key that was wrong.
        self._error(401, f"Incorrect API key: {given[7:]}", "invalid_api_key")
        return True

    def _error(
        self, status: int, message: str, code: str, headers: Mapping[str, str] = {}
    ) -> None:
        error = {"message": message, "type": code, "param": None, "code": code}
        self._send(status, {"error": error}, headers=headers)

    def _send(
        self,
        status: int,
        body: Any,
        *,
        kind: str = "application/json",
        headers: Mapping[str, str] = {},
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _wait(self, seconds: float) -> bool:
        """Wait; False if the client has left or the server closes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.server.owner.closing.wait(min(left, 0.02 if left < 1 else 0.1)):
                self.close_connection = True
                return False
        return not self._gone()

    def _gone(self) -> bool:
        try:
            # Not select(), which fails where a process has over 1,024 files open.
            flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
            gone = not self.connection.recv(1, flags)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        self.close_connection = self.close_connection or gone
        return gone
