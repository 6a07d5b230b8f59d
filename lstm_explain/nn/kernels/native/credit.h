/* What each step has added to a state that is a sum over steps, in what is read of it at one step: backwards from there. */

/* What is read of some units of a sum. */
static inline __attribute__((always_inline)) V NAME(credit_read)(const double *sum, const REAL *weights, int squashed, long u, long n) {
  REAL values[LX_BYTES / sizeof(REAL)] = {0};
  for (long lane = 0; lane < n; lane++)
    values[lane] = (REAL)sum[u + lane];
  const V now = NAME(load)(values, LANES);
  return (squashed ? NAME(hyperbolic)(now) : now) * NAME(load)(weights + u, n);
}

/* One step taken out of the sum: what it kept of the steps before it is what they have from here on. */
static inline __attribute__((always_inline)) void NAME(credit_take)(
    const REAL *keep, const REAL *take, const REAL *candidate, double *sum, REAL *kept, long u, long n) {
  if (n < 0 || n > LANES) /* which a compiler that lets numbers wrap can't know */
    __builtin_unreachable();
  const V of_before = NAME(load)(keep + u, n), of_later = NAME(load)(kept + u, n);
  const V new = (take ? NAME(load)(take + u, n) : (REAL)1 - of_before) * NAME(load)(candidate + u, n) * of_later;
  REAL values[LX_BYTES / sizeof(REAL)];
  NAME(store)(values, new, LANES);
  for (long lane = 0; lane < n; lane++)
    sum[u + lane] -= (double)values[lane];
  NAME(store)(kept + u, of_before * of_later, n);
}

static inline double NAME(credit_total)(V sum) {
  double total = 0;
  for (long lane = 0; lane < LANES; lane++)
    total += (double)sum[lane];
  return total;
}

static void NAME(credit)(const lx_credit *call, const lx_part *part, lx_found *found) {
  (void)found;
  const long H = call->layout.units, along = call->layout.reverse ? 1 : -1;
  if (part->unit_to < H) /* all units of a sequence meet in what is read of it: who has its last ones takes all */
    return;
  lx_part all = *part;
  all.unit_from = 0;
#define AT(signal) ((const REAL *)call->signal.values + b * call->signal.batch_stride + t * call->signal.time_stride)
  for (long b = part->batch_from; b < part->batch_to; b++) {
    double *sum = call->room + 3 * b * H;
    REAL *kept = (REAL *)(sum + H), *weights = (REAL *)(sum + 2 * H);
    long t = call->from[b];
    const int squashed = call->output.values != 0;
    const REAL *end = AT(state), *output = squashed ? AT(output) : 0;
    for (long u = 0; u < H; u++) {
      sum[u] = (double)end[u], kept[u] = 1;
      weights[u] = ((const REAL *)call->weights)[b * H + u] * (squashed ? output[u] : 1);
    }
    V read = {0};
#define UNITS(u, n) read += NAME(credit_read)(sum, weights, squashed, u, n)
    EACH_VECTOR(&all, UNITS);
    double now = NAME(credit_total)(read);
    for (; call->layout.reverse ? t <= call->first[b] : t >= call->first[b]; t += along) {
      const REAL *keep = AT(keep), *take = call->take.values ? AT(take) : 0, *candidate = AT(candidate);
#define STEP(u, n) NAME(credit_take)(keep, take, candidate, sum, kept, u, n), UNITS(u, n)
      read = (V){0};
      EACH_VECTOR(&all, STEP);
#undef STEP
      const double before = NAME(credit_total)(read);
      call->shares[b * call->time + t] = now - before;
      now = before;
    }
    for (long u = 0; u < H; u++)
      sum[u] = (double)(((const REAL *)call->initial)[b * H + u] * kept[u]);
    read = (V){0};
    EACH_VECTOR(&all, UNITS);
#undef UNITS
    call->start[b] = NAME(credit_total)(read);
  }
#undef AT
}
