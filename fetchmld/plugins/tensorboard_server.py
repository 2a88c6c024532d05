"""TensorBoard at a unix socket. Runs in the sidecar's own environment, which has no FetchML in it.

TensorBoard's own server listens at a port, where everybody on the machine would reach it.
"""

import os
import sys
from typing import Any


def main() -> None:
    os.umask(0o077)
    socket, arguments = sys.argv[1], sys.argv[2:]

    from tensorboard import default, program
    from werkzeug.serving import make_server

    class SocketServer(program.TensorBoardServer):  # type: ignore[misc]
        """What TensorBoard asks of a server."""

        def __init__(self, wsgi_app: Any, flags: Any) -> None:
            self._server = make_server(f"unix://{socket}", 0, wsgi_app, threaded=True)

        def serve_forever(self) -> None:
            self._server.serve_forever()

        def get_url(self) -> str:
            return "http://localhost:1"  # TensorBoard notes down a port, and has no word for none

        def print_serving_message(self) -> None:
            print("serving", flush=True)

    board = program.TensorBoard(default.get_plugins(), server_class=SocketServer)
    board.configure(["tensorboard", *arguments])
    sys.exit(board.main())


if __name__ == "__main__":
    main()
