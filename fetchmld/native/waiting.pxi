"""The tasks that wait: the line of each shape, in order, and a table of all of them by number.

A line is cut into parts of bounded size, each in order, so that a task is put in, taken out or counted past by two binary
searches, and the first one is at the very end.
"""

cdef extern from *:
    void prefetch "__builtin_prefetch"(void*) noexcept nogil

cdef size_t PART_MAX = 256  # tasks in one part of a line: 4 KiB
cdef int LIVE_BITS_MIN = 6

# (key, -task): the largest is the first in the order.
ctypedef pair[double, int64_t] Entry
ctypedef vector[Entry] Part


cdef cppclass Line:
    vector[Part] parts  # ascending, none empty
    vector[Entry] ends  # the last of each part


cdef inline size_t part_for(Line* line, Entry entry) noexcept:
    """The first part that ends with `entry` or later; the number of parts where none does."""
    return lower_bound(line.ends.begin(), line.ends.end(), entry) - line.ends.begin()


cdef inline size_t place_in(Part* part, Entry entry) noexcept:
    return lower_bound(part.begin(), part.end(), entry) - part.begin()


cdef void join_line(Line* line, Entry entry) noexcept:
    cdef size_t at = part_for(line, entry)
    if at == line.parts.size():
        if at == 0:
            line.parts.resize(1)
            line.ends.push_back(entry)
        else:
            at -= 1
            line.ends[at] = entry
    cdef Part* part = &line.parts[at]
    part.insert(part.begin() + place_in(part, entry), entry)
    if part.size() > PART_MAX:
        split_part(line, at)


cdef void split_part(Line* line, size_t at) noexcept:
    """Give the lower half to a new part before this one."""
    cdef Part lower
    cdef Part upper
    cdef size_t half = line.parts[at].size() // 2
    lower.assign(line.parts[at].begin(), line.parts[at].begin() + half)
    upper.assign(line.parts[at].begin() + half, line.parts[at].end())
    line.parts[at].swap(upper)
    line.ends.insert(line.ends.begin() + at, lower.back())
    line.parts.insert(line.parts.begin() + at, lower)


cdef inline void leave_front(Line* line) noexcept:
    """Take out the first in the order."""
    cdef Part* part = &line.parts.back()
    part.pop_back()
    if part.empty():
        line.parts.pop_back()
        line.ends.pop_back()
    else:
        line.ends[line.ends.size() - 1] = part.back()


cdef void leave_line(Line* line, Entry entry) noexcept:
    """Take out one that is in."""
    cdef size_t at = part_for(line, entry)
    cdef Part* part = &line.parts[at]
    part.erase(part.begin() + place_in(part, entry))
    if part.empty():
        drop_part(line, at)
        return
    line.ends[at] = part.back()
    if at > 0 and part.size() + line.parts[at - 1].size() <= PART_MAX // 2:
        join_parts(line, at - 1)
    elif at + 1 < line.parts.size() and part.size() + line.parts[at + 1].size() <= PART_MAX // 2:
        join_parts(line, at)


cdef void join_parts(Line* line, size_t at) noexcept:
    """Make one of this part and the next, so that few tasks never keep many parts."""
    cdef Part* upper = &line.parts[at + 1]
    line.parts[at].insert(line.parts[at].end(), upper.begin(), upper.end())
    line.ends[at] = line.ends[at + 1]
    drop_part(line, at + 1)


cdef void drop_part(Line* line, size_t at) noexcept:
    line.parts.erase(line.parts.begin() + at)
    line.ends.erase(line.ends.begin() + at)


cdef int64_t ahead_in(Line* line, Entry entry) noexcept:
    """How many of this line come before `entry`, which need not be in it."""
    cdef size_t at = part_for(line, entry)
    cdef size_t i
    cdef int64_t ahead = 0
    if at == line.parts.size():
        return 0
    for i in range(at + 1, line.parts.size()):
        ahead += line.parts[i].size()
    cdef size_t within = place_in(&line.parts[at], entry)
    ahead += line.parts[at].size() - within
    return ahead - (line.parts[at][within] == entry)


# -- the table: open addressing, at most two thirds full


cdef struct Place:  # of a live task; an empty one has shape -1
    int64_t task
    double key
    int shape


cdef cppclass Live:
    vector[Place] places
    size_t count
    int shift


cdef inline size_t home_of(Live* live, int64_t task) noexcept:
    return <size_t>(<uint64_t>task * HASH_FACTOR >> live.shift)


cdef inline size_t place_of(Live* live, int64_t task) noexcept:
    """Where the task is, or the empty place where it would be."""
    cdef size_t at = home_of(live, task)
    while live.places[at].shape >= 0 and live.places[at].task != task:
        at = (at + 1) & (live.places.size() - 1)
    return at


cdef void make_room(Live* live, int bits) noexcept:
    cdef vector[Place] old
    cdef Place empty
    old.swap(live.places)
    empty.task, empty.key, empty.shape = 0, 0, -1
    live.places.assign(<size_t>1 << bits, empty)
    live.shift = 64 - bits
    for place in old:
        if place.shape >= 0:
            live.places[place_of(live, place.task)] = place


cdef void add_live(Live* live, int64_t task, int shape, double key) noexcept:
    cdef Place place
    place.task, place.shape, place.key = task, shape, key
    live.count += 1
    if live.count * 3 > live.places.size() * 2:
        make_room(live, 65 - live.shift)
    live.places[place_of(live, task)] = place


cdef void drop_live(Live* live, int64_t task) noexcept:
    """Take out a task that is in, and move up those behind it that would not be found any more."""
    cdef size_t mask = live.places.size() - 1
    cdef size_t hole = place_of(live, task)
    cdef size_t at = hole
    live.count -= 1
    while True:
        at = (at + 1) & mask
        if live.places[at].shape < 0:
            break
        if ((at - home_of(live, live.places[at].task)) & mask) >= ((at - hole) & mask):
            live.places[hole] = live.places[at]
            hole = at
    live.places[hole].shape = -1
