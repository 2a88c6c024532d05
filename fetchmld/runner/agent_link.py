"""The runner's side of its socket: one agent at a time, the newest. Standard library only.

The socket has a name in the run directory; where that is removed or taken, it is listened on anew.
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from fetchmld.runner.frames import Decoder, FrameError, Message, encode
from fetchmld.runner.loop import Loop, boottime

TOLD_DELAY_S: Final = 0.005  # a start may wait this long: of short attempts the end says it all
OUTGOING_BYTES_MAX: Final = 64 * 2**20
RECEIVE_BYTES: Final = 1 << 16  # of more the allocator makes a mapping each time


class _Agent:
    """The connection to the agent that is there now."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.decoder = Decoder()
        self.outgoing = bytearray()
        self.is_behind = False  # it did not take all of it
        self.greeted = False

    def flush(self) -> bool:
        """Send what the socket takes. False when the connection is dead, or the agent does not read."""
        while self.outgoing:
            try:
                sent = self.socket.send(self.outgoing)
            except BlockingIOError:
                return len(self.outgoing) <= OUTGOING_BYTES_MAX
            except OSError:
                return False
            del self.outgoing[:sent]
        return True


class AgentLink:
    """Listens, and speaks with whoever connected last. Nothing is told to an agent before `greet`."""

    def __init__(
        self, loop: Loop, path: str, on_message: Callable[[Message], None], say: Callable[[str], None]
    ) -> None:
        """`path`: the socket's name. An agent is dropped where `on_message` raises KeyError, TypeError or ValueError."""
        self._loop = loop
        self._path = path
        self._on_message = on_message
        self._say = say
        self._agent: _Agent | None = None
        self._starts: dict[str, Message] = {}  # by attempt; told soon
        self.alone_since_t = boottime()
        self._listen()

    @property
    def is_there(self) -> bool:
        return self._agent is not None

    # -- telling

    def greet(self, state: Message) -> None:
        """Open the conversation: `state` says all that was news before it."""
        assert self._agent is not None
        self._agent.greeted = True
        self._starts.clear()
        self.tell(state)

    def tell(self, *messages: Message) -> None:
        """What nobody is there to hear is dropped: it is in the next `state`. A start is not told beside its end."""
        for message in messages if self._starts else ():
            self._starts.pop(message.get("key", ""), None)
        self._tell([*self._starts.values(), *messages])

    def tell_start(self, message: Message) -> None:
        """Send with the next message, or within TOLD_DELAY_S; never where the attempt's end is sent by then."""
        if not self._starts:
            self._loop.at(boottime() + TOLD_DELAY_S, self._tell_starts)
        self._starts[message["key"]] = message

    def _tell_starts(self) -> None:
        self._tell([*self._starts.values()])

    def _tell(self, news: list[Message]) -> None:
        self._starts.clear()
        if news and self._agent is not None and self._agent.greeted:
            self._agent.outgoing += encode(news)
            self.flush()

    def flush(self) -> None:
        agent = self._agent
        if agent is None:
            return
        if not agent.flush():
            self._drop()
        elif agent.is_behind != bool(agent.outgoing):
            agent.is_behind = bool(agent.outgoing)
            self._loop.want_write(agent.socket.fileno(), agent.is_behind)

    # -- listening

    def _listen(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(mask)
        self._listener.listen(8)
        self._inode = os.stat(self._path).st_ino
        self._loop.watch(self._listener.fileno(), self._on_connection)

    def _has_name(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def stay_reachable(self) -> None:
        """Listen anew if the socket's name was removed or taken: run directories get cleaned."""
        if self._has_name():
            return
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            self._listen()
        except OSError as error:
            self._say(f"cannot listen on {self._path}: {error}")

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] not in (os.geteuid(), 0):
            connection.close()
            return
        connection.setblocking(False)
        self._drop()
        self._agent = _Agent(connection)
        self._loop.watch(connection.fileno(), self._on_agent)

    def _drop(self) -> None:
        if self._agent is not None:
            self._loop.unwatch(self._agent.socket.fileno())
            self._agent.socket.close()
            self._agent = None
            self.alone_since_t = boottime()

    def _on_agent(self) -> None:
        assert self._agent is not None
        try:
            data = self._agent.socket.recv(RECEIVE_BYTES)
            for message in self._agent.decoder.feed(data):
                self._on_message(message)
        except BlockingIOError:
            pass  # it takes data again, that is all
        except (OSError, FrameError, KeyError, TypeError, ValueError) as error:
            self._say(f"dropped the agent: {error!r}")
            self._drop()
        else:
            if not data:
                self._drop()
        self.flush()

    def close(self) -> None:
        self.flush()
        self._drop()
        self._listener.close()
        if self._has_name():
            os.unlink(self._path)
