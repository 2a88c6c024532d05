# cython: language_level=3
"""Process starts: vfork-like, with directory, session, uid, limits, cgroups, mounts and no-new-privileges.

The child shares our memory until it executes, so between the two only system calls are made, raw ones where the C library
would signal our other threads. The errno of the step that failed comes back through that shared memory.
"""

from libc.errno cimport errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport strlen

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <grp.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/ipc.h>
    #include <sys/msg.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/sem.h>
    #include <sys/shm.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <unistd.h>

    enum { FML_LIMITS_MAX = 16, FML_CGROUPS_MAX = 8, FML_UID_MIN = 10000 };
    /* of keyctl(2), which the C library does not know: operations, and keyrings */
    enum { FML_JOIN_SESSION = 1, FML_CLEAR = 7, FML_GET_PERSISTENT = 22 };
    enum { FML_OF_PROCESS = -2, FML_OF_USER = -4, FML_OF_USER_SESSION = -5 };

    typedef struct {
        const char *path, *cwd;
        char **argv, **env;
        const sigset_t *handled;  /* the signals that we do not leave to the kernel */
        int stdin_fd, log_fd, view_fd, enter_fd, no_new_privs, limit_count, cgroup_count, policy;
        long uid, gid;
        int cgroup[FML_CGROUPS_MAX];
        int resource[FML_LIMITS_MAX];
        struct rlimit limit[FML_LIMITS_MAX];
        pid_t pid;
        volatile int step, error;  /* written by the child, read by the parent after it has executed or ended */
    } fml_order;

    /* the steps, in the order of fetchmld.spawning.STEPS */
    enum { FML_SESSION = 1, FML_FILES, FML_LIMIT, FML_USER, FML_PRIVILEGES, FML_DIRECTORY, FML_EXECUTE, FML_FORK,
        FML_CGROUP, FML_VIEW };

    #define FML_TRY(which, call) do { if ((call) < 0) { o->step = (which); o->error = errno; _exit(127); } } while (0)

    static void fml_find_handled(sigset_t *handled) {
        struct sigaction now;
        sigemptyset(handled);
        for (int number = 1; number < 32; number++)
            if (sigaction(number, NULL, &now) == 0 && now.sa_handler != SIG_DFL) sigaddset(handled, number);
    }

    static void fml_default_signals(const sigset_t *handled) {
        struct sigaction plain;
        memset(&plain, 0, sizeof plain);
        plain.sa_handler = SIG_DFL;
        for (int number = 1; number < 32; number++)
            if (sigismember(handled, number)) sigaction(number, &plain, NULL);
    }

    __attribute__((noinline, noreturn)) static void fml_child(fml_order *o) {
        sigset_t none;
        fml_default_signals(o->handled);
        if (o->policy == SCHED_BATCH) {  /* ours: it is not for what we start */
            struct sched_param plain = {0};
            sched_setscheduler(0, SCHED_OTHER, &plain);
        }
        FML_TRY(FML_SESSION, setsid());
        FML_TRY(FML_FILES, dup2(o->stdin_fd, 0));
        FML_TRY(FML_FILES, dup2(o->log_fd, 1));
        FML_TRY(FML_FILES, dup2(o->log_fd, 2));
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd >= 0) { if (write(fd, "500", 3) < 0) {} close(fd); }  /* where memory is short, jobs go first */
        for (int i = 0; i < o->cgroup_count; i++) FML_TRY(FML_CGROUP, write(o->cgroup[i], "0", 1));
        for (int i = 0; i < o->limit_count; i++) FML_TRY(FML_LIMIT, setrlimit(o->resource[i], &o->limit[i]));
        if (o->view_fd >= 0) FML_TRY(FML_VIEW, setns(o->view_fd, CLONE_NEWNS));
        if (o->uid >= 0 && syscall(SYS_keyctl, FML_JOIN_SESSION, NULL) < 0 && errno != ENOSYS && errno != EPERM) {
            o->step = FML_PRIVILEGES;  /* it would have the keys of whoever started us */
            o->error = errno;
            _exit(127);
        }
        if (o->gid >= 0) {
            FML_TRY(FML_USER, syscall(SYS_setgroups, 0, NULL));
            FML_TRY(FML_USER, syscall(SYS_setresgid, o->gid, o->gid, o->gid));
        }
        if (o->uid >= 0) FML_TRY(FML_USER, syscall(SYS_setresuid, o->uid, o->uid, o->uid));
        if (o->no_new_privs) FML_TRY(FML_PRIVILEGES, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        umask(022);
        FML_TRY(FML_DIRECTORY, chdir(o->cwd));
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execve(o->path, o->argv, o->env);
        o->step = FML_EXECUTE;
        o->error = errno;
        _exit(127);
    }

    __attribute__((noinline)) static void fml_start(fml_order *o) {
        int status;
        o->step = o->error = 0;
        pid_t pid = vfork();
        if (pid == 0) fml_child(o);
        if (pid < 0) { o->step = FML_FORK; o->error = errno; }
        if (pid > 0 && o->error) while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        o->pid = pid;
    }

    /* `home`: the cgroup file of the calling thread's own, where it goes back to after those of the orders; or -1. */
    static void fml_start_all(fml_order *orders, int count, int home) {
        sigset_t all, before, handled;
        int policy = sched_getscheduler(0), away = 0;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);  /* no handler of ours may run in a child, on our memory */
        fml_find_handled(&handled);
        for (int i = 0; i < count; i++) {
            orders[i].handled = &handled;
            orders[i].policy = policy;
            int to = orders[i].enter_fd >= 0 ? orders[i].enter_fd : away ? home : -1;
            if (to >= 0 && write(to, "0", 1) < 0) {
                orders[i].step = FML_CGROUP;
                orders[i].error = errno;
                continue;
            }
            away = orders[i].enter_fd >= 0;
            fml_start(&orders[i]);
        }
        if (away && write(home, "0", 1) < 0) {}  /* it goes on from there the next time */
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }

    /* Signal all processes of a user at once, as that user: the kernel lets none of them fork away meanwhile. */
    static int fml_kill_user(long uid, int number) {
        sigset_t all, before;
        volatile int error = 0;
        int status;
        if (uid < FML_UID_MIN) return EINVAL;  /* as root this would be everything */
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        pid_t pid = vfork();
        if (pid == 0) {
            if (syscall(SYS_setresuid, uid, uid, uid) < 0 || geteuid() != uid || kill(-1, number) < 0) error = errno;
            _exit(0);
        }
        if (pid < 0) error = errno;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (pid > 0) while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        return error;
    }

    /* Forget all keys that a user left in the kernel. What cannot be cleared is not there. */
    static int fml_clear_keys(long uid) {
        sigset_t all, before;
        volatile int error = 0;
        int status;
        if (uid < FML_UID_MIN) return EINVAL;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        pid_t pid = vfork();
        if (pid == 0) {
            if (syscall(SYS_setresgid, uid, uid, uid) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0) {
                error = errno;
                _exit(1);
            }
            long persistent = syscall(SYS_keyctl, FML_GET_PERSISTENT, -1, FML_OF_PROCESS);
            if (persistent > 0) syscall(SYS_keyctl, FML_CLEAR, persistent);
            syscall(SYS_keyctl, FML_CLEAR, FML_OF_USER_SESSION);
            if (syscall(SYS_keyctl, FML_CLEAR, FML_OF_USER) < 0) error = errno;
            _exit(0);
        }
        if (pid < 0) error = errno;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (pid > 0) while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        return error;
    }

    static int fml_remove_ipc(int kind, int id) {
        int found = kind == 0 ? shmctl(id, IPC_RMID, NULL) : kind == 1 ? semctl(id, 0, IPC_RMID) : msgctl(id, IPC_RMID, NULL);
        return found < 0 ? errno : 0;
    }
    """
    ctypedef struct rlimit_t "struct rlimit":
        unsigned long rlim_cur
        unsigned long rlim_max
    ctypedef struct fml_order:
        const char *path
        const char *cwd
        char **argv
        char **env
        int stdin_fd, log_fd, view_fd, enter_fd, no_new_privs, limit_count, cgroup_count
        long uid, gid
        int cgroup[8]
        int resource[16]
        rlimit_t limit[16]
        int pid, step, error
    void fml_start_all(fml_order *orders, int count, int home) nogil
    int fml_kill_user(long uid, int number) nogil
    int fml_remove_ipc(int kind, int id) nogil
    int fml_clear_keys(long uid) nogil
    int prctl(int option, unsigned long value, unsigned long, unsigned long, unsigned long)
    int PR_SET_CHILD_SUBREAPER


cdef class Starts:
    """Starts that are made ready one by one, and then made without the interpreter."""

    cdef fml_order *orders
    cdef int count, room, home
    cdef list kept

    def __cinit__(self, int room, int home_fd=-1):
        self.room = room
        self.home = home_fd
        self.count = 0
        self.kept = []
        self.orders = <fml_order *>calloc(max(room, 1), sizeof(fml_order))
        if self.orders == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef int i
        if self.orders != NULL:
            for i in range(self.count):
                free(self.orders[i].argv)
                free(self.orders[i].env)
            free(self.orders)

    def add(
        self,
        bytes path not None,
        bytes argv not None,
        bytes env not None,
        bytes cwd not None,
        int stdin_fd,
        int log_fd,
        list limits not None,
        long uid=-1,
        long gid=-1,
        list cgroups=[],
        int view_fd=-1,
        int enter_fd=-1,
        bint no_new_privs=True,
    ):
        """One more. Raises ValueError where it is too large, or one more than was made room for."""
        cdef fml_order *order
        if self.count == self.room:
            raise ValueError(f"room for {self.room} starts, and one more")
        if len(limits) > 16:
            raise ValueError(f"at most 16 limits, got {len(limits)}")
        if len(cgroups) > 8:
            raise ValueError(f"at most 8 cgroups, got {len(cgroups)}")
        order = &self.orders[self.count]
        order.path = path
        order.cwd = cwd
        order.stdin_fd = stdin_fd
        order.log_fd = log_fd
        order.uid = uid
        order.gid = gid
        order.view_fd = view_fd
        order.enter_fd = enter_fd if self.home >= 0 else -1
        order.cgroup_count = <int>len(cgroups)
        for i, fd in enumerate(cgroups):
            order.cgroup[i] = fd
        order.no_new_privs = no_new_privs
        order.limit_count = <int>len(limits)
        for i, (resource, soft, hard) in enumerate(limits):
            order.resource[i] = resource
            order.limit[i].rlim_cur = soft
            order.limit[i].rlim_max = hard
        order.argv = _strings(argv)
        order.env = _strings(env)
        if order.argv == NULL or order.env == NULL:
            free(order.argv)
            free(order.env)
            raise MemoryError()
        self.kept.append((path, argv, env, cwd))
        self.count += 1

    def run(self):
        """Make them, in order, and say of each (pid, 0, 0), or (0, step, errno) where a step failed. Once only."""
        with nogil:
            fml_start_all(self.orders, self.count, self.home)
        return [
            (0 if self.orders[i].error else self.orders[i].pid, self.orders[i].step, self.orders[i].error)
            for i in range(self.count)
        ]


cdef char **_strings(bytes block) noexcept:
    """Where each string of `block` begins, each ended by a NUL; NULL where there is no memory."""
    cdef char *at = block
    cdef char *end = at + len(block)
    cdef Py_ssize_t count = block.count(b"\0"), i = 0
    cdef char **array = <char **>malloc((count + 1) * sizeof(char *))
    if array == NULL:
        return NULL
    while at < end and i < count:
        array[i] = at
        at += strlen(at) + 1
        i += 1
    array[i] = NULL
    return array


def become_subreaper():
    """Let processes whose parents end become our children from now on; errno, 0 on success."""
    return errno if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 else 0


def kill_user(long uid, int number):
    """Signal every process of `uid` at once; errno, ESRCH where there is none."""
    cdef int error
    with nogil:
        error = fml_kill_user(uid, number)
    return error


def clear_keys(long uid):
    """Forget the keys that a user left in the kernel's keyrings; errno, 0 on success."""
    cdef int error
    with nogil:
        error = fml_clear_keys(uid)
    return error


def remove_ipc(int kind, int ident):
    """Remove a System V object: shared memory (0), semaphores (1), queue (2); errno, 0 on success."""
    return fml_remove_ipc(kind, ident)
