// The queue's peer: the same heaps and the same index of workers, written plainly for this benchmark alone.
//
// It has what the native queue must have to give the same answers here (static keys, best fit ranked by GPUs left, cores
// left, number) and nothing else: at most 64 shapes, four GPU types, no removal, gangs, pools, plans, names or Python.
// Sizes are fixed, so that every mask is one word and every amount an index. It reads the workload that bench.py wrote,
// takes the same steps, and prints one line of JSON; the digest over all placements must be the one that Python gets.
//
//     peer WORKLOAD

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <queue>
#include <set>
#include <vector>

using std::vector;

constexpr int TYPES = 4, GPU_MAX = 8, CPU_MAX = 64, MEMORY_MAX = 512;
constexpr int TIERS = (GPU_MAX + 1) * (CPU_MAX + 1), WORDS = (TIERS + 63) / 64;

struct Shape { int64_t cpu, memory, gpu, type; };  // type -1: no GPU
struct Free { int64_t cpu, memory, batch, gpus[TYPES], total; };
struct Task { double key; int64_t number, shape; };
struct Later {
    bool operator()(const Task& a, const Task& b) const { return a.key != b.key ? a.key < b.key : a.number > b.number; }
};
struct Group { uint64_t fits; std::set<int> workers; };
struct Tier { vector<Group> groups; int fitting[64] = {}; };
struct Running { int64_t worker, shape; };

struct Queue {
    vector<Shape> shapes;
    vector<Free> workers;
    vector<std::priority_queue<Task, vector<Task>, Later>> heaps;
    vector<Tier> tiers = vector<Tier>(TIERS);
    vector<int> tier_of;  // of each worker; -1: nothing fits there
    vector<uint64_t> fits_of;
    uint64_t cpu_fits[CPU_MAX + 1] = {}, memory_fits[MEMORY_MAX + 1] = {}, gpu_fits[TYPES][GPU_MAX + 1] = {}, no_gpu = 0;
    uint64_t waiting = 0, startable = 0;  // shapes with tasks; shapes that fit somewhere
    uint64_t fitting[64][WORDS] = {};  // for each shape, the tiers in which it fits

    void build() {
        heaps.resize(shapes.size());
        tier_of.assign(workers.size(), -1);
        fits_of.assign(workers.size(), 0);
        for (size_t i = 0; i < shapes.size(); i++) {
            const Shape& s = shapes[i];
            for (int n = s.cpu; n <= CPU_MAX; n++) cpu_fits[n] |= 1ull << i;
            for (int n = s.memory; n <= MEMORY_MAX; n++) memory_fits[n] |= 1ull << i;
            if (s.type < 0) no_gpu |= 1ull << i;
            else for (int n = s.gpu; n <= GPU_MAX; n++) gpu_fits[s.type][n] |= 1ull << i;
        }
        for (size_t w = 0; w < workers.size(); w++) file(w);
    }

    uint64_t fits(const Free& f) const {
        uint64_t found = no_gpu;
        for (int t = 0; t < TYPES; t++) found |= gpu_fits[t][f.gpus[t]];
        return f.batch > 0 ? found & cpu_fits[f.cpu] & memory_fits[f.memory] : 0;
    }

    void file(int w) {
        uint64_t mask = fits(workers[w]);
        if (!mask) return;
        int at = workers[w].total * (CPU_MAX + 1) + workers[w].cpu;
        Tier& tier = tiers[at];
        tier_of[w] = at;
        fits_of[w] = mask;
        for (Group& group : tier.groups)
            if (group.fits == mask) { group.workers.insert(w); return; }
        tier.groups.push_back(Group{mask, {w}});
        for (uint64_t m = mask; m; m &= m - 1) {
            int i = __builtin_ctzll(m);
            if (tier.fitting[i]++ == 0) fitting[i][at >> 6] |= 1ull << (at & 63), startable |= 1ull << i;
        }
    }

    void unfile(int w) {
        if (tier_of[w] < 0) return;
        int at = tier_of[w];
        Tier& tier = tiers[at];
        size_t g = 0;
        while (tier.groups[g].fits != fits_of[w]) g++;
        tier.groups[g].workers.erase(w);
        tier_of[w] = -1;
        if (!tier.groups[g].workers.empty()) return;
        std::swap(tier.groups[g], tier.groups.back());
        tier.groups.pop_back();
        for (uint64_t m = fits_of[w]; m; m &= m - 1) {
            int i = __builtin_ctzll(m);
            if (--tier.fitting[i]) continue;
            fitting[i][at >> 6] &= ~(1ull << (at & 63));
            if (first_tier(i) < 0) startable &= ~(1ull << i);
        }
    }

    int first_tier(int shape) const {
        for (int word = 0; word < WORDS; word++)
            if (fitting[shape][word]) return word * 64 + __builtin_ctzll(fitting[shape][word]);
        return -1;
    }

    void change(int w, const Shape& s, int sign) {
        unfile(w);
        Free& f = workers[w];
        f.cpu += sign * s.cpu, f.memory += sign * s.memory, f.batch += sign;
        if (s.type >= 0) f.gpus[s.type] += sign * s.gpu, f.total += sign * s.gpu;
        file(w);
    }

    void push(const Task& task) {
        heaps[task.shape].push(task);
        waiting |= 1ull << task.shape;
    }

    bool place(Task& task, int& worker) {
        int best = -1;
        for (uint64_t m = waiting & startable; m; m &= m - 1) {
            int i = __builtin_ctzll(m);
            if (best < 0 || Later()(heaps[best].top(), heaps[i].top())) best = i;
        }
        if (best < 0) return false;
        task = heaps[best].top();
        heaps[best].pop();
        if (heaps[best].empty()) waiting &= ~(1ull << best);
        worker = INT32_MAX;
        for (const Group& group : tiers[first_tier(best)].groups)
            if (group.fits >> best & 1) worker = std::min(worker, *group.workers.begin());
        change(worker, shapes[best], -1);
        return true;
    }
};

template <class T> vector<T> read(FILE* file, int64_t count) {
    vector<T> items(count);
    if (fread(items.data(), sizeof(T), count, file) != (size_t)count) { fprintf(stderr, "the workload ends early\n"); exit(1); }
    return items;
}

int main(int argc, char** argv) {
    FILE* file = argc == 2 ? fopen(argv[1], "rb") : nullptr;
    if (!file) { fprintf(stderr, "usage: peer WORKLOAD\n"); return 2; }
    auto sizes = read<int64_t>(file, 5);  // shapes, workers, tasks queued, tasks in all, steps
    Queue queue;
    queue.shapes = read<Shape>(file, sizes[0]);
    queue.workers = read<Free>(file, sizes[1]);
    auto keys = read<double>(file, sizes[3]);
    auto shapes = read<int64_t>(file, sizes[3]);
    auto picks = read<int64_t>(file, sizes[4]);
    fclose(file);

    int64_t next = 0;
    uint64_t digest = 0;
    vector<Running> running;
    Task task;
    int worker;
    auto push = [&] { queue.push(Task{keys[next], next, shapes[next]}), next++; };
    auto note = [&] {
        running.push_back({worker, task.shape});
        digest = (digest * 1099511628211ull) ^ (uint64_t)(task.number * 1000003 + worker);
    };
    queue.build();
    while (next < sizes[2]) push();
    while (queue.place(task, worker)) note();
    for (size_t i = 0, n = running.size(); i < n; i++) push();

    vector<int64_t> took;
    int64_t placed = 0;
    for (int64_t pick : picks) {
        size_t at = pick % running.size();
        Running ended = running[at];
        running[at] = running.back();
        running.pop_back();
        auto begun = std::chrono::steady_clock::now();
        queue.change(ended.worker, queue.shapes[ended.shape], 1);
        bool started = queue.place(task, worker);
        took.push_back(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begun).count());
        if (started) note(), push(), placed++;
    }
    std::sort(took.begin(), took.end());
    size_t most = took.size() * 99 / 100;
    double total = 0;
    for (size_t i = 0; i < most; i++) total += took[i];
    printf("{\"mean_ns\": %.1f, \"p50_ns\": %ld, \"p99_ns\": %ld, \"placed\": %ld, \"running\": %zu, \"digest\": %llu}\n",
           total / most, (long)took[took.size() / 2], (long)took[most], (long)placed, running.size(),
           (unsigned long long)digest);
}
