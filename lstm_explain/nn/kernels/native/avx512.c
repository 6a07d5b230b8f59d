/* AVX-512 with the extensions that all of its server processors have. */
#if defined(__x86_64__)
#include <stdint.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma")
#endif
#define LX_ISA avx512
#define LX_BYTES 64
#include "instances.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
