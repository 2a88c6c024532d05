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

from cython.operator cimport dereference, preincrement
from libc.math cimport INFINITY, isnan
from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.algorithm cimport binary_search, make_heap, pop_heap, push_heap, sort
from libcpp.pair cimport pair
from libcpp.set cimport set as ordered_set
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

cdef extern from *:
    int lowest_bit "__builtin_ctzll"(uint64_t) noexcept nogil

cdef int NO_GPU = -1
cdef int EVERY_POOL = -1
cdef int GPU_TYPES_MAX = 64
cdef size_t DEAD_MIN = 64  # a heap with fewer removed tasks is left alone
cdef size_t TIERS_SPARE = 1024  # tiers kept beyond four for each worker before all are made anew

# (key, -task): the largest is the first in the order, so C++'s max-heap serves as it is.
ctypedef pair[double, int64_t] Entry
ctypedef pair[int64_t, int64_t] Left  # (GPUs, cores) left: the ranking
ctypedef pair[Left, int] Ranked
ctypedef vector[uint64_t] Bits


cdef struct Request:
    int64_t cpu
    int64_t memory_gb
    int64_t gpu
    uint64_t gpu_types
    bint service
    uint64_t freed_at  # the stamp of the last time that a worker it fits on got capacity


cdef cppclass Shape:
    int request
    int nodes
    int pool
    double limit_s
    vector[int] excluded
    vector[int] preferred
    vector[Entry] heap
    size_t dead  # removed tasks in the heap
    int waiting_at  # where in `waiting`, or -1
    uint64_t skipped_at  # the generation of workers none of which can ever take it
    uint64_t blocked_at  # the stamp at which it fitted nowhere
    bint blocked_by_plan  # bound by the plan, that is


cdef struct Place:  # where a live task is
    int shape
    double key


cdef struct TypeCount:
    int bit
    int64_t count


cdef cppclass Free:
    int64_t cpu
    int64_t memory_gb
    int64_t batch
    int64_t service
    int64_t gpus_total
    vector[TypeCount] gpus


cdef cppclass Ladder:
    vector[int64_t] steps  # ascending
    vector[Bits] fits  # for each step, who asks for that or less


cdef cppclass Group:
    Bits fits
    ordered_set[int] workers
    size_t at  # where in its tier


cdef cppclass Tier:
    vector[Group*] groups
    vector[int] fitting  # for each request, how many of the groups it fits
    size_t at  # where in the order


cdef cppclass Site:  # a worker in a pool
    Free free
    Tier* tier
    Group* group  # NULL: nothing fits here


cdef cppclass Pool:
    unordered_map[int, Site] sites
    vector[Left] lefts  # of the tiers, ascending
    vector[Tier*] tiers
    vector[Bits] fitting  # for each request, in which tiers it fits


cdef struct Node:  # of a task about to start
    int worker
    int gpu_type
    Site* site


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
    while i < free.gpus.size() and free.gpus[i].bit != gpu_type:
        i += 1
    if i == free.gpus.size():
        none.bit, none.count = gpu_type, 0
        free.gpus.push_back(none)
    free.gpus[i].count -= sign * wanted.gpu
    free.gpus_total -= sign * wanted.gpu


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


cdef class FastQueue:
    cdef dict shape_of  # request and all -> shape
    cdef dict request_of
    cdef vector[Request] requests
    cdef vector[Shape] shapes
    cdef vector[int] waiting  # shapes with tasks, in no order
    cdef unordered_map[int64_t, Place] live

    cdef unordered_map[int, Pool*] pools
    cdef uint64_t types_seen
    cdef bint stale  # there is a request or a GPU type that the index does not know yet
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
    cdef double last_now

    cdef int64_t plan_task  # -1: no plan
    cdef int plan_pool
    cdef Entry plan_entry
    cdef double plan_at
    cdef unordered_map[int, Free] spare

    cdef vector[Node] nodes  # of the task about to start
    cdef vector[Ranked] ranked
    cdef vector[int] found

    def __cinit__(self):
        self.shape_of, self.request_of = {}, {}
        self.stamp, self.opened_at, self.workers_at = 1, 1, 1
        self.last_now = -INFINITY
        self.plan_task = -1
        self.gpu_ladders.resize(GPU_TYPES_MAX)

    def __dealloc__(self):
        for item in self.pools:
            self._forget_tiers(item.second)
            del item.second

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
        preferred=(),
    ):
        if nodes < 1:
            raise ValueError(f"a shape has at least 1 node, not {nodes}")
        if gpu == 0:
            gpu_types = 0
        excluded, preferred = tuple(sorted(set(excluded))), tuple(sorted(set(preferred)))
        key = (cpu, memory_gb, gpu, gpu_types, service, nodes, pool, limit_s, excluded, preferred)
        index = self.shape_of.get(key)
        if index is None:
            index = self.shape_of[key] = self.shapes.size()
            self.shapes.resize(self.shapes.size() + 1)
            self._describe(&self.shapes.back(), self._request(key[:5]), nodes, pool, limit_s)
            self.shapes.back().excluded = excluded
            self.shapes.back().preferred = preferred
        return index

    cdef void _describe(self, Shape* new, int request, int nodes, int pool, double limit_s) noexcept:
        new.request, new.nodes, new.pool, new.limit_s = request, nodes, pool, limit_s
        new.dead, new.waiting_at, new.skipped_at, new.blocked_at = 0, -1, 0, 0
        new.blocked_by_plan = False

    cdef int _request(self, tuple key) except -1:
        cdef Request new
        index = self.request_of.get(key)
        if index is None:
            index = self.request_of[key] = self.requests.size()
            new.cpu, new.memory_gb, new.gpu, new.gpu_types, new.service = key
            new.freed_at = 0
            self.requests.push_back(new)
            self.stale = True
        return index

    def push(self, int64_t task, int shape, double key, /):
        cdef Place place
        if self.live.count(task):
            raise ValueError(f"task {task} is in the queue already")
        if isnan(key):
            raise ValueError(f"the key of task {task} is not a number")
        self._check_shape(shape)
        place.shape, place.key = shape, key
        self.live[task] = place
        self.shapes[shape].heap.push_back(Entry(key, -task))
        push_heap(self.shapes[shape].heap.begin(), self.shapes[shape].heap.end())
        self._note_waiting(shape)

    def remove(self, int64_t task, /):
        cdef unordered_map[int64_t, Place].iterator found = self.live.find(task)
        if found == self.live.end():
            return False
        cdef int shape = dereference(found).second.shape
        self.live.erase(found)
        self.shapes[shape].dead += 1
        self._clean(shape)
        if self.plan_task == task:
            self._end_plan()
        return True

    def position(self, int64_t task, /):
        if not self.live.count(task):
            return -1
        cdef Entry mine = Entry(self.live[task].key, -task)
        cdef int64_t ahead = 0
        for item in self.live:
            if Entry(item.second.key, -item.first) > mine:
                ahead += 1
        return ahead

    def __len__(self):
        return self.live.size()

    cdef int _check_shape(self, int shape) except -1:
        if shape < 0 or shape >= <int>self.shapes.size():
            raise IndexError(f"no shape {shape}")
        return 0

    cdef bint _is_live(self, Entry entry, int shape) noexcept:
        cdef unordered_map[int64_t, Place].iterator found = self.live.find(-entry.second)
        if found == self.live.end():
            return False
        return dereference(found).second.shape == shape and dereference(found).second.key == entry.first

    cdef void _clean(self, int index) noexcept:
        """Drop removed tasks from the top, and all of them once they are half of the heap."""
        cdef Shape* shape = &self.shapes[index]
        while shape.dead and shape.heap.size() and not self._is_live(shape.heap[0], index):
            self._pop(shape)
            shape.dead -= 1
        if shape.dead > DEAD_MIN and shape.dead * 2 > shape.heap.size():
            self._compact(shape, index)
        self._note_waiting(index)

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

    cdef void _note_waiting(self, int index) noexcept:
        cdef Shape* shape = &self.shapes[index]
        cdef int last
        if shape.heap.size() and shape.waiting_at < 0:
            shape.waiting_at = <int>self.waiting.size()
            self.waiting.push_back(index)
        elif not shape.heap.size() and shape.waiting_at >= 0:
            last = self.waiting.back()
            self.waiting[shape.waiting_at] = last
            self.shapes[last].waiting_at = shape.waiting_at
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
        read_free(&free, cpu, memory_gb, batch, service, gpus)
        if not self.pools.count(pool):
            self.pools[pool] = new Pool()
            self.stale = True
        for one in free.gpus:
            if not self.types_seen >> one.bit & 1:
                self.types_seen |= <uint64_t>1 << one.bit
                self.stale = True
        if not self.pools[pool].sites.count(worker):
            self.pools[pool].sites[worker].group = NULL
        site = &self.pools[pool].sites[worker]
        site.free = free
        self._refile(self.pools[pool], worker, site)
        self._note_freed()
        self.workers_at += 1

    def drop_worker(self, int worker, int pool=-1, /):
        cdef vector[int] gone
        for item in self.pools:
            if (pool == EVERY_POOL or item.first == pool) and item.second.sites.count(worker):
                self._unfile(item.second, worker, &item.second.sites[worker])
                item.second.sites.erase(worker)
                if item.second.sites.empty():
                    gone.push_back(item.first)
        for number in gone:
            self._forget_tiers(self.pools[number])
            del self.pools[number]
            self.pools.erase(number)
        self.workers_at += 1

    def release(self, int worker, int shape, int gpu_type, /):
        self._check_shape(shape)
        if gpu_type != NO_GPU and not 0 <= gpu_type < GPU_TYPES_MAX:
            raise ValueError(f"a GPU type is a bit in 0..{GPU_TYPES_MAX - 1}, not {gpu_type}")
        cdef Pool* pool = self._pool(self.shapes[shape].pool)
        cdef Site* site = NULL
        if pool != NULL:
            site = self._site(pool, worker)
        if site != NULL:
            take(&site.free, &self.requests[self.shapes[shape].request], gpu_type, -1)
            self._refile(pool, worker, site)
            self._note_freed()

    cdef Pool* _pool(self, int number) noexcept:
        cdef unordered_map[int, Pool*].iterator found = self.pools.find(number)
        if found == self.pools.end():
            return NULL
        return dereference(found).second

    cdef Site* _site(self, Pool* pool, int worker) noexcept:
        cdef unordered_map[int, Site].iterator found = pool.sites.find(worker)
        if found == pool.sites.end():
            return NULL
        return &dereference(found).second

    cdef void _note_freed(self) noexcept:
        """The requests that fit on the worker just filed may start there, whatever was found before."""
        cdef int64_t request = next_bit(&self.fits, 0)
        self.stamp += 1
        while request >= 0:
            self.requests[request].freed_at = self.stamp
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

    cdef Group* _group(self, Pool* pool, Tier* tier) noexcept:
        """The group of this tier that the requests in `fits` fit."""
        for known in tier.groups:
            if known.fits == self.fits:
                return known
        cdef Group* group = new Group()
        group.fits = self.fits
        group.at = tier.groups.size()
        tier.groups.push_back(group)
        cdef int64_t request = next_bit(&group.fits, 0)
        while request >= 0:
            tier.fitting[request] += 1
            if tier.fitting[request] == 1:
                set_bit(&pool.fitting[request], tier.at)
            request = next_bit(&group.fits, request + 1)
        return group

    cdef void _forget_group(self, Pool* pool, Tier* tier, Group* group) noexcept:
        cdef int64_t request = next_bit(&group.fits, 0)
        while request >= 0:
            tier.fitting[request] -= 1
            if tier.fitting[request] == 0:
                clear_bit(&pool.fitting[request], tier.at)
            request = next_bit(&group.fits, request + 1)
        tier.groups[group.at] = tier.groups.back()
        tier.groups[group.at].at = group.at
        tier.groups.pop_back()
        del group

    cdef void _forget_tiers(self, Pool* pool) noexcept:
        for tier in pool.tiers:
            for group in tier.groups:
                del group
            del tier
        pool.tiers.clear()
        pool.lefts.clear()
        pool.fitting.clear()

    cdef void _reindex(self) noexcept:
        """Learn what requests there are and file every worker anew."""
        cdef Pool* pool
        self.stale = False
        self._build_ladders()
        for item in self.pools:
            pool = item.second
            self._forget_tiers(pool)
            pool.fitting.resize(self.requests.size())
            for each in pool.sites:
                self._file_anew(pool, each.first)
        self._open_all()

    cdef void _file_anew(self, Pool* pool, int worker) noexcept:
        cdef Site* site = &pool.sites[worker]
        site.group = NULL
        self._refile(pool, worker, site)

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
        cdef int index
        if self.stale:
            self._reindex()
        if now < self.last_now:
            self._open_all()
        self.last_now = now
        while len(placed) < limit:
            index = self._first_open(now, &blocked)
            if index < 0:
                break
            if self._choose(index, self._is_bound(index, now)):
                task = -self.shapes[index].heap[0].second
                placed.append((task, [(node.worker, node.gpu_type) for node in self.nodes]))
                self._start(index, now)
        return placed, blocked

    cdef int _first_open(self, double now, int64_t* blocked) noexcept:
        """The shape whose head is the next to try; -1 where there is none or, before it, one to report as blocked."""
        cdef int open = -1
        cdef int stuck = -1
        for index in self.waiting:
            if self.shapes[index].skipped_at == self.workers_at:
                continue
            if self._is_stuck(index, now):
                if stuck < 0 or self.shapes[stuck].heap[0] < self.shapes[index].heap[0]:
                    stuck = index
            elif open < 0 or self.shapes[open].heap[0] < self.shapes[index].heap[0]:
                open = index
        if stuck < 0 or (open >= 0 and self.shapes[stuck].heap[0] < self.shapes[open].heap[0]):
            return open
        if self.plan_task >= 0 and not self.plan_entry < self.shapes[stuck].heap[0]:
            return open
        blocked[0] = -self.shapes[stuck].heap[0].second
        return -1

    cdef bint _is_stuck(self, int index, double now) noexcept:
        """Whether its head is known not to fit."""
        cdef Shape* shape = &self.shapes[index]
        if shape.blocked_at < self.opened_at or shape.blocked_at < self.requests[shape.request].freed_at:
            return False
        return not shape.blocked_by_plan or self._is_bound(index, now)

    cdef bint _is_bound(self, int index, double now) noexcept:
        """Whether its head must leave alone what the plan holds."""
        cdef Shape* shape = &self.shapes[index]
        if self.plan_task < 0 or shape.pool != self.plan_pool or not shape.heap[0] < self.plan_entry:
            return False
        return not (shape.limit_s > 0 and self.plan_at < INFINITY and now + shape.limit_s <= self.plan_at)

    cdef bint _choose(self, int index, bint bound) noexcept:
        """Put into `nodes` the best workers for a task of this shape; False, and remembered, if there are too few."""
        cdef Shape* shape = &self.shapes[index]
        cdef Pool* pool = self._pool(shape.pool)
        self.nodes.clear()
        if pool != NULL:
            self._choose_preferred(pool, shape, bound)
            self._choose_others(pool, shape, bound)
        if <int>self.nodes.size() == shape.nodes:
            return True
        shape.blocked_at, shape.blocked_by_plan = self.stamp, bound
        return False

    cdef void _choose_preferred(self, Pool* pool, Shape* shape, bint bound) noexcept:
        cdef Site* site
        cdef int gpu_type = NO_GPU
        self.ranked.clear()
        for worker in shape.preferred:
            site = self._site(pool, worker)
            if site != NULL and self._usable(site, worker, shape, bound, &gpu_type):
                self.ranked.push_back(Ranked(Left(site.free.gpus_total, site.free.cpu), worker))
        sort(self.ranked.begin(), self.ranked.end())
        for each in self.ranked:
            if <int>self.nodes.size() < shape.nodes:
                self._add_node(pool, each.second, shape, bound)

    cdef void _choose_others(self, Pool* pool, Shape* shape, bint bound) noexcept:
        cdef int64_t at = -1
        while <int>self.nodes.size() < shape.nodes:
            at = next_bit(&pool.fitting[shape.request], at + 1)
            if at < 0:
                return
            self._find_in_tier(pool, pool.tiers[at], shape, bound)
            for worker in self.found:
                if <int>self.nodes.size() < shape.nodes:
                    self._add_node(pool, worker, shape, bound)

    cdef void _find_in_tier(self, Pool* pool, Tier* tier, Shape* shape, bint bound) noexcept:
        """Put into `found`, in order, the workers of this tier that may be used, as many as can be needed."""
        cdef size_t needed = shape.nodes - self.nodes.size()
        cdef size_t wanted
        cdef int gpu_type = NO_GPU
        self.found.clear()
        for group in tier.groups:
            if not has_bit(&group.fits, shape.request):
                continue
            wanted = self.found.size() + needed
            for worker in group.workers:
                if self.found.size() == wanted:
                    break
                if binary_search(shape.preferred.begin(), shape.preferred.end(), worker):
                    continue
                if self._usable(&pool.sites[worker], worker, shape, bound, &gpu_type):
                    self.found.push_back(worker)
        sort(self.found.begin(), self.found.end())

    cdef bint _usable(self, Site* site, int worker, Shape* shape, bint bound, int* gpu_type) noexcept:
        """Whether a node of this shape may start there, and with which GPU type."""
        cdef Free* spare = NULL
        if binary_search(shape.excluded.begin(), shape.excluded.end(), worker):
            return False
        if bound and self.spare.count(worker):
            spare = &self.spare[worker]
        return type_for(&site.free, spare, &self.requests[shape.request], gpu_type)

    cdef void _add_node(self, Pool* pool, int worker, Shape* shape, bint bound) noexcept:
        cdef Node node
        node.worker, node.site = worker, &pool.sites[worker]
        self._usable(node.site, worker, shape, bound, &node.gpu_type)
        self.nodes.push_back(node)

    cdef void _start(self, int index, double now) noexcept:
        """Take the head of this shape out and claim what `nodes` says."""
        cdef Shape* shape = &self.shapes[index]
        cdef Pool* pool = self._pool(shape.pool)
        cdef Entry entry = shape.heap[0]
        self._note_start(shape, entry, self._is_bound(index, now))
        for node in self.nodes:
            take(&node.site.free, &self.requests[shape.request], node.gpu_type, 1)
            self._refile(pool, node.worker, node.site)
        self.live.erase(-entry.second)
        self._pop(shape)
        self._clean(index)
        if pool.tiers.size() > pool.sites.size() * 4 + TIERS_SPARE:
            self._reindex()

    # -- what the policy says about a task that does not fit

    def plan(self, int64_t task, double at, list holds, /):
        cdef Free free
        cdef unordered_map[int, Free] spare
        cdef int index = self._shape_of_task(task)
        for worker, cpu, memory_gb, gpus, batch, service in holds:
            read_free(&free, cpu, memory_gb, batch, service, gpus)
            spare[<int>worker] = free
        self.plan_task, self.plan_at, self.plan_pool = task, at, self.shapes[index].pool
        self.plan_entry = Entry(self.live[task].key, -task)
        self.spare.swap(spare)
        self.shapes[index].skipped_at = 0
        self._open_all()

    def unplan(self):
        self._end_plan()

    def planned(self):
        return self.plan_task

    def skip(self, int64_t task, /):
        cdef int index = self._shape_of_task(task)
        self.shapes[index].skipped_at = self.workers_at
        if self.plan_task >= 0 and self.live[self.plan_task].shape == index:
            self._end_plan()

    cdef int _shape_of_task(self, int64_t task) except -1:
        if not self.live.count(task):
            raise ValueError(f"task {task} is not in the queue")
        return self.live[task].shape

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
            if self.spare.count(node.worker):
                held = True
                if bound:
                    take(&self.spare[node.worker], &self.requests[shape.request], node.gpu_type, 1)
        if entry == self.plan_entry or (held and self.plan_entry < entry):
            self._end_plan()
