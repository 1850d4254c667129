/* Microsoft's intrin.h, of which MinGW's contradicts clang's intrinsics: those that csrc/ and Cython's code use. */
#ifndef _WINE_INTRIN_H
#define _WINE_INTRIN_H
#include <immintrin.h>

static __inline void __cpuidex(int out[4], int leaf, int subleaf) {
    __asm__("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

unsigned char _BitScanForward(unsigned long *index, unsigned long mask);
unsigned char _BitScanForward64(unsigned long *index, unsigned __int64 mask);
unsigned char _BitScanReverse(unsigned long *index, unsigned long mask);
unsigned char _BitScanReverse64(unsigned long *index, unsigned __int64 mask);
unsigned __int64 __cdecl __umulh(unsigned __int64, unsigned __int64);
long _InterlockedExchangeAdd(long volatile *, long);
long _InterlockedCompareExchange(long volatile *, long, long);
#endif
