/* A library in plain C: no header of Python's or PyTorch's, so that it outlives versions of both. Called through ctypes by ../native.py.
 *
 * Rows are steps one after the other, `sizes[t]` rows for step t, the longest sequence first, as in torch.nn.utils.rnn.PackedSequence.
 */
#ifndef LX_LIBRARY_H
#define LX_LIBRARY_H

#include <stdint.h>

/* How the rows of a call lie: `steps` sizes, the first of which is the batch; `units` values in each signal's row. */
typedef struct {
  const long *sizes;
  long steps, units;
  int reverse;
} lx_layout;

/* What a check found: the largest difference and value, and whether there was anything that isn't finite. */
typedef struct {
  double difference, scale;
  long nonfinite;
} lx_found;

/* One thread's part of a layout: sequences and units, first to last. */
typedef struct {
  long batch_from, batch_to, unit_from, unit_to;
} lx_part;

/* Gates come as pre-activations and stay as gates; `state` comes as the initial cell state and stays as the last one. Where `hidden`, what the
 * layer returned, isn't null, it is held against o tanh(c) and copied to `kept`. */
typedef struct {
  lx_layout layout;
  void *gates; /* (rows, 4, units): i, f, g, o */
  void *cell;  /* (rows, units) */
  void *state; /* (batch, units) */
  const void *hidden; /* (rows, units), `hidden_stride` values from row to row */
  long hidden_stride;
  void *kept; /* (rows, units) */
} lx_lstm_replay;

/* Gates and cell states as somebody left them, held against c = f c + i g and h = o tanh(c); cells and hidden states are copied on the way. */
typedef struct {
  lx_layout layout;
  const void *gates;
  long gates_stride;
  const void *cell; /* all steps but the last */
  long cell_stride;
  const void *last; /* (batch, units): the cell states of the last step that the layer read */
  const void *initial; /* (batch, units) */
  const void *hidden;
  long hidden_stride;
  void *kept_cell, *kept_hidden;
} lx_lstm_check;

/* One signal of a trajectory: units side by side, and how far a sequence and a step are from the next ones. */
typedef struct {
  const void *values;
  long batch_stride, time_stride;
} lx_signal;

/* The signals of an LSTM by their names, over some of the steps, held against the equations and the range of gates; only where `valid`. The
 * layout's sizes are those steps'. */
typedef struct {
  lx_layout layout;
  lx_signal input_gate, forget_gate, cell_candidate, output_gate, cell_state, hidden_state;
  const void *initial; /* (batch, units) */
  lx_signal valid; /* of bytes */
  const void *first_step; /* (batch,) of 64 bits */
  long time;              /* how many steps there are in all */
} lx_lstm_named;

/* Every signal of an LSTM held against what its pre-activations give; rows in any order, side by side, as many as the layout's one step has.
 * Matrices of peepholes are in the pre-activations already, diagonal ones aren't. */
typedef struct {
  lx_layout layout;
  const void *z;        /* (rows, 4, units) */
  const void *before;   /* (rows, units): the cell states that the rows started from */
  const void *diagonal; /* null where there are none */
  const void *gates, *cell, *hidden;
  int wiring;
} lx_lstm_held;

/* Counts and sums of one signal over the steps that are valid. The layout is one row of the units, since threads share these; results are added to. */
typedef struct {
  lx_layout layout;
  lx_signal signal, valid;
  long batch, time;
  const void *low, *high; /* thresholds, no more than four of each, and */
  long thresholds;
  const void *edges; /* (bins + 1,) of equal bins; null where nobody asks */
  long bins;
  int64_t *nonfinite, *below, *above; /* (units,), (thresholds, units) */
  double *sum, *squares;              /* (units,), of what is finite */
  double *mantissa;                   /* (units,): of the product of all values, times 2 to the power of */
  int64_t *exponent;                  /* both null where nobody asks */
  int64_t *histogram;                 /* (units / 16 rounded up, 4, bins): of each bin the sum of four counts */
} lx_tally;

/* Sums of the products of `lags` consecutive values, over all places where so many are valid. The layout is one row of the units. A lag is made of
 * the `first` and the `second` of those before it, no more than two places before; the first lag is 1. */
typedef struct {
  lx_layout layout;
  lx_signal signal, valid;
  long batch, time, count;
  const int64_t *lags, *first, *second;
  double *sums; /* (count, units), added to */
  void *room;   /* (units rounded up to whole lines, 3, time) */
} lx_survival;

/* Of what is read of a state at one step, by `weights`, what each step has; where there is an output gate it is read through that and its tanh. A step
 * keeps some of the state before it and adds some of a candidate. The layout is one row of the sequences. */
typedef struct {
  lx_layout layout;
  lx_signal state, keep, take, candidate; /* what isn't kept is taken where `take` is null */
  lx_signal output;                       /* null where there is none */
  const void *initial, *weights;          /* (batch, units): the state before the first step, and */
  const int64_t *from, *first;            /* (batch,): the step that is read, and the first in the order of reading */
  long time;
  double *shares, *start; /* (batch, time), where there are such steps, and (batch,) */
  double *room;           /* (batch, 3, units) */
} lx_credit;

/* Gates come as what the input and what the state before gave, each with its bias, and stay as r, z, n in `input`. */
typedef struct {
  lx_layout layout;
  void *input; /* (rows, 3, units) */
  const void *recurrent; /* (rows, 3, units) */
  const void *initial; /* (batch, units) */
  const void *hidden;
  long hidden_stride;
  void *kept;
} lx_gru_replay;

/* One step of a layout: how many are read before it, its first row, and how many rows it has. */
typedef struct {
  long read, row, size;
} lx_step;

static inline long lx_size(const lx_layout *layout, long read) {
  return read < 0 || read >= layout->steps ? 0 : layout->sizes[layout->reverse ? layout->steps - 1 - read : read];
}

static inline lx_step lx_first_step(const lx_layout *layout) {
  lx_step step = {0, 0, lx_size(layout, 0)};
  for (long read = 1; layout->reverse && read < layout->steps; read++)
    step.row += lx_size(layout, read);
  return step;
}

static inline lx_step lx_next_step(const lx_layout *layout, lx_step step) {
  const long size = lx_size(layout, step.read + 1);
  return (lx_step){step.read + 1, layout->reverse ? step.row - size : step.row + step.size, size};
}

static inline lx_step lx_step_before(const lx_layout *layout, lx_step step) {
  const long size = lx_size(layout, step.read - 1);
  return (lx_step){step.read - 1, layout->reverse ? step.row + step.size : step.row - size, size};
}

/* How many of the sequences from `from` to `to` a step of this size has. */
static inline long lx_within(long size, long from, long to) { return size < from ? 0 : size < to ? size - from : to - from; }

enum { LX_LSTM, LX_GRU, LX_TANH, LX_RELU };
enum { LX_NONE, LX_DIAGONAL, LX_FULL };
enum { LX_PREVIOUS, LX_GRAVES };

/* A layer in one direction: `features` values in a row of x, `state` values in one of h; and of an LSTM its form, as in ../../equations.py. */
typedef struct {
  lx_layout layout;
  long features, state;
  int kind, peephole, wiring, projects;
} lx_layer;

/* What the input gives to the gates of each row, biases and all, where it is on one of several straight lines: start + place * step, of the line that
 * the row is on. All null where the input itself is given. */
typedef struct {
  const void *start, *step; /* (count, 4, units) */
  const long *of_row;       /* which line a row is on */
  const void *place;        /* and where */
  long count;
} lx_lines;

/* Weights as PyTorch has them, in rows without gaps; null where there are none. Gates and cell states are null where they aren't to be kept. */
typedef struct {
  lx_layer form;
  lx_lines lines;
  const void *x; /* rows `x_row` values apart */
  long x_row;
  const void *h0, *c0;
  const void *weight_ih, *weight_hh, *bias, *weight_ch, *weight_hr; /* bias: both in one */
  void *gates, *cell;                                               /* (rows, 4, units), (rows, units) */
  void *hidden, *kept_hidden;                                       /* (rows, state): the layer's output, and a copy that nobody writes into */
  void *last_h, *last_c;
  void *room; /* as much as lx_lstm_forward_room says */
} lx_lstm_forward;

/* A GRU, or a layer of units and nothing else. */
typedef struct {
  lx_layer form;
  const void *x;
  long x_row;
  const void *h0;
  const void *weight_ih, *weight_hh;
  const void *bias;           /* both in one; of a GRU r, z and what n has of its input */
  const void *recurrent_bias; /* (units,): what n has of the state before; null where there is none, and in layers that aren't GRUs */
  void *gates;                /* (rows, 3, units): r, z, n; null in layers that have none */
  void *hidden, *kept_hidden; /* (rows, units) */
  void *last_h;
  void *room;
} lx_plain_forward;

/* Steps from `last` back to the one before which `stop` are read. Rows of `d_z`, `d_h_rows` and `m` are counted from `first_row`; where the input
 * was on lines, `d_z` has room for one step, and each row is added to its line's in `d_start`. */
typedef struct {
  lx_layer form;
  lx_lines lines;
  lx_step last;
  long stop, first_row;
  const void *gates, *cell, *c0;
  const void *grad_hidden; /* rows `grad_stride` values apart; null for zeros */
  long grad_stride;
  const void *weight_hh, *weight_ch, *weight_hr;
  void *d_h, *d_c; /* (batch, state), (batch, units): after the last step, and afterwards before the first one */
  void *d_start;   /* for each thread (count, 4, units); null where the input was given itself */
  void *d_z;       /* (rows, 4, units) */
  void *d_h_rows;  /* (rows, state): what meets the projection's weights, and */
  void *m;         /* (rows, units): o tanh(c), both null where nobody asks */
  void *sums;      /* for each thread (8, units): d_b and, where they are diagonal, d_p, by gate; added to */
  void *room;
} lx_lstm_backward;

/* Each kernel in float and in double. */
typedef struct {
  long (*lstm_forward_room[2])(const lx_layer *, int threads);
  void (*lstm_forward_pack[2])(const lx_lstm_forward *, int thread, int threads);
  void (*lstm_forward[2])(const lx_lstm_forward *, const lx_part *, int thread);
  long (*plain_forward_room[2])(const lx_layer *, int threads);
  void (*plain_forward_pack[2])(const lx_plain_forward *, int thread, int threads);
  void (*plain_forward[2])(const lx_plain_forward *, const lx_part *, int thread);
  long (*lstm_backward_room[2])(const lx_layer *, int threads);
  void (*lstm_backward_pack[2])(const lx_lstm_backward *, int thread, int threads);
  void (*lstm_backward[2])(const lx_lstm_backward *, const lx_part *, int thread);
  void (*lstm_replay[2])(const lx_lstm_replay *, const lx_part *, lx_found *);
  void (*lstm_check[2])(const lx_lstm_check *, const lx_part *, lx_found *);
  void (*lstm_held[2])(const lx_lstm_held *, const lx_part *, lx_found *);
  void (*lstm_named[2])(const lx_lstm_named *, const lx_part *, lx_found *);
  void (*gru_replay[2])(const lx_gru_replay *, const lx_part *, lx_found *);
  void (*tally[2])(const lx_tally *, const lx_part *, lx_found *);
  void (*survival[2])(const lx_survival *, const lx_part *, lx_found *);
  void (*credit[2])(const lx_credit *, const lx_part *, lx_found *);
} lx_kernels;

extern const lx_kernels lx_kernels_baseline;
#if defined(__x86_64__)
extern const lx_kernels lx_kernels_avx2, lx_kernels_avx512;
#endif

#endif
