/* What a kernel finds when it holds values against what they should be, and the walk over the vectors of a row. */

#undef EACH_VECTOR

typedef struct {
  V difference, scale, finite; /* finite: 0, or NaN once anything wasn't */
} NAME(Check);

static inline void NAME(compare)(NAME(Check) * check, V one, V other, long n) {
  V difference = NAME(absolute)(one - other), size = NAME(absolute)(one);
  if (n < LANES) { /* lanes beyond the row hold what zeros gave */
    VI in = {0};
    for (long lane = 0; lane < n; lane++)
      in[lane] = -1;
    difference = NAME(either)(in, difference, NAME(all)(0));
    size = NAME(either)(in, size, NAME(all)(0));
  }
  check->difference = NAME(either)(difference > check->difference, difference, check->difference);
  check->scale = NAME(either)(size > check->scale, size, check->scale);
  check->finite += difference * 0 + size * 0;
}

static inline void NAME(found)(const NAME(Check) * check, lx_found *found) {
  found->difference = found->scale = 0;
  found->nonfinite = 0;
  for (long lane = 0; lane < LANES; lane++) {
    const double difference = check->difference[lane], scale = check->scale[lane];
    found->difference = difference > found->difference ? difference : found->difference;
    found->scale = scale > found->scale ? scale : found->scale;
    found->nonfinite |= check->finite[lane] != 0; /* NaN isn't equal to anything */
  }
}

#define EACH_VECTOR(part, call)                                                                                      \
  do {                                                                                                               \
    long u = (part)->unit_from;                                                                                      \
    for (; u + LANES <= (part)->unit_to; u += LANES)                                                                 \
      call(u, LANES);                                                                                                \
    if (u < (part)->unit_to)                                                                                         \
      call(u, (part)->unit_to - u);                                                                                  \
  } while (0)
