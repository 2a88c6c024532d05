"""The fields of a record: `core.chain.RECORD_HEADER`, and the texts behind it."""

cdef enum Text:
    KIND
    ACTION
    RESOURCE
    USER
    ADDRESS
    ERROR
    METADATA


cdef uint64_t _number(const uint8_t* at, int size) noexcept:
    cdef uint64_t value = 0
    cdef int place
    for place in range(size):
        value = (value << 8) | at[place]
    return value


cdef Py_ssize_t _size_of(const uint8_t* record) noexcept:
    """A record's bytes, as its own lengths say."""
    cdef Py_ssize_t size = HEADER + <Py_ssize_t>_number(record + 77, 4)
    cdef int which
    for which in range(6):
        size += <Py_ssize_t>_number(record + 65 + 2 * which, 2)
    return size


cdef void _text(const uint8_t* record, Text wanted, Span* found) noexcept:
    cdef Py_ssize_t at = HEADER
    cdef int which
    for which in range(<int>wanted):
        at += <Py_ssize_t>_number(record + 65 + 2 * which, 2)
    found.at = <const char*>record + at
    found.size = <Py_ssize_t>_number(record + 65 + 2 * <int>wanted, 4 if wanted == METADATA else 2)


cdef bytes _bytes(Span* span):
    return PyBytes_FromStringAndSize(span.at, span.size)
