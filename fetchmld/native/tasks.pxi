"""An ordinary task: its row, what a fact makes of it, and its columns."""

cdef enum Status:
    QUEUED
    RUNNING
    COMPLETED
    FAILED

cdef tuple STATUSES = (b"queued", b"running", b"completed", b"failed")


cdef class Row:
    """As `task_rows.TaskRow`, of an ordinary task. Never changed once `fold` has given it out."""

    cdef readonly uint64_t submit_seq
    cdef uint64_t last_seq
    cdef int64_t created_us, started_us, ended_us, priority, attempt, retry_count, node_count
    cdef Status status
    cdef bint cancelled
    cdef bytes id, user, error, aged, request, assignments, report
    cdef bytes earlier  # items of a list, None where there is none
    # Within the request and the assignments: where the text or the object is, and its bytes.
    cdef Py_ssize_t job_at, job_size, reservation_at, reservation_size, experiment_at, experiment_size
    cdef Py_ssize_t plugins_at, plugins_size, worker_at, worker_size

    @property
    def ended(self):
        return self.status >= COMPLETED

    def kept(self):
        """The columns `task_rows.KEPT`."""
        cdef Buffer view = Buffer()
        self.push_view(view)
        return self.submit_seq, self.created_us, self.started_us, self.ended_us, False, view.whole().decode()

    cdef Row copy(self):
        cdef Row other = Row.__new__(Row)
        other.submit_seq, other.last_seq = self.submit_seq, self.last_seq
        other.created_us, other.started_us, other.ended_us = self.created_us, self.started_us, self.ended_us
        other.priority, other.attempt, other.node_count = self.priority, self.attempt, self.node_count
        other.retry_count, other.earlier = self.retry_count, self.earlier
        other.status, other.cancelled = self.status, self.cancelled
        other.id, other.user, other.error, other.aged = self.id, self.user, self.error, self.aged
        other.request, other.assignments, other.report = self.request, self.assignments, self.report
        other.job_at, other.job_size = self.job_at, self.job_size
        other.reservation_at, other.reservation_size = self.reservation_at, self.reservation_size
        other.experiment_at, other.experiment_size = self.experiment_at, self.experiment_size
        other.plugins_at, other.plugins_size = self.plugins_at, self.plugins_size
        other.worker_at, other.worker_size = self.worker_at, self.worker_size
        return other

    cdef bint read_request(self) except -1:
        """Find in the request what the index has columns for. False where something about it is not ordinary."""
        cdef Span request, rest, key, value, text
        cdef const char* base = PyBytes_AS_STRING(self.request)
        request.at, request.size = base, PyBytes_GET_SIZE(self.request)
        self.node_count = 1
        if not _inside(&request, &rest):
            return False
        while _next_member(&rest, &key, &value):
            if _is(&key, b"array", 5):
                return False
            if _is(&key, b"node_count", 10):
                if not _small_integer(&value, &self.node_count):
                    return False
            elif _is(&key, b"job_name", 8) or _is(&key, b"reservation_id", 14) or _is(&key, b"experiment_id", 13):
                if not _plain_string(&value, &text):
                    return False
                if key.size == 8:
                    self.job_at, self.job_size = text.at - base, text.size
                elif key.size == 14:
                    self.reservation_at, self.reservation_size = text.at - base, text.size
                else:
                    self.experiment_at, self.experiment_size = text.at - base, text.size
            elif _is(&key, b"plugin_configs", 14):
                if not _inside(&value, &text) or not _plain_keys(text):
                    return False
                self.plugins_at, self.plugins_size = text.at - base, text.size
        return not rest.size

    cdef bint read_assignments(self) except -1:
        """Find where the first of the assignments is. False where something about them is not ordinary."""
        cdef Span first, rest, key, value, text
        cdef const char* base = PyBytes_AS_STRING(self.assignments)
        cdef const char* end = base + PyBytes_GET_SIZE(self.assignments)
        cdef const char* behind
        if _is_empty_list(self.assignments):
            self.worker_size = 0
            return True
        first.at = base + 1
        if end - base < 2 or base[0] != c"[":
            return False
        behind = _behind_value(first.at, end)
        first.size = 0 if behind == NULL else behind - first.at
        if not _inside(&first, &rest):
            return False
        while _next_member(&rest, &key, &value):
            if _is(&key, b"worker_id", 9):
                if not _plain_string(&value, &text):
                    return False
                self.worker_at, self.worker_size = text.at - base, text.size
                return True
        return False

    cdef int push_view(self, Buffer out) except -1:
        """The view, as canonical JSON."""
        out.push(b'{"assignments":', 15)
        out.push(PyBytes_AS_STRING(self.assignments), PyBytes_GET_SIZE(self.assignments))
        out.push(b',"attempt":', 11)
        _push_whole(out, self.attempt)
        out.push(b',"created_at":', 14)
        _push_seconds(out, self.created_us)
        if self.earlier is not None:
            out.push(b',"earlier":[', 12)
            out.push(PyBytes_AS_STRING(self.earlier), PyBytes_GET_SIZE(self.earlier))
            out.push(b"]", 1)
        out.push(b',"ended_at":', 12)
        _push_seconds(out, self.ended_us)
        out.push(b',"error":', 9)
        _push_string(out, PyBytes_AS_STRING(self.error), PyBytes_GET_SIZE(self.error))
        out.push(b',"id":', 6)
        _push_string(out, PyBytes_AS_STRING(self.id), PyBytes_GET_SIZE(self.id))
        out.push(b',"last_seq":', 12)
        _push_whole(out, self.last_seq)
        out.push(b',"priority":', 12)
        _push_whole(out, self.priority)
        out.push(b',"priority_aged":', 17)
        out.push(PyBytes_AS_STRING(self.aged), PyBytes_GET_SIZE(self.aged))
        if self.cancelled:
            out.push(b',"reason":"cancelled","report":', 31)
        else:
            out.push(b',"reason":"","report":', 22)
        out.push(PyBytes_AS_STRING(self.report), PyBytes_GET_SIZE(self.report))
        out.push(b',"request":', 11)
        out.push(PyBytes_AS_STRING(self.request), PyBytes_GET_SIZE(self.request))
        out.push(b',"retry_count":', 15)
        _push_whole(out, self.retry_count)
        out.push(b',"started_at":', 14)
        _push_seconds(out, self.started_us)
        out.push(b',"status":"', 11)
        status = <bytes>STATUSES[self.status]
        out.push(PyBytes_AS_STRING(status), PyBytes_GET_SIZE(status))
        out.push(b'","user_id":', 12)
        _push_string(out, PyBytes_AS_STRING(self.user), PyBytes_GET_SIZE(self.user))
        return out.push(b',"wait_reason":""}', 18)


cdef bint _plain_keys(Span inside) noexcept:
    cdef Span key, value
    while _next_member(&inside, &key, &value):
        if memchr(key.at, c"\\", key.size) != NULL:
            return False
    return not inside.size


cdef bint _is_empty_list(bytes text) noexcept:
    return PyBytes_GET_SIZE(text) == 2 and not memcmp(PyBytes_AS_STRING(text), b"[]", 2)


cdef bytes TASK_KINDS = b"ssQqssiissLqqissssiii?Qs"


def task_columns(list rows, Py_ssize_t first):
    """(the buffers of each column of `task_rows.SCHEMA`, behind the last row that is in them) from row `first` on."""
    cdef list columns = _columns(TASK_KINDS)
    cdef Py_ssize_t place = first
    for place in range(first, len(rows)):
        row = rows[place]
        if type(row) is Row:
            _push_row(columns, <Row>row)
        else:
            for column, value in zip(columns, row.columns()):
                (<Column>column).value(value)
        if (<Column>columns[23]).data.used > COLUMN_BYTES_MAX:
            break
    return _buffers(columns), place + 1


cdef int _push_row(list columns, Row row) except -1:
    cdef const char* request = PyBytes_AS_STRING(row.request)
    cdef Column plugins = <Column>columns[10]
    cdef Column view = <Column>columns[23]
    cdef Span rest, key, value
    (<Column>columns[0]).raw(row.id)
    (<Column>columns[1]).raw(row.user)
    (<Column>columns[2]).number(row.submit_seq)
    (<Column>columns[3]).number(row.created_us)
    (<Column>columns[4]).text(request + row.job_at, row.job_size)
    (<Column>columns[5]).raw(<bytes>STATUSES[row.status])
    (<Column>columns[6]).number(row.priority)
    (<Column>columns[7]).number(row.node_count)
    (<Column>columns[8]).text(request + row.reservation_at, row.reservation_size)
    (<Column>columns[9]).text(request + row.experiment_at, row.experiment_size)
    rest.at, rest.size = request + row.plugins_at, row.plugins_size
    while _next_member(&rest, &key, &value):
        plugins.text(key.at, key.size)
    plugins.close_list()
    (<Column>columns[11]).number(row.started_us)
    (<Column>columns[12]).number(row.ended_us)
    (<Column>columns[13]).number(row.attempt)
    (<Column>columns[14]).text(PyBytes_AS_STRING(row.assignments) + row.worker_at, row.worker_size)
    (<Column>columns[15]).raw(row.error)
    (<Column>columns[16]).text(b"cancelled", 9 if row.cancelled else 0)
    (<Column>columns[17]).text(b"", 0)
    (<Column>columns[18]).number(-1)
    (<Column>columns[19]).number(0)
    (<Column>columns[20]).number(1)
    (<Column>columns[21]).number(0)
    (<Column>columns[22]).number(row.last_seq)
    row.push_view(view.data)
    return view.ends.number(view.data.used, 4)


# ---- what a fact makes of it


cdef Row _submitted(const uint8_t* record):
    """None where the task is not ordinary."""
    cdef Row row = Row.__new__(Row)
    cdef Span metadata, rest, key, value, text
    cdef bint prioritised = False
    _text(record, METADATA, &metadata)
    if not _inside(&metadata, &rest):
        return None
    while _next_member(&rest, &key, &value):
        if _is(&key, b"request", 7):
            row.request = _bytes(&value)
        elif _is(&key, b"priority", 8):
            prioritised = _small_integer(&value, &row.priority)
            if not prioritised:
                return None
    if rest.size or row.request is None or not prioritised or not row.read_request():
        return None
    _text(record, RESOURCE, &text)
    row.id = _bytes(&text)
    _text(record, USER, &text)
    row.user = _bytes(&text)
    row.submit_seq = row.last_seq = _number(record + 8, 8)
    row.created_us = <int64_t>_number(record + 48, 8)
    row.aged = b"%d.0" % row.priority
    row.error, row.assignments, row.report = b"", b"[]", b"null"
    return row


cdef Row _changed(Row before, const uint8_t* record, Span* action):
    """None where the fact is not ordinary."""
    cdef Row row = before.copy()
    cdef Span metadata, text
    row.last_seq = _number(record + 8, 8)
    _text(record, METADATA, &metadata)
    if _is(action, b"task.start", 10):
        row.status, row.started_us = RUNNING, <int64_t>_number(record + 48, 8)
        return row if _read_start(row, &metadata) else None
    if _is(action, b"task.cancel_requested", 21):
        return row
    if _is(action, b"task.requeue", 12):
        row.status = QUEUED
        row.retry_count += 1
        return row if _read_requeue(row, &metadata) else None
    row.cancelled = _is(action, b"task.cancelled", 14)
    row.status = COMPLETED if _is(action, b"task.completed", 14) else FAILED
    if not (row.cancelled or row.status == COMPLETED or _is(action, b"task.failed", 11)):
        return None
    row.ended_us = <int64_t>_number(record + 48, 8)
    _text(record, ERROR, &text)
    row.error = _bytes(&text)
    return row if _read_end(row, &metadata) else None


cdef bint _read_start(Row row, Span* metadata) except -1:
    cdef Span rest, key, value
    if not metadata.size:
        return True
    if not _inside(metadata, &rest):
        return False
    while _next_member(&rest, &key, &value):
        if _is(&key, b"attempt", 7):
            if not _small_integer(&value, &row.attempt):
                return False
        elif _is(&key, b"priority", 8):
            if not _small_integer(&value, &row.priority):
                return False
        elif _is(&key, b"aged", 4):
            if not _is_number(&value):
                return False
            row.aged = _bytes(&value)
        elif _is(&key, b"assignments", 11):
            row.assignments = _bytes(&value)
            if not row.read_assignments():
                return False
    return not rest.size


cdef bint _read_requeue(Row row, Span* metadata) except -1:
    """The log of the attempt that is over."""
    cdef Span rest, key, value, log
    cdef int64_t attempt = row.attempt
    log.at, log.size = NULL, 0
    if not metadata.size:
        return True
    if not _inside(metadata, &rest):
        return False
    while _next_member(&rest, &key, &value):
        if _is(&key, b"attempt", 7):
            if not _small_integer(&value, &attempt):
                return False
        elif _is(&key, b"log", 3):
            log = value
    if log.size:
        item = b'{"attempt":%d,"log":%b}' % (attempt, _bytes(&log))
        row.earlier = item if row.earlier is None else row.earlier + b"," + item
    return not rest.size


cdef bint _read_end(Row row, Span* metadata) except -1:
    cdef Span rest, key, value
    row.report = b"null"
    if not metadata.size:
        return True
    if not _inside(metadata, &rest):
        return False
    while _next_member(&rest, &key, &value):
        if _is(&key, b"attempt", 7):
            if not _small_integer(&value, &row.attempt):
                return False
        elif _is(&key, b"priority", 8):
            if not _small_integer(&value, &row.priority):
                return False
        elif _is(&key, b"report", 6) and not _is(&value, b"{}", 2) and not _is(&value, b"null", 4):
            if value.at[0] != c"{":
                return False
            row.report = _bytes(&value)
    return not rest.size
