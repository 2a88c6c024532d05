"""JSON that is passed on as it is: looked through for a few members, never parsed. It is canonical, or refused."""

cdef int64_t EXACT_MIN_US = 1_000_000_000
cdef int64_t EXACT_MAX_US = 8_589_934_592_000_000
cdef const char* DIGITS = b"0123456789abcdef"


cdef struct Span:
    const char* at
    Py_ssize_t size


cdef const char* _behind_string(const char* at, const char* end) noexcept:
    """Behind the string that begins at `at`; NULL where none does."""
    if at >= end or at[0] != c'"':
        return NULL
    at += 1
    while at < end:
        if at[0] == c'"':
            return at + 1
        at += 2 if at[0] == c"\\" else 1
    return NULL


cdef const char* _behind_value(const char* at, const char* end) noexcept:
    """Behind the value that begins at `at`, as canonical JSON has it; NULL where it does not end."""
    cdef int depth = 0
    while at < end:
        if at[0] == c'"':
            at = _behind_string(at, end)
            if at == NULL:
                return NULL
            if not depth:
                return at
            continue
        if at[0] == c"{" or at[0] == c"[":
            depth += 1
        elif at[0] == c"}" or at[0] == c"]":
            if not depth:
                return at  # the end of what a number, true, false or null stands in
            depth -= 1
            if not depth:
                return at + 1
        elif at[0] == c"," and not depth:
            return at
        elif at[0] <= c" ":
            return NULL
        at += 1
    return at if not depth else NULL


cdef bint _next_member(Span* rest, Span* key, Span* value) noexcept:
    """Take the next member off an object's inside. False where none is left, with `rest.size` 0 if all was in order."""
    cdef const char* end = rest.at + rest.size
    cdef const char* at = _behind_string(rest.at, end)
    if at == NULL or at >= end or at[0] != c":":
        return False
    key.at, key.size = rest.at + 1, at - rest.at - 2
    value.at = at + 1
    at = _behind_value(value.at, end)
    if at == NULL or at == value.at:
        return False
    value.size = at - value.at
    if at < end:
        if at[0] != c"," or at + 1 == end:
            return False
        at += 1
    rest.at, rest.size = at, end - at
    return True


cdef bint _inside(Span* object_, Span* rest) noexcept:
    """What is between an object's braces."""
    if object_.size < 2 or object_.at[0] != c"{" or object_.at[object_.size - 1] != c"}":
        return False
    rest.at, rest.size = object_.at + 1, object_.size - 2
    return True


cdef bint _is(Span* span, const char* word, Py_ssize_t size) noexcept:
    return span.size == size and not memcmp(span.at, word, size)


cdef bint _plain_string(Span* value, Span* text) noexcept:
    """The text of a JSON string that stands there as it is."""
    if value.size < 2 or value.at[0] != c'"' or memchr(value.at, c"\\", value.size) != NULL:
        return False
    text.at, text.size = value.at + 1, value.size - 2
    return True


cdef bint _small_integer(Span* value, int64_t* number) noexcept:
    cdef Py_ssize_t place = 0
    cdef bint negative = value.size > 1 and value.at[0] == c"-"
    number[0] = 0
    if value.size - negative > DIGITS_MAX or value.size == negative:
        return False
    for place in range(negative, value.size):
        if not c"0" <= value.at[place] <= c"9":
            return False
        number[0] = 10 * number[0] + (value.at[place] - c"0")
    if negative:
        number[0] = -number[0]
    return True


cdef bint _is_number(Span* value) noexcept:
    return value.size > 0 and (value.at[0] == c"-" or c"0" <= value.at[0] <= c"9")


cdef int _push_string(Buffer out, const char* at, Py_ssize_t size) except -1:
    """A text as a JSON string in canonical form."""
    cdef const char* end = at + size
    cdef char* to = out.grow(6 * size + 2)
    cdef char* begin = to
    cdef uint8_t byte
    to[0] = c'"'
    to += 1
    while at < end:
        byte = <uint8_t>at[0]
        at += 1
        if byte >= 32 and byte != 34 and byte != 92:
            to[0] = <char>byte
            to += 1
            continue
        to[0] = c"\\"
        to[1] = _short_escape(byte)
        if to[1] == c"u":
            memcpy(to + 2, b"00", 2)
            to[4] = DIGITS[byte >> 4]
            to[5] = DIGITS[byte & 15]
            to += 4
        to += 2
    to[0] = c'"'
    out.used += to + 1 - begin
    return 0


cdef char _short_escape(uint8_t byte) noexcept:
    if byte == 34 or byte == 92:
        return <char>byte
    if byte == 10:
        return c"n"
    if byte == 13:
        return c"r"
    if byte == 9:
        return c"t"
    if byte == 8:
        return c"b"
    return c"f" if byte == 12 else c"u"


cdef int _push_seconds(Buffer out, int64_t at_us) except -1:
    """Microseconds as seconds, as `repr` writes them: by the interpreter's own means, but for today's times.

    Of numbers below 2**33 the doubles lie closer than a millionth, so no shorter decimal is the same double.
    """
    cdef char* digits
    cdef Py_ssize_t size = 0
    if not at_us:
        return out.push(b"0.0", 3)
    if EXACT_MIN_US <= at_us < EXACT_MAX_US:
        return _push_decimal(out, at_us)
    digits = PyOS_double_to_string(<double>at_us / 1e6, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    while digits[size]:
        size += 1
    try:
        return out.push(digits, size)
    finally:
        PyMem_Free(digits)


cdef int _push_decimal(Buffer out, int64_t at_us) except -1:
    """Without trailing zeros, but for one behind the point."""
    cdef char digits[8]
    cdef int64_t below = at_us % 1_000_000
    cdef int place, size = 7
    _push_whole(out, at_us // 1_000_000)
    digits[0] = c"."
    for place in range(6, 0, -1):
        digits[place] = <char>(48 + below % 10)
        below //= 10
    while size > 2 and digits[size - 1] == c"0":
        size -= 1
    return out.push(digits, size)


cdef int _push_whole(Buffer out, int64_t number) except -1:
    cdef char digits[24]
    cdef int at = 24
    cdef uint64_t left = <uint64_t>(-number) if number < 0 else <uint64_t>number
    while True:
        at -= 1
        digits[at] = <char>(48 + left % 10)
        left //= 10
        if not left:
            break
    if number < 0:
        at -= 1
        digits[at] = c"-"
    return out.push(digits + at, 24 - at)
