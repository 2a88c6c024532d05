"""Columns of a batch, filled row by row, as Arrow has them."""


cdef class Buffer:
    cdef char* data
    cdef Py_ssize_t used, room

    def __dealloc__(self):
        free(self.data)

    cdef char* grow(self, Py_ssize_t more) except NULL:
        """Where `more` bytes can be written."""
        cdef Py_ssize_t room
        cdef char* data
        if self.used + more > self.room or self.data == NULL:
            room = 2 * (self.used + more) + 64
            data = <char*>realloc(self.data, room)
            if data == NULL:
                raise MemoryError
            self.data, self.room = data, room
        return self.data + self.used

    cdef int push(self, const char* data, Py_ssize_t size) except -1:
        memcpy(self.grow(size), data, size)
        self.used += size
        return 0

    cdef int number(self, int64_t value, int size) except -1:
        """In the machine's own order, as Arrow has it; the machine is little-endian."""
        return self.push(<const char*>&value, size)

    cdef bytes whole(self):
        return PyBytes_FromStringAndSize(self.data, self.used)


cdef class Column:
    """One column of a batch. `kind` as in `Columns`."""

    cdef Buffer data, ends, outer
    cdef char kind

    def __cinit__(self, int kind):
        self.kind, self.data, self.ends, self.outer = kind, Buffer(), Buffer(), Buffer()
        if kind in b"sL":
            self.ends.number(0, 4)
        if kind == c"L":
            self.outer.number(0, 4)

    cdef int text(self, const char* at, Py_ssize_t size) except -1:
        self.data.push(at, size)
        return self.ends.number(self.data.used, 4)

    cdef int raw(self, bytes text) except -1:
        return self.text(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef int number(self, int64_t value) except -1:
        return self.data.number(value, 4 if self.kind == c"i" else 1 if self.kind == c"?" else 8)

    cdef int close_list(self) except -1:
        return self.outer.number(self.ends.used // 4 - 1, 4)

    cdef int value(self, object value) except -1:
        """Any value of exactly the column's kind. Raises TypeError for another one, ValueError for one too large."""
        if self.kind == c"s":
            return self.raw((<str?>value).encode())
        if self.kind == c"L":
            for text in value:
                self.raw((<str?>text).encode())
            return self.close_list()
        if type(value) is not (bool if self.kind == c"?" else int):
            raise TypeError(f"{value!r} is no {'bool' if self.kind == c'?' else 'int'}")
        if self.kind == c"Q":
            return self.number(<int64_t><uint64_t>value)
        if self.kind == c"i" and not -2147483648 <= value <= 2147483647:
            raise ValueError(f"{value!r} is no number of 32 bits")
        return self.number(value)

    cdef tuple buffers(self):
        if self.kind == c"s":
            return self.ends.whole(), self.data.whole()
        if self.kind == c"L":
            return self.outer.whole(), self.ends.whole(), self.data.whole()
        return ((self._bits() if self.kind == c"?" else self.data.whole()),)

    cdef bytes _bits(self):
        cdef Py_ssize_t place
        cdef bytes bits = PyBytes_FromStringAndSize(NULL, (self.data.used + 7) // 8)
        cdef char* to = PyBytes_AS_STRING(bits)
        memset(to, 0, PyBytes_GET_SIZE(bits))
        for place in range(self.data.used):
            to[place >> 3] |= self.data.data[place] << (place & 7)
        return bits


cdef list _columns(bytes kinds):
    """`kinds`: a letter for each. s text or bytes, L list of texts, i 32 bits, q and Q 64 bits, ? yes or no."""
    return [Column(kind) for kind in kinds]


cdef list _buffers(list columns):
    return [(<Column>column).buffers() for column in columns]
