"""What one node asks for, what a worker has free, and whether the one fits into the other."""

cdef int NO_GPU = -1
cdef int GPU_TYPES_MAX = 64

cdef enum:
    FEW = 2  # GPU types that a worker's record has room for; those of one with more lie apart


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
    size_t types
    TypeCount few[FEW]  # by bit, where there are no more
    vector[TypeCount] many  # else


cdef inline TypeCount* gpus_in(Free* free) noexcept:
    """The GPUs of each type, by bit."""
    return &free.few[0] if free.types <= FEW else free.many.data()


cdef TypeCount* add_type(Free* free, int bit) noexcept:
    """The count of that type, 0 if it had none."""
    cdef TypeCount one
    cdef size_t at = 0
    cdef size_t i
    cdef TypeCount* gpus = gpus_in(free)
    while at < free.types and gpus[at].bit < bit:
        at += 1
    if at < free.types and gpus[at].bit == bit:
        return &gpus[at]
    one.bit, one.count = bit, 0
    if free.types == FEW:
        free.many.assign(gpus, gpus + FEW)
    free.types += 1
    if free.types > FEW:
        free.many.insert(free.many.begin() + at, one)
        return &free.many[at]
    for i in range(free.types - 1, at, -1):
        free.few[i] = free.few[i - 1]
    free.few[at] = one
    return &free.few[at]


cdef int check_gpu_type(bit) except -1:
    if not 0 <= bit < GPU_TYPES_MAX:
        raise ValueError(f"a GPU type is a bit in 0..{GPU_TYPES_MAX - 1}, not {bit}")
    return 0


cdef void read_free(Free* free, int64_t cpu, int64_t memory_gb, int64_t batch, int64_t service, gpus) except *:
    cdef TypeCount* one
    free.cpu, free.memory_gb, free.batch, free.service = cpu, memory_gb, batch, service
    free.gpus_total, free.types = 0, 0
    free.many.clear()
    for bit, count in dict(gpus).items():
        check_gpu_type(bit)
        one = add_type(free, bit)
        one.count = count
        free.gpus_total += one.count


cdef int64_t gpus_of(Free* free, int bit) noexcept:
    cdef TypeCount* gpus = gpus_in(free)
    cdef size_t i
    for i in range(free.types):
        if gpus[i].bit == bit:
            return gpus[i].count
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
    cdef TypeCount* gpus = gpus_in(free)
    if not has_rest(free, wanted) or (spare != NULL and not has_rest(spare, wanted)):
        return False
    chosen[0] = NO_GPU
    if wanted.gpu == 0:
        return True
    for i in range(free.types):
        one = &gpus[i]
        if not wanted.gpu_types >> one.bit & 1 or one.count < wanted.gpu or (least >= 0 and one.count >= least):
            continue
        if spare == NULL or gpus_of(spare, one.bit) >= wanted.gpu:
            least, chosen[0] = one.count, one.bit
    return least >= 0


cdef inline void take(Free* free, Request* wanted, int gpu_type, int sign) noexcept:
    """Claim (`sign` 1) or give back (-1) what one node holds."""
    free.cpu -= sign * wanted.cpu
    free.memory_gb -= sign * wanted.memory_gb
    if wanted.service:
        free.service -= sign
    else:
        free.batch -= sign
    if gpu_type != NO_GPU:
        add_type(free, gpu_type).count -= sign * wanted.gpu
        free.gpus_total -= sign * wanted.gpu


cdef void keep_least(Free* least, Free* other) noexcept:
    """Cut `least` down to what both have."""
    cdef TypeCount* gpus = gpus_in(least)
    cdef size_t i
    least.cpu, least.memory_gb = min(least.cpu, other.cpu), min(least.memory_gb, other.memory_gb)
    least.batch, least.service = min(least.batch, other.batch), min(least.service, other.service)
    for i in range(least.types):
        gpus[i].count = min(gpus[i].count, gpus_of(other, gpus[i].bit))
