/* MinGW's, with Microsoft's INFINITY and NAN: MinGW 10 reads a double where it stored a float. */
#include_next <math.h>
#undef INFINITY
#undef NAN
#define INFINITY ((float)(1e+300 * 1e+300))
#define NAN (-(float)(INFINITY * 0.0F))
