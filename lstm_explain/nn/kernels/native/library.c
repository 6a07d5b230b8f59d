/* The library's entries: which kernel for this processor, and which part of a call for which thread. */

#include "library.h"

#include "threads.h"

#define EXPORT __attribute__((visibility("default")))

static const lx_kernels *kernels(void) {
#if defined(__x86_64__)
  static const lx_kernels *chosen = 0; /* every thread that comes first writes the same */
  const lx_kernels *found = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  if (!found) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
      found = &lx_kernels_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      found = &lx_kernels_avx2;
    else
      found = &lx_kernels_baseline;
    __atomic_store_n(&chosen, found, __ATOMIC_RELEASE);
  }
  return found;
#else
  return &lx_kernels_baseline;
#endif
}

EXPORT const char *lx_instructions(void) {
#if defined(__x86_64__)
  return kernels() == &lx_kernels_avx512 ? "AVX-512" : kernels() == &lx_kernels_avx2 ? "AVX2" : "SSE2";
#elif defined(__aarch64__)
  return "NEON";
#else
  return "baseline";
#endif
}

/* Fewer cells than these aren't worth a second thread. */
static const long SMALL = 8192;
/* Units are split in whole lines of the cache. */
static const long LINE = 16;

typedef struct {
  const lx_layout *layout;
  const void *call;
  void (*run)(const void *call, const lx_part *part, lx_found *found);
  lx_found *found; /* one for each thread */
} Job;

/* Sequences for each thread, so that all have about as many steps; where there are fewer sequences than threads, units as well. */
static lx_part part_of(const lx_layout *layout, int thread, int threads) {
  const long batch = layout->sizes[0];
  const long by_unit = batch >= threads ? 1 : threads / batch;
  const long by_batch = threads / by_unit;
  lx_part part = {0, 0, 0, 0};
  if (thread >= by_batch * by_unit)
    return part;
  const long mine = thread / by_unit, of_units = thread % by_unit;
  if (layout->sizes[layout->steps - 1] == batch) {
    part.batch_from = batch * mine / by_batch;
    part.batch_to = batch * (mine + 1) / by_batch;
  } else {
    long total = 0, before = 0, b = 0;
    for (long t = 0; t < layout->steps; t++)
      total += layout->sizes[t];
    /* Sequence b has as many steps as there are sizes above b; they get shorter. */
    long length = layout->steps;
    part.batch_from = mine ? batch : 0;
    part.batch_to = batch;
    for (; b < batch; b++) {
      while (length && layout->sizes[length - 1] <= b)
        length--;
      if (mine && part.batch_from == batch && before * by_batch >= total * mine)
        part.batch_from = b;
      if (mine + 1 < by_batch && before * by_batch >= total * (mine + 1)) {
        part.batch_to = b;
        break;
      }
      before += length;
    }
  }
  const long lines = (layout->units + LINE - 1) / LINE;
  part.unit_from = lines * of_units / by_unit * LINE;
  part.unit_to = lines * (of_units + 1) / by_unit * LINE;
  part.unit_from = part.unit_from < layout->units ? part.unit_from : layout->units;
  part.unit_to = part.unit_to < layout->units ? part.unit_to : layout->units;
  return part;
}

static void work(void *data, int thread, int threads) {
  const Job *job = data;
  const lx_part part = part_of(job->layout, thread, threads);
  job->run(job->call, &part, &job->found[thread]);
}

enum { MOST_THREADS = 256 };

static void run(
    const lx_layout *layout, long cells, const void *call, void (*kernel)(const void *, const lx_part *, lx_found *), int threads, lx_found *all
) {
  lx_found found[MOST_THREADS] = {{0, 0, 0}};
  const Job job = {layout, call, kernel, found};
  threads = cells < SMALL || threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
  lx_parallel(threads, work, (void *)&job);
  all->difference = all->scale = 0;
  all->nonfinite = 0;
  for (int thread = 0; thread < threads; thread++) {
    all->difference = found[thread].difference > all->difference ? found[thread].difference : all->difference;
    all->scale = found[thread].scale > all->scale ? found[thread].scale : all->scale;
    all->nonfinite |= found[thread].nonfinite;
  }
}

/* How many cells a call has, or that it has more than are few. */
static long cells_of(const lx_layout *layout) {
  long rows = 0;
  for (long t = 0; t < layout->steps && rows * layout->units < SMALL; t++)
    rows += layout->sizes[t];
  return rows * layout->units;
}

/* Function pointers of different types are cast back before they are called, as C wants it. */
#define ENTRY(name, cells)                                                                                           \
  static void name##_single(const void *call, const lx_part *part, lx_found *found) {                               \
    kernels()->name[0](call, part, found);                                                                          \
  }                                                                                                                  \
  static void name##_double(const void *call, const lx_part *part, lx_found *found) {                               \
    kernels()->name[1](call, part, found);                                                                          \
  }                                                                                                                  \
  EXPORT void lx_##name##_run(const lx_##name *call, int is_double, int threads, lx_found *found) {                 \
    run(&call->layout, cells, call, is_double ? name##_double : name##_single, threads, found);                     \
  }

ENTRY(lstm_replay, cells_of(&call->layout))
ENTRY(lstm_check, cells_of(&call->layout))
ENTRY(lstm_named, cells_of(&call->layout))
ENTRY(gru_replay, cells_of(&call->layout))
ENTRY(lstm_held, cells_of(&call->layout))
ENTRY(tally, call->batch * call->time * call->layout.units)
ENTRY(survival, call->batch * call->time * call->layout.units)
ENTRY(credit, call->layout.sizes[0] * call->time * call->layout.units)

/* How large each call is, in the order of the entries: a library of another version has others. */
EXPORT const long *lx_sizes(void) {
  static const long sizes[] = {sizeof(lx_lstm_replay), sizeof(lx_lstm_check), sizeof(lx_lstm_held),    sizeof(lx_lstm_named),
                               sizeof(lx_gru_replay),  sizeof(lx_tally),      sizeof(lx_survival),     sizeof(lx_credit),
                               sizeof(lx_lstm_forward), sizeof(lx_lstm_backward)};
  return sizes;
}

/* A layer's threads have whole sequences each, and fewer products than these aren't worth a second one. */
static const double FEW = 1 << 20;

static int threads_for(const lx_layer *form, int threads) {
  const lx_layout *layout = &form->layout;
  const double products = 4.0 * (double)layout->units * (double)(form->features + form->state) * (double)layout->steps * (double)layout->sizes[0];
  const long most = layout->sizes[0] < MOST_THREADS ? layout->sizes[0] : MOST_THREADS;
  return products < FEW || threads < 1 ? 1 : threads < most ? threads : (int)most;
}

typedef struct {
  const void *call;
  int is_double;
} Sequence;

#define LAYER_ENTRY(name)                                                                                            \
  static void name##_pack(void *data, int thread, int threads) {                                                    \
    const Sequence *now = data;                                                                                     \
    kernels()->name##_pack[now->is_double](now->call, thread, threads);                                             \
  }                                                                                                                  \
  static void name##_work(void *data, int thread, int threads) {                                                    \
    const Sequence *now = data;                                                                                     \
    const lx_##name *call = now->call;                                                                              \
    const lx_part part = part_of(&call->form.layout, thread, threads);                                              \
    kernels()->name[now->is_double](call, &part, thread);                                                           \
  }                                                                                                                  \
  EXPORT long lx_##name##_room(const lx_layer *form, int is_double, int threads) {                                   \
    return kernels()->name##_room[is_double](form, threads_for(form, threads));                                     \
  }                                                                                                                  \
  EXPORT void lx_##name##_run(const lx_##name *call, int is_double, int threads, int packed) {                      \
    Sequence now = {call, is_double};                                                                               \
    threads = threads_for(&call->form, threads);                                                                    \
    if (!packed)                                                                                                    \
      lx_parallel(threads, name##_pack, &now);                                                                      \
    lx_parallel(threads, name##_work, &now);                                                                        \
  }

LAYER_ENTRY(lstm_forward)
LAYER_ENTRY(plain_forward)
LAYER_ENTRY(lstm_backward)
