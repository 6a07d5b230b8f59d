/* What every processor has: vectors of 16 bytes are SSE2 on x86-64 and NEON on ARM. */
#define LX_ISA baseline
#define LX_BYTES 16
#include "instances.h"
