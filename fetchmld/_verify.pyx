# cython: boundscheck=False, wraparound=False, cdivision=True, binding=False
"""The verifier's walk over frames in which all is right, natively; `verify_frames.py` is the specification.

It shares no code with the writer: the offsets below are those of `docs/ledger-format.md`, and the sum is computed here.
Only BLAKE3 is a library's, called once for each record. Whatever is not right ends the walk before that frame, and the
caller looks again in Python to say what it is.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from blake3 import blake3

cdef enum:
    FRAME_HEADER = 40
    HEADER_SUMMED = 36  # its bytes before its own sum
    RECORD_HEAD = 48  # of a record: tag, number, prev_hash
    HASH = 32
    TEXTS = 81  # where a record's texts begin: the lengths of the first two are u16 at 65 and 67
    LENGTH = 4
    END = 8

cdef const char* MAGIC = b"FMLFRM01"
cdef const char* TRAILER = b"FMLEND01"
cdef const char* TAG = b"FMLEVT01"

include "native/crc.pxi"


cdef uint32_t _u32(const uint8_t* at) noexcept nogil:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef uint64_t _u64(const uint8_t* at) noexcept nogil:
    return (<uint64_t>_u32(at) << 32) | _u32(at + 4)


def crc32(bytes data) -> int:
    return crc32_of(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


def pass_over(
    bytes buffer, Py_ssize_t at, uint64_t seq, bytes root, uint64_t limit, list leaves, tuple actions, list marked
):
    """As `verify_frames.pass_over`."""
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(buffer) - at, payload
    cdef const uint8_t* frame
    cdef uint32_t events
    cdef bytes newest
    cdef Py_ssize_t marked_before = len(marked)
    if PyBytes_GET_SIZE(root) != HASH:
        return at, seq, root
    hasher = blake3()
    calls = hasher.reset, hasher.update, hasher.digest
    while seq < limit and left >= FRAME_HEADER + END:
        frame = base + at
        events, payload = _u32(frame + 24), _u32(frame + 28)
        if memcmp(frame, MAGIC, 8) or _u64(frame + 8) != seq or _u64(frame + 16) > seq or not events:
            break
        if events > limit - seq or payload > left - FRAME_HEADER - END or _u32(frame + 36) != crc32_of(frame, HEADER_SUMMED):
            break
        if _u32(frame + 32) != crc32_of(frame + FRAME_HEADER, payload):
            break
        if memcmp(frame + FRAME_HEADER + payload, TRAILER, END):
            break
        newest = _newest_if_right(base, at + FRAME_HEADER, payload, seq, events, root, calls, leaves, actions, marked)
        if newest is None:
            del marked[marked_before:]
            break
        marked_before = len(marked)
        seq, root = seq + events, newest
        payload += FRAME_HEADER + END
        at += payload
        left -= payload
    return at, seq, root


cdef bint _has_action(const uint8_t* record, Py_ssize_t size, tuple actions):
    cdef Py_ssize_t at, length
    if size < TEXTS:
        return False
    at, length = TEXTS + (record[65] << 8 | record[66]), record[67] << 8 | record[68]
    if at + length > size:
        return False
    for action in actions:
        if len(<bytes>action) == length and not memcmp(PyBytes_AS_STRING(action), record + at, length):
            return True
    return False


cdef bytes _newest_if_right(
    const uint8_t* base,
    Py_ssize_t at,
    Py_ssize_t left,
    uint64_t seq,
    uint32_t events,
    bytes root,
    tuple calls,
    list leaves,
    tuple actions,
    list marked,
):
    """The hash of the frame's last event, if each of them is right and they fill its payload; else None.

    `leaves` is longer by the events' hashes only if all are right.
    """
    cdef const uint8_t* entry = base + at
    cdef const char* prev = PyBytes_AS_STRING(root)
    cdef Py_ssize_t size, kept = len(leaves)
    cdef bytes digest = None
    reset, update, digest_of = calls
    while events:
        size = _u32(entry) if left >= LENGTH + RECORD_HEAD + HASH else 0
        if size < RECORD_HEAD or size > left - LENGTH - HASH:
            break
        entry += LENGTH
        if memcmp(entry, TAG, 8) or _u64(entry + 8) != seq or memcmp(entry + 16, prev, HASH):
            break
        reset()
        update(PyBytes_FromStringAndSize(<const char*>entry, size))
        digest = digest_of()
        if actions and _has_action(entry, size, actions):
            marked.append(entry - base)
        entry += size
        if memcmp(PyBytes_AS_STRING(digest), entry, HASH):
            break
        leaves.append(digest)
        prev = PyBytes_AS_STRING(digest)
        entry += HASH
        left -= LENGTH + size + HASH
        seq += 1
        events -= 1
    if events or left:
        del leaves[kept:]
        return None
    return digest
