/* Vectors of REAL as GCC and Clang have them on every processor, and the functions that gates are made of.
 *
 * Included once for each instruction set and precision, after the macros of instances.h. NaN and infinities go through: a comparison with NaN is
 * false, and every choice below keeps its argument where it is.
 */

typedef REAL NAME(V) __attribute__((vector_size(LX_BYTES)));
typedef INT NAME(VI) __attribute__((vector_size(LX_BYTES)));
#define V NAME(V)
#define VI NAME(VI)
#define LANES ((long)(LX_BYTES / sizeof(REAL)))

static inline V NAME(all)(REAL value) {
  V v = {0};
  return value - v; /* and not v + value, which makes 0 of -0 */
}

static inline V NAME(either)(VI mask, V yes, V no) { return (V)((mask & (VI)yes) | (~mask & (VI)no)); }

static inline V NAME(absolute)(V x) { return (V)((VI)x & ~(VI)NAME(all)((REAL)-0.0)); }

/* The first n values at p, n <= LANES; zero beyond. */
static inline V NAME(load)(const REAL *p, long n) {
  V v = {0};
  if (n == LANES)
    memcpy(&v, p, sizeof v);
  else
    memcpy(&v, p, (size_t)n * sizeof(REAL));
  return v;
}

static inline void NAME(store)(REAL *p, V v, long n) {
  if (n == LANES)
    memcpy(p, &v, sizeof v);
  else
    memcpy(p, &v, (size_t)n * sizeof(REAL));
}

/* The same values as doubles, for sums: in as many vectors as it takes, PARTS. */
typedef double NAME(D) __attribute__((vector_size(LX_BYTES)));
typedef int64_t NAME(DI) __attribute__((vector_size(LX_BYTES)));
#define D NAME(D)
#define DI NAME(DI)
#define PARTS ((long)(sizeof(double) / sizeof(REAL)))

static inline void NAME(widen)(V v, D *wide) {
#if LX_DOUBLE
  wide[0] = v;
#else
  typedef float Half __attribute__((vector_size(LX_BYTES / 2)));
  Half half[2];
  memcpy(half, &v, sizeof v);
  for (long part = 0; part < PARTS; part++)
#ifdef LX_WIDEN
    wide[part] = (D)LX_WIDEN(half[part]);
#else
    wide[part] = __builtin_convertvector(half[part], D);
#endif
#endif
}

/* To n numbers at p. */
static inline void NAME(add)(double *p, const D *wide, long n) {
  double values[LX_BYTES / sizeof(REAL)];
  memcpy(values, wide, sizeof values);
  for (long lane = 0; lane < n; lane++)
    p[lane] += values[lane];
}

/* e^x by x = n ln 2 + r and an approximation of e^r; the constants are Cephes's (Moshier 1989), good to an ulp. Below EXP_LEAST it stays at the
 * smallest number that isn't subnormal, and it is infinite a little before it has to be: nothing that a gate shows. */
static inline V NAME(exponential)(V x) {
  x = NAME(either)(x < (REAL)EXP_LEAST, NAME(all)((REAL)EXP_LEAST), x);
  x = NAME(either)(x > (REAL)EXP_MOST, NAME(all)((REAL)EXP_MOST), x);
  const V shifted = x * (REAL)1.44269504088896340736 + (REAL)ROUNDS;
  const V n = shifted - (REAL)ROUNDS;
  const VI whole = (VI)shifted - (VI)NAME(all)((REAL)ROUNDS);
  const V r = (x - n * (REAL)LN2_HIGH) - n * (REAL)LN2_LOW;
#if LX_DOUBLE
  const V rr = r * r;
  const V p = r * ((1.26177193074810590878e-4 * rr + 3.02994407707441961300e-2) * rr + 9.99999999999999999910e-1);
  const V q = ((3.00198505138664455042e-6 * rr + 2.52448340349684104192e-3) * rr + 2.27265548208155028766e-1) * rr + 2.0;
  const V e = 1.0 + 2.0 * (p / (q - p));
#else
  V e = r * 1.9875691500e-4f + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * (r * r) + r + 1.0f;
#endif
  return e * (V)((whole + EXPONENT_BIAS) << EXPONENT_SHIFT);
}

static inline V NAME(sigmoid)(V x) { return (REAL)1 / ((REAL)1 + NAME(exponential)(-x)); }

#if LX_DOUBLE
/* tanh: a quotient of polynomials about zero (Cephes), so that small values keep all their digits, and e^-2x elsewhere. */
static inline V NAME(hyperbolic)(V x) {
  const V size = NAME(absolute)(x), s = x * x;
  const V e = NAME(exponential)(size * (REAL)-2);
  V far = ((REAL)1 - e) / ((REAL)1 + e);
  far = (V)((VI)far | ((VI)x & (VI)NAME(all)((REAL)-0.0)));
  const V p = (-9.64399179425052238628e-1 * s - 9.92877231001918586564e1) * s - 1.61468768441708447952e3;
  const V q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3;
  const V near = x + x * s * (p / q);
  return NAME(either)(size < (REAL)0.625, near, far);
}
#else
/* tanh: x P(x^2) / Q(x^2), fitted for the least relative error up to 9 (7e-9, four units in the last place with float's rounding); from 8 on, where
 * the difference to 1 is less than that, it stays what it is there. */
static inline V NAME(hyperbolic)(V x) {
  x = NAME(either)(x > 8.0f, NAME(all)(8.0f), x);
  x = NAME(either)(x < -8.0f, NAME(all)(-8.0f), x);
  const V s = x * x;
  V p = s * -8.490047044e-14f + 5.278519635e-11f;
  p = p * s - 2.022651024e-08f;
  p = p * s + 1.115464420e-05f;
  p = p * s + 3.103989409e-03f;
  p = p * s + 1.308404058e-01f;
  V q = s * 2.546193136e-04f + 2.449531294e-02f;
  q = q * s + 4.641736746e-01f;
  return x * (p * s + 1.0f) / (q * s + 1.0f);
}
#endif
