#include "threads.h"

#include <pthread.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* libgomp's interface, which LLVM's OpenMP has too: a team runs a function. */
static void (*team)(void (*function)(void *), void *data, unsigned threads, unsigned flags);
static int (*thread_number)(void);
static int (*team_size)(void);
static pid_t owner;

/* Called once, when the library is loaded; null pointers where there is no OpenMP to share. */
EXPORT void lx_share_threads(void *gomp_parallel, void *omp_get_thread_num, void *omp_get_num_threads) {
  owner = getpid();
  *(void **)&team = omp_get_thread_num && omp_get_num_threads ? gomp_parallel : 0;
  *(void **)&thread_number = omp_get_thread_num;
  *(void **)&team_size = omp_get_num_threads;
}

typedef struct {
  lx_work work;
  void *data;
  int thread, threads;
} Part;

static void in_team(void *data) {
  const Part *part = data;
  part->work(part->data, thread_number(), team_size());
}

static void *alone(void *data) {
  const Part *part = data;
  part->work(part->data, part->thread, part->threads);
  return 0;
}

void lx_parallel(int threads, lx_work work, void *data) {
  enum { MOST = 256 };
  /* A child of fork has none of its parent's threads, and OpenMP would wait for them. */
  if (threads <= 1 || getpid() != owner) {
    work(data, 0, 1);
    return;
  }
  if (team) {
    Part part = {work, data, 0, 0};
    team(in_team, &part, (unsigned)threads, 0);
    return;
  }
  threads = threads < MOST ? threads : MOST;
  pthread_t started[MOST];
  Part parts[MOST];
  int running[MOST];
  for (int thread = 0; thread < threads; thread++) {
    parts[thread] = (Part){work, data, thread, threads};
    running[thread] = thread && pthread_create(&started[thread], 0, alone, &parts[thread]) == 0;
  }
  for (int thread = 0; thread < threads; thread++)
    if (!running[thread])
      alone(&parts[thread]);
  for (int thread = 0; thread < threads; thread++)
    if (running[thread])
      pthread_join(started[thread], 0);
}
