/* A layer opened after its own pass: gates from their pre-activations, the scan of the cell state, and the check of what the layer returned.
 *
 * Each kernel walks over its part's rows; what it does to one vector of n units is a function of its own, so that the compiler makes one with
 * n = LANES and one for what is left of a row.
 */

static inline __attribute__((always_inline)) void NAME(lstm_replay_units)(
    REAL *gates, REAL *cell, REAL *state, const REAL *hidden, REAL *kept, long H, NAME(Check) * check, long u, long n) {
  const V i = NAME(sigmoid)(NAME(load)(gates + u, n)), f = NAME(sigmoid)(NAME(load)(gates + H + u, n));
  const V g = NAME(hyperbolic)(NAME(load)(gates + 2 * H + u, n)), o = NAME(sigmoid)(NAME(load)(gates + 3 * H + u, n));
  const V c = f * NAME(load)(state + u, n) + i * g;
  NAME(store)(gates + u, i, n);
  NAME(store)(gates + H + u, f, n);
  NAME(store)(gates + 2 * H + u, g, n);
  NAME(store)(gates + 3 * H + u, o, n);
  NAME(store)(cell + u, c, n);
  NAME(store)(state + u, c, n);
  if (hidden) {
    const V h = NAME(load)(hidden + u, n);
    NAME(compare)(check, h, o * NAME(hyperbolic)(c), n);
    if (kept)
      NAME(store)(kept + u, h, n);
  }
}

static void NAME(lstm_replay)(const lx_lstm_replay *call, const lx_part *part, lx_found *found) {
  const lx_layout at = call->layout;
  const long H = at.units;
  NAME(Check) check = {0};
  long rows = 0; /* those before the step */
  if (at.reverse)
    for (long t = 0; t < at.steps; t++)
      rows += at.sizes[t];
  for (long s = 0; s < at.steps; s++) {
    const long size = at.sizes[at.reverse ? at.steps - 1 - s : s];
    const long to = size < part->batch_to ? size : part->batch_to;
    if (at.reverse)
      rows -= size;
    for (long b = part->batch_from; b < to; b++) {
      REAL *gates = (REAL *)call->gates + (rows + b) * 4 * H;
      REAL *cell = (REAL *)call->cell + (rows + b) * H, *state = (REAL *)call->state + b * H;
      const REAL *hidden = call->hidden ? (const REAL *)call->hidden + (rows + b) * call->hidden_stride : 0;
      REAL *kept = call->kept ? (REAL *)call->kept + (rows + b) * H : 0;
#define UNITS(u, n) NAME(lstm_replay_units)(gates, cell, state, hidden, kept, H, &check, u, n)
      EACH_VECTOR(part, UNITS);
#undef UNITS
    }
    if (!at.reverse)
      rows += size;
  }
  NAME(found)(&check, found);
}

static inline __attribute__((always_inline)) void NAME(lstm_check_units)(
    const REAL *gates, const REAL *cell, const REAL *before, const REAL *hidden, REAL *kept_cell, REAL *kept_hidden, long H, NAME(Check) * check,
    long u, long n) {
  const V i = NAME(load)(gates + u, n), f = NAME(load)(gates + H + u, n), g = NAME(load)(gates + 2 * H + u, n);
  const V o = NAME(load)(gates + 3 * H + u, n), c = NAME(load)(cell + u, n), h = NAME(load)(hidden + u, n);
  NAME(compare)(check, c, f * NAME(load)(before + u, n) + i * g, n);
  NAME(compare)(check, h, o * NAME(hyperbolic)(c), n);
  NAME(store)(kept_cell + u, c, n);
  if (kept_hidden)
    NAME(store)(kept_hidden + u, h, n);
}

static void NAME(lstm_check)(const lx_lstm_check *call, const lx_part *part, lx_found *found) {
  const lx_layout at = call->layout; /* all sizes are the same: what is left in a workspace isn't packed */
  const long H = at.units, batch = at.sizes[0];
  NAME(Check) check = {0};
  for (long s = 0; s < at.steps; s++) {
    for (long b = part->batch_from; b < part->batch_to; b++) {
      const long row = s * batch + b;
      /* In the order of reading: where it reads backwards, hidden states and copies stand the other way round. */
      const long place = (at.reverse ? at.steps - 1 - s : s) * batch + b;
      const REAL *gates = (const REAL *)call->gates + row * call->gates_stride;
      const REAL *cell = s + 1 < at.steps ? (const REAL *)call->cell + row * call->cell_stride : (const REAL *)call->last + b * H;
      const REAL *before = s ? (const REAL *)call->cell + (row - batch) * call->cell_stride : (const REAL *)call->initial + b * H;
      const REAL *hidden = (const REAL *)call->hidden + place * call->hidden_stride;
      REAL *kept_cell = (REAL *)call->kept_cell + place * H, *kept_hidden = call->kept_hidden ? (REAL *)call->kept_hidden + place * H : 0;
#define UNITS(u, n) NAME(lstm_check_units)(gates, cell, before, hidden, kept_cell, kept_hidden, H, &check, u, n)
      EACH_VECTOR(part, UNITS);
#undef UNITS
    }
  }
  NAME(found)(&check, found);
}

static inline __attribute__((always_inline)) void NAME(gru_replay_units)(
    REAL *gates, const REAL *recurrent, const REAL *before, const REAL *hidden, REAL *kept, long H, NAME(Check) * check, long u, long n) {
  const V r = NAME(sigmoid)(NAME(load)(gates + u, n) + NAME(load)(recurrent + u, n));
  const V z = NAME(sigmoid)(NAME(load)(gates + H + u, n) + NAME(load)(recurrent + H + u, n));
  const V c = NAME(hyperbolic)(NAME(load)(gates + 2 * H + u, n) + r * NAME(load)(recurrent + 2 * H + u, n));
  const V h = NAME(load)(hidden + u, n);
  NAME(compare)(check, h, ((REAL)1 - z) * c + z * NAME(load)(before + u, n), n);
  NAME(store)(gates + u, r, n);
  NAME(store)(gates + H + u, z, n);
  NAME(store)(gates + 2 * H + u, c, n);
  if (kept)
    NAME(store)(kept + u, h, n);
}

static void NAME(gru_replay)(const lx_gru_replay *call, const lx_part *part, lx_found *found) {
  const lx_layout at = call->layout;
  const long H = at.units;
  NAME(Check) check = {0};
  long rows = 0;
  for (long t = 0; t < at.steps; t++) {
    const long size = at.sizes[t], to = size < part->batch_to ? size : part->batch_to;
    for (long b = part->batch_from; b < to; b++) {
      const long row = rows + b;
      REAL *gates = (REAL *)call->input + row * 3 * H;
      const REAL *recurrent = (const REAL *)call->recurrent + row * 3 * H, *before = (const REAL *)call->initial + b * H;
      if (at.reverse ? t + 1 < at.steps && b < at.sizes[t + 1] : t > 0)
        before = (const REAL *)call->hidden + (at.reverse ? row + size : row - at.sizes[t ? t - 1 : 0]) * call->hidden_stride;
      const REAL *hidden = (const REAL *)call->hidden + row * call->hidden_stride;
      REAL *kept = call->kept ? (REAL *)call->kept + row * H : 0;
#define UNITS(u, n) NAME(gru_replay_units)(gates, recurrent, before, hidden, kept, H, &check, u, n)
      EACH_VECTOR(part, UNITS);
#undef UNITS
    }
    rows += size;
  }
  NAME(found)(&check, found);
}

static inline __attribute__((always_inline)) void NAME(lstm_held_units)(
    const lx_lstm_held *call, const REAL *z, const REAL *before, const REAL *gates, const REAL *cell, const REAL *hidden, NAME(Check) * check, long u, long n) {
  const long H = call->layout.units;
  const REAL *p = call->diagonal;
  const V c = NAME(load)(before + u, n);
  V z_i = NAME(load)(z + u, n), z_f = NAME(load)(z + H + u, n), z_g = NAME(load)(z + 2 * H + u, n), z_o = NAME(load)(z + 3 * H + u, n);
  if (p) {
    z_i += NAME(load)(p + u, n) * c, z_f += NAME(load)(p + H + u, n) * c;
    if (call->wiring == LX_PREVIOUS)
      z_g += NAME(load)(p + 2 * H + u, n) * c, z_o += NAME(load)(p + 3 * H + u, n) * c;
  }
  const V i = NAME(sigmoid)(z_i), f = NAME(sigmoid)(z_f), g = NAME(hyperbolic)(z_g), c_new = f * c + i * g;
  if (p && call->wiring == LX_GRAVES)
    z_o += NAME(load)(p + 2 * H + u, n) * c_new;
  const V o = NAME(sigmoid)(z_o);
  NAME(compare)(check, NAME(load)(gates + u, n), i, n);
  NAME(compare)(check, NAME(load)(gates + H + u, n), f, n);
  NAME(compare)(check, NAME(load)(gates + 2 * H + u, n), g, n);
  NAME(compare)(check, NAME(load)(gates + 3 * H + u, n), o, n);
  NAME(compare)(check, NAME(load)(cell + u, n), c_new, n);
  NAME(compare)(check, NAME(load)(hidden + u, n), o * NAME(hyperbolic)(c_new), n);
}

static void NAME(lstm_held)(const lx_lstm_held *call, const lx_part *part, lx_found *found) {
  const long H = call->layout.units;
  NAME(Check) check = {0};
  for (long row = part->batch_from; row < part->batch_to; row++) {
    const REAL *z = (const REAL *)call->z + row * 4 * H, *gates = (const REAL *)call->gates + row * 4 * H;
    const REAL *before = (const REAL *)call->before + row * H, *cell = (const REAL *)call->cell + row * H, *hidden = (const REAL *)call->hidden + row * H;
#define UNITS(u, n) NAME(lstm_held_units)(call, z, before, gates, cell, hidden, &check, u, n)
    EACH_VECTOR(part, UNITS);
#undef UNITS
  }
  NAME(found)(&check, found);
}
