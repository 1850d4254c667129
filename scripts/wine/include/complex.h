/* Microsoft's complex.h: its types, which NumPy's headers name. */
#ifndef _WINE_COMPLEX_H
#define _WINE_COMPLEX_H
typedef struct _Dcomplex { double _Val[2]; } _Dcomplex;
typedef struct _Fcomplex { float _Val[2]; } _Fcomplex;
typedef struct _Lcomplex { long double _Val[2]; } _Lcomplex;
#define creal(z) ((z)._Val[0])
#define cimag(z) ((z)._Val[1])
#define crealf creal
#define cimagf cimag
#define creall creal
#define cimagl cimag
#endif
