/* A library in plain C: no header of Python's or PyTorch's, so that it outlives versions of both. Called through ctypes by ../native.py.
 *
 * Rows are steps one after the other, `sizes[t]` rows for step t, the longest sequence first, as in torch.nn.utils.rnn.PackedSequence.
 */
#ifndef LX_LIBRARY_H
#define LX_LIBRARY_H

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

/* Each kernel in float and in double. */
typedef struct {
  void (*lstm_replay[2])(const lx_lstm_replay *, const lx_part *, lx_found *);
  void (*lstm_check[2])(const lx_lstm_check *, const lx_part *, lx_found *);
  void (*lstm_named[2])(const lx_lstm_named *, const lx_part *, lx_found *);
  void (*gru_replay[2])(const lx_gru_replay *, const lx_part *, lx_found *);
} lx_kernels;

extern const lx_kernels lx_kernels_baseline;
#if defined(__x86_64__)
extern const lx_kernels lx_kernels_avx2, lx_kernels_avx512;
#endif

#endif
