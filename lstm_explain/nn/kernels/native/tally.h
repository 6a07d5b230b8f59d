/* Counts and sums of a signal over the steps that count, unit by unit, in one walk.
 *
 * A thread has some of the units. Values meet counters in registers for a tile of rows at a time. A sum of logarithms is kept as the mantissa and the
 * exponent of a product: its logarithm is taken once, at the end, by whoever asks.
 */

/* Rows of a tile, and values in a row of a product before its exponent is taken out: of so many floats it is a double, however small they are. */
enum { NAME(TILE) = 64, NAME(UNSPLIT) = LX_DOUBLE ? 1 : 4 };

/* The exponents of products out of their mantissas, which are left in 1..2; zero, NaN and infinity stay what they are, whatever their exponents. */
static inline void NAME(split)(D *mantissa, DI *exponent) {
  const DI low = ((DI){0} + 1) << 52, most = (DI){0} + 0x7ff;
  DI raw = (DI)*mantissa >> 52 & most;
#if LX_DOUBLE /* of floats no product is subnormal */
  const DI tiny = raw == 0;
  *mantissa *= (D)((((DI){0} + 1023) << 52) + (tiny & (low * 200)));
  *exponent -= tiny & 200;
  raw = (DI)*mantissa >> 52 & most;
#endif
  const DI plain = (raw != 0) & (raw != most);
  *exponent += raw - 1023;
  const DI bits = (DI)*mantissa;
  *mantissa = (D)((plain & ((bits & (low - 1)) | (low * 1023))) | (~plain & bits));
}

/* A bin of equal ones between fixed edges, the last of which belongs to the last bin; -1 outside. Exact, whatever the division rounds to. */
static inline long NAME(bin)(const REAL *edges, long bins, REAL scale, REAL value) {
  if (!(value >= edges[0] && value <= edges[bins]))
    return -1;
  long at = (long)((value - edges[0]) * scale);
  at = at < bins ? at : bins - 1;
  while (value < edges[at])
    at--;
  while (at + 1 < bins && value >= edges[at + 1])
    at++;
  return at;
}

/* Values so far from an edge that rounding can't have moved them over it are where the division says; the others are looked up. */
static inline __attribute__((always_inline)) void NAME(tally_bins)(const lx_tally *call, const REAL *const *row, long rows, long u, long n) {
  const REAL *edges = call->edges, low = edges[0], high = edges[call->bins], bins = (REAL)call->bins, scale = bins / (high - low);
  const REAL ends = (low < 0 ? -low : low) + (high < 0 ? -high : high), near = 16 * (REAL)LEAST * (ends * scale + bins);
  int64_t *counts = call->histogram + u / 16 * 4 * call->bins;
  VI side; /* lanes beside each other count apart, so that values alike don't wait for each other */
  for (long lane = 0; lane < LANES; lane++)
    side[lane] = (INT)((lane & 3) * call->bins);
  INT each[NAME(TILE)][LX_BYTES / sizeof(REAL)];
  for (long r = 0; r < rows; r++) {
    const V v = NAME(load)(row[r] + u, n);
    const VI inside = (v >= low) & (v <= high);
    const V x = (V)(inside & (VI)((v - low) * scale)), whole = (x + (REAL)ROUNDS) - (REAL)ROUNDS;
    const VI doubtful = (NAME(absolute)(x - whole) <= near) & (whole > 0) & (whole < bins);
    VI at = __builtin_convertvector(x, VI);
    at += (at == (INT)call->bins) + side;
    at |= doubtful | ~inside;
    memcpy(each[r], &at, sizeof each[r]);
  }
  for (long r = 0; r < rows; r++)
    for (long lane = 0; lane < n; lane++) {
      const long bin = each[r][lane] >= 0 ? (long)each[r][lane] : NAME(bin)(edges, call->bins, scale, row[r][u + lane]);
      if (bin >= 0)
        counts[bin]++;
    }
}

/* Some rows of LANES units or less. */
static inline __attribute__((always_inline)) void NAME(tally_tile)(const lx_tally *call, const REAL *const *row, long rows, long u, long n) {
  const long H = call->layout.units, K = call->thresholds;
  const REAL *low = call->low, *high = call->high;
  VI bad = {0}, below[4] = {{0}}, above[4] = {{0}};
  D sum[PARTS] = {{0}}, squares[PARTS] = {{0}}, wide[PARTS];
  for (long r = 0; r < rows; r++) {
    const V v = NAME(load)(row[r] + u, n), none = v * 0;
    bad -= none != none;
    for (long k = 0; k < K; k++) {
      below[k] -= v < low[k];
      above[k] -= v > high[k];
    }
    NAME(widen)((V)((none == none) & (VI)v), wide);
    for (long part = 0; part < PARTS; part++) {
      sum[part] += wide[part];
      squares[part] += wide[part] * wide[part];
    }
  }
  NAME(add)(call->sum + u, sum, n);
  NAME(add)(call->squares + u, squares, n);
  for (long lane = 0; lane < n; lane++) {
    call->nonfinite[u + lane] += bad[lane];
    for (long k = 0; k < K; k++) {
      call->below[k * H + u + lane] += below[k][lane];
      call->above[k * H + u + lane] += above[k][lane];
    }
  }
  if (call->mantissa) {
    double mantissas[LX_BYTES / sizeof(REAL)] = {0};
    int64_t exponents[LX_BYTES / sizeof(REAL)] = {0};
    D mantissa[PARTS];
    DI exponent[PARTS];
    memcpy(mantissas, call->mantissa + u, (size_t)n * sizeof(double));
    memcpy(exponents, call->exponent + u, (size_t)n * sizeof(int64_t));
    memcpy(mantissa, mantissas, sizeof mantissas);
    memcpy(exponent, exponents, sizeof exponents);
    for (long r = 0; r < rows; r++) {
      const V v = NAME(load)(row[r] + u, n);
      NAME(widen)(NAME(either)(v < 0, NAME(all)((REAL)NAN), v), wide);
      for (long part = 0; part < PARTS; part++) {
        mantissa[part] *= wide[part];
        if (r % NAME(UNSPLIT) == NAME(UNSPLIT) - 1)
          NAME(split)(&mantissa[part], &exponent[part]);
      }
    }
    memcpy(call->mantissa + u, mantissa, (size_t)n * sizeof(double));
    memcpy(call->exponent + u, exponent, (size_t)n * sizeof(int64_t));
  }
  if (call->edges)
    NAME(tally_bins)(call, row, rows, u, n);
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
