/* The C library's functions of complex numbers, which NumPy's wheels for Windows call and Wine does not have.
   scripts/wine/prepare.py builds a DLL of these, with every other function forwarded to Wine's own C library. */
#include <complex.h>
#include <math.h>

/* MSVC's complex numbers are structures: float ones pass in a register, double ones by address. Its long double is double. */
typedef struct { double re, im; } Double;
typedef struct { float re, im; } Float;

static double complex in(double re, double im) { double complex z; __real__ z = re; __imag__ z = im; return z; }

#define TO_COMPLEX(name) \
    Double z_##name(Double z) { double complex w = name(in(z.re, z.im)); return (Double){creal(w), cimag(w)}; } \
    Double z_##name##l(Double z) { return z_##name(z); } \
    Float z_##name##f(Float z) { double complex w = name(in(z.re, z.im)); return (Float){(float)creal(w), (float)cimag(w)}; }
#define TO_REAL(name) \
    double z_##name(Double z) { return name(in(z.re, z.im)); } \
    double z_##name##l(Double z) { return z_##name(z); } \
    float z_##name##f(Float z) { return (float)name(in(z.re, z.im)); }

TO_COMPLEX(ccos) TO_COMPLEX(ccosh) TO_COMPLEX(cexp) TO_COMPLEX(csin) TO_COMPLEX(csinh) TO_COMPLEX(ctan) TO_COMPLEX(ctanh)
TO_COMPLEX(csqrt) TO_COMPLEX(clog)
TO_REAL(cabs) TO_REAL(carg) TO_REAL(creal) TO_REAL(cimag)

Double z_cpow(Double a, Double b) { double complex w = cpow(in(a.re, a.im), in(b.re, b.im)); return (Double){creal(w), cimag(w)}; }
Double z_cpowl(Double a, Double b) { return z_cpow(a, b); }
Float z_cpowf(Float a, Float b) { double complex w = cpow(in(a.re, a.im), in(b.re, b.im)); return (Float){(float)creal(w), (float)cimag(w)}; }
