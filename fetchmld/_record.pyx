# cython: boundscheck=False, wraparound=False, cdivision=True, binding=False
"""The record of an ordinary event, natively. `core/chain.py` is the specification: what is made here is what it makes.

Ordinary is what nearly every event is: texts and keys in ASCII without control characters but the line feed, exact
built-in types, few levels, short. For all else the answer is None and the specification does it, so there is no rule
here that could be another one: nothing is cut, escaped in another way, refused or named here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_Next, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    char* PyOS_double_to_string(double value, char code, int precision, int flags, int* kind) except NULL
    int Py_DTSF_ADD_DOT_0

cdef enum:
    HEADER = 81  # bytes of core.chain.RECORD_HEADER
    PART_MAX = 16384  # of the six texts together, and of the metadata: nothing in them is then long enough to be cut
    KEYS_MAX = 48
    LEVELS_MAX = 12

cdef int64_t INTEGER_MAX = 2**53


cdef struct Out:
    char* at
    char* end


cdef struct Item:
    const char* key
    Py_ssize_t size
    PyObject* value


def record(fact, seq, prev_hash) -> bytes | None:
    """As `core.chain.encode`, or None where that has to do it."""
    cdef char buffer[HEADER + 2 * PART_MAX]
    cdef Out out
    cdef uint64_t flags = 0
    cdef char* sizes = buffer + 65
    cdef char* metadata_at
    cdef int64_t number = 0, at_us = 0, clock_us = 0
    if not (PyBytes_CheckExact(prev_hash) and PyBytes_GET_SIZE(prev_hash) == 32):
        return None
    if not (_integer(seq, &number) and _integer(fact.at_us, &at_us) and _integer(fact.clock_us, &clock_us)):
        return None
    success, metadata = fact.success, fact.metadata
    if number < 0 or not PyDict_CheckExact(metadata) or (success is not True and success is not False):
        return None
    out.at, out.end = buffer + HEADER, buffer + HEADER + PART_MAX
    for text in (fact.event_type, fact.action, fact.resource, fact.user_id, fact.ip_address, fact.error):
        size = _text(&out, text)
        if size < 0:
            return None
        _big_endian(sizes, size, 2)
        sizes += 2
    metadata_at = out.at
    out.end = metadata_at + PART_MAX
    if PyDict_Size(metadata) and not _object(&out, metadata, LEVELS_MAX):
        return None
    flags = (success is True) | (2 * (buffer[71] | buffer[72] != 0)) | (4 * (buffer[73] | buffer[74] != 0))
    flags |= (8 * (buffer[75] | buffer[76] != 0)) | (16 * (out.at > metadata_at))
    memcpy(buffer, b"FMLEVT01", 8)
    _big_endian(buffer + 8, number, 8)
    memcpy(buffer + 16, PyBytes_AS_STRING(prev_hash), 32)
    _big_endian(buffer + 48, <uint64_t>at_us, 8)
    _big_endian(buffer + 56, <uint64_t>clock_us, 8)
    _big_endian(buffer + 64, flags, 1)
    _big_endian(buffer + 77, out.at - metadata_at, 4)
    return PyBytes_FromStringAndSize(buffer, out.at - buffer)


cdef bint _integer(object value, int64_t* number):
    """Whether it is exactly an int, of 64 bits."""
    cdef int overflow = 0
    if not PyLong_CheckExact(value):
        return False
    number[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow == 0


cdef void _big_endian(char* at, uint64_t value, int size) noexcept:
    cdef int place
    for place in range(size):
        at[size - 1 - place] = <char>(value >> (8 * place))


cdef Py_ssize_t _text(Out* out, object text) except -2:
    """The text as it is, for the six fields; its bytes, -1 where it is not ordinary."""
    cdef Py_ssize_t size = 0
    cdef const char* raw
    if not (PyUnicode_CheckExact(text) and PyUnicode_IS_COMPACT_ASCII(text)):
        return -1
    raw = PyUnicode_AsUTF8AndSize(text, &size)
    if size > out.end - out.at:
        return -1
    memcpy(out.at, raw, size)
    out.at += size
    return size


cdef bint _value(Out* out, object value, int levels) except -1:
    cdef Py_ssize_t size = 0
    cdef const char* raw
    if PyUnicode_CheckExact(value):
        if not PyUnicode_IS_COMPACT_ASCII(value):
            return False
        raw = PyUnicode_AsUTF8AndSize(value, &size)
        return _string(out, raw, size)
    if PyLong_CheckExact(value):
        return _whole(out, value)
    if PyFloat_CheckExact(value):
        return _real(out, PyFloat_AS_DOUBLE(value))
    if value is None:
        return _raw(out, b"null", 4)
    if value is True:
        return _raw(out, b"true", 4)
    if value is False:
        return _raw(out, b"false", 5)
    if levels and PyDict_CheckExact(value):
        return _object(out, value, levels - 1)
    if levels and PyList_CheckExact(value):
        return _array(out, value, levels - 1)
    return False


cdef bint _object(Out* out, object mapping, int levels) except -1:
    """Keys in ascending order: of ASCII, bytes and code points have the same one."""
    cdef Item items[KEYS_MAX]
    cdef Item one
    cdef Py_ssize_t position = 0, count = 0, place
    cdef PyObject* key = NULL
    if PyDict_Size(mapping) > KEYS_MAX:
        return False
    while PyDict_Next(mapping, &position, &key, &one.value):
        if not (PyUnicode_CheckExact(<object>key) and PyUnicode_IS_COMPACT_ASCII(<object>key)):
            return False
        one.key = PyUnicode_AsUTF8AndSize(<object>key, &one.size)
        place = count
        while place and _before(&one, &items[place - 1]):
            items[place] = items[place - 1]
            place -= 1
        items[place] = one
        count += 1
    if not count:
        return _raw(out, b"{}", 2)
    for place in range(count):
        if not (
            _raw(out, b"," if place else b"{", 1)
            and _string(out, items[place].key, items[place].size)
            and _raw(out, b":", 1)
            and _value(out, <object>items[place].value, levels)
        ):
            return False
    return _raw(out, b"}", 1)


cdef bint _array(Out* out, object values, int levels) except -1:
    cdef Py_ssize_t place
    if not PyList_GET_SIZE(values):
        return _raw(out, b"[]", 2)
    for place in range(PyList_GET_SIZE(values)):
        if not (_raw(out, b"," if place else b"[", 1) and _value(out, <object>PyList_GET_ITEM(values, place), levels)):
            return False
    return _raw(out, b"]", 1)


cdef bint _before(Item* a, Item* b) noexcept:
    cdef Py_ssize_t shared = a.size if a.size < b.size else b.size
    cdef int order = memcmp(a.key, b.key, shared)
    return order < 0 or (order == 0 and a.size < b.size)


cdef bint _raw(Out* out, const char* raw, Py_ssize_t size) noexcept:
    if size > out.end - out.at:
        return False
    memcpy(out.at, raw, size)
    out.at += size
    return True


cdef bint _string(Out* out, const char* raw, Py_ssize_t size) noexcept:
    cdef const char* end = raw + size
    cdef char* to = out.at
    cdef uint8_t byte
    if 2 * size + 2 > out.end - to:  # as if each one were escaped
        return False
    to[0] = c'"'
    to += 1
    while raw < end:
        byte = <uint8_t>raw[0]
        raw += 1
        if byte < 32:
            if byte != 10:
                return False
            to[0] = c"\\"
            to[1] = c"n"
            to += 2
            continue
        if byte == 34 or byte == 92:  # " and \
            to[0] = c"\\"
            to += 1
        to[0] = <char>byte
        to += 1
    to[0] = c'"'
    out.at = to + 1
    return True


cdef bint _whole(Out* out, object value) noexcept:
    cdef char digits[24]
    cdef int at = 24
    cdef int64_t number = 0
    cdef bint negative
    if not _integer(value, &number) or number > INTEGER_MAX or number < -INTEGER_MAX:
        return False
    negative = number < 0
    if negative:
        number = -number
    while True:
        at -= 1
        digits[at] = <char>(48 + number % 10)
        number //= 10
        if not number:
            break
    if negative:
        at -= 1
        digits[at] = c"-"
    return _raw(out, digits + at, 24 - at)


cdef bint _real(Out* out, double value) except -1:
    """As `repr`, by the interpreter's own means."""
    cdef char* digits
    cdef Py_ssize_t size = 0
    if not isfinite(value):
        return False
    digits = PyOS_double_to_string(value, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    while digits[size]:
        size += 1
    try:
        return _raw(out, digits, size)
    finally:
        PyMem_Free(digits)
