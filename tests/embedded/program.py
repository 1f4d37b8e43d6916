"""Replaces `python -m cli` in tests of the supervisor: `bootstrap`, `api` and `worker`.

`STAND_IN_FAILS=worker` ends the worker at its start; `STAND_IN_STUBBORN=worker` makes it ignore SIGTERM.
"""

import os
import signal
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import FrameType

from runtime.process import announce_ready


class Healthy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass


def leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def serve() -> None:
    server = HTTPServer(("127.0.0.1", int(os.environ["PERENNIAL_API_PORT"])), Healthy)
    if "PERENNIAL_TLS_CERTIFICATE" in os.environ:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(os.environ["PERENNIAL_TLS_CERTIFICATE"], os.environ["PERENNIAL_TLS_KEY"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    announce_ready(Path(os.environ["PERENNIAL_READY_FILE"]))
    server.serve_forever()


def main() -> None:
    command = sys.argv[1]
    if os.environ.get("STAND_IN_FAILS") == command:
        sys.stderr.write(f"the {command} can't continue\n")
        raise SystemExit(3)
    is_stubborn = os.environ.get("STAND_IN_STUBBORN") == command
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_stubborn else leave)
    if command == "bootstrap":
        Path(os.environ["PERENNIAL_HOME"], "admin.key").write_text("key\n")
    elif command == "api":
        serve()
    else:
        announce_ready(Path(os.environ["PERENNIAL_READY_FILE"]))
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
