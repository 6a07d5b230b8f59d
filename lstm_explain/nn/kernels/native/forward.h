/* A whole sequence of one layer and direction, forward. Letters as in the papers; see ../../equations.py.
 *
 * Each thread takes some of the sequences, and walks through all of their steps by itself.
 */

/* Sequences that go through time together: enough to use what is read of the weights, few enough for the second-level cache. */
enum { NAME(ABREAST) = 64 };

/* The input meets its weights for as many rows at once as have room in the cache until their step comes. */
static inline long NAME(ahead)(long units) {
  enum { CACHED = 1 << 18, MOST = 512 };
  const long rows = CACHED / (4 * units * (long)sizeof(REAL));
  return rows < NAME(ABREAST) ? NAME(ABREAST) : rows < MOST ? rows : MOST;
}

typedef struct {
  NAME(Matrix) x, h, c, o_c, r; /* the last three where there are peepholes in full and projections */
} NAME(Matrices);

/* Where the packed matrices lie in a call's room; they are known by their sizes. Returns how many values they take. */
static long NAME(place)(const lx_layer *form, NAME(Matrices) * W, REAL *room) {
  const long H = form->layout.units;
  const int full = form->peephole == LX_FULL, previous = form->wiring == LX_PREVIOUS;
  *W = (NAME(Matrices)){
      .x = {0, form->features, 4, H},
      .h = {0, form->state, 4, H},
      .c = {0, H, full ? previous ? 4 : 2 : 0, H},
      .o_c = {0, H, full && !previous, H},
      .r = {0, H, form->projects, form->state},
  };
  NAME(Matrix) *all[] = {&W->x, &W->h, &W->c, &W->o_c, &W->r};
  long values = 0;
  for (int at = 0; at < 5; at++) {
    all[at]->panels = room ? room + values : 0;
    values += all[at]->groups ? NAME(panels_of)(all[at]->groups, all[at]->columns) * all[at]->depth * WIDE : 0;
  }
  return values;
}

/* What each thread has for itself: gates and cell states where they aren't kept, and o tanh(c) where it is projected. */
static long NAME(own_values)(const lx_layer *form) {
  const long H = form->layout.units;
  return NAME(ahead)(H) * 4 * H + 2 * NAME(ABREAST) * H;
}

static long NAME(lstm_forward_room)(const lx_layer *form, int threads) {
  NAME(Matrices) W;
  return (NAME(place)(form, &W, 0) + threads * NAME(own_values)(form)) * (long)sizeof(REAL);
}

/* One thread's share of the packing. */
static void NAME(lstm_forward_pack)(const lx_lstm_forward *call, int thread, int threads) {
  const lx_layer *form = &call->form;
  const long H = form->layout.units;
  NAME(Matrices) W;
  NAME(place)(form, &W, call->room);
  const REAL *W_c = call->weight_ch;
  const struct {
    const NAME(Matrix) * as;
    const REAL *W;
  } all[] = {{&W.x, call->weight_ih}, {&W.h, call->weight_hh}, {&W.c, W_c}, {&W.o_c, W_c ? W_c + 2 * H * H : 0}, {&W.r, call->weight_hr}};
  for (int at = 0; at < 5; at++) {
    const NAME(Matrix) *as = all[at].as;
    const long panels = as->groups ? NAME(panels_of)(as->groups, as->columns) : 0;
    NAME(pack)((REAL *)as->panels, all[at].W, as->depth, 1, as, panels * thread / threads, panels * (thread + 1) / threads);
  }
}

/* The sequences of one block at one step, each by its addresses. */
typedef struct {
  const REAL *h[NAME(ABREAST)], *c[NAME(ABREAST)]; /* the states before */
  REAL *z[NAME(ABREAST)];                          /* pre-activations, and afterwards gates */
  REAL *c_new[NAME(ABREAST)], *m[NAME(ABREAST)];   /* m = o tanh(c) */
} NAME(Rows);

/* Gates and states from pre-activations; o waits where its peephole is a matrix that meets the new cell state. */
static void NAME(activate)(const lx_lstm_forward *call, const NAME(Rows) * at, long rows, int o_waits) {
  const long H = call->form.layout.units;
  const int diagonal = call->form.peephole == LX_DIAGONAL, previous = call->form.wiring == LX_PREVIOUS;
  const REAL *p = call->weight_ch;
  for (long u = 0; u < H; u += LANES) {
    const long n = H - u < LANES ? H - u : LANES;
    V p_i = {0}, p_f = {0}, p_g = {0}, p_o = {0};
    if (diagonal) {
      p_i = NAME(load)(p + u, n), p_f = NAME(load)(p + H + u, n);
      p_g = previous ? NAME(load)(p + 2 * H + u, n) : p_g;
      p_o = NAME(load)(p + (previous ? 3 : 2) * H + u, n);
    }
    for (long r = 0; r < rows; r++) {
      REAL *z = at->z[r] + u;
      const V c = NAME(load)(at->c[r] + u, n);
      V z_i = NAME(load)(z, n), z_f = NAME(load)(z + H, n), z_g = NAME(load)(z + 2 * H, n), z_o = NAME(load)(z + 3 * H, n);
      if (diagonal) {
        z_i += p_i * c, z_f += p_f * c;
        if (previous)
          z_g += p_g * c;
      }
      const V i = NAME(sigmoid)(z_i), f = NAME(sigmoid)(z_f), g = NAME(hyperbolic)(z_g);
      const V c_new = f * c + i * g;
      NAME(store)(z, i, n), NAME(store)(z + H, f, n), NAME(store)(z + 2 * H, g, n);
      NAME(store)(at->c_new[r] + u, c_new, n);
      if (o_waits)
        continue;
      if (diagonal)
        z_o += p_o * (previous ? c : c_new);
      const V o = NAME(sigmoid)(z_o);
      NAME(store)(z + 3 * H, o, n);
      NAME(store)(at->m[r] + u, o * NAME(hyperbolic)(c_new), n);
    }
  }
}

static void NAME(activate_o)(long H, const NAME(Rows) * at, long rows) {
  for (long r = 0; r < rows; r++)
    for (long u = 0; u < H; u += LANES) {
      const long n = H - u < LANES ? H - u : LANES;
      const V o = NAME(sigmoid)(NAME(load)(at->z[r] + 3 * H + u, n));
      NAME(store)(at->z[r] + 3 * H + u, o, n);
      NAME(store)(at->m[r] + u, o * NAME(hyperbolic)(NAME(load)(at->c_new[r] + u, n)), n);
    }
}

/* Rows whose input meets its weights at once. */
typedef struct {
  const REAL *x[512 + NAME(ABREAST)];
  REAL *z[512 + NAME(ABREAST)]; /* where their pre-activations go */
  long rows;
} NAME(Ahead);

/* As many steps of some sequences as have room, from `next` on; pre-activations go where they stay, or into `own_z` where they aren't kept. Returns
 * the step after them. */
static lx_step NAME(read_ahead)(
    const lx_layout *layout, lx_step next, long b_from, long b_to, long ahead, const REAL *x, long x_row, REAL *kept_z, REAL *own_z, long z_row,
    NAME(Ahead) * read
) {
  read->rows = 0;
  for (; next.read < layout->steps; next = lx_next_step(layout, next)) {
    const long n = lx_within(next.size, b_from, b_to);
    if (read->rows && read->rows + n > ahead)
      break;
    for (long b = b_from; b < b_from + n; b++, read->rows++) {
      read->x[read->rows] = x + (next.row + b) * x_row;
      read->z[read->rows] = kept_z ? kept_z + (next.row + b) * z_row : own_z + read->rows * z_row;
    }
  }
  return next;
}

/* Sequences b_from to b_to, no more than ABREAST, from the first step that is read to the last. */
static void NAME(forward_block)(const lx_lstm_forward *call, const NAME(Matrices) * W, long b_from, long b_to, REAL *own) {
  const lx_layer *form = &call->form;
  const lx_layout *layout = &form->layout;
  const long H = layout->units, P = form->state, ahead = NAME(ahead)(H), abreast = b_to - b_from;
  const int o_waits = form->peephole == LX_FULL && form->wiring == LX_GRAVES;
  REAL *own_z = own, *own_c = own_z + ahead * 4 * H, *own_m = own_c + NAME(ABREAST) * H;
  NAME(Rows) at;
  for (long r = 0; r < abreast; r++) {
    at.h[r] = (const REAL *)call->h0 + (b_from + r) * P;
    at.c[r] = (const REAL *)call->c0 + (b_from + r) * H;
    at.m[r] = own_m + r * H;
  }
  lx_step step = lx_first_step(layout), next = step;
  while (step.read < layout->steps) {
    NAME(Ahead) read;
    next = NAME(read_ahead)(layout, next, b_from, b_to, ahead, call->x, call->x_row, call->gates, own_z, 4 * H, &read);
    NAME(product)(&W->x, read.x, read.z, read.rows, call->bias, 1);

    for (long rows = 0; step.read < next.read; step = lx_next_step(layout, step)) {
      const long n = lx_within(step.size, b_from, b_to);
      REAL *h[NAME(ABREAST)];
      for (long r = 0; r < n; r++) {
        const long row = step.row + b_from + r;
        at.z[r] = read.z[rows + r];
        at.c_new[r] = call->cell ? (REAL *)call->cell + row * H : own_c + r * H;
        h[r] = (REAL *)call->hidden + row * P;
        at.m[r] = form->projects ? at.m[r] : h[r];
      }
      rows += n;
      NAME(product)(&W->h, at.h, at.z, n, 0, 0);
      if (W->c.groups)
        NAME(product)(&W->c, at.c, at.z, n, 0, 0);
      NAME(activate)(call, &at, n, o_waits);
      if (o_waits) {
        REAL *z_o[NAME(ABREAST)];
        for (long r = 0; r < n; r++)
          z_o[r] = at.z[r] + 3 * H;
        NAME(product)(&W->o_c, (const REAL *const *)at.c_new, z_o, n, 0, 0);
        NAME(activate_o)(H, &at, n);
      }
      if (form->projects)
        NAME(product)(&W->r, (const REAL *const *)at.m, h, n, 0, 1);
      for (long r = 0; r < n; r++) {
        if (call->kept_hidden)
          memcpy((REAL *)call->kept_hidden + (step.row + b_from + r) * P, h[r], (size_t)P * sizeof(REAL));
        at.h[r] = h[r];
        at.c[r] = at.c_new[r];
      }
    }
  }
  for (long r = 0; r < abreast; r++) {
    memcpy((REAL *)call->last_h + (b_from + r) * P, at.h[r], (size_t)P * sizeof(REAL));
    memcpy((REAL *)call->last_c + (b_from + r) * H, at.c[r], (size_t)H * sizeof(REAL));
  }
}

static void NAME(lstm_forward)(const lx_lstm_forward *call, const lx_part *part, int thread) {
  NAME(Matrices) W;
  REAL *own = (REAL *)call->room + NAME(place)(&call->form, &W, call->room) + thread * NAME(own_values)(&call->form);
  const long blocks = (part->batch_to - part->batch_from + NAME(ABREAST) - 1) / NAME(ABREAST);
  for (long block = 0, b = part->batch_from; block < blocks; block++) {
    const long n = (part->batch_to - b + blocks - block - 1) / (blocks - block);
    NAME(forward_block)(call, &W, b, b + n, own);
    b += n;
  }
}
