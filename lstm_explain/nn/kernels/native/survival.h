/* Products of consecutive values, for one length of run after the other, summed over all runs: how much is left of what a cell held.
 *
 * A run is two shorter ones end to end, which are among the two lengths before it, so that three arrays of products are enough.
 */

/* One sequence and LANES units or less; where a step isn't valid the products that go over it are zero. */
static void NAME(survival_units)(const lx_survival *call, REAL *room, long b, long u, long n) {
  const long time = call->time, H = call->layout.units;
  const REAL *values = (const REAL *)call->signal.values + b * call->signal.batch_stride + u;
  const unsigned char *valid = (const unsigned char *)call->valid.values + b * call->valid.batch_stride;
  for (long k = 0; k < call->count && call->lags[k] <= time; k++) {
    REAL *products = room + k % 3 * time * LANES;
    const REAL *first = room + call->first[k] % 3 * time * LANES, *second = room + call->second[k] % 3 * time * LANES;
    const long runs = time - call->lags[k] + 1, along = k ? call->lags[call->first[k]] : 0;
    D sum[PARTS] = {{0}}, wide[PARTS];
    for (long t = 0; t < runs; t++) {
      V product = {0};
      if (k)
        product = NAME(load)(first + t * LANES, LANES) * NAME(load)(second + (t + along) * LANES, LANES);
      else if (valid[t * call->valid.time_stride])
        product = NAME(load)(values + t * call->signal.time_stride, n);
      NAME(store)(products + t * LANES, product, LANES);
      NAME(widen)(product, wide);
      for (long part = 0; part < PARTS; part++)
        sum[part] += wide[part];
    }
    NAME(add)(call->sums + k * H + u, sum, n);
  }
}

static void NAME(survival)(const lx_survival *call, const lx_part *part, lx_found *found) {
  (void)found;
  REAL *room = (REAL *)call->room + 3 * call->time * part->unit_from; /* a thread's own, which begins where its units do */
  for (long b = 0; b < call->batch; b++) {
#define UNITS(u, n) NAME(survival_units)(call, room, b, u, n)
    EACH_VECTOR(part, UNITS);
#undef UNITS
  }
}
