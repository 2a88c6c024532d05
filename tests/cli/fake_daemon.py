"""A daemon as far as `start` and `stop` can tell: says its line, answers GET /readyz, ends on SIGTERM.

Reads what to do from FAKE_DAEMON: "ready", "slow" (503 at first), "refuse", "crash", or "mute" (a line of no sense).
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar


class Handler(BaseHTTPRequestHandler):
    asked = 0
    settings: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        Handler.asked += 1
        ready = os.environ["FAKE_DAEMON"] != "slow" or Handler.asked > 3
        said = {"settings": Handler.settings} if ready else {"error": "not yet", "code": "SERVICE_UNAVAILABLE"}
        body = json.dumps(said).encode()
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


def main() -> None:
    what = os.environ["FAKE_DAEMON"]
    settings_file = Path(sys.argv[sys.argv.index("--settings-file") + 1])
    settings = json.loads(settings_file.read_text())
    Handler.settings = settings
    if what == "refuse":
        say({"error": f"{settings['data_dir']} is held by the daemon with pid 1; stop it first", "exit_code": 5})
        sys.exit(5)
    if what == "crash":
        sys.exit("no such module: actors")
    if what == "mute":
        print("hello", flush=True)
        return
    data_dir = Path(settings["data_dir"])
    data_dir.mkdir(parents=True, exist_ok=True)
    server = HTTPServer((settings["host"], settings["port"]), Handler)
    url = f"http://{settings['host']}:{server.server_port}"
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (data_dir / "daemon.json").write_text(json.dumps({"pid": os.getpid(), "start_ticks": int(ticks), "url": url}))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    say({"ready": {"url": url, "pid": os.getpid()}})
    server.serve_forever(poll_interval=0.05)


def say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
