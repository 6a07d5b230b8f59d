/* One piece of work on several threads: PyTorch's own, where its OpenMP can be reached, so that both don't wait for each other. */
#ifndef LX_THREADS_H
#define LX_THREADS_H

typedef void (*lx_work)(void *data, int thread, int threads);

/* Runs `work(data, thread, n)` for each thread of n <= threads, and returns when all have ended. In a forked child there is one. */
void lx_parallel(int threads, lx_work work, void *data);

#endif
