/* The kernels in float and in double, for one instruction set: the file that includes this says which (LX_ISA, LX_BYTES). */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "library.h"

#define CAT3_(a, b, c) a##_##b##_##c
#define CAT3(a, b, c) CAT3_(a, b, c)

#define REAL float
#define INT int32_t
#define LX_DOUBLE 0
#define NAME(f) CAT3(f, f32, LX_ISA)
#define EXP_LEAST -87.3
#define EXP_MOST 88.7
#define LEAST 0x1p-23
#define ROUNDS 12582912.0 /* 1.5 * 2^23: adding it rounds to a whole number, which stands in the last bits */
#define LN2_HIGH 0.693359375
#define LN2_LOW -2.12194440e-4
#define EXPONENT_BIAS 127
#define EXPONENT_SHIFT 23
#include "vectors.h"

#include "check.h"
#include "named.h"
#include "replay.h"
#include "tally.h"
#include "survival.h"
#include "credit.h"
#include "product.h"
#include "forward.h"
#include "plain.h"
#include "backward.h"
#undef REAL
#undef INT
#undef LX_DOUBLE
#undef NAME
#undef EXP_LEAST
#undef EXP_MOST
#undef LEAST
#undef ROUNDS
#undef LN2_HIGH
#undef LN2_LOW
#undef EXPONENT_BIAS
#undef EXPONENT_SHIFT
#undef V
#undef VI
#undef LANES
#undef D
#undef DI
#undef PARTS
#undef WIDE
#undef TALL
#undef DEEP

#define REAL double
#define INT int64_t
#define LX_DOUBLE 1
#define NAME(f) CAT3(f, f64, LX_ISA)
#define EXP_LEAST -708.3
#define EXP_MOST 709.7
#define LEAST 0x1p-52
#define ROUNDS 6755399441055744.0 /* 1.5 * 2^52 */
#define LN2_HIGH 6.93145751953125e-1
#define LN2_LOW 1.42860682030941723212e-6
#define EXPONENT_BIAS 1023
#define EXPONENT_SHIFT 52
#include "vectors.h"

#include "check.h"
#include "named.h"
#include "replay.h"
#include "tally.h"
#include "survival.h"
#include "credit.h"
#include "product.h"
#include "forward.h"
#include "plain.h"
#include "backward.h"

#define LX_TABLE_(isa) lx_kernels_##isa
#define LX_TABLE(isa) LX_TABLE_(isa)
const lx_kernels LX_TABLE(LX_ISA) = {
    .lstm_forward_room = {CAT3(lstm_forward_room, f32, LX_ISA), CAT3(lstm_forward_room, f64, LX_ISA)},
    .lstm_forward_pack = {CAT3(lstm_forward_pack, f32, LX_ISA), CAT3(lstm_forward_pack, f64, LX_ISA)},
    .lstm_forward = {CAT3(lstm_forward, f32, LX_ISA), CAT3(lstm_forward, f64, LX_ISA)},
    .plain_forward_room = {CAT3(plain_forward_room, f32, LX_ISA), CAT3(plain_forward_room, f64, LX_ISA)},
    .plain_forward_pack = {CAT3(plain_forward_pack, f32, LX_ISA), CAT3(plain_forward_pack, f64, LX_ISA)},
    .plain_forward = {CAT3(plain_forward, f32, LX_ISA), CAT3(plain_forward, f64, LX_ISA)},
    .lstm_backward_room = {CAT3(lstm_backward_room, f32, LX_ISA), CAT3(lstm_backward_room, f64, LX_ISA)},
    .lstm_backward_pack = {CAT3(lstm_backward_pack, f32, LX_ISA), CAT3(lstm_backward_pack, f64, LX_ISA)},
    .lstm_backward = {CAT3(lstm_backward, f32, LX_ISA), CAT3(lstm_backward, f64, LX_ISA)},
    .lstm_replay = {CAT3(lstm_replay, f32, LX_ISA), CAT3(lstm_replay, f64, LX_ISA)},
    .lstm_check = {CAT3(lstm_check, f32, LX_ISA), CAT3(lstm_check, f64, LX_ISA)},
    .lstm_held = {CAT3(lstm_held, f32, LX_ISA), CAT3(lstm_held, f64, LX_ISA)},
    .lstm_named = {CAT3(lstm_named, f32, LX_ISA), CAT3(lstm_named, f64, LX_ISA)},
    .gru_replay = {CAT3(gru_replay, f32, LX_ISA), CAT3(gru_replay, f64, LX_ISA)},
    .tally = {CAT3(tally, f32, LX_ISA), CAT3(tally, f64, LX_ISA)},
    .survival = {CAT3(survival, f32, LX_ISA), CAT3(survival, f64, LX_ISA)},
    .credit = {CAT3(credit, f32, LX_ISA), CAT3(credit, f64, LX_ISA)},
};
