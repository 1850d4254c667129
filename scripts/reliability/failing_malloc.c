/* Preloaded, it makes one allocation of the process fail: fail_at(n) lets the n-th from now on return NULL.
 * Those of C++ do not count: onnxruntime aborts where it has no memory. glibc alone has the functions that
 * allocate in place of the ones below. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

static atomic_long left = -1, counted;

void fail_at(long n) {
    atomic_store(&counted, 0);
    atomic_store(&left, n);
}

/* Allocations since fail_at; no more fail. */
long stop_failing(void) {
    atomic_store(&left, -1);
    return atomic_load(&counted);
}

static int fails(const void *caller) {
    Dl_info place;
    if (atomic_load_explicit(&left, memory_order_relaxed) < 0)
        return 0;
    if (dladdr(caller, &place) &&
        (strstr(place.dli_fname, "stdc++") || strstr(place.dli_fname, "onnxruntime")))
        return 0;
    atomic_fetch_add(&counted, 1);
    return atomic_fetch_sub(&left, 1) == 1;
}

void *malloc(size_t size) {
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
    return size && fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return fails(__builtin_return_address(0)) ? (errno = ENOMEM, NULL) : __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *found = fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
    if (found)
        *memory = found;
    return found ? 0 : ENOMEM;
}
