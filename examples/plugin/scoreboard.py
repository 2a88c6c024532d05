"""A plugin of a third party, whole: a page with the last line of each run's score files.

A task that names it in its `plugin_configs` appends lines to files in `$SCOREBOARD_DIR`; the page has them while it runs.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fetchmld.plugins.protocol import Call, Command, NoSettings, Outcome, Place, Settings, TaskFacts, Use

# Run by the sidecar's Python, at a unix socket in its own directory, as a user that may do little else.
PAGE = """
import http.server, pathlib, socketserver, sys
place, files, title = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = [(path, path.read_text(errors="replace").split("\\n")[-2:]) for path in sorted(files.rglob("*.txt"))]
        lines = [title, *(f"{path.relative_to(files).parent}: {last[0]}" for path, last in found)]
        body = "\\n".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "the head"
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
Server(place, Page).serve_forever()
"""


class ScoreboardSettings(Settings):
    title: str = Field(default="Scores", max_length=80, description="The page's first line.")


class Scoreboard:
    name, version, requirements = "scoreboard", "1.0", ""
    settings, task_settings = ScoreboardSettings, NoSettings
    health_path, keeps_prefix, followed = "/", False, "scores"
    listens: Literal["socket", "port"] = "socket"

    def command(self, settings: ScoreboardSettings, place: Place) -> Command:
        return Command([place.python, "-I", "-c", PAGE, place.socket, str(place.files), settings.title])

    async def begin(self, call: Call, settings: ScoreboardSettings, task: TaskFacts) -> Use:
        return Use(self.without(task), run_id=f"{task.job_name}/{task.task_id}-{task.attempt}")

    def without(self, task: TaskFacts) -> Mapping[str, str]:
        return {"SCOREBOARD_DIR": f"{task.output_dir}/{self.followed}"}

    async def end(self, call: Call, settings: ScoreboardSettings, run_id: str, outcome: Outcome) -> None:
        """Nothing to close: the files are all there is."""


plugin = Scoreboard()
