"""Several machines on this one: network namespaces on a bridge, each with an address of its own, and links to cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

NETWORK: Final = "10.77.0"
NOBODY: Final = "02:00:00:00:00:01"  # no machine's hardware address


def why_not() -> str:
    """Why there can be no namespaces here; nothing where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` command (iproute2)"
    probe = f"fml{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    ip("netns", "del", probe)
    return ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(slots=True)
class Machine:
    """One of them. Both ends of its link can be cut."""

    name: str
    switch: str
    number: int

    @property
    def namespace(self) -> str:
        return f"{self.switch}-{self.name}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def within(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    def plug_in(self) -> None:
        port = f"p{self.number}"
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("link", "add", port, "netns", self.switch, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    def cut(self) -> None:
        """Nothing comes or goes."""
        ip("-n", self.switch, "link", "set", f"p{self.number}", "down")

    def deafen(self, other: "Machine") -> None:
        """`other` hears nothing of this machine any more, which still hears it: what is sent goes to nobody."""
        ip("-n", self.namespace, "neigh", "replace", other.address, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0")

    def mend(self, other: "Machine") -> None:
        ip("-n", self.switch, "link", "set", f"p{self.number}", "up")
        ip("-n", self.namespace, "neigh", "flush", "to", other.address, "nud", "all", "dev", "eth0")


@dataclass(slots=True)
class Lan:
    switch: str
    machines: list[Machine] = field(default_factory=list)

    def machine(self, name: str) -> Machine:
        new = Machine(name, self.switch, len(self.machines) + 1)
        new.plug_in()
        self.machines.append(new)
        return new


@contextmanager
def a_lan() -> Iterator[Lan]:
    lan = Lan(f"fml{os.getpid()}")
    ip("netns", "add", lan.switch)
    ip("-n", lan.switch, "link", "add", "bridge", "type", "bridge")
    ip("-n", lan.switch, "link", "set", "bridge", "up")
    try:
        yield lan
    finally:
        for machine in lan.machines:
            ip("netns", "del", machine.namespace)
        ip("netns", "del", lan.switch)
