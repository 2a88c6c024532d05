"""Archives as an attacker packs them: names that lead out, links, devices, sizes that lie. Each is a file's bytes."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Final

NAMES: Final = (
    "../escaped", "../../escaped", "a/../../escaped", "/tmp/fetchml-escaped", "//tmp/fetchml-escaped", "./../escaped",
    "a/./../../escaped", "..", ".", "a/..", "train.py", "a\\..\\..\\escaped", "C:\\escaped", "~/escaped",
    "a//../../escaped",
)  # fmt: skip
DATA: Final = b"hostile"


def _tar(*members: tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=kind) as archive:
        for member in members:
            if member.isreg():
                member.size = len(DATA)
            archive.addfile(member, io.BytesIO(DATA) if member.isreg() else None)
    return raw.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def _link_then_file(kind: bytes, target: str) -> bytes:
    return _tar(_member("way", kind, target), _member("way/escaped"))


def _long_way(depth: int = 16, width: int = 247) -> bytes:
    """CVE-2025-4517: a path that grows beyond what realpath resolves, and `..` behind it."""
    step, members, way = "d" * width, list[tarfile.TarInfo](), ""
    for letter in "abcdefghijklmnop"[:depth]:
        members.append(_member(f"{way}{step}", tarfile.DIRTYPE, mode=0o755))
        members.append(_member(f"{way}{letter}", tarfile.SYMTYPE, step))
        way += f"{letter}/"
    members.append(_member(f"{way}{'l' * 254}", tarfile.SYMTYPE, "../" * depth))
    members.append(_member("escape", tarfile.SYMTYPE, f"{way}{'l' * 254}/../../../tmp"))
    return _tar(*members, _member("flag", tarfile.LNKTYPE, "escape/fetchml-escaped"), _member("flag"))


def _zip(name: str, mode: int = 0o100644, data: bytes = DATA, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, method
        archive.writestr(entry, data)
    return raw.getvalue()


def _cpio(name: str) -> bytes:
    name_bytes = name.encode() + b"\0"
    head = b"070701" + b"%08x" * 13 % (1, 0o100644, 0, 0, 1, 0, len(DATA), 0, 0, 0, 0, len(name_bytes), 0)
    padded = head + name_bytes + b"\0" * (-(len(head) + len(name_bytes)) % 4)
    return padded + DATA + b"\0" * (-len(DATA) % 4)


def archives() -> Iterator[tuple[str, bytes]]:
    """A name for each, and its bytes."""
    for number, name in enumerate(NAMES):
        yield f"name-{number}.tar", _tar(_member(name))
        yield f"name-{number}.zip", _zip(name)
        yield f"name-{number}.tar.gz", gzip.compress(_tar(_member(name), kind=tarfile.GNU_FORMAT))
    for kind, what in ((tarfile.SYMTYPE, "symlink"), (tarfile.LNKTYPE, "hardlink")):
        for number, target in enumerate(("/tmp", "../..", "/etc/passwd", "/proc/self/cwd", ".", "way")):
            yield f"{what}-{number}.tar", _link_then_file(kind, target)
    for kind, what in ((tarfile.CHRTYPE, "char"), (tarfile.BLKTYPE, "block"), (tarfile.FIFOTYPE, "fifo")):
        yield f"{what}.tar", _tar(_member("device", kind))
    yield "setuid.tar", _tar(_member("shell", mode=0o4755))
    yield "long-way.tar", _long_way()
    yield "long-way.tar.xz", lzma.compress(_long_way())
    yield "link.zip", _zip("way", 0o120777, b"/etc")
    yield "twice.tar.bz2", bz2.compress(_tar(_member("a", tarfile.SYMTYPE, "/tmp/fetchml-escaped"), _member("a")))
    yield "bomb.zip", _zip("zeros", data=bytes(2**22))
    yield "bomb.gz", gzip.compress(bytes(2**22))
    yield "lying.tar", _tar(_member("a"))[:512].replace(b"00000000007", b"77777777777") + bytes(1024)
    yield "lying.zip", _zip("a").replace(struct.pack("<I", len(DATA)), struct.pack("<I", 2**31))
    yield "cpio", _cpio("../escaped")
    yield (
        "ar.deb",
        b"!<arch>\n"
        + b"/../escaped/".ljust(16)
        + b"0".ljust(12)
        + b"0".ljust(6) * 2
        + b"644".ljust(8)
        + b"7".ljust(10)
        + b"`\n"
        + DATA,
    )
