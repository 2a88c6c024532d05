"""Signed notes, checkpoints and the keys that sign them, in C2SP's formats (signed-note, tlog-checkpoint).

Owns `DIR/ledger/keys/` (0700): one file per key, 0600, named by its key id, so that a key is never overwritten; which
one is in force is not written there but in the chain (genesis, then each `key.rotate`). A private key never leaves it.
The files hold the line that Go's `note` package writes, so other tools can sign and verify with them.
"""

import base64
import os
import secrets
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fetchmld.core.chain import Genesis
from fetchmld.store.segment import sync_directory, write_at

KEYS: Final = "keys"
NOTE_BYTES_MAX: Final = 64 * 1024
ROTATE_HEADER: Final = "fetchml/key-rotate/v1"
NO_KEY: Final = "-"

_ED25519: Final = b"\x01"
_DASH: Final = "\u2014"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says: the tree of the first `size` events has this root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encode64(self.root)}\n"


def encode64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def origin_of(installation: str) -> str:
    """The log's name, and the name of its keys."""
    return f"fetchml/{installation}"


def key_id(origin: str, public_key: bytes) -> bytes:
    return sha256(origin.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def verifier_key(origin: str, public_key: bytes) -> str:
    """What a verifier of notes is configured with: `<name>+<key id>+<base64 of type and key>`."""
    return f"{origin}+{key_id(origin, public_key).hex()}+{encode64(_ED25519 + public_key)}"


class Signer:
    """One key pair under the log's name."""

    def __init__(self, origin: str, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.origin = origin
        self.public_key = self._key.public_key().public_bytes_raw()

    def line(self, text: str) -> str:
        """The signature line of a note with this text, which ends in a line feed."""
        signature = key_id(self.origin, self.public_key) + self._key.sign(text.encode())
        return f"{_DASH} {self.origin} {encode64(signature)}\n"


def sign(text: str, signers: list[Signer]) -> str:
    return text + "\n" + "".join(signer.line(text) for signer in signers)


def is_signed(note: str, origin: str, public_key: bytes) -> bool:
    """Whether `note` has a signature line by this key, and it is right."""
    text, _, lines = note.rpartition("\n\n")
    wanted = key_id(origin, public_key)
    for line in lines.splitlines():
        words = line.split(" ")
        if len(words) != 3 or words[:2] != [_DASH, origin]:
            continue
        try:
            signature = base64.b64decode(words[2], validate=True)
            if signature[:4] == wanted:
                Ed25519PublicKey.from_public_bytes(public_key).verify(signature[4:], f"{text}\n".encode())
                return True
        except (ValueError, InvalidSignature):
            return False
    return False


def read_checkpoint(note: str) -> Checkpoint:
    """What the text of a checkpoint says, signed or not. Raises ValueError."""
    text, _, _ = note.rpartition("\n\n")
    lines = text.split("\n")
    if len(lines) < 3 or not lines[0] or "" in lines or not lines[1].isascii() or not lines[1].isdecimal():
        raise ValueError(f"no checkpoint: {note[:200]!r}")
    root = base64.b64decode(lines[2], validate=True)
    if len(root) != 32 or str(int(lines[1])) != lines[1]:
        raise ValueError(f"a checkpoint whose size or root is none: {note[:200]!r}")
    return Checkpoint(lines[0], int(lines[1]), root)


# ---- key files ------------------------------------------------------------------------------------------------------


def make_key(ledger_dir: Path, origin: str) -> Signer:
    """A new key pair, durable in its files before this returns. Raises OSError."""
    directory = ledger_dir / KEYS
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    seed = secrets.token_bytes(32)
    signer = Signer(origin, seed)
    identity = key_id(origin, signer.public_key).hex()
    private = f"PRIVATE+KEY+{origin}+{identity}+{encode64(_ED25519 + seed)}\n"
    _write_new(directory / f"{signer.public_key.hex()}.key", private)
    _write_new(directory / f"{signer.public_key.hex()}.pub", verifier_key(origin, signer.public_key) + "\n")
    sync_directory(directory)
    sync_directory(ledger_dir)
    return signer


def load_key(ledger_dir: Path, origin: str, public_key: bytes) -> Signer:
    """The pair of which `public_key` is one half. Raises OSError, and ValueError where the file holds another."""
    path = ledger_dir / KEYS / f"{public_key.hex()}.key"
    encoded = path.read_text().strip().split("+", 4)[-1]  # base64 has plus signs of its own
    raw = base64.b64decode(encoded, validate=True) if len(encoded) % 4 == 0 else b""
    if len(raw) != 33 or raw[:1] != _ED25519:
        raise ValueError(f"{path} holds no Ed25519 key")
    signer = Signer(origin, raw[1:])
    if signer.public_key != public_key:
        raise ValueError(f"{path} holds another key than its name says")
    return signer


def new_genesis(ledger_dir: Path) -> Genesis | None:
    """What a new ledger grows from, its first signing key made; None where there is a ledger already. Raises OSError."""
    if (ledger_dir / "genesis.json").exists():
        return None
    installation = str(uuid.uuid4())
    signer = make_key(ledger_dir, origin_of(installation))
    return Genesis(installation, time.time_ns() // 1000, signer.public_key)


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_at(descriptor, text.encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- rotation -------------------------------------------------------------------------------------------------------


def rotation_note(origin: str, old: Signer | None, new: Signer) -> str:
    """What a `key.rotate` fact carries: signed by the key that goes (if there was one) and the key that comes."""
    gone = encode64(old.public_key) if old else NO_KEY
    text = f"{ROTATE_HEADER}\n{origin}\n{gone}\n{encode64(new.public_key)}\n"
    return sign(text, [new] if old is None else [old, new])


def rotated_to(note: str, origin: str, current: bytes) -> bytes | None:
    """The key that `note` hands over to from `current` (empty: none yet); None where it hands over nothing."""
    text, _, _ = note.rpartition("\n\n")
    lines = text.split("\n")
    if len(lines) != 4 or lines[:3] != [ROTATE_HEADER, origin, encode64(current) if current else NO_KEY]:
        return None
    try:
        fresh = base64.b64decode(lines[3], validate=True)
        signed = is_signed(note, origin, fresh) and (not current or is_signed(note, origin, current))
    except ValueError:
        return None
    return fresh if signed else None
