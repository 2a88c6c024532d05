"""What one node asks for, what a worker has free, and whether the one fits into the other."""

cdef int NO_GPU = -1
cdef int GPU_TYPES_MAX = 64


cdef struct Request:
    int64_t cpu
    int64_t memory_gb
    int64_t gpu
    uint64_t gpu_types
    bint service
    int pool
    int used  # by how many shapes


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


cdef int check_gpu_type(bit) except -1:
    if not 0 <= bit < GPU_TYPES_MAX:
        raise ValueError(f"a GPU type is a bit in 0..{GPU_TYPES_MAX - 1}, not {bit}")
    return 0


cdef void read_free(Free* free, int64_t cpu, int64_t memory_gb, int64_t batch, int64_t service, gpus) except *:
    cdef TypeCount one
    free.cpu, free.memory_gb, free.batch, free.service, free.gpus_total = cpu, memory_gb, batch, service, 0
    free.gpus.clear()
    for bit, count in sorted(dict(gpus).items()):
        check_gpu_type(bit)
        one.bit, one.count = bit, count
        free.gpus.push_back(one)
        free.gpus_total += one.count


cdef int64_t gpus_of(Free* free, int bit) noexcept:
    for one in free.gpus:
        if one.bit == bit:
            return one.count
    return 0


cdef inline bint has_rest(Free* free, Request* wanted) noexcept:
    """Whether everything but the GPUs is there."""
    if (free.service if wanted.service else free.batch) < 1:
        return False
    return free.cpu >= wanted.cpu and free.memory_gb >= wanted.memory_gb


cdef bint type_for(Free* free, Free* spare, Request* wanted, int* chosen) noexcept:
    """Whether a node fits, within `spare` too unless that is NULL, and with which GPU type."""
    cdef int64_t least = -1
    cdef size_t i
    cdef TypeCount* one
    if not has_rest(free, wanted) or (spare != NULL and not has_rest(spare, wanted)):
        return False
    chosen[0] = NO_GPU
    if wanted.gpu == 0:
        return True
    for i in range(free.gpus.size()):
        one = &free.gpus[i]
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
