/* Submits COUNT jobs that do nothing through libslurm, without a start of `sbatch` for each.
 *
 *   slurm_submit COUNT held|free DIRECTORY        (SLURM_CONF in the environment)
 *
 * Each is a job of its own, as each POST to FetchML is. Prints how many seconds it took. A controller that is busy says so:
 * the job is offered again after 20 ms, 5,000 times at most. */
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 5000, PAUSE_US = 20000 };

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: slurm_submit COUNT held|free DIRECTORY\n");
        return 2;
    }
    long count = atol(argv[1]);
    slurm_init(NULL);
    job_desc_msg_t wanted;
    slurm_init_job_desc_msg(&wanted);
    char *environment[] = {"PATH=/usr/bin:/bin"};
    wanted.environment = environment;
    wanted.env_size = 1;
    wanted.name = "true";
    wanted.user_id = getuid();
    wanted.group_id = getgid();
    wanted.work_dir = argv[3];
    wanted.script = "#!/bin/true\n";
    wanted.std_in = wanted.std_out = wanted.std_err = "/dev/null";
    wanted.min_nodes = wanted.num_tasks = wanted.cpus_per_task = wanted.min_cpus = 1;
    if (strcmp(argv[2], "held") == 0)
        wanted.priority = 0;

    double begun = now_s();
    int refused = 0;
    for (long i = 0; i < count;) {
        submit_response_msg_t *answer = NULL;
        if (slurm_submit_batch_job(&wanted, &answer) == SLURM_SUCCESS) {
            slurm_free_submit_response_response_msg(answer);
            i++;
        } else if (refused++ < PATIENCE) {
            usleep(PAUSE_US);
        } else {
            slurm_perror("slurm_submit");
            return 1;
        }
    }
    printf("%.4f\n", now_s() - begun);
    return 0;
}
