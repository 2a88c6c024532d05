# distutils: language = c++
# cython: boundscheck=False, wraparound=False, cdivision=True
"""The native ready queue: a heap for each shape, lazily cleaned, and best fit over the workers.

`core/ready.py` is the specification; read it first. What is different here is only how: removed tasks stay in their heap
until they come up or are too many, and a shape that fitted nowhere is not tried again until some capacity came back.
"""

from libc.stdint cimport int64_t, uint64_t
from libcpp.algorithm cimport make_heap, pop_heap, push_heap
from libcpp.pair cimport pair
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

cdef int NO_GPU = -1

# (key, -task): the largest is the first in the order, so C++'s max-heap serves as it is.
ctypedef pair[double, int64_t] Entry


cdef struct Shape:
    int64_t cpu
    int64_t memory_gb
    int64_t gpu
    uint64_t gpu_types
    bint service
    bint blocked


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


cdef class FastQueue:
    cdef vector[Shape] shapes
    cdef vector[vector[Entry]] heaps
    cdef unordered_map[int64_t, Place] live
    cdef vector[Free] workers
    cdef vector[char] present
    cdef dict index_of

    def __cinit__(self):
        self.index_of = {}

    def shape(self, int64_t cpu, int64_t memory_gb, int64_t gpu, uint64_t gpu_types, bint service, /):
        cdef Shape new
        cdef vector[Entry] empty
        if gpu == 0:
            gpu_types = 0
        key = (cpu, memory_gb, gpu, gpu_types, service)
        index = self.index_of.get(key)
        if index is None:
            index = self.shapes.size()
            new.cpu, new.memory_gb, new.gpu, new.gpu_types = cpu, memory_gb, gpu, gpu_types
            new.service, new.blocked = service, False
            self.shapes.push_back(new)
            self.heaps.push_back(empty)
            self.index_of[key] = index
        return index

    def push(self, int64_t task, int shape, double key, /):
        if self.live.count(task):
            raise ValueError(f"task {task} is in the queue already")
        if shape < 0 or shape >= <int>self.shapes.size():
            raise IndexError(f"no shape {shape}")
        cdef Place place
        place.shape, place.key = shape, key
        self.live[task] = place
        self.heaps[shape].push_back(Entry(key, -task))
        push_heap(self.heaps[shape].begin(), self.heaps[shape].end())

    def remove(self, int64_t task, /):
        if not self.live.count(task):
            return False
        cdef int shape = self.live[task].shape
        self.live.erase(task)
        self._clean(shape)
        return True

    cdef bint _is_live(self, Entry entry, int shape):
        cdef int64_t task = -entry.second
        if not self.live.count(task):
            return False
        return self.live[task].shape == shape and self.live[task].key == entry.first

    cdef void _clean(self, int shape):
        """Drop dead entries from the top, and all of them once they are the greater part of a heap."""
        cdef vector[Entry]* heap = &self.heaps[shape]
        cdef vector[Entry] kept
        cdef size_t i
        while heap.size() and not self._is_live(heap[0][0], shape):
            pop_heap(heap.begin(), heap.end())
            heap.pop_back()
        if heap.size() > 64 and heap.size() > 2 * self.live.size():
            for i in range(heap.size()):
                if self._is_live(heap[0][i], shape):
                    kept.push_back(heap[0][i])
            heap.swap(kept)
            make_heap(heap.begin(), heap.end())

    def position(self, int64_t task, /):
        if not self.live.count(task):
            return -1
        cdef Entry mine = Entry(self.live[task].key, -task)
        cdef int64_t ahead = 0
        cdef pair[int64_t, Place] item
        for item in self.live:
            if Entry(item.second.key, -item.first) > mine:
                ahead += 1
        return ahead

    def set_worker(self, int worker, int64_t cpu, int64_t memory_gb, int64_t batch, int64_t service, list gpus, /):
        cdef Free free
        cdef TypeCount one
        free.cpu, free.memory_gb, free.batch, free.service, free.gpus_total = cpu, memory_gb, batch, service, 0
        for bit, count in sorted(gpus):
            one.bit, one.count = bit, count
            free.gpus.push_back(one)
            free.gpus_total += one.count
        while <int>self.workers.size() <= worker:
            self.workers.push_back(free)
            self.present.push_back(False)
        self.workers[worker] = free
        self.present[worker] = True
        self._unblock()

    def drop_worker(self, int worker, /):
        if 0 <= worker < <int>self.workers.size():
            self.present[worker] = False

    def release(self, int worker, int shape, int gpu_type, /):
        if 0 <= worker < <int>self.workers.size() and self.present[worker]:
            self._take(worker, shape, gpu_type, -1)
            self._unblock()

    cdef void _unblock(self):
        cdef size_t i
        for i in range(self.shapes.size()):
            self.shapes[i].blocked = False

    cdef void _take(self, int worker, int shape, int gpu_type, int sign):
        cdef Free* free = &self.workers[worker]
        cdef Shape* wanted = &self.shapes[shape]
        cdef size_t i
        free.cpu -= sign * wanted.cpu
        free.memory_gb -= sign * wanted.memory_gb
        if wanted.service:
            free.service -= sign
        else:
            free.batch -= sign
        if gpu_type != NO_GPU:
            for i in range(free.gpus.size()):
                if free.gpus[i].bit == gpu_type:
                    free.gpus[i].count -= sign * wanted.gpu
                    free.gpus_total -= sign * wanted.gpu

    cdef bint _type_for(self, Free* free, Shape* wanted, int* chosen):
        """Whether the shape fits there, and with which GPU type: fewest free first, then lowest bit."""
        cdef int64_t least = -1
        cdef size_t i
        if (free.service if wanted.service else free.batch) < 1:
            return False
        if free.cpu < wanted.cpu or free.memory_gb < wanted.memory_gb:
            return False
        chosen[0] = NO_GPU
        if wanted.gpu == 0:
            return True
        for i in range(free.gpus.size()):
            if wanted.gpu_types >> free.gpus[i].bit & 1 and free.gpus[i].count >= wanted.gpu:
                if least < 0 or free.gpus[i].count < least:
                    least = free.gpus[i].count
                    chosen[0] = free.gpus[i].bit
        return least >= 0

    cdef int _choose(self, int shape, int* gpu_type):
        """The worker for this shape, or -1. Ranked as the twin does: GPUs left, cores left, number."""
        cdef int best = -1
        cdef int chosen = NO_GPU
        cdef int worker
        cdef Free* free
        cdef int64_t gpus_left = 0
        cdef int64_t cpu_left = 0
        for worker in range(<int>self.workers.size()):
            free = &self.workers[worker]
            if not self.present[worker] or not self._type_for(free, &self.shapes[shape], &chosen):
                continue
            if best >= 0 and (free.gpus_total > gpus_left or (free.gpus_total == gpus_left and free.cpu >= cpu_left)):
                continue
            best, gpus_left, cpu_left = worker, free.gpus_total, free.cpu
            gpu_type[0] = chosen
        return best

    cdef int _first_head(self):
        """The shape whose head is first in the order among those not known to be blocked, or -1."""
        cdef int best = -1
        cdef size_t i
        for i in range(self.shapes.size()):
            if self.shapes[i].blocked or not self.heaps[i].size():
                continue
            if best < 0 or self.heaps[best][0] < self.heaps[i][0]:
                best = <int>i
        return best

    def place(self, int limit, /):
        placed = []
        cdef int shape, worker
        cdef int gpu_type = NO_GPU
        cdef int64_t task
        while len(placed) < limit:
            shape = self._first_head()
            if shape < 0:
                break
            worker = self._choose(shape, &gpu_type)
            if worker < 0:
                self.shapes[shape].blocked = True
                continue
            task = -self.heaps[shape][0].second
            self.live.erase(task)
            self._clean(shape)
            self._take(worker, shape, gpu_type, 1)
            placed.append((task, worker, gpu_type))
        return placed

    def __len__(self):
        return self.live.size()
