/* The same sequence backward: what each step's pre-activations had to do with the loss, d_z, and the states before the first step.
 *
 * Called for some steps at a time, the last one read first: d_h and d_c go on from one call to the next, and what the weights had to do with the
 * loss is a bulk product of d_z between two calls.
 */

typedef struct {
  NAME(Matrix) h, c, o_c, r;
} NAME(Transposed);

static long NAME(place_transposed)(const lx_layer *form, NAME(Transposed) * W, REAL *room) {
  const long H = form->layout.units, P = form->state;
  const int full = form->peephole == LX_FULL, previous = form->wiring == LX_PREVIOUS;
  *W = (NAME(Transposed)){
      .h = {0, 4 * H, 1, P},
      .c = {0, previous ? 4 * H : 2 * H, full, H},
      .o_c = {0, H, full && !previous, H},
      .r = {0, P, form->projects, H},
  };
  NAME(Matrix) *all[] = {&W->h, &W->c, &W->o_c, &W->r};
  long values = 0;
  for (int at = 0; at < 4; at++) {
    all[at]->panels = room ? room + values : 0;
    values += all[at]->groups ? NAME(panels_of)(all[at]->groups, all[at]->columns) * all[at]->depth * WIDE : 0;
  }
  return values;
}

static long NAME(lstm_backward_room)(const lx_layer *form, int threads) {
  NAME(Transposed) W;
  return (NAME(place_transposed)(form, &W, 0) + threads * NAME(ABREAST) * form->layout.units) * (long)sizeof(REAL);
}

static void NAME(lstm_backward_pack)(const lx_lstm_backward *call, int thread, int threads) {
  const lx_layer *form = &call->form;
  const long H = form->layout.units;
  NAME(Transposed) W;
  NAME(place_transposed)(form, &W, call->room);
  const REAL *W_c = call->weight_ch;
  const struct {
    const NAME(Matrix) * as;
    const REAL *W;
  } all[] = {{&W.h, call->weight_hh}, {&W.c, W_c}, {&W.o_c, W_c ? W_c + 2 * H * H : 0}, {&W.r, call->weight_hr}};
  for (int at = 0; at < 4; at++) {
    const NAME(Matrix) *as = all[at].as;
    const long panels = as->groups ? NAME(panels_of)(as->groups, as->columns) : 0;
    NAME(pack)((REAL *)as->panels, all[at].W, 1, as->columns, as, panels * thread / threads, panels * (thread + 1) / threads);
  }
}

/* The sequences of one block at one step. */
typedef struct {
  const REAL *gates[NAME(ABREAST)], *c[NAME(ABREAST)], *c_new[NAME(ABREAST)];
  REAL *d_z[NAME(ABREAST)], *d_m[NAME(ABREAST)], *d_c[NAME(ABREAST)];
} NAME(Slopes);

/* d_zo, and m for the projection's weights; d_c gains what came by m = o tanh(c) and, in the graves wiring, by o's own peephole. */
static void NAME(output_slopes)(const lx_lstm_backward *call, const NAME(Slopes) * at, long rows, REAL *m, REAL *d_p_o) {
  const long H = call->form.layout.units;
  const int sees_new = call->form.peephole == LX_DIAGONAL && call->form.wiring == LX_GRAVES;
  for (long u = 0; u < H; u += LANES) {
    const long n = H - u < LANES ? H - u : LANES;
    V p_o = {0}, sum = {0};
    if (sees_new)
      p_o = NAME(load)((const REAL *)call->weight_ch + 2 * H + u, n);
    for (long r = 0; r < rows; r++) {
      const V o = NAME(load)(at->gates[r] + 3 * H + u, n), c = NAME(load)(at->c_new[r] + u, n), tanh_c = NAME(hyperbolic)(c);
      const V d_m = NAME(load)(at->d_m[r] + u, n), d_zo = d_m * tanh_c * (o * ((REAL)1 - o));
      V d_c = NAME(load)(at->d_c[r] + u, n) + d_m * (o * ((REAL)1 - tanh_c * tanh_c));
      if (sees_new) {
        d_c += d_zo * p_o;
        sum += d_zo * c;
      }
      NAME(store)(at->d_z[r] + 3 * H + u, d_zo, n);
      NAME(store)(at->d_c[r] + u, d_c, n);
      if (m)
        NAME(store)(m + r * H + u, o * tanh_c, n);
    }
    if (sees_new)
      NAME(store)(d_p_o + u, NAME(load)(d_p_o + u, n) + sum, n);
  }
}

/* d_zi, d_zf and d_zg from d_c, which goes on to the step before; d_b and d_p gain this step's. */
static void NAME(cell_slopes)(const lx_lstm_backward *call, const NAME(Slopes) * at, long rows, REAL *d_b, REAL *d_p) {
  const long H = call->form.layout.units;
  const int diagonal = call->form.peephole == LX_DIAGONAL, all = call->form.wiring == LX_PREVIOUS;
  const REAL *p = call->weight_ch;
  for (long u = 0; u < H; u += LANES) {
    const long n = H - u < LANES ? H - u : LANES;
    V p_i = {0}, p_f = {0}, p_g = {0}, p_o = {0}, b_i = {0}, b_f = {0}, b_g = {0}, b_o = {0}, c_i = {0}, c_f = {0}, c_g = {0}, c_o = {0};
    if (diagonal) {
      p_i = NAME(load)(p + u, n), p_f = NAME(load)(p + H + u, n);
      if (all)
        p_g = NAME(load)(p + 2 * H + u, n), p_o = NAME(load)(p + 3 * H + u, n);
    }
    for (long r = 0; r < rows; r++) {
      const REAL *gates = at->gates[r] + u;
      REAL *d_z = at->d_z[r] + u;
      const V i = NAME(load)(gates, n), f = NAME(load)(gates + H, n), g = NAME(load)(gates + 2 * H, n), c = NAME(load)(at->c[r] + u, n);
      const V d_c = NAME(load)(at->d_c[r] + u, n), d_zo = NAME(load)(d_z + 3 * H, n);
      const V d_zi = d_c * g * (i * ((REAL)1 - i)), d_zf = d_c * c * (f * ((REAL)1 - f)), d_zg = d_c * i * ((REAL)1 - g * g);
      V before = d_c * f;
      b_i += d_zi, b_f += d_zf, b_g += d_zg, b_o += d_zo;
      if (diagonal) {
        before += d_zi * p_i + d_zf * p_f;
        c_i += d_zi * c, c_f += d_zf * c;
        if (all) {
          before += d_zg * p_g + d_zo * p_o;
          c_g += d_zg * c, c_o += d_zo * c;
        }
      }
      NAME(store)(d_z, d_zi, n), NAME(store)(d_z + H, d_zf, n), NAME(store)(d_z + 2 * H, d_zg, n);
      NAME(store)(at->d_c[r] + u, before, n);
    }
#define ADD(sums, gate, value) NAME(store)(sums + gate * H + u, NAME(load)(sums + gate * H + u, n) + value, n)
    ADD(d_b, 0, b_i), ADD(d_b, 1, b_f), ADD(d_b, 2, b_g), ADD(d_b, 3, b_o);
    if (diagonal) {
      ADD(d_p, 0, c_i), ADD(d_p, 1, c_f);
      if (all)
        ADD(d_p, 2, c_g), ADD(d_p, 3, c_o);
    }
#undef ADD
  }
}

/* Sequences b_from to b_to at the call's steps. `sums`: d_b, and d_p where peepholes are diagonal, each by gate. */
static void NAME(backward_block)(const lx_lstm_backward *call, const NAME(Transposed) * W, long b_from, long b_to, REAL *own, REAL *sums) {
  const lx_layer *form = &call->form;
  const lx_layout *layout = &form->layout;
  const long H = layout->units, P = form->state;
  REAL *d_b = sums, *d_p = sums + 4 * H;
  for (lx_step step = call->last; step.read >= call->stop; step = lx_step_before(layout, step)) {
    const long n = lx_within(step.size, b_from, b_to);
    const lx_step before = lx_step_before(layout, step);
    NAME(Slopes) at;
    REAL *d_h[NAME(ABREAST)], *d_zo[NAME(ABREAST)];
    for (long r = 0; r < n; r++) {
      const long b = b_from + r, row = step.row + b, here = row - call->first_row;
      at.gates[r] = (const REAL *)call->gates + row * 4 * H;
      at.c_new[r] = (const REAL *)call->cell + row * H;
      at.c[r] = step.read && b < before.size ? (const REAL *)call->cell + (before.row + b) * H : (const REAL *)call->c0 + b * H;
      at.d_z[r] = (REAL *)call->d_z + here * 4 * H;
      at.d_c[r] = (REAL *)call->d_c + b * H;
      d_h[r] = (REAL *)call->d_h + b * P;
      d_zo[r] = at.d_z[r] + 3 * H;
      at.d_m[r] = form->projects ? own + r * H : d_h[r];
      if (call->grad_hidden) {
        const REAL *grad = (const REAL *)call->grad_hidden + row * call->grad_stride;
        for (long k = 0; k < P; k += LANES) {
          const long lanes = P - k < LANES ? P - k : LANES;
          NAME(store)(d_h[r] + k, NAME(load)(d_h[r] + k, lanes) + NAME(load)(grad + k, lanes), lanes);
        }
      }
      if (call->d_h_rows)
        memcpy((REAL *)call->d_h_rows + here * P, d_h[r], (size_t)P * sizeof(REAL));
    }
    if (form->projects)
      NAME(product)(&W->r, (const REAL *const *)d_h, at.d_m, n, 0, 1);
    NAME(output_slopes)(call, &at, n, call->m ? (REAL *)call->m + (step.row + b_from - call->first_row) * H : 0, d_p + 2 * H);
    if (W->o_c.groups)
      NAME(product)(&W->o_c, (const REAL *const *)d_zo, at.d_c, n, 0, 0);
    NAME(cell_slopes)(call, &at, n, d_b, d_p);
    NAME(product)(&W->h, (const REAL *const *)at.d_z, d_h, n, 0, 1);
    if (W->c.groups)
      NAME(product)(&W->c, (const REAL *const *)at.d_z, at.d_c, n, 0, 0);
  }
}

static void NAME(lstm_backward)(const lx_lstm_backward *call, const lx_part *part, int thread) {
  const long H = call->form.layout.units;
  NAME(Transposed) W;
  REAL *own = (REAL *)call->room + NAME(place_transposed)(&call->form, &W, call->room) + thread * NAME(ABREAST) * H;
  const long blocks = (part->batch_to - part->batch_from + NAME(ABREAST) - 1) / NAME(ABREAST);
  for (long block = 0, b = part->batch_from; block < blocks; block++) {
    const long n = (part->batch_to - b + blocks - block - 1) / (blocks - block);
    NAME(backward_block)(call, &W, b, b + n, own, (REAL *)call->sums + thread * 8 * H);
    b += n;
  }
}
