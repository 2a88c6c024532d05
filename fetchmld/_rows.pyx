# cython: boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Events of the ledger as columns of the index, and ordinary tasks folded into rows, natively.

`store/blocks.py` is the specification: what is made here is what it makes. Nothing is parsed that is only passed on: a
task's request and report go from the record into its row as the JSON that they are. Ordinary is what nearly every task is:
submitted, started, ended, no array, no odd spelling. For all else `fold` asks the specification, fact by fact.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from fetchmld.store.segment import LedgerDamaged

cdef extern from "Python.h":
    char* PyOS_double_to_string(double value, char code, int precision, int flags, int* kind) except NULL
    int Py_DTSF_ADD_DOT_0

cdef enum:
    LENGTH = 4  # of an entry: the bytes of its record
    HEADER = 81  # bytes of core.chain.RECORD_HEADER
    HASH = 32
    FRAME_HEADER = 40
    HEADER_SUMMED = 36  # its bytes before its own sum
    END = 8
    COLUMN_BYTES_MAX = 1073741824  # of one column's texts, after which rows go into another batch
    PLACE_EVERY = 8  # as event_rows.PLACE_EVERY
    DIGITS_MAX = 9  # of a number that is surely one of 32 bits

include "native/crc.pxi"
include "native/columns.pxi"
include "native/json.pxi"
include "native/records.pxi"
include "native/tasks.pxi"


cdef bytes EVENT_KINDS = b"Qqqssss?sssss"


cdef class Block:
    """As `blocks.PlainBlock`."""

    cdef const uint8_t** _records
    cdef Py_ssize_t _room
    cdef list _payloads  # what the records lie in
    cdef readonly list places
    cdef readonly Py_ssize_t count, payload_bytes

    def __cinit__(self):
        self._payloads, self.places = [], []

    def __dealloc__(self):
        free(self._records)

    def take(self, bytes payload, Py_ssize_t at, uint64_t seq, Py_ssize_t count, bytes prev, int64_t origin=0):
        cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(payload)
        cdef const uint8_t* record
        cdef const uint8_t* link = NULL
        cdef Py_ssize_t left = PyBytes_GET_SIZE(payload) - at, size, place
        if prev is not None:
            if PyBytes_GET_SIZE(prev) != HASH:
                raise LedgerDamaged(seq, "it does not follow from the event before it")
            link = <const uint8_t*>PyBytes_AS_STRING(prev)
        self._reserve(count)
        if not self._payloads or self._payloads[len(self._payloads) - 1] is not payload:
            self._payloads.append(payload)
        for place in range(count):
            record = base + at + LENGTH
            size = <Py_ssize_t>_number(record - LENGTH, LENGTH) if left >= LENGTH + HEADER + HASH else 0
            if (
                size < HEADER
                or size > left - LENGTH - HASH
                or memcmp(record, b"FMLEVT01", 8)
                or _number(record + 8, 8) != seq
                or (link != NULL and memcmp(record + 16, link, HASH))
                or _size_of(record) != size
            ):
                raise LedgerDamaged(seq, "it does not follow from the event before it")
            link = record + size
            if seq % PLACE_EVERY == 0:
                self.places.append((seq, origin + at))
            self._records[self.count] = record
            self.count += 1
            self.payload_bytes += size
            at += LENGTH + size + HASH
            left -= LENGTH + size + HASH
            seq += 1
        return at, (prev if link == NULL else PyBytes_FromStringAndSize(<const char*>link, HASH))

    def take_frames(self, bytes buffer, Py_ssize_t at, uint64_t seq, uint64_t end, bytes prev, int64_t origin=0):
        cdef const uint8_t* frame
        cdef Py_ssize_t left = PyBytes_GET_SIZE(buffer) - at, payload
        cdef uint64_t events
        while seq < end and left >= FRAME_HEADER + END:
            frame = <const uint8_t*>PyBytes_AS_STRING(buffer) + at
            events, payload = _number(frame + 24, 4), <Py_ssize_t>_number(frame + 28, 4)
            if memcmp(frame, b"FMLFRM01", 8) or _number(frame + 8, 8) != seq or not events or events > end - seq:
                break
            if payload > left - FRAME_HEADER - END or _number(frame + 36, 4) != crc32_of(frame, HEADER_SUMMED):
                break
            if _number(frame + 32, 4) != crc32_of(frame + FRAME_HEADER, payload):
                break
            if memcmp(frame + FRAME_HEADER + payload, b"FMLEND01", END):
                break
            _, prev = self.take(buffer, at + FRAME_HEADER, seq, events, prev, origin)
            at += FRAME_HEADER + payload + END
            left -= FRAME_HEADER + payload + END
            seq += events
        return at, seq, prev

    cdef int _reserve(self, Py_ssize_t more) except -1:
        cdef const uint8_t** records
        cdef Py_ssize_t room = 2 * (self.count + more)
        if self.count + more > self._room:
            records = <const uint8_t**>realloc(self._records, room * sizeof(const uint8_t*))
            if records == NULL:
                raise MemoryError
            self._records, self._room = records, room
        return 0

    @property
    def first_seq(self):
        return _number(self._records[0] + 8, 8)

    @property
    def prev_hash(self):
        return PyBytes_FromStringAndSize(<const char*>self._records[0] + 16, HASH)

    @property
    def last_hash(self):
        cdef const uint8_t* record = self._records[self.count - 1]
        return PyBytes_FromStringAndSize(<const char*>record + _size_of(record), HASH)

    def columns(self):
        """The buffers of each column of `event_rows.SCHEMA`."""
        cdef list columns = _columns(EVENT_KINDS)
        cdef Py_ssize_t place
        for place in range(self.count):
            _push_event(columns, self._records[place])
        return _buffers(columns)

    def unknown(self, dict live, actions):
        """As `blocks.PlainBlock.missing`; `actions`: those that change a row."""
        cdef set submitted = set(), missing = set()
        cdef Span action, resource
        cdef Py_ssize_t place
        for place in range(self.count):
            _text(self._records[place], ACTION, &action)
            if action.size < 5 or memcmp(action.at, b"task.", 5) or _bytes(&action) not in actions:
                continue
            _text(self._records[place], RESOURCE, &resource)
            task_id = PyUnicode_DecodeUTF8(resource.at, resource.size, NULL)
            if _is(&action, b"task.submit", 11):
                submitted.add(task_id)
            elif task_id not in live and task_id not in submitted:
                missing.add(task_id)
        return missing

    def folded(self, dict read, dict live, skip, actions, otherwise):
        """As `blocks.PlainBlock.fold`; `otherwise` does it for what is not ordinary."""
        cdef dict changed = {}
        cdef list lost = []
        cdef const uint8_t* record
        cdef Span action, resource
        cdef Py_ssize_t place
        cdef _Rows row_of = _Rows(changed, read, live)
        for place in range(self.count):
            record = self._records[place]
            _text(record, ACTION, &action)
            if action.size < 5 or memcmp(action.at, b"task.", 5):
                continue
            _text(record, RESOURCE, &resource)
            task_id = PyUnicode_DecodeUTF8(resource.at, resource.size, NULL)
            if skip and task_id in skip:
                continue
            before, fresh = row_of.find(task_id), None
            if _is(&action, b"task.submit", 11):
                fresh = _submitted(record)
            elif type(before) is Row:
                fresh = _changed(<Row>before, record, &action)
            if fresh is None:
                if _bytes(&action) not in actions:
                    continue
                fresh = otherwise(self._raw(place), before, row_of)
                if fresh is None:
                    lost.append(task_id)
                    continue
            changed[task_id] = fresh
        return changed, lost

    def raw(self, action):
        """The events with this action, as `tail.RawEvent`s."""
        cdef bytes wanted = action
        cdef Span found
        cdef Py_ssize_t place
        cdef list events = []
        for place in range(self.count):
            _text(self._records[place], ACTION, &found)
            if _is(&found, PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted)):
                events.append(self._raw(place))
        return events

    cdef tuple _raw(self, Py_ssize_t place):
        cdef const uint8_t* record = self._records[place]
        cdef Py_ssize_t size = _size_of(record)
        cdef Span spans[7]
        cdef int which
        for which in range(7):
            _text(record, <Text>which, &spans[which])
        return (
            _number(record + 8, 8),
            <int64_t>_number(record + 48, 8),
            <int64_t>_number(record + 56, 8),
            _bytes(&spans[<int>KIND]),
            _bytes(&spans[<int>ACTION]),
            _bytes(&spans[<int>USER]),
            _bytes(&spans[<int>RESOURCE]),
            record[64] & 1 == 1,
            _bytes(&spans[<int>ADDRESS]),
            _bytes(&spans[<int>ERROR]),
            PyBytes_FromStringAndSize(<const char*>record + 16, HASH),
            PyBytes_FromStringAndSize(<const char*>record + size, HASH),
            _bytes(&spans[<int>METADATA]) or b"{}",
        )


cdef int _push_event(list columns, const uint8_t* record) except -1:
    cdef Span span
    cdef Text which
    cdef int column = 3
    (<Column>columns[0]).number(<int64_t>_number(record + 8, 8))
    (<Column>columns[1]).number(<int64_t>_number(record + 48, 8))
    (<Column>columns[2]).number(<int64_t>_number(record + 56, 8))
    for which in (KIND, ACTION, USER, RESOURCE):
        _text(record, which, &span)
        (<Column>columns[column]).text(span.at, span.size)
        column += 1
    (<Column>columns[7]).number(record[64] & 1)
    _text(record, ADDRESS, &span)
    (<Column>columns[8]).text(span.at, span.size)
    _text(record, ERROR, &span)
    (<Column>columns[9]).text(span.at, span.size)
    (<Column>columns[10]).text(<const char*>record + 16, HASH)
    (<Column>columns[11]).text(<const char*>record + _size_of(record), HASH)
    _text(record, METADATA, &span)
    if not span.size:
        return (<Column>columns[12]).text(b"{}", 2)
    return (<Column>columns[12]).text(span.at, span.size)


cdef class _Rows:
    """Where rows are looked up: the first place counts."""

    cdef dict changed, read, live

    def __cinit__(self, changed, read, live):
        self.changed, self.read, self.live = changed, read, live

    cdef object find(self, object task_id):
        row = self.changed.get(task_id)
        if row is None:
            row = self.read.get(task_id)
        return self.live.get(task_id) if row is None else row

    def __call__(self, task_id):
        return self.find(task_id)
