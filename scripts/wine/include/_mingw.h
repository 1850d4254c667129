/* MinGW's, less that it hides attributes from a compiler that calls itself MSVC: clang's intrinsics need them. */
#define _PID_T_ /* CPython has its own for MSVC */
#include_next <_mingw.h>
#undef __attribute__
#undef __MINGW_ATTRIB_NORETURN
#define __MINGW_ATTRIB_NORETURN
#undef __MINGW_ATTRIB_DEPRECATED
#define __MINGW_ATTRIB_DEPRECATED
