# distutils: language = c++
# cython: boundscheck=False, wraparound=False, cdivision=True
"""The native ready queue: a heap for each shape, and an index of the workers by what they have free.

`core/ready.py` is the specification; read it first. What is different here is only how.

Tasks. Removed ones stay in their heap until they come up or are half of it. A shape that fitted nowhere is not tried
again until a worker it fits on got capacity back, or what is held for the plan changed.

Workers. A *request* is what one node of a shape asks for; shapes share them. What a worker has free is a set of requests
that fit there, one bit each, found by looking up each amount on a *ladder* (the requests that ask for no more than that)
and combining the bits. Workers left with the same GPUs and cores are a *tier*, those in it that the same requests fit are
a *group*, in order of their numbers. Each request has a bitmap of the tiers in which it fits somewhere, in the order of
the ranking: the best worker is in the first of them. A worker on which nothing fits is nowhere, so that on a full cluster
almost nothing is looked at.
"""

from cython cimport final
from cython.operator cimport dereference
from libc.math cimport INFINITY, isnan
from libc.stdint cimport int64_t, uint64_t
from libcpp.algorithm cimport binary_search, make_heap, pop_heap, push_heap, sort
from libcpp.pair cimport pair
from libcpp.set cimport set as ordered_set
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

cdef extern from *:
    int lowest_bit "__builtin_ctzll"(uint64_t) noexcept nogil
    void prefetch "__builtin_prefetch"(void*) noexcept nogil

cdef int NO_GPU = -1
cdef int EVERY_POOL = -1
cdef int GPU_TYPES_MAX = 64
cdef size_t DEAD_MIN = 64  # a heap with fewer removed tasks is left alone
cdef size_t GROUPS_KEPT = 256  # empty groups kept for reuse
cdef uint64_t HASH_FACTOR = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio
cdef int LIVE_BITS_MIN = 6
cdef size_t TIERS_SPARE = 1024  # tiers kept beyond four for each worker before all are made anew

# (key, -task): the largest is the first in the order, so C++'s max-heap serves as it is.
ctypedef pair[double, int64_t] Entry
ctypedef pair[int64_t, int64_t] Left  # (GPUs, cores) left: the ranking
ctypedef pair[int, int] Seat  # (worker, GPU type), of a task about to start
ctypedef pair[int, int64_t] Liking  # (worker, by how much the task prefers it)
ctypedef pair[int64_t, pair[Left, Seat]] Ranked  # by how much, negated, then as all others
ctypedef vector[uint64_t] Bits


cdef struct Request:
    int64_t cpu
    int64_t memory_gb
    int64_t gpu
    uint64_t gpu_types
    bint service


cdef cppclass Shape:
    int request
    int nodes
    int pool
    double limit_s
    vector[int] excluded
    bint near  # its tasks prefer some workers
    vector[Entry] heap
    size_t dead  # removed tasks in the heap
    int waiting_at  # where its head is, or -1
    uint64_t skipped_at  # the generation of workers none of which can ever take it


cdef struct Head:  # of a shape with tasks, apart from it so that the walk reads little memory
    Entry entry
    int shape
    int request
    int pool
    double limit_s
    uint64_t skipped_at
    uint64_t blocked_at  # the stamp at which it fitted nowhere
    bint blocked_by_plan  # bound by the plan, that is


cdef struct Place:  # of a live task; an empty one has shape -1
    int64_t task
    double key
    int shape


cdef cppclass Live:  # the live tasks: open addressing, at most two thirds full
    vector[Place] places
    size_t count
    int shift


cdef struct TypeCount:
    int bit
    int64_t count


cdef cppclass Free:
    int64_t cpu
    int64_t memory_gb
    int64_t batch
    int64_t service
    int64_t gpus_total
    vector[TypeCount] gpus  # by bit


cdef cppclass Ladder:
    vector[int64_t] steps  # ascending
    vector[Bits] fits  # for each step, who asks for that or less


cdef cppclass Group:
    Bits fits
    ordered_set[int] workers
    size_t at  # where in its tier


cdef struct Known:
    uint64_t digest  # of `fits`, to look no further where it differs
    Group* group


cdef cppclass Tier:
    vector[Known] groups
    vector[int] fitting  # for each request, how many of the groups it fits
    size_t at  # where in the order


cdef cppclass Site:  # a worker in a pool
    Free free
    Tier* tier
    Group* group  # NULL: nothing fits here


cdef cppclass Pool:
    vector[Site*] sites  # by worker; NULL: not in this pool
    size_t count
    vector[Left] lefts  # of the tiers, ascending
    vector[Tier*] tiers
    vector[Bits] fitting  # for each request, in which tiers it fits
    vector[int] fitting_count  # and in how many


# -- what is free, and what fits


cdef void read_free(Free* free, int64_t cpu, int64_t memory_gb, int64_t batch, int64_t service, gpus) except *:
    cdef TypeCount one
    free.cpu, free.memory_gb, free.batch, free.service, free.gpus_total = cpu, memory_gb, batch, service, 0
    free.gpus.clear()
    for bit, count in sorted(dict(gpus).items()):
        if not 0 <= bit < GPU_TYPES_MAX:
            raise ValueError(f"a GPU type is a bit in 0..{GPU_TYPES_MAX - 1}, not {bit}")
        one.bit, one.count = bit, count
        free.gpus.push_back(one)
        free.gpus_total += one.count


cdef int64_t gpus_of(Free* free, int bit) noexcept:
    for one in free.gpus:
        if one.bit == bit:
            return one.count
    return 0


cdef bint has_rest(Free* free, Request* wanted) noexcept:
    """Whether everything but the GPUs is there."""
    if (free.service if wanted.service else free.batch) < 1:
        return False
    return free.cpu >= wanted.cpu and free.memory_gb >= wanted.memory_gb


cdef bint type_for(Free* free, Free* spare, Request* wanted, int* chosen) noexcept:
    """Whether a node fits, within `spare` too unless that is NULL, and with which GPU type."""
    cdef int64_t least = -1
    if not has_rest(free, wanted) or (spare != NULL and not has_rest(spare, wanted)):
        return False
    chosen[0] = NO_GPU
    if wanted.gpu == 0:
        return True
    for one in free.gpus:
        if not wanted.gpu_types >> one.bit & 1 or one.count < wanted.gpu or (least >= 0 and one.count >= least):
            continue
        if spare == NULL or gpus_of(spare, one.bit) >= wanted.gpu:
            least, chosen[0] = one.count, one.bit
    return least >= 0


cdef void take(Free* free, Request* wanted, int gpu_type, int sign) noexcept:
    """Claim (`sign` 1) or give back (-1) what one node holds."""
    cdef size_t i = 0
    cdef TypeCount none
    free.cpu -= sign * wanted.cpu
    free.memory_gb -= sign * wanted.memory_gb
    if wanted.service:
        free.service -= sign
    else:
        free.batch -= sign
    if gpu_type == NO_GPU:
        return
    while i < free.gpus.size() and free.gpus[i].bit < gpu_type:
        i += 1
    if i == free.gpus.size() or free.gpus[i].bit != gpu_type:
        none.bit, none.count = gpu_type, 0
        free.gpus.insert(free.gpus.begin() + i, none)
    free.gpus[i].count -= sign * wanted.gpu
    free.gpus_total -= sign * wanted.gpu


# -- live tasks


cdef size_t home_of(Live* live, int64_t task) noexcept:
    return <size_t>(<uint64_t>task * HASH_FACTOR >> live.shift)


cdef size_t place_of(Live* live, int64_t task) noexcept:
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


cdef bint has_lower_worker(const Liking& one, const Liking& other) noexcept:
    return one.first < other.first


# -- bitmaps


cdef bint has_bit(Bits* bits, size_t at) noexcept:
    return bits[0][at >> 6] >> (at & 63) & 1


cdef void set_bit(Bits* bits, size_t at) noexcept:
    bits[0][at >> 6] |= <uint64_t>1 << (at & 63)


cdef void clear_bit(Bits* bits, size_t at) noexcept:
    bits[0][at >> 6] &= ~(<uint64_t>1 << (at & 63))


cdef int64_t next_bit(Bits* bits, size_t at) noexcept:
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


cdef uint64_t digest(Bits* bits) noexcept:
    cdef uint64_t mixed = 0
    cdef size_t word
    for word in range(bits.size()):
        mixed = (mixed ^ bits[0][word]) * HASH_FACTOR
    return mixed


# -- ladders


cdef void add_step(Ladder* ladder, int64_t step) noexcept:
    cdef size_t at = 0
    while at < ladder.steps.size() and ladder.steps[at] < step:
        at += 1
    if at == ladder.steps.size() or ladder.steps[at] != step:
        ladder.steps.insert(ladder.steps.begin() + at, step)


cdef void fill(Ladder* ladder, int64_t step, size_t request, size_t words) noexcept:
    """Let `request` stand on its step and all above. Every step is in already."""
    cdef size_t at
    ladder.fits.resize(ladder.steps.size())
    for at in range(ladder.steps.size()):
        ladder.fits[at].resize(words)
        if ladder.steps[at] >= step:
            set_bit(&ladder.fits[at], request)


cdef Bits* look_up(Ladder* ladder, int64_t amount, Bits* nothing) noexcept:
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


@final
cdef class FastQueue:
    cdef dict shape_of  # request and all -> shape
    cdef dict request_of
    cdef vector[Request] requests
    cdef vector[Shape] shapes
    cdef vector[uint64_t] freed_at  # for each request, the stamp at which a worker it fits on last got capacity
    cdef vector[Head] waiting  # in no order
    cdef Live live

    cdef unordered_map[int, Pool*] pools
    cdef Pool* common  # pool 0, or NULL
    cdef vector[Group*] unused
    cdef uint64_t types_seen
    cdef bint stale  # the index is to be made anew: a request or GPU type it does not know, or too many empty tiers
    cdef Ladder cpu_ladder
    cdef Ladder memory_ladder
    cdef vector[Ladder] gpu_ladders  # for each type
    cdef Bits nothing
    cdef Bits without_gpu
    cdef Bits batch
    cdef Bits service
    cdef Bits fits  # of the worker looked at

    cdef uint64_t stamp  # counts what may let a blocked shape start
    cdef uint64_t opened_at  # the last stamp that concerned every shape
    cdef uint64_t workers_at  # counts changes of who the workers are

    cdef int64_t plan_task  # -1: no plan
    cdef int plan_pool
    cdef Entry plan_entry
    cdef double plan_at
    cdef unordered_map[int, Free] spare

    cdef vector[Seat] nodes  # of the task about to start
    cdef object preference  # of tasks of a near shape
    cdef vector[Liking] likings  # of the task looked at, more than 0, by worker
    cdef vector[Ranked] ranked
    cdef vector[Seat] found

    def __cinit__(self):
        self.shape_of, self.request_of = {}, {}
        self.preference = None
        self.stamp, self.opened_at, self.workers_at = 1, 1, 1
        self.plan_task = -1
        self.gpu_ladders.resize(GPU_TYPES_MAX)
        self.live.count = 0
        make_room(&self.live, LIVE_BITS_MIN)
        self.common = NULL

    def __dealloc__(self):
        for item in self.pools:
            self._forget_tiers(item.second)
            for site in item.second.sites:
                del site
            del item.second
        for group in self.unused:
            del group

    # -- waiting tasks

    def shape(
        self,
        int64_t cpu,
        int64_t memory_gb,
        int64_t gpu,
        uint64_t gpu_types,
        bint service,
        /,
        int nodes=1,
        int pool=0,
        double limit_s=0,
        excluded=(),
        bint near=False,
    ):
        if nodes < 1:
            raise ValueError(f"a shape has at least 1 node, not {nodes}")
        if gpu == 0:
            gpu_types = 0
        excluded = tuple(sorted(set(excluded)))
        key = (cpu, memory_gb, gpu, gpu_types, service, nodes, pool, limit_s, excluded, near)
        index = self.shape_of.get(key)
        if index is None:
            index = self.shape_of[key] = self.shapes.size()
            self.shapes.resize(self.shapes.size() + 1)
            self._describe(&self.shapes.back(), self._request(key[:5]), nodes, pool, limit_s)
            self.shapes.back().excluded = excluded
            self.shapes.back().near = near
        return index

    def rank_by(self, preference, /):
        self.preference = preference

    cdef void _describe(self, Shape* new, int request, int nodes, int pool, double limit_s) noexcept:
        new.request, new.nodes, new.pool, new.limit_s = request, nodes, pool, limit_s
        new.dead, new.waiting_at, new.skipped_at = 0, -1, 0

    cdef int _request(self, tuple key) except -1:
        cdef Request new
        index = self.request_of.get(key)
        if index is None:
            index = self.request_of[key] = self.requests.size()
            new.cpu, new.memory_gb, new.gpu, new.gpu_types, new.service = key
            self.requests.push_back(new)
            self.freed_at.push_back(0)
            self.stale = True
        return index

    def push(self, int64_t task, int shape, double key, /):
        if self._is_in(task):
            raise ValueError(f"task {task} is in the queue already")
        if isnan(key):
            raise ValueError(f"the key of task {task} is not a number")
        self._check_shape(shape)
        add_live(&self.live, task, shape, key)
        self.shapes[shape].heap.push_back(Entry(key, -task))
        push_heap(self.shapes[shape].heap.begin(), self.shapes[shape].heap.end())
        self._note_head(shape)

    def remove(self, int64_t task, /):
        if not self._is_in(task):
            return False
        cdef int shape = self._place(task).shape
        drop_live(&self.live, task)
        self.shapes[shape].dead += 1
        self._clean(shape)
        if self.plan_task == task:
            self._end_plan()
        return True

    def position(self, int64_t task, /):
        if not self._is_in(task):
            return -1
        cdef Entry mine = Entry(self._place(task).key, -task)
        cdef int64_t ahead = 0
        for place in self.live.places:
            if place.shape >= 0 and mine < Entry(place.key, -place.task):
                ahead += 1
        return ahead

    def __len__(self):
        return self.live.count

    cdef Place* _place(self, int64_t task) noexcept:
        return &self.live.places[place_of(&self.live, task)]

    cdef bint _is_in(self, int64_t task) noexcept:
        return self._place(task).shape >= 0

    cdef int _check_shape(self, int shape) except -1:
        if shape < 0 or shape >= <int>self.shapes.size():
            raise IndexError(f"no shape {shape}")
        return 0

    cdef bint _is_live(self, Entry entry, int shape) noexcept:
        cdef Place* place = self._place(-entry.second)
        return place.shape == shape and place.key == entry.first

    cdef void _clean(self, int index) noexcept:
        """Drop removed tasks from the top, and all of them once they are half of the heap."""
        cdef Shape* shape = &self.shapes[index]
        while shape.dead and shape.heap.size() and not self._is_live(shape.heap[0], index):
            self._pop(shape)
            shape.dead -= 1
        if shape.dead > DEAD_MIN and shape.dead * 2 > shape.heap.size():
            self._compact(shape, index)
        self._note_head(index)

    cdef void _pop(self, Shape* shape) noexcept:
        pop_heap(shape.heap.begin(), shape.heap.end())
        shape.heap.pop_back()

    cdef void _compact(self, Shape* shape, int index) noexcept:
        """Keep the live ones, once each: a task that was removed and pushed again as it was is there twice."""
        cdef vector[Entry] kept
        sort(shape.heap.begin(), shape.heap.end())
        for entry in shape.heap:
            if self._is_live(entry, index) and (kept.empty() or kept.back() != entry):
                kept.push_back(entry)
        shape.heap.swap(kept)
        make_heap(shape.heap.begin(), shape.heap.end())
        shape.dead = 0

    cdef void _note_head(self, int index) noexcept:
        """Keep `waiting` in step with the heap of this shape."""
        cdef Shape* shape = &self.shapes[index]
        if shape.heap.empty():
            self._forget_head(shape)
            return
        if shape.waiting_at < 0:
            self._new_head(shape, index)
        self.waiting[shape.waiting_at].entry = shape.heap[0]

    cdef void _new_head(self, Shape* shape, int index) noexcept:
        cdef Head head
        head.shape, head.request, head.skipped_at = index, shape.request, shape.skipped_at
        head.pool, head.limit_s = shape.pool, shape.limit_s
        head.blocked_at, head.blocked_by_plan = 0, False
        shape.waiting_at = <int>self.waiting.size()
        self.waiting.push_back(head)

    cdef void _forget_head(self, Shape* shape) noexcept:
        if shape.waiting_at >= 0:
            self.shapes[self.waiting.back().shape].waiting_at = shape.waiting_at
            self.waiting[shape.waiting_at] = self.waiting.back()
            self.waiting.pop_back()
            shape.waiting_at = -1

    # -- workers

    def set_worker(
        self,
        int worker,
        int64_t cpu,
        int64_t memory_gb,
        int64_t batch,
        int64_t service,
        list gpus,
        int pool=0,
        /,
    ):
        cdef Free free
        cdef Site* site
        if worker < 0:
            raise ValueError(f"a worker has a number from 0 on, not {worker}")
        read_free(&free, cpu, memory_gb, batch, service, gpus)
        for one in free.gpus:
            self._see_type(one.bit)
        site = self._site_for(worker, pool)
        site.free = free
        self._refile(self._pool(pool), worker, site)
        self._note_freed()
        self.workers_at += 1

    cdef void _see_type(self, int bit) noexcept:
        if not self.types_seen >> bit & 1:
            self.types_seen |= <uint64_t>1 << bit
            self.stale = True

    cdef Site* _site_for(self, int worker, int number):
        """The site of this worker, made where it is not known in this pool."""
        cdef Pool* pool = self._pool(number)
        if pool == NULL:
            pool = self.pools[number] = new Pool()
            self._size_index(pool)
            pool.count = 0
            self.common = self._pool_of(0)
        if pool.sites.size() <= <size_t>worker:
            pool.sites.resize(worker + 1, NULL)
        if pool.sites[worker] == NULL:
            pool.sites[worker] = new Site()
            pool.sites[worker].group = NULL
            pool.count += 1
        return pool.sites[worker]

    def drop_worker(self, int worker, int pool=-1, /):
        cdef vector[int] numbers
        if pool == EVERY_POOL:
            for item in self.pools:
                numbers.push_back(item.first)
        else:
            numbers.push_back(pool)
        for number in numbers:
            self._drop(worker, number)
        self.workers_at += 1

    cdef void _drop(self, int worker, int number) noexcept:
        cdef Pool* pool = self._pool(number)
        cdef Site* site = NULL
        if pool != NULL:
            site = self._site(pool, worker)
        if site == NULL:
            return
        self._unfile(pool, worker, site)
        pool.sites[worker] = NULL
        pool.count -= 1
        del site
        if pool.count == 0:
            self._forget_tiers(pool)
            del pool
            self.pools.erase(number)
            self.common = self._pool_of(0)

    def release(self, int worker, int shape, int gpu_type, /):
        self._check_shape(shape)
        if gpu_type != NO_GPU:
            if not 0 <= gpu_type < GPU_TYPES_MAX:
                raise ValueError(f"a GPU type is a bit in 0..{GPU_TYPES_MAX - 1}, not {gpu_type}")
            self._see_type(gpu_type)
        cdef Pool* pool = self._pool(self.shapes[shape].pool)
        cdef Site* site = NULL
        if pool != NULL:
            site = self._site(pool, worker)
        if site != NULL:
            take(&site.free, &self.requests[self.shapes[shape].request], gpu_type, -1)
            self._refile(pool, worker, site)
            self._note_freed()

    cdef Pool* _pool(self, int number) noexcept:
        return self.common if number == 0 else self._pool_of(number)

    cdef Pool* _pool_of(self, int number) noexcept:
        cdef unordered_map[int, Pool*].iterator found = self.pools.find(number)
        if found == self.pools.end():
            return NULL
        return dereference(found).second

    cdef Site* _site(self, Pool* pool, int worker) noexcept:
        if worker < 0 or <size_t>worker >= pool.sites.size():
            return NULL
        return pool.sites[worker]

    cdef void _note_freed(self) noexcept:
        """The requests that fit on the worker just filed may start there, whatever was found before."""
        cdef int64_t request = next_bit(&self.fits, 0)
        self.stamp += 1
        while request >= 0:
            self.freed_at[request] = self.stamp
            request = next_bit(&self.fits, request + 1)

    cdef void _open_all(self) noexcept:
        """Any shape may start now, whatever was found before."""
        self.stamp += 1
        self.opened_at = self.stamp

    # -- the index

    cdef void _find_fits(self, Free* free) noexcept:
        """Put into `fits` which requests fit there."""
        cdef Bits* cpu = look_up(&self.cpu_ladder, free.cpu, &self.nothing)
        cdef Bits* memory = look_up(&self.memory_ladder, free.memory_gb, &self.nothing)
        cdef Bits* gpus
        cdef size_t word
        self.fits = self.without_gpu
        for one in free.gpus:
            gpus = look_up(&self.gpu_ladders[one.bit], one.count, &self.nothing)
            for word in range(self.fits.size()):
                self.fits[word] |= gpus[0][word]
        for word in range(self.fits.size()):
            self.fits[word] &= (self.batch[word] if free.batch > 0 else 0) | (
                self.service[word] if free.service > 0 else 0
            )
            self.fits[word] &= cpu[0][word] & memory[0][word]

    cdef void _refile(self, Pool* pool, int worker, Site* site) noexcept:
        """Put a worker where it belongs now that what it has free changed."""
        if self.stale:
            return
        self._unfile(pool, worker, site)
        self._find_fits(&site.free)
        if next_bit(&self.fits, 0) < 0:
            return
        site.tier = self._tier(pool, Left(site.free.gpus_total, site.free.cpu))
        site.group = self._group(pool, site.tier)
        site.group.workers.insert(worker)

    cdef void _unfile(self, Pool* pool, int worker, Site* site) noexcept:
        cdef Group* group = site.group
        if group == NULL:
            return
        group.workers.erase(worker)
        site.group = NULL
        if group.workers.empty():
            self._forget_group(pool, site.tier, group)

    cdef Tier* _tier(self, Pool* pool, Left left) noexcept:
        cdef size_t low = 0
        cdef size_t high = pool.lefts.size()
        cdef size_t middle
        while low < high:
            middle = (low + high) >> 1
            if pool.lefts[middle] < left:
                low = middle + 1
            else:
                high = middle
        if low == pool.lefts.size() or pool.lefts[low] != left:
            self._new_tier(pool, left, low)
        return pool.tiers[low]

    cdef void _new_tier(self, Pool* pool, Left left, size_t at) noexcept:
        cdef Tier* tier = new Tier()
        cdef size_t i
        tier.fitting.resize(self.requests.size())
        pool.lefts.insert(pool.lefts.begin() + at, left)
        pool.tiers.insert(pool.tiers.begin() + at, tier)
        for i in range(at, pool.tiers.size()):
            pool.tiers[i].at = i
        for i in range(pool.fitting.size()):
            insert_zero(&pool.fitting[i], at, pool.tiers.size())
        if pool.tiers.size() > pool.count * 4 + TIERS_SPARE:
            self.stale = True

    cdef Group* _group(self, Pool* pool, Tier* tier) noexcept:
        """The group of this tier that the requests in `fits` fit."""
        cdef Known found
        found.digest = digest(&self.fits)
        for known in tier.groups:
            if known.digest == found.digest and known.group.fits == self.fits:
                return known.group
        found.group = self._empty_group()
        found.group.fits = self.fits
        found.group.at = tier.groups.size()
        tier.groups.push_back(found)
        self._count_group(pool, tier, found.group)
        return found.group

    cdef Group* _empty_group(self) noexcept:
        if self.unused.empty():
            return new Group()
        cdef Group* group = self.unused.back()
        self.unused.pop_back()
        return group

    cdef void _count_group(self, Pool* pool, Tier* tier, Group* group) noexcept:
        cdef int64_t request = next_bit(&group.fits, 0)
        while request >= 0:
            tier.fitting[request] += 1
            if tier.fitting[request] == 1:
                set_bit(&pool.fitting[request], tier.at)
                pool.fitting_count[request] += 1
            request = next_bit(&group.fits, request + 1)

    cdef void _forget_group(self, Pool* pool, Tier* tier, Group* group) noexcept:
        cdef int64_t request = next_bit(&group.fits, 0)
        while request >= 0:
            tier.fitting[request] -= 1
            if tier.fitting[request] == 0:
                clear_bit(&pool.fitting[request], tier.at)
                pool.fitting_count[request] -= 1
            request = next_bit(&group.fits, request + 1)
        tier.groups[group.at] = tier.groups.back()
        tier.groups[group.at].group.at = group.at
        tier.groups.pop_back()
        if self.unused.size() < GROUPS_KEPT:
            self.unused.push_back(group)
        else:
            del group

    cdef void _forget_tiers(self, Pool* pool) noexcept:
        for tier in pool.tiers:
            for known in tier.groups:
                del known.group
            del tier
        pool.tiers.clear()
        pool.lefts.clear()
        pool.fitting.clear()
        pool.fitting_count.clear()

    cdef void _size_index(self, Pool* pool) noexcept:
        pool.fitting.resize(self.requests.size())
        pool.fitting_count.resize(self.requests.size())

    cdef void _reindex(self) noexcept:
        """Learn what requests there are and file every worker anew."""
        cdef Pool* pool
        cdef int worker
        self.stale = False
        self._build_ladders()
        for item in self.pools:
            pool = item.second
            self._forget_tiers(pool)
            self._size_index(pool)
            for worker in range(<int>pool.sites.size()):
                if pool.sites[worker] != NULL:
                    pool.sites[worker].group = NULL
                    self._refile(pool, worker, pool.sites[worker])
        self._open_all()

    cdef void _build_ladders(self) noexcept:
        cdef size_t words = (self.requests.size() + 63) // 64
        cdef size_t i
        cdef Ladder empty
        self.cpu_ladder = self.memory_ladder = empty
        self.gpu_ladders.assign(GPU_TYPES_MAX, empty)
        self.nothing.assign(words, 0)
        self.without_gpu = self.batch = self.service = self.nothing
        for i in range(self.requests.size()):
            self._add_steps(&self.requests[i])
        for i in range(self.requests.size()):
            self._stand(&self.requests[i], i, words)

    cdef void _add_steps(self, Request* wanted) noexcept:
        cdef int bit
        add_step(&self.cpu_ladder, wanted.cpu)
        add_step(&self.memory_ladder, wanted.memory_gb)
        for bit in range(GPU_TYPES_MAX):
            if self.types_seen & wanted.gpu_types & <uint64_t>1 << bit:
                add_step(&self.gpu_ladders[bit], wanted.gpu)

    cdef void _stand(self, Request* wanted, size_t request, size_t words) noexcept:
        cdef int bit
        fill(&self.cpu_ladder, wanted.cpu, request, words)
        fill(&self.memory_ladder, wanted.memory_gb, request, words)
        set_bit(&self.service if wanted.service else &self.batch, request)
        if wanted.gpu == 0:
            set_bit(&self.without_gpu, request)
        for bit in range(GPU_TYPES_MAX):
            if self.types_seen & wanted.gpu_types & <uint64_t>1 << bit:
                fill(&self.gpu_ladders[bit], wanted.gpu, request, words)

    # -- starting

    def place(self, int limit, double now, /):
        placed = []
        cdef int64_t blocked = -1
        cdef Head* head
        cdef bint bound
        while len(placed) < limit:
            if self.stale:
                self._reindex()
            head = self._first_open(now, &blocked)
            if head == NULL:
                break
            prefetch(&self.live.places[home_of(&self.live, -head.entry.second)])
            bound = self._is_bound(head, now)
            self._ask_preference(head)
            if self._choose(head, bound):
                placed.append((-head.entry.second, [(node.first, node.second) for node in self.nodes]))
                self._start(head, bound)
        return placed, blocked

    cdef Head* _first_open(self, double now, int64_t* blocked) noexcept:
        """The next head to try; NULL where there is none or, before it, one to report as blocked."""
        cdef Head* open = NULL
        cdef Head* stuck = NULL
        cdef Head* head
        cdef size_t i
        for i in range(self.waiting.size()):
            head = &self.waiting[i]
            if head.skipped_at == self.workers_at:
                continue
            if self._is_stuck(head, now):
                if stuck == NULL or stuck.entry < head.entry:
                    stuck = head
            elif open == NULL or open.entry < head.entry:
                open = head
        if stuck != NULL and (open == NULL or open.entry < stuck.entry):
            if self.plan_task < 0 or self.plan_entry < stuck.entry:
                blocked[0] = -stuck.entry.second
                return NULL
        return open

    cdef bint _is_stuck(self, Head* head, double now) noexcept:
        """Whether it is known not to fit."""
        cdef Pool* pool = self._pool(head.pool)
        if pool == NULL or pool.fitting_count[head.request] == 0:
            return True
        if head.blocked_at < self.opened_at or head.blocked_at < self.freed_at[head.request]:
            return False
        return not head.blocked_by_plan or self._is_bound(head, now)

    cdef bint _is_bound(self, Head* head, double now) noexcept:
        """Whether it must leave alone what the plan holds, if it holds anything."""
        if self.plan_task < 0 or self.spare.empty() or head.pool != self.plan_pool:
            return False
        if not head.entry < self.plan_entry:
            return False
        return not (head.limit_s > 0 and self.plan_at < INFINITY and now + head.limit_s <= self.plan_at)

    cdef int _ask_preference(self, Head* head) except -1:
        """Put into `likings` which workers the task prefers."""
        self.likings.clear()
        if not self.shapes[head.shape].near or self.preference is None:
            return 0
        for worker, much in self.preference(-head.entry.second).items():
            if much > 0:
                self.likings.push_back(Liking(<int>worker, <int64_t>much))
        sort(self.likings.begin(), self.likings.end())
        return 0

    cdef bint _is_preferred(self, int worker) noexcept:
        return binary_search(self.likings.begin(), self.likings.end(), Liking(worker, 0), has_lower_worker)

    cdef bint _choose(self, Head* head, bint bound) noexcept:
        """Put into `nodes` the best workers for a task of this shape; False, and remembered, if there are too few."""
        cdef Shape* shape = &self.shapes[head.shape]
        cdef Pool* pool = self._pool(shape.pool)
        self.nodes.clear()
        if pool != NULL:
            self._choose_preferred(pool, shape, bound)
            self._choose_others(pool, shape, bound)
        if <int>self.nodes.size() == shape.nodes:
            return True
        head.blocked_at, head.blocked_by_plan = self.stamp, bound
        return False

    cdef void _choose_preferred(self, Pool* pool, Shape* shape, bint bound) noexcept:
        cdef Site* site
        cdef int gpu_type = NO_GPU
        self.ranked.clear()
        for liking in self.likings:
            site = self._site(pool, liking.first)
            if site != NULL and self._usable(site, liking.first, shape, bound, &gpu_type):
                self.ranked.push_back(
                    Ranked(
                        -liking.second,
                        pair[Left, Seat](Left(site.free.gpus_total, site.free.cpu), Seat(liking.first, gpu_type)),
                    )
                )
        sort(self.ranked.begin(), self.ranked.end())
        for each in self.ranked:
            if <int>self.nodes.size() < shape.nodes:
                self.nodes.push_back(each.second.second)

    cdef void _choose_others(self, Pool* pool, Shape* shape, bint bound) noexcept:
        cdef int64_t at = -1
        while <int>self.nodes.size() < shape.nodes:
            at = next_bit(&pool.fitting[shape.request], at + 1)
            if at < 0:
                return
            self._find_in_tier(pool, pool.tiers[at], shape, bound)
            for seat in self.found:
                if <int>self.nodes.size() < shape.nodes:
                    self.nodes.push_back(seat)

    cdef void _find_in_tier(self, Pool* pool, Tier* tier, Shape* shape, bint bound) noexcept:
        """Put into `found`, in order, the workers of this tier that may be used, as many as can be needed."""
        cdef size_t needed = shape.nodes - self.nodes.size()
        cdef size_t wanted
        cdef int gpu_type = NO_GPU
        self.found.clear()
        for known in tier.groups:
            if not has_bit(&known.group.fits, shape.request):
                continue
            wanted = self.found.size() + needed
            for worker in known.group.workers:
                if self.found.size() == wanted:
                    break
                if self.likings.size() and self._is_preferred(worker):
                    continue
                if self._usable(pool.sites[worker], worker, shape, bound, &gpu_type):
                    self.found.push_back(Seat(worker, gpu_type))
        if self.found.size() > 1:
            sort(self.found.begin(), self.found.end())

    cdef bint _usable(self, Site* site, int worker, Shape* shape, bint bound, int* gpu_type) noexcept:
        """Whether a node of this shape may start there, and with which GPU type."""
        cdef Free* spare = NULL
        if shape.excluded.size() and binary_search(shape.excluded.begin(), shape.excluded.end(), worker):
            return False
        if bound and self.spare.count(worker):
            spare = &self.spare[worker]
        return type_for(&site.free, spare, &self.requests[shape.request], gpu_type)

    cdef void _start(self, Head* head, bint bound) noexcept:
        """Take this head out and claim what `nodes` says."""
        cdef Shape* shape = &self.shapes[head.shape]
        cdef Pool* pool = self._pool(shape.pool)
        self._note_start(shape, head.entry, bound)
        for node in self.nodes:
            take(&pool.sites[node.first].free, &self.requests[shape.request], node.second, 1)
            self._refile(pool, node.first, pool.sites[node.first])
        drop_live(&self.live, -head.entry.second)
        self._pop(shape)
        self._clean(head.shape)

    # -- what the policy says about a task that does not fit

    def plan(self, int64_t task, double at, list holds, /):
        cdef Free free
        cdef unordered_map[int, Free] spare
        cdef int index = self._shape_of_task(task)
        for worker, cpu, memory_gb, gpus, batch, service in holds:
            read_free(&free, cpu, memory_gb, batch, service, gpus)
            spare[<int>worker] = free
        self.plan_task, self.plan_at, self.plan_pool = task, at, self.shapes[index].pool
        self.plan_entry = Entry(self._place(task).key, -task)
        self.spare.swap(spare)
        self._mark_skipped(index, 0)
        self._open_all()

    def unplan(self):
        self._end_plan()

    def planned(self):
        return self.plan_task

    def skip(self, int64_t task, /):
        cdef int index = self._shape_of_task(task)
        self._mark_skipped(index, self.workers_at)
        if self.plan_task >= 0 and self._place(self.plan_task).shape == index:
            self._end_plan()

    cdef int _shape_of_task(self, int64_t task) except -1:
        if not self._is_in(task):
            raise ValueError(f"task {task} is not in the queue")
        return self._place(task).shape

    cdef void _mark_skipped(self, int index, uint64_t at) noexcept:
        self.shapes[index].skipped_at = at
        self.waiting[self.shapes[index].waiting_at].skipped_at = at

    cdef void _end_plan(self) noexcept:
        if self.plan_task >= 0:
            self.plan_task = -1
            self.spare.clear()
            self._open_all()

    cdef void _note_start(self, Shape* shape, Entry entry, bint bound) noexcept:
        """What a start means for the plan: it is fulfilled, void, or has less to spare."""
        cdef bint held = False
        if self.plan_task < 0 or shape.pool != self.plan_pool:
            return
        for node in self.nodes:
            if self.spare.count(node.first):
                held = True
                if bound:
                    take(&self.spare[node.first], &self.requests[shape.request], node.second, 1)
        if entry == self.plan_entry or (held and self.plan_entry < entry):
            self._end_plan()
