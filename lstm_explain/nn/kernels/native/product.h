/* Rows times a matrix that stays the same from step to step: out = in W, or out += in W.
 *
 * The matrix is packed once into panels of WIDE columns, each of which lies in memory as it is read. A tile of rows meets a panel with all its sums
 * in registers. Rows are given one by one, by their addresses, so that no layout need be copied.
 */

#define WIDE (2 * LANES)

/* As many rows as there are registers for: each needs two for its sums. */
#if LX_BYTES == 64
#define TALL 12
#else
#define TALL 6
#endif

/* No deeper than this at a time, so that a part of a panel stays in the first-level cache while all rows pass by. */
#define DEEP (16384 / (LX_BYTES * 2))

/* Columns are in groups, one for each gate: padded each to whole panels, they lie side by side for the same units. */
typedef struct {
  const REAL *panels;
  long depth, groups, columns; /* columns of a group */
} NAME(Matrix);

static inline long NAME(panels_of)(long groups, long columns) { return groups * ((columns + WIDE - 1) / WIDE); }

/* Panels `from` to `to` of W, whose element of column n and depth k is W[n * by_column + k * by_depth]. */
static void NAME(pack)(REAL *packed, const REAL *W, long by_column, long by_depth, const NAME(Matrix) * as, long from, long to) {
  enum { SQUARE = 16 };
  for (long p = from; p < to; p++) {
    const long u = p / as->groups * WIDE, n = as->columns - u < WIDE ? as->columns - u : WIDE;
    const REAL *columns = W + (p % as->groups * as->columns + u) * by_column;
    REAL *panel = packed + p * as->depth * WIDE;
    for (long k_from = 0; k_from < as->depth; k_from += SQUARE) {
      const long k_to = k_from + SQUARE < as->depth ? k_from + SQUARE : as->depth;
      if (by_column == 1)
        for (long k = k_from; k < k_to; k++)
          memcpy(panel + k * WIDE, columns + k * by_depth, (size_t)n * sizeof(REAL));
      else
        for (long column = 0; column < n; column++)
          for (long k = k_from; k < k_to; k++)
            panel[k * WIDE + column] = columns[column * by_column + k * by_depth];
      for (long k = k_from; k < k_to && n < WIDE; k++)
        memset(panel + k * WIDE + n, 0, (size_t)(WIDE - n) * sizeof(REAL));
    }
  }
}

/* `rows` rows from `in` and `side` panels from p, all of whose columns are there; both are constants wherever this is inlined. Columns of panel s
 * begin at `column[s]` of `out` and of `bias`. Where `fresh` says so sums start from the bias, or from zero where that is null, and else from `out`. */
static inline __attribute__((always_inline)) void NAME(tile)(
    const int rows, const int side, const NAME(Matrix) * W, long p, long k_from, long k_to, const REAL *const *in, REAL *const *out, const long *column,
    const REAL *bias, int fresh
) {
  V sum[TALL][8];
  const REAL *panel[4], *row[TALL];
  for (int s = 0; s < side; s++)
    panel[s] = W->panels + ((p + s) * W->depth + k_from) * WIDE;
  for (int v = 0; v < 2 * side; v++) {
    const long at = column[v / 2] + v % 2 * LANES;
    const V start = fresh && bias ? NAME(load)(bias + at, LANES) : NAME(all)(0);
    for (int r = 0; r < rows; r++)
      sum[r][v] = fresh ? start : NAME(load)(out[r] + at, LANES);
  }
  for (int r = 0; r < rows; r++)
    row[r] = in[r] + k_from;
  for (long k = 0; k < k_to - k_from; k++)
    for (int s = 0; s < side; s++) {
      const V left = NAME(load)(panel[s] + k * WIDE, LANES), right = NAME(load)(panel[s] + k * WIDE + LANES, LANES);
      for (int r = 0; r < rows; r++) {
        sum[r][2 * s] += row[r][k] * left;
        sum[r][2 * s + 1] += row[r][k] * right;
      }
    }
  for (int v = 0; v < 2 * side; v++)
    for (int r = 0; r < rows; r++)
      NAME(store)(out[r] + column[v / 2] + v % 2 * LANES, sum[r][v], LANES);
}

/* The same for any number of rows that a tile may have. */
static void NAME(tiles)(
    long rows, long side, const NAME(Matrix) * W, long p, long k_from, long k_to, const REAL *const *in, REAL *const *out, const long *column,
    const REAL *bias, int fresh
) {
#define TILE(rows, side) case rows * 8 + side: NAME(tile)(rows, side, W, p, k_from, k_to, in, out, column, bias, fresh); break
  switch (rows * 8 + side) {
    TILE(1, 4);
    TILE(1, 1);
    TILE(2, 2);
    TILE(2, 1);
    TILE(3, 2);
    TILE(3, 1);
    TILE(4, 1);
    TILE(5, 1);
    TILE(6, 1);
#if TALL == 12
    TILE(7, 1);
    TILE(8, 1);
    TILE(9, 1);
    TILE(10, 1);
    TILE(11, 1);
    TILE(12, 1);
#endif
  }
#undef TILE
}

/* Panel p has less than WIDE columns: its sums are made elsewhere, and what is there of them is copied. */
static void NAME(edge)(
    long rows, const NAME(Matrix) * W, long p, long k_from, long k_to, const REAL *const *in, REAL *const *out, long column, long n, const REAL *bias, int fresh
) {
  REAL whole[TALL + 1][WIDE], *to[TALL] = {0}, *start = whole[TALL];
  const size_t bytes = (size_t)n * sizeof(REAL);
  const long none = 0;
  memset(whole, 0, sizeof whole);
  if (fresh && bias)
    memcpy(start, bias + column, bytes);
  for (long r = 0; r < rows; r++) {
    to[r] = whole[r];
    if (!fresh)
      memcpy(to[r], out[r] + column, bytes);
  }
  NAME(tiles)(rows, 1, W, p, k_from, k_to, in, to, &none, start, fresh);
  for (long r = 0; r < rows; r++)
    memcpy(out[r] + column, to[r], bytes);
}

static void NAME(product)(const NAME(Matrix) * W, const REAL *const *in, REAL *const *out, long rows, const REAL *bias, int fresh) {
  const long panels = NAME(panels_of)(W->groups, W->columns), tiles = (rows + TALL - 1) / TALL;
  const long whole = W->columns % WIDE ? panels - W->groups : panels; /* those with all of their columns stand in front */
  /* Few rows have too few sums to keep a processor busy: they meet several panels at once. */
  const long abreast = rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  for (long k = 0; k < W->depth; k += DEEP) {
    const long to = k + DEEP < W->depth ? k + DEEP : W->depth;
    const int first = fresh && k == 0;
    for (long p = 0, side; p < panels; p += side) {
      side = p + abreast <= whole ? abreast : 1;
      long column[4];
      for (long s = 0; s < side; s++)
        column[s] = (p + s) % W->groups * W->columns + (p + s) / W->groups * WIDE;
      for (long r = 0, n, tile = 0; tile < tiles; tile++, r += n) {
        n = (rows - r + tiles - tile - 1) / (tiles - tile);
        if (p < whole)
          NAME(tiles)(n, side, W, p, k, to, in + r, out + r, column, bias, first);
        else
          NAME(edge)(n, W, p, k, to, in + r, out + r, column[0], W->columns % WIDE, bias, first);
      }
    }
  }
}
