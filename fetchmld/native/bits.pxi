"""Sets of small numbers as bitmaps, and ladders: who asks for no more than an amount."""

cdef extern from *:
    int lowest_bit "__builtin_ctzll"(uint64_t) noexcept nogil

cdef uint64_t HASH_FACTOR = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio

ctypedef vector[uint64_t] Bits


cdef inline bint has_bit(Bits* bits, size_t at) noexcept:
    return bits[0][at >> 6] >> (at & 63) & 1


cdef inline void set_bit(Bits* bits, size_t at) noexcept:
    bits[0][at >> 6] |= <uint64_t>1 << (at & 63)


cdef inline void clear_bit(Bits* bits, size_t at) noexcept:
    bits[0][at >> 6] &= ~(<uint64_t>1 << (at & 63))


cdef inline int64_t next_bit(Bits* bits, size_t at) noexcept:
    """The first bit that is set at `at` or later, or -1."""
    cdef size_t word = at >> 6
    if word >= bits.size():
        return -1
    cdef uint64_t rest = bits[0][word] >> (at & 63) << (at & 63)
    while rest == 0:
        word += 1
        if word == bits.size():
            return -1
        rest = bits[0][word]
    return <int64_t>(word * 64 + lowest_bit(rest))


cdef void insert_zero(Bits* bits, size_t at, size_t size) noexcept:
    """Make room for one bit at `at`; `size` is the number of bits then."""
    cdef size_t word
    cdef uint64_t low = (<uint64_t>1 << (at & 63)) - 1
    if bits.size() * 64 < size:
        bits.push_back(0)
    word = bits.size() - 1
    while word > at >> 6:
        bits[0][word] = bits[0][word] << 1 | bits[0][word - 1] >> 63
        word -= 1
    bits[0][word] = (bits[0][word] & ~low) << 1 | (bits[0][word] & low)


cdef inline uint64_t digest(Bits* bits) noexcept:
    cdef uint64_t mixed = 0
    cdef size_t word
    for word in range(bits.size()):
        mixed = (mixed ^ bits[0][word]) * HASH_FACTOR
    return mixed


cdef cppclass Ladder:
    vector[int64_t] steps  # ascending
    vector[Bits] fits  # for each step, who asks for that or less


cdef void add_step(Ladder* ladder, int64_t step) noexcept:
    cdef size_t at = 0
    while at < ladder.steps.size() and ladder.steps[at] < step:
        at += 1
    if at == ladder.steps.size() or ladder.steps[at] != step:
        ladder.steps.insert(ladder.steps.begin() + at, step)


cdef void stand(Ladder* ladder, int64_t step, size_t who, size_t words) noexcept:
    """Let `who` stand on its step and all above. Every step is in already."""
    cdef size_t at
    ladder.fits.resize(ladder.steps.size())
    for at in range(ladder.steps.size()):
        ladder.fits[at].resize(words)
        if ladder.steps[at] >= step:
            set_bit(&ladder.fits[at], who)


cdef inline Bits* look_up(Ladder* ladder, int64_t amount, Bits* nothing) noexcept:
    """Who asks for no more than `amount`."""
    cdef size_t low = 0
    cdef size_t high = ladder.steps.size()
    cdef size_t middle
    while low < high:
        middle = (low + high) >> 1
        if ladder.steps[middle] <= amount:
            low = middle + 1
        else:
            high = middle
    return nothing if low == 0 else &ladder.fits[low - 1]
