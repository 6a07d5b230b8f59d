/* AVX-512 with the extensions that all of its server processors have. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma")
#endif
#define LX_ISA avx512
#define LX_BYTES 64
#define LX_WIDEN(half) _mm512_cvtps_pd((__m256)(half)) /* which GCC makes of halves of these otherwise */
#include "instances.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
