# distutils: language = c++
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, binding=False
"""The native ready queue: a line of tasks for each shape, and an index of the workers by what they have free.

`core/ready.py` is the specification; read it first. What is different here is only how. `native/` has the parts: bitmaps,
capacity, the tasks that wait, the index of workers. Here is who is tried next, the plans, and what Python sees.

The walk. The heads of those shapes that fit somewhere are looked at, and no others: the index keeps them as a bitmap. One
that was tried in vain (a gang with too few workers, say) is not tried again until a worker it fits on got capacity back,
or what is held for plans changed. Heads that fit nowhere matter only while one more may be planned, or before a planned one.
"""

from cpython.list cimport PyList_GET_SIZE
from cython cimport final
from cython.operator cimport dereference
from libc.math cimport INFINITY, isnan
from libc.stdint cimport int64_t, uint64_t
from libcpp.algorithm cimport binary_search, lower_bound, sort
from libcpp.pair cimport pair
from libcpp.set cimport set as ordered_set
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

include "native/bits.pxi"
include "native/capacity.pxi"
include "native/waiting.pxi"
include "native/workers.pxi"

cdef int EVERY_POOL = -1
cdef int PLANS_MAX = 16  # the first bits of `blocked_by`, which has 64
cdef int KEEPS_MAX = 32  # the bits after them

ctypedef pair[int, int] Seat  # (worker, GPU type), of a task about to start
ctypedef pair[int, int64_t] Liking  # (worker, by how much the task prefers it)
ctypedef pair[int64_t, pair[Left, Seat]] Ranked  # by how much, negated, then as all others


cdef cppclass Shape:
    int request
    int nodes  # 0: the number is free
    vector[int] excluded
    bint near  # its tasks prefer some workers
    Line line


cdef struct Head:  # of a shape, apart from it so that the walk reads little memory
    Entry entry
    int shape
    int request
    int pool
    bint waits  # the shape has tasks
    double limit_s
    uint64_t skipped_at  # the generation of workers none of which can ever take it
    uint64_t blocked_at  # the stamp at which it fitted nowhere
    uint64_t blocked_by  # bound by these plans, that is


cdef cppclass Plan:
    int64_t task
    int pool
    Entry entry
    double at
    bint everything  # holds all there is, and spares nothing
    unordered_map[int, Free] spare


cdef cppclass Keep:  # a plan of nobody, by this name
    int64_t name
    Plan plan


cdef int read_holds(Plan* plan, list holds) except -1:
    cdef Free free
    for worker, cpu, memory_gb, gpus, batch, service in holds:
        read_free(&free, cpu, memory_gb, batch, service, gpus)
        plan.spare[<int>worker] = free
    return 0


cdef bint has_lower_worker(const Liking& one, const Liking& other) noexcept:
    return one.first < other.first


@final
cdef class FastQueue:
    cdef dict shape_of  # request and all -> shape
    cdef list key_of  # the other way
    cdef dict request_of
    cdef vector[Shape] shapes
    cdef vector[Head] heads  # for each shape
    cdef vector[int] free_shapes
    cdef vector[int] free_requests
    cdef vector[vector[int]] asking  # for each request, the shapes with tasks
    cdef Bits asked  # which of these have any
    cdef vector[uint64_t] freed_at  # for each request, the stamp at which a worker it fits on last got capacity
    cdef Live live
    cdef Index index

    cdef uint64_t stamp  # counts what may let a blocked shape start
    cdef uint64_t opened_at  # the last stamp that concerned every shape
    cdef uint64_t workers_at  # counts changes of who the workers are

    cdef size_t plans_max
    cdef vector[Plan] plans  # in the order of their tasks
    cdef vector[Keep] keeps
    cdef Free least  # what several plans spare of one worker
    cdef bint any_ahead  # there may be a head that has to be reported once it does not fit

    cdef vector[Seat] nodes  # of the task about to start
    cdef object preference  # of tasks of a near shape
    cdef vector[Liking] likings  # of the task looked at, more than 0, by worker
    cdef vector[Ranked] ranked
    cdef vector[Seat] found

    def __cinit__(self, int plans_max=1):
        if not 1 <= plans_max <= PLANS_MAX:
            raise ValueError(f"a queue keeps 1 to {PLANS_MAX} plans, not {plans_max}")
        self.plans_max = plans_max
        self.shape_of, self.request_of, self.key_of = {}, {}, []
        self.preference = None
        self.stamp, self.opened_at, self.workers_at = 1, 1, 1
        self.any_ahead = True
        self.live.count = 0
        make_room(&self.live, LIVE_BITS_MIN)
        self.index.gpu_ladders.resize(GPU_TYPES_MAX)
        self.index.common = NULL
        self.index.types_seen = 0
        self.index.stale = False

    def __dealloc__(self):
        forget_all(&self.index)

    # -- shapes

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
        key = (cpu, memory_gb, gpu, gpu_types, service, pool, nodes, limit_s, tuple(sorted(set(excluded))), near)
        found = self.shape_of.get(key)
        return self._new_shape(key) if found is None else found

    cdef int _new_shape(self, tuple key) except -1:
        cdef vector[int] excluded = key[8]
        cdef int number = self._free_shape()
        cdef Shape* shape = &self.shapes[number]
        cdef Head* head = &self.heads[number]
        shape.request, shape.nodes = self._request(key[:6]), key[6]
        shape.excluded, shape.near = excluded, key[9]
        head.shape, head.request, head.pool, head.limit_s = number, shape.request, key[5], key[7]
        head.waits, head.skipped_at, head.blocked_at, head.blocked_by = False, 0, 0, 0
        self.shape_of[key], self.key_of[number] = number, key
        return number

    cdef int _free_shape(self) except -1:
        """A number that no shape has."""
        cdef int number = <int>self.shapes.size()
        if self.free_shapes.size():
            number = self.free_shapes.back()
            self.free_shapes.pop_back()
        else:
            self.key_of.append(None)
            self.shapes.resize(number + 1)
            self.heads.resize(number + 1)
        return number

    cdef int _request(self, tuple key) except -1:
        """The number of this request, used once more."""
        cdef Request new
        cdef int number
        found = self.request_of.get(key)
        if found is not None:
            self.index.requests[<int>found].used += 1
            return found
        new.cpu, new.memory_gb, new.gpu, new.gpu_types, new.service, new.pool = key
        new.used = 1
        number = self._free_request()
        self.request_of[key] = number
        self.index.requests[number] = new
        self.index.stale = True
        return number

    cdef int _free_request(self) noexcept:
        """A number that no request has."""
        cdef int number = <int>self.index.requests.size()
        if self.free_requests.size():
            number = self.free_requests.back()
            self.free_requests.pop_back()
        else:
            self.index.requests.resize(number + 1)
            self.asking.resize(number + 1)
            self.asked.resize(number // 64 + 1)
            self.freed_at.resize(number + 1)
        return number

    def forget(self, int shape, /):
        self._check_shape(shape)
        if self.heads[shape].waits:
            raise ValueError(f"tasks of shape {shape} wait")
        cdef int request = self.shapes[shape].request
        cdef Shape none
        none.request, none.nodes, none.near = -1, 0, False
        key = self.key_of[shape]
        del self.shape_of[key]
        self.key_of[shape] = None
        self.shapes[shape] = none
        self.free_shapes.push_back(shape)
        self.index.requests[request].used -= 1
        if self.index.requests[request].used == 0:
            del self.request_of[key[:6]]
            self.free_requests.push_back(request)

    cdef inline int _check_shape(self, int shape) except -1:
        if shape < 0 or shape >= <int>self.shapes.size() or self.shapes[shape].nodes == 0:
            raise IndexError(f"no shape {shape}")
        return 0

    def rank_by(self, preference, /):
        self.preference = preference

    # -- waiting tasks

    def push(self, int64_t task, int shape, double key, /):
        if self._is_in(task):
            raise ValueError(f"task {task} is in the queue already")
        if isnan(key):
            raise ValueError(f"the key of task {task} is not a number")
        self._check_shape(shape)
        add_live(&self.live, task, shape, key)
        join_line(&self.shapes[shape].line, Entry(key, -task))
        self._note_head(shape)

    def remove(self, int64_t task, /):
        cdef Place* place = self._place(task)
        cdef int shape = place.shape
        if shape < 0:
            return False
        leave_line(&self.shapes[shape].line, Entry(place.key, -task))
        drop_live(&self.live, task)
        self._note_head(shape)
        self._end_plan(task)
        return True

    def position(self, int64_t task, /):
        cdef Place* place = self._place(task)
        cdef int64_t ahead = 0
        cdef size_t i
        if place.shape < 0:
            return -1
        for i in range(self.shapes.size()):
            ahead += ahead_in(&self.shapes[i].line, Entry(place.key, -task))
        return ahead

    def __len__(self):
        return self.live.count

    cdef inline Place* _place(self, int64_t task) noexcept:
        return &self.live.places[place_of(&self.live, task)]

    cdef inline bint _is_in(self, int64_t task) noexcept:
        return self._place(task).shape >= 0

    cdef inline void _note_head(self, int shape) noexcept:
        """Keep the head of this shape in step with its line."""
        cdef Head* head = &self.heads[shape]
        cdef Line* line = &self.shapes[shape].line
        if line.ends.empty():
            self._end_head(head)
            return
        if not head.waits:
            self._new_head(head)
        head.entry = line.ends.back()
        if not self._are_all_planned() or self.plans.back().entry < head.entry:
            self.any_ahead = True

    cdef void _new_head(self, Head* head) noexcept:
        head.waits, head.blocked_at, head.blocked_by = True, 0, 0
        self.asking[head.request].push_back(head.shape)
        set_bit(&self.asked, head.request)

    cdef void _end_head(self, Head* head) noexcept:
        cdef vector[int]* asking = &self.asking[head.request]
        cdef size_t i = 0
        if not head.waits:
            return
        while asking[0][i] != head.shape:
            i += 1
        asking[0][i] = asking.back()
        asking.pop_back()
        if asking.empty():
            clear_bit(&self.asked, head.request)
        head.waits = False

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
        cdef size_t i
        if worker < 0:
            raise ValueError(f"a worker has a number from 0 on, not {worker}")
        read_free(&free, cpu, memory_gb, batch, service, gpus)
        for i in range(free.types):
            see_type(&self.index, gpus_in(&free)[i].bit)
        site = site_for(&self.index, pool, worker)
        site.free = free
        refile(&self.index, pool_of(&self.index, pool), worker, site)
        self._note_freed()
        self._note_workers()

    def drop_worker(self, int worker, int pool=-1, /):
        cdef vector[int] numbers
        if pool == EVERY_POOL:
            for item in self.index.pools:
                numbers.push_back(item.first)
        else:
            numbers.push_back(pool)
        for number in numbers:
            drop_site(&self.index, number, worker)
        self._note_workers()

    def release(self, int worker, int shape, int gpu_type, /):
        self._check_shape(shape)
        if gpu_type != NO_GPU:
            check_gpu_type(gpu_type)
            see_type(&self.index, gpu_type)
        cdef Request* wanted = &self.index.requests[self.shapes[shape].request]
        cdef Site* site = site_of(&self.index, wanted.pool, worker)
        if site != NULL:
            take(&site.free, wanted, gpu_type, -1)
            refile(&self.index, pool_of(&self.index, wanted.pool), worker, site)
            self._note_freed()

    cdef void _note_workers(self) noexcept:
        """Who is there has changed, so that nothing is hopeless any more."""
        self.workers_at += 1
        self.any_ahead = True

    cdef inline void _note_freed(self) noexcept:
        """The requests that fit on the worker just filed may start there, whatever was found before."""
        cdef size_t word
        cdef uint64_t rest
        self.stamp += 1
        for word in range(self.index.fits.size()):
            rest = self.index.fits[word] & self.asked[word]
            while rest:
                self.freed_at[word * 64 + lowest_bit(rest)] = self.stamp
                rest &= rest - 1

    cdef void _open_all(self) noexcept:
        """Any shape may start now, whatever was found before."""
        self.stamp += 1
        self.opened_at = self.stamp

    # -- starting

    def place(self, int limit, double now, /):
        cdef list placed = []
        cdef int64_t blocked = -1
        cdef int64_t task
        cdef Head* head
        cdef uint64_t bound
        while PyList_GET_SIZE(placed) < limit:
            if self.index.stale:
                reindex(&self.index)
                self._open_all()
            head = self._next_head(now, &blocked)
            if head == NULL:
                break
            task = -head.entry.second
            prefetch(&self.live.places[home_of(&self.live, task)])
            bound = self._bound_by(head, now)
            if self.shapes[head.shape].near:
                self._ask_preference(task)
            if self._choose(head, bound):
                placed.append((task, self._seats()))
                self._start(head, bound)
        return placed, blocked

    cdef inline list _seats(self):
        if self.nodes.size() == 1:
            return [(self.nodes[0].first, self.nodes[0].second)]
        return [(node.first, node.second) for node in self.nodes]

    cdef inline Head* _next_head(self, double now, int64_t* blocked) noexcept:
        """The next head to try; NULL where there is none or, before it, one to report as blocked."""
        cdef Head* open = self._first_open(now)
        cdef Head* stuck = self._first_stuck(now) if self.any_ahead else NULL
        if stuck != NULL and (open == NULL or open.entry < stuck.entry):
            blocked[0] = -stuck.entry.second
            return NULL
        return open

    cdef inline Head* _first_open(self, double now) noexcept:
        """The first head in the order that fits somewhere, as far as is known."""
        cdef Head* open = NULL
        cdef Head* head
        cdef vector[int]* asking
        cdef size_t word, i
        cdef uint64_t rest
        for word in range(self.index.startable.size()):
            rest = self.index.startable[word] & self.asked[word]
            while rest:
                asking = &self.asking[word * 64 + lowest_bit(rest)]
                rest &= rest - 1
                for i in range(asking.size()):
                    head = &self.heads[asking[0][i]]
                    if (open == NULL or open.entry < head.entry) and self._may_start(head, now):
                        open = head
        return open

    cdef inline bint _may_start(self, Head* head, double now) noexcept:
        """Whether a head that the index has a worker for was not tried in vain, nor skipped."""
        if head.skipped_at == self.workers_at:
            return False
        if head.blocked_at < self.opened_at or head.blocked_at < self.freed_at[head.request]:
            return True
        return head.blocked_by & ~self._bound_by(head, now) != 0

    cdef Head* _first_stuck(self, double now) noexcept:
        """The first head in the order that is known not to fit and has to be reported."""
        cdef Head* stuck = NULL
        cdef Head* head
        cdef size_t i
        cdef bint full = self._are_all_planned()
        self.any_ahead = not full
        for i in range(self.heads.size()):
            head = &self.heads[i]
            if not head.waits or head.skipped_at == self.workers_at:
                continue
            if (full and not self.plans.back().entry < head.entry) or self._is_planned(head.entry):
                continue
            self.any_ahead = True
            if stuck != NULL and not stuck.entry < head.entry:
                continue
            if not has_bit(&self.index.startable, head.request) or not self._may_start(head, now):
                stuck = head
        return stuck

    cdef inline bint _are_all_planned(self) noexcept:
        """Whether only who comes before one that is planned may be planned as well."""
        return self.plans.size() == self.plans_max

    cdef inline bint _is_planned(self, Entry entry) noexcept:
        for plan in self.plans:
            if plan.entry == entry:
                return True
        return False

    def could_pass(self, int64_t task, /):
        self._shape_of_task(task)
        cdef Entry entry = Entry(self._place(task).key, -task)
        cdef Head* head
        cdef size_t i
        if self.index.stale:
            reindex(&self.index)
            self._open_all()
        for i in range(self.heads.size()):
            head = &self.heads[i]
            if head.waits and head.entry < entry and head.skipped_at != self.workers_at and self._could_start(head):
                return True
        return False

    cdef bint _could_start(self, Head* head) noexcept:
        """Whether it fits somewhere, were there no plans."""
        if not has_bit(&self.index.startable, head.request):
            return False
        if not head.blocked_by and head.blocked_at >= max(self.opened_at, self.freed_at[head.request]):
            return False
        return self._choose(head, 0)

    cdef inline uint64_t _bound_by(self, Head* head, double now) noexcept:
        """The plans, a bit each, that it must leave alone what they hold of."""
        cdef uint64_t bound = 0
        cdef size_t i
        for i in range(self.plans.size()):
            if self._binds(&self.plans[i], head, now):
                bound |= <uint64_t>1 << i
        for i in range(self.keeps.size()):
            if self._binds(&self.keeps[i].plan, head, now):
                bound |= <uint64_t>1 << (PLANS_MAX + i)
        return bound

    cdef inline bint _binds(self, Plan* plan, Head* head, double now) noexcept:
        if head.pool != plan.pool or not head.entry < plan.entry or (plan.spare.empty() and not plan.everything):
            return False
        return not (head.limit_s > 0 and plan.at < INFINITY and now + head.limit_s <= plan.at)

    cdef int _ask_preference(self, int64_t task) except -1:
        """Put into `likings` which workers the task prefers."""
        self.likings.clear()
        if self.preference is None:
            return 0
        for worker, much in self.preference(task).items():
            if much > 0:
                self.likings.push_back(Liking(<int>worker, <int64_t>much))
        sort(self.likings.begin(), self.likings.end())
        return 0

    cdef bint _is_preferred(self, int worker) noexcept:
        return binary_search(self.likings.begin(), self.likings.end(), Liking(worker, 0), has_lower_worker)

    cdef bint _choose(self, Head* head, uint64_t bound) noexcept:
        """Put into `nodes` the best workers for a task of this shape; False, and remembered, if there are too few."""
        cdef Shape* shape = &self.shapes[head.shape]
        cdef Pool* pool = pool_of(&self.index, head.pool)
        self.nodes.clear()
        if pool != NULL and shape.nodes == 1 and not bound and not shape.near and shape.excluded.empty():
            self._choose_one(pool, shape.request)
        elif pool != NULL and not (bound and self._is_shut_out(bound)):
            if shape.near:
                self._choose_preferred(pool, shape, bound)
            self._choose_others(pool, shape, bound)
        if <int>self.nodes.size() == shape.nodes:
            return True
        head.blocked_at, head.blocked_by = self.stamp, bound
        return False

    cdef bint _is_shut_out(self, uint64_t bound) noexcept:
        """Whether one of these plans holds everything."""
        cdef size_t i
        for i in range(self.plans.size()):
            if bound >> i & 1 and self.plans[i].everything:
                return True
        return False

    cdef inline void _choose_one(self, Pool* pool, int request) noexcept:
        """The first worker of the first tier: all that most tasks need."""
        cdef Tier* tier = pool.tiers[next_bit(&pool.fitting[request], 0)]
        cdef int best = -1
        cdef int gpu_type = NO_GPU
        cdef int first
        cdef size_t i
        for i in range(tier.groups.size()):
            if group_fits(&tier.groups[i], request):
                first = dereference(tier.groups[i].group.workers.begin())
                if best < 0 or first < best:
                    best = first
        type_for(&pool.sites[best].free, NULL, &self.index.requests[request], &gpu_type)
        self.nodes.push_back(Seat(best, gpu_type))

    cdef void _choose_preferred(self, Pool* pool, Shape* shape, uint64_t bound) noexcept:
        cdef Site* site
        cdef int gpu_type = NO_GPU
        cdef int number = self.index.requests[shape.request].pool
        self.ranked.clear()
        for liking in self.likings:
            site = site_of(&self.index, number, liking.first)
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

    cdef void _choose_others(self, Pool* pool, Shape* shape, uint64_t bound) noexcept:
        cdef int64_t at = -1
        while <int>self.nodes.size() < shape.nodes:
            at = next_bit(&pool.fitting[shape.request], at + 1)
            if at < 0:
                return
            self._find_in_tier(pool, pool.tiers[at], shape, bound)
            for seat in self.found:
                if <int>self.nodes.size() < shape.nodes:
                    self.nodes.push_back(seat)

    cdef void _find_in_tier(self, Pool* pool, Tier* tier, Shape* shape, uint64_t bound) noexcept:
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
                if shape.near and self._is_preferred(worker):
                    continue
                if self._usable(&pool.sites[worker], worker, shape, bound, &gpu_type):
                    self.found.push_back(Seat(worker, gpu_type))
        if self.found.size() > 1:
            sort(self.found.begin(), self.found.end())

    cdef bint _usable(self, Site* site, int worker, Shape* shape, uint64_t bound, int* gpu_type) noexcept:
        """Whether a node of this shape may start there, and with which GPU type."""
        if shape.excluded.size() and binary_search(shape.excluded.begin(), shape.excluded.end(), worker):
            return False
        cdef Free* spare = self._spare(worker, bound) if bound else NULL
        return type_for(&site.free, spare, &self.index.requests[shape.request], gpu_type)

    cdef Free* _spare(self, int worker, uint64_t bound) noexcept:
        """What these plans let others use of the worker; NULL where they hold nothing there."""
        cdef Free* spare = NULL
        cdef size_t i
        for i in range(self.plans.size()):
            if bound >> i & 1:
                spare = self._less(spare, &self.plans[i], worker)
        for i in range(self.keeps.size()):
            if bound >> (PLANS_MAX + i) & 1:
                spare = self._less(spare, &self.keeps[i].plan, worker)
        return spare

    cdef inline Free* _less(self, Free* spare, Plan* plan, int worker) noexcept:
        """What both `spare`, unless that is NULL, and this plan let others use of the worker."""
        cdef unordered_map[int, Free].iterator found = plan.spare.find(worker)
        if found == plan.spare.end():
            return spare
        if spare == NULL:
            return &dereference(found).second
        if spare != &self.least:
            self.least = dereference(spare)
        keep_least(&self.least, &dereference(found).second)
        return &self.least

    cdef inline void _start(self, Head* head, uint64_t bound) noexcept:
        """Take this head out and claim what `nodes` says."""
        cdef Request* wanted = &self.index.requests[head.request]
        cdef Pool* pool = pool_of(&self.index, head.pool)
        cdef Site* site
        cdef size_t i
        self._note_start(head, bound)
        for i in range(self.nodes.size()):
            site = &pool.sites[self.nodes[i].first]
            take(&site.free, wanted, self.nodes[i].second, 1)
            refile(&self.index, pool, self.nodes[i].first, site)
        drop_live(&self.live, -head.entry.second)
        leave_front(&self.shapes[head.shape].line)
        self._note_head(head.shape)

    # -- what the policy says about a task that does not fit

    def plan(self, int64_t task, double at, list holds, bint everything=False, /):
        cdef Plan new
        cdef int shape = self._shape_of_task(task)
        cdef size_t place = 0
        read_holds(&new, holds)
        new.task, new.at, new.pool, new.everything = task, at, self.heads[shape].pool, everything
        new.entry = Entry(self._place(task).key, -task)
        self._end_plan(task)
        while place < self.plans.size() and new.entry < self.plans[place].entry:
            place += 1
        self.plans.insert(self.plans.begin() + place, new)
        if self.plans.size() > self.plans_max:
            self.plans.pop_back()
        self.heads[shape].skipped_at = 0
        self._note_plans()

    def unplan(self, int64_t task=-1, /):
        if task >= 0:
            self._end_plan(task)
        elif self.plans.size():
            self.plans.clear()
            self._note_plans()

    def planned(self):
        return [plan.task for plan in self.plans]

    def keep(self, int64_t name, double at, list holds, /):
        cdef Keep new
        cdef size_t i = 0
        read_holds(&new.plan, holds)
        new.name, new.plan.task, new.plan.at = name, -1, at
        new.plan.pool, new.plan.everything = 0, False
        new.plan.entry = Entry(INFINITY, 0)
        while i < self.keeps.size() and self.keeps[i].name != name:
            i += 1
        if i == <size_t>KEEPS_MAX:
            raise ValueError(f"a queue keeps capacity for {KEEPS_MAX} names at most")
        if i == self.keeps.size():
            self.keeps.push_back(new)
        else:
            self.keeps[i] = new
        self._note_plans()

    def unkeep(self, int64_t name, /):
        cdef size_t i
        for i in range(self.keeps.size()):
            if self.keeps[i].name == name:
                self.keeps.erase(self.keeps.begin() + i)
                self._note_plans()
                return

    def skip(self, int64_t task, /):
        cdef int shape = self._shape_of_task(task)
        cdef size_t i = self.plans.size()
        self.heads[shape].skipped_at = self.workers_at
        while i:
            i -= 1
            if self._place(self.plans[i].task).shape == shape:
                self._drop_plan(i)

    cdef int _shape_of_task(self, int64_t task) except -1:
        if not self._is_in(task):
            raise ValueError(f"task {task} is not in the queue")
        return self._place(task).shape

    cdef void _note_plans(self) noexcept:
        """What is planned has changed."""
        self.any_ahead = True
        self._open_all()

    cdef inline void _end_plan(self, int64_t task) noexcept:
        cdef size_t i
        for i in range(self.plans.size()):
            if self.plans[i].task == task:
                self._drop_plan(i)
                return

    cdef void _drop_plan(self, size_t i) noexcept:
        self.plans.erase(self.plans.begin() + i)
        self._note_plans()

    cdef inline void _note_start(self, Head* head, uint64_t bound) noexcept:
        """What a start means for the plans: fulfilled, void, or with less to spare."""
        cdef bint held
        cdef size_t i = self.plans.size()
        while i:
            i -= 1
            if head.pool == self.plans[i].pool:
                held = self._note_for_plan(&self.plans[i], head, bound >> i & 1)
                if head.entry == self.plans[i].entry or (held and self.plans[i].entry < head.entry):
                    self._drop_plan(i)
        for i in range(self.keeps.size()):
            if bound >> (PLANS_MAX + i) & 1:
                self._note_for_plan(&self.keeps[i].plan, head, True)

    cdef inline bint _note_for_plan(self, Plan* plan, Head* head, bint bound) noexcept:
        """Whether it holds of a worker that the head starts on; if it binds the head it has less to spare there."""
        cdef bint held = False
        if not plan.spare.empty():
            for node in self.nodes:
                if plan.spare.count(node.first):
                    held = True
                    if bound:
                        take(&plan.spare[node.first], &self.index.requests[head.request], node.second, 1)
        return held
