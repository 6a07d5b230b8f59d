/* An LSTM's signals by their names: the equations that must hold between them, and gates between 0 and 1. */

static inline __attribute__((always_inline)) void NAME(lstm_named_units)(
    const REAL *input, const REAL *forget, const REAL *candidate, const REAL *output, const REAL *cell, const REAL *before, const REAL *hidden,
    NAME(Check) * check, long u, long n) {
  const V i = NAME(load)(input + u, n), f = NAME(load)(forget + u, n), g = NAME(load)(candidate + u, n), o = NAME(load)(output + u, n);
  const V c = NAME(load)(cell + u, n), h = NAME(load)(hidden + u, n), none = NAME(all)(0), one = NAME(all)(1);
  const V gates[3] = {i, f, o};
  for (int k = 0; k < 3; k++) {
    const V within = NAME(either)(gates[k] < none, none, NAME(either)(gates[k] > one, one, gates[k]));
    NAME(compare)(check, gates[k], within, n);
  }
  NAME(compare)(check, c, f * NAME(load)(before + u, n) + i * g, n);
  NAME(compare)(check, h, o * NAME(hyperbolic)(c), n);
}

static void NAME(lstm_named)(const lx_lstm_named *call, const lx_part *part, lx_found *found) {
  NAME(Check) check = {0};
#define AT(signal) ((const REAL *)call->signal.values + b * call->signal.batch_stride + t * call->signal.time_stride)
  for (long b = part->batch_from; b < part->batch_to; b++)
    for (long t = 0; t < call->layout.steps; t++) {
      if (!((const unsigned char *)call->valid.values)[b * call->valid.batch_stride + t * call->valid.time_stride])
        continue;
      const REAL *before = (const REAL *)call->initial + b * call->layout.units;
      const long from = call->layout.reverse ? t + 1 : t - 1;
      if (t != ((const int64_t *)call->first_step)[b] && from >= 0 && from < call->time)
        before = AT(cell_state) + (from - t) * call->cell_state.time_stride;
      const REAL *input = AT(input_gate), *forget = AT(forget_gate), *candidate = AT(cell_candidate), *output = AT(output_gate);
      const REAL *cell = AT(cell_state), *hidden = AT(hidden_state);
#define UNITS(u, n) NAME(lstm_named_units)(input, forget, candidate, output, cell, before, hidden, &check, u, n)
      EACH_VECTOR(part, UNITS);
#undef UNITS
    }
#undef AT
  NAME(found)(&check, found);
}
