"""The index of workers by what they have free.

A *request* is what one node of a shape asks for, in which pool; shapes share them. What a worker has free is a set of
requests that fit there, one bit each, found by looking up each amount on a *ladder* (the requests that ask for no more
than that) and combining the bits. Workers of a pool left with the same GPUs and cores are a *tier*, those in it that the
same requests fit are a *group*, in order of their numbers. Each request has a bitmap of the tiers in which it fits
somewhere, in the order of the ranking: the best worker is in the first of them. A worker on which nothing fits is
nowhere, so that on a full cluster almost nothing is looked at.
"""

cdef size_t GROUPS_KEPT = 256  # empty groups kept for reuse
cdef size_t TIERS_SPARE = 1024  # tiers kept beyond four for each worker before all are made anew

ctypedef pair[int64_t, int64_t] Left  # (GPUs, cores) left: the ranking


cdef cppclass Group:
    Bits fits
    ordered_set[int] workers
    size_t at  # where in its tier


cdef struct Known:
    uint64_t digest  # of `fits`, to look no further where it differs
    uint64_t low  # the first word of `fits`
    Group* group


cdef cppclass Tier:
    vector[Known] groups
    vector[int] fitting  # for each request, how many of the groups it fits
    size_t at  # where in the order


cdef cppclass Site:  # a worker in a pool
    Tier* tier
    Group* group  # NULL: nothing fits here
    Free free
    bint here


cdef cppclass Pool:
    vector[Site] sites  # by worker
    size_t count
    vector[Left] lefts  # of the tiers, ascending
    vector[Tier*] tiers
    vector[Bits] fitting  # for each request, in which tiers it fits
    Bits requests  # that are about this pool


cdef cppclass Index:
    vector[Request] requests
    Bits startable  # requests that fit somewhere
    vector[int] fitting_count  # for each request, in how many tiers
    unordered_map[int, Pool*] pools
    Pool* common  # pool 0, or NULL
    vector[Group*] unused
    uint64_t types_seen
    bint stale  # to be made anew: a request or GPU type that it does not know, or too many empty tiers
    Ladder cpu_ladder
    Ladder memory_ladder
    vector[Ladder] gpu_ladders  # for each type
    Bits nothing
    Bits without_gpu
    Bits batch
    Bits service
    Bits fits  # of the worker filed last


# -- who is there


cdef Pool* find_pool(Index* index, int number) noexcept:
    cdef unordered_map[int, Pool*].iterator found = index.pools.find(number)
    if found == index.pools.end():
        return NULL
    return dereference(found).second


cdef inline Pool* pool_of(Index* index, int number) noexcept:
    return index.common if number == 0 else find_pool(index, number)


cdef inline Site* site_of(Index* index, int number, int worker) noexcept:
    cdef Pool* pool = pool_of(index, number)
    if pool == NULL or worker < 0 or <size_t>worker >= pool.sites.size():
        return NULL
    return &pool.sites[worker] if pool.sites[worker].here else NULL


cdef Site* site_for(Index* index, int number, int worker):
    """The site of this worker, made where it is not known in this pool."""
    cdef Pool* pool = pool_of(index, number)
    if pool == NULL:
        pool = index.pools[number] = new Pool()
        pool.count = 0
        size_pool(index, pool, number)
        index.common = find_pool(index, 0)
    if pool.sites.size() <= <size_t>worker:
        pool.sites.resize(worker + 1)
    cdef Site* site = &pool.sites[worker]
    if not site.here:
        site.here = True
        site.group = NULL
        pool.count += 1
    return site


cdef void drop_site(Index* index, int number, int worker) noexcept:
    cdef Pool* pool = pool_of(index, number)
    cdef Site* site = site_of(index, number, worker)
    if site == NULL:
        return
    unfile(index, pool, worker, site)
    site.here = False
    pool.count -= 1
    if pool.count == 0:
        forget_tiers(pool)
        del pool
        index.pools.erase(number)
        index.common = find_pool(index, 0)


cdef void see_type(Index* index, int bit) noexcept:
    if not index.types_seen >> bit & 1:
        index.types_seen |= <uint64_t>1 << bit
        index.stale = True


cdef void forget_all(Index* index) noexcept:
    for item in index.pools:
        forget_tiers(item.second)
        del item.second
    for group in index.unused:
        del group


# -- where a worker belongs


cdef void find_fits(Index* index, Pool* pool, Free* free) noexcept:
    """Put into `fits` which requests fit there."""
    cdef Bits* cpu = look_up(&index.cpu_ladder, free.cpu, &index.nothing)
    cdef Bits* memory = look_up(&index.memory_ladder, free.memory_gb, &index.nothing)
    cdef Bits* gpus
    cdef uint64_t batch = <uint64_t>-(free.batch > 0)
    cdef uint64_t service = <uint64_t>-(free.service > 0)
    cdef size_t word, i
    cdef TypeCount* counts = gpus_in(free)
    index.fits = index.without_gpu
    for i in range(free.types):
        gpus = look_up(&index.gpu_ladders[counts[i].bit], counts[i].count, &index.nothing)
        for word in range(index.fits.size()):
            index.fits[word] |= gpus[0][word]
    for word in range(index.fits.size()):
        index.fits[word] &= (index.batch[word] & batch) | (index.service[word] & service)
        index.fits[word] &= cpu[0][word] & memory[0][word] & pool.requests[word]


cdef void refile(Index* index, Pool* pool, int worker, Site* site) noexcept:
    """Put a worker where it belongs now that what it has free changed."""
    if index.stale:
        return
    find_fits(index, pool, &site.free)
    unfile(index, pool, worker, site)
    if next_bit(&index.fits, 0) < 0:
        return
    site.tier = tier_for(index, pool, Left(site.free.gpus_total, site.free.cpu))
    site.group = group_for(index, pool, site.tier)
    site.group.workers.insert(worker)


cdef inline void unfile(Index* index, Pool* pool, int worker, Site* site) noexcept:
    cdef Group* group = site.group
    if group == NULL:
        return
    group.workers.erase(worker)
    site.group = NULL
    if group.workers.empty():
        forget_group(index, pool, site.tier, group)


cdef Tier* tier_for(Index* index, Pool* pool, Left left) noexcept:
    cdef size_t at = lower_bound(pool.lefts.begin(), pool.lefts.end(), left) - pool.lefts.begin()
    if at == pool.lefts.size() or pool.lefts[at] != left:
        new_tier(index, pool, left, at)
    return pool.tiers[at]


cdef void new_tier(Index* index, Pool* pool, Left left, size_t at) noexcept:
    cdef Tier* tier = new Tier()
    cdef size_t i
    tier.fitting.resize(index.requests.size())
    pool.lefts.insert(pool.lefts.begin() + at, left)
    pool.tiers.insert(pool.tiers.begin() + at, tier)
    for i in range(at, pool.tiers.size()):
        pool.tiers[i].at = i
    for i in range(pool.fitting.size()):
        insert_zero(&pool.fitting[i], at, pool.tiers.size())
    if pool.tiers.size() > pool.count * 4 + TIERS_SPARE:
        index.stale = True


cdef Group* group_for(Index* index, Pool* pool, Tier* tier) noexcept:
    """The group of this tier that the requests in `fits` fit."""
    cdef Known made
    cdef Known* known
    cdef size_t i
    made.digest, made.low = digest(&index.fits), index.fits[0]
    for i in range(tier.groups.size()):
        known = &tier.groups[i]
        if known.digest == made.digest and known.low == made.low:
            if index.fits.size() == 1 or known.group.fits == index.fits:
                return known.group
    made.group = empty_group(index)
    made.group.fits = index.fits
    made.group.at = tier.groups.size()
    tier.groups.push_back(made)
    count_group(index, pool, tier, made.group)
    return made.group


cdef Group* empty_group(Index* index) noexcept:
    if index.unused.empty():
        return new Group()
    cdef Group* group = index.unused.back()
    index.unused.pop_back()
    return group


cdef void count_group(Index* index, Pool* pool, Tier* tier, Group* group) noexcept:
    cdef int64_t request = next_bit(&group.fits, 0)
    while request >= 0:
        tier.fitting[request] += 1
        if tier.fitting[request] == 1:
            set_bit(&pool.fitting[request], tier.at)
            index.fitting_count[request] += 1
            set_bit(&index.startable, request)
        request = next_bit(&group.fits, request + 1)


cdef void forget_group(Index* index, Pool* pool, Tier* tier, Group* group) noexcept:
    cdef int64_t request = next_bit(&group.fits, 0)
    while request >= 0:
        tier.fitting[request] -= 1
        if tier.fitting[request] == 0:
            clear_bit(&pool.fitting[request], tier.at)
            index.fitting_count[request] -= 1
            if index.fitting_count[request] == 0:
                clear_bit(&index.startable, request)
        request = next_bit(&group.fits, request + 1)
    tier.groups[group.at] = tier.groups.back()
    tier.groups[group.at].group.at = group.at
    tier.groups.pop_back()
    if index.unused.size() < GROUPS_KEPT:
        index.unused.push_back(group)
    else:
        del group


cdef inline bint group_fits(Known* known, int request) noexcept:
    return known.low >> request & 1 if request < 64 else has_bit(&known.group.fits, request)


# -- all anew


cdef void reindex(Index* index) noexcept:
    """Learn what requests there are and file every worker anew."""
    cdef Pool* pool
    cdef int worker
    index.stale = False
    build_ladders(index)
    index.startable = index.nothing
    index.fitting_count.assign(index.requests.size(), 0)
    for item in index.pools:
        pool = item.second
        forget_tiers(pool)
        size_pool(index, pool, item.first)
        for worker in range(<int>pool.sites.size()):
            if pool.sites[worker].here:
                pool.sites[worker].group = NULL
                refile(index, pool, worker, &pool.sites[worker])


cdef void forget_tiers(Pool* pool) noexcept:
    for tier in pool.tiers:
        for known in tier.groups:
            del known.group
        del tier
    pool.tiers.clear()
    pool.lefts.clear()
    pool.fitting.clear()


cdef void size_pool(Index* index, Pool* pool, int number) noexcept:
    cdef size_t i
    pool.fitting.resize(index.requests.size())
    pool.requests.assign((index.requests.size() + 63) // 64, 0)
    for i in range(index.requests.size()):
        if index.requests[i].used and index.requests[i].pool == number:
            set_bit(&pool.requests, i)


cdef void build_ladders(Index* index) noexcept:
    cdef size_t words = (index.requests.size() + 63) // 64
    cdef size_t i
    cdef Ladder empty
    index.cpu_ladder = index.memory_ladder = empty
    index.gpu_ladders.assign(GPU_TYPES_MAX, empty)
    index.nothing.assign(words, 0)
    index.without_gpu = index.batch = index.service = index.nothing
    for i in range(index.requests.size()):
        if index.requests[i].used:
            add_steps(index, &index.requests[i])
    for i in range(index.requests.size()):
        if index.requests[i].used:
            stand_on_all(index, &index.requests[i], i, words)


cdef void add_steps(Index* index, Request* wanted) noexcept:
    cdef int bit
    add_step(&index.cpu_ladder, wanted.cpu)
    add_step(&index.memory_ladder, wanted.memory_gb)
    for bit in range(GPU_TYPES_MAX):
        if index.types_seen & wanted.gpu_types & <uint64_t>1 << bit:
            add_step(&index.gpu_ladders[bit], wanted.gpu)


cdef void stand_on_all(Index* index, Request* wanted, size_t request, size_t words) noexcept:
    cdef int bit
    stand(&index.cpu_ladder, wanted.cpu, request, words)
    stand(&index.memory_ladder, wanted.memory_gb, request, words)
    set_bit(&index.service if wanted.service else &index.batch, request)
    if wanted.gpu == 0:
        set_bit(&index.without_gpu, request)
    for bit in range(GPU_TYPES_MAX):
        if index.types_seen & wanted.gpu_types & <uint64_t>1 << bit:
            stand(&index.gpu_ladders[bit], wanted.gpu, request, words)
