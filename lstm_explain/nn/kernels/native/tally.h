/* Counts and sums of a signal over the steps that count, unit by unit, in one walk.
 *
 * A thread has some of the units. Values meet counters in registers for a tile of rows at a time. A sum of logarithms is kept as the mantissa and the
 * exponent of a product: its logarithm is taken once, at the end, by whoever asks.
 */

enum { NAME(TILE) = 64, NAME(UNSPLIT) = 4 };

/* The exponent of a product out of its mantissa, which is left in 1..2; zero, NaN and infinity stay what they are. */
static inline void NAME(split)(double *mantissa, int64_t *exponent) {
  int64_t bits;
  memcpy(&bits, mantissa, sizeof bits);
  const long raw = (long)(bits >> 52) & 0x7ff;
  if (raw == 0x7ff || (bits & INT64_MAX) == 0)
    return;
  if (raw == 0) { /* subnormal */
    *mantissa *= 0x1p200;
    *exponent -= 200;
    NAME(split)(mantissa, exponent);
    return;
  }
  *exponent += raw - 1023;
  bits = (int64_t)(((uint64_t)bits & ~(0x7ffULL << 52)) | (1023ULL << 52));
  memcpy(mantissa, &bits, sizeof bits);
}

/* Equal bins between fixed edges, the last of which belongs to the last bin; exact, whatever the division rounds to. */
static inline void NAME(bin)(const REAL *edges, long bins, REAL scale, REAL value, int64_t *histogram) {
  if (!(value >= edges[0] && value <= edges[bins]))
    return;
  long at = (long)((value - edges[0]) * scale);
  at = at < bins ? at : bins - 1;
  while (value < edges[at])
    at--;
  while (at + 1 < bins && value >= edges[at + 1])
    at++;
  histogram[at]++;
}

/* Some rows of LANES units or less. */
static void NAME(tally_tile)(const lx_tally *call, const REAL *const *row, long rows, long u, long n) {
  const long H = call->layout.units, K = call->thresholds;
  const REAL *low = call->low, *high = call->high;
  VI bad = {0}, below[4] = {{0}}, above[4] = {{0}};
  double sum[LX_BYTES / sizeof(REAL)] = {0}, squares[LX_BYTES / sizeof(REAL)] = {0};
  for (long r = 0; r < rows; r++) {
    const V v = NAME(load)(row[r] + u, n), none = v * 0;
    bad -= none != none;
    const V counted = NAME(either)(none == none, v, NAME(all)(0));
    for (long k = 0; k < K; k++) {
      below[k] -= v < low[k];
      above[k] -= v > high[k];
    }
    for (long lane = 0; lane < LANES; lane++) {
      sum[lane] += (double)counted[lane];
      squares[lane] += (double)counted[lane] * (double)counted[lane];
    }
  }
  for (long lane = 0; lane < n; lane++) {
    call->nonfinite[u + lane] += bad[lane];
    call->sum[u + lane] += sum[lane];
    call->squares[u + lane] += squares[lane];
    for (long k = 0; k < K; k++) {
      call->below[k * H + u + lane] += below[k][lane];
      call->above[k * H + u + lane] += above[k][lane];
    }
  }
  if (call->mantissa)
    for (long from = 0; from < rows; from += NAME(UNSPLIT)) { /* the product of so many floats is a double, however small they are */
      const long to = from + NAME(UNSPLIT) < rows ? from + NAME(UNSPLIT) : rows;
      for (long lane = 0; lane < n; lane++)
        for (long r = from; r < to; r++) {
          const double value = (double)row[r][u + lane];
          call->mantissa[u + lane] *= value < 0 ? (double)NAN : value;
          if (LX_DOUBLE)
            NAME(split)(&call->mantissa[u + lane], &call->exponent[u + lane]);
        }
      for (long lane = 0; lane < n && !LX_DOUBLE; lane++)
        NAME(split)(&call->mantissa[u + lane], &call->exponent[u + lane]);
    }
  if (call->edges) {
    const REAL *edges = call->edges, scale = (REAL)call->bins / (edges[call->bins] - edges[0]);
    for (long r = 0; r < rows; r++)
      for (long lane = 0; lane < n; lane++)
        NAME(bin)(edges, call->bins, scale, row[r][u + lane], call->histogram + (u + lane) / 16 * call->bins);
  }
}

static void NAME(tally)(const lx_tally *call, const lx_part *part, lx_found *found) {
  const REAL *row[NAME(TILE)];
  long rows = 0;
  (void)found;
#define TILE(u, n) NAME(tally_tile)(call, row, rows, u, n)
  for (long b = 0; b < call->batch; b++)
    for (long t = 0; t < call->time; t++) {
      if (!((const unsigned char *)call->valid.values)[b * call->valid.batch_stride + t * call->valid.time_stride])
        continue;
      row[rows++] = (const REAL *)call->signal.values + b * call->signal.batch_stride + t * call->signal.time_stride;
      if (rows == NAME(TILE)) {
        EACH_VECTOR(part, TILE);
        rows = 0;
      }
    }
  EACH_VECTOR(part, TILE);
#undef TILE
}
