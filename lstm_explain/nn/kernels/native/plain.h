/* A whole sequence of a GRU or of a plain RNN in one direction, forward; see ../../equations.py, and forward.h, whose pieces these are. */

typedef struct {
  NAME(Matrix) x, h, h_n; /* the last one a GRU's, whose reset gate stands between the state and n */
} NAME(PlainMatrices);

/* Where the packed matrices lie in a call's room. Returns how many values they take. */
static long NAME(place_plain)(const lx_layer *form, NAME(PlainMatrices) * W, REAL *room) {
  const long H = form->layout.units;
  const int gru = form->kind == LX_GRU;
  *W = (NAME(PlainMatrices)){.x = {0, form->features, gru ? 3 : 1, H}, .h = {0, H, gru ? 2 : 1, H}, .h_n = {0, H, gru, H}};
  NAME(Matrix) *all[] = {&W->x, &W->h, &W->h_n};
  long values = 0;
  for (int at = 0; at < 3; at++) {
    all[at]->panels = room ? room + values : 0;
    values += all[at]->groups ? NAME(panels_of)(all[at]->groups, all[at]->columns) * all[at]->depth * WIDE : 0;
  }
  return values;
}

/* What each thread has for itself: what n has of the state before. */
static long NAME(own_plain_values)(const lx_layer *form) { return form->kind == LX_GRU ? NAME(ABREAST) * form->layout.units : 0; }

static long NAME(plain_forward_room)(const lx_layer *form, int threads) {
  NAME(PlainMatrices) W;
  return (NAME(place_plain)(form, &W, 0) + threads * NAME(own_plain_values)(form)) * (long)sizeof(REAL);
}

static void NAME(plain_forward_pack)(const lx_plain_forward *call, int thread, int threads) {
  const long H = call->form.layout.units;
  NAME(PlainMatrices) W;
  NAME(place_plain)(&call->form, &W, call->room);
  const REAL *W_h = call->weight_hh;
  const struct {
    const NAME(Matrix) * as;
    const REAL *W;
  } all[] = {{&W.x, call->weight_ih}, {&W.h, W_h}, {&W.h_n, W.h_n.groups ? W_h + 2 * H * H : 0}};
  for (int at = 0; at < 3; at++) {
    const NAME(Matrix) *as = all[at].as;
    const long panels = as->groups ? NAME(panels_of)(as->groups, as->columns) : 0;
    NAME(pack)((REAL *)as->panels, all[at].W, as->depth, 1, as, panels * thread / threads, panels * (thread + 1) / threads);
  }
}

/* r, z and n from their pre-activations, and h = (1 - z) n + z h; `q` is what n has of the state before. */
static void NAME(activate_gru)(long H, REAL *z, const REAL *q, const REAL *before, REAL *hidden) {
  for (long u = 0; u < H; u += LANES) {
    const long n = H - u < LANES ? H - u : LANES;
    const V r = NAME(sigmoid)(NAME(load)(z + u, n)), kept = NAME(sigmoid)(NAME(load)(z + H + u, n));
    const V candidate = NAME(hyperbolic)(NAME(load)(z + 2 * H + u, n) + r * NAME(load)(q + u, n));
    NAME(store)(z + u, r, n), NAME(store)(z + H + u, kept, n), NAME(store)(z + 2 * H + u, candidate, n);
    NAME(store)(hidden + u, ((REAL)1 - kept) * candidate + kept * NAME(load)(before + u, n), n);
  }
}

static void NAME(activate_units)(long H, REAL *hidden, int kind) {
  for (long u = 0; u < H; u += LANES) {
    const long n = H - u < LANES ? H - u : LANES;
    const V z = NAME(load)(hidden + u, n), none = NAME(all)(0);
    NAME(store)(hidden + u, kind == LX_TANH ? NAME(hyperbolic)(z) : NAME(either)(z < none, none, z), n);
  }
}

/* Sequences b_from to b_to, no more than ABREAST. */
static void NAME(plain_block)(const lx_plain_forward *call, const NAME(PlainMatrices) * W, long b_from, long b_to, REAL *own) {
  const lx_layer *form = &call->form;
  const lx_layout *layout = &form->layout;
  const long H = layout->units, ahead = NAME(ahead)(H);
  const int gru = form->kind == LX_GRU;
  REAL *q[NAME(ABREAST)];
  const REAL *before[NAME(ABREAST)];
  for (long r = 0; r < b_to - b_from; r++) {
    before[r] = (const REAL *)call->h0 + (b_from + r) * H;
    q[r] = own + r * H;
  }
  lx_step step = lx_first_step(layout), next = step;
  while (step.read < layout->steps) {
    NAME(Ahead) read; /* without gates, pre-activations stand where hidden states will */
    next = NAME(read_ahead)(
        layout, next, b_from, b_to, ahead, call->x, call->x_row, gru ? call->gates : call->hidden, 0, (gru ? 3 : 1) * H, &read
    );
    NAME(product)(&W->x, read.x, read.z, read.rows, call->bias, 1);

    for (long rows = 0; step.read < next.read; step = lx_next_step(layout, step)) {
      const long n = lx_within(step.size, b_from, b_to);
      REAL *const *z = read.z + rows;
      rows += n;
      NAME(product)(&W->h, before, z, n, 0, 0);
      if (gru)
        NAME(product)(&W->h_n, before, q, n, call->recurrent_bias, 1);
      for (long r = 0; r < n; r++) {
        const long row = step.row + b_from + r;
        REAL *hidden = (REAL *)call->hidden + row * H;
        if (gru)
          NAME(activate_gru)(H, z[r], q[r], before[r], hidden);
        else
          NAME(activate_units)(H, hidden, form->kind);
        if (call->kept_hidden)
          memcpy((REAL *)call->kept_hidden + row * H, hidden, (size_t)H * sizeof(REAL));
        before[r] = hidden;
      }
    }
  }
  for (long r = 0; r < b_to - b_from; r++)
    memcpy((REAL *)call->last_h + (b_from + r) * H, before[r], (size_t)H * sizeof(REAL));
}

static void NAME(plain_forward)(const lx_plain_forward *call, const lx_part *part, int thread) {
  NAME(PlainMatrices) W;
  REAL *own = (REAL *)call->room + NAME(place_plain)(&call->form, &W, call->room) + thread * NAME(own_plain_values)(&call->form);
  const long blocks = (part->batch_to - part->batch_from + NAME(ABREAST) - 1) / NAME(ABREAST);
  for (long block = 0, b = part->batch_from; block < blocks; block++) {
    const long n = (part->batch_to - b + blocks - block - 1) / (blocks - block);
    NAME(plain_block)(call, &W, b, b + n, own);
    b += n;
  }
}
