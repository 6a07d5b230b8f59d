/* AVX2 and FMA: x86-64 since about 2013. */
#if defined(__x86_64__)
#include <stdint.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define LX_ISA avx2
#define LX_BYTES 32
#include "instances.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
