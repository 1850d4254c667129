/* Rows split over threads that live for one call: no pool to configure, to fork with, or to shut down. */
#include "internal.h"

typedef struct part {
    void (*job)(void *context, int worker, int64_t begin, int64_t end);
    void *context;
    int worker;
    int64_t begin, end;
} part;

static void run_part(const part *p) {
    p->job(p->context, p->worker, p->begin, p->end);
}

#if defined(_WIN32)
#include <process.h>
#include <windows.h>

typedef HANDLE thread;

static unsigned __stdcall thread_main(void *argument) {
    run_part(argument);
    return 0;
}

static int start_thread(thread *t, part *p) {
    *t = (HANDLE)_beginthreadex(NULL, 0, thread_main, p, 0, NULL);
    return *t != NULL;
}

static void join_thread(thread t) {
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
#else
#include <pthread.h>

typedef pthread_t thread;

static void *thread_main(void *argument) {
    run_part(argument);
    return NULL;
}

static int start_thread(thread *t, part *p) {
    return pthread_create(t, NULL, thread_main, p) == 0;
}

static void join_thread(thread t) {
    pthread_join(t, NULL);
}
#endif

void dec_split_rows(void (*job)(void *, int, int64_t, int64_t), void *context, int64_t rows, int threads) {
    part parts[DEC_MAX_THREADS];
    thread handle[DEC_MAX_THREADS];
    int started[DEC_MAX_THREADS];
    threads = threads > DEC_MAX_THREADS ? DEC_MAX_THREADS : threads;
    threads = (int64_t)threads > rows ? (int)rows : threads;
    threads = threads < 1 ? 1 : threads;
    for (int i = 0; i < threads; i++)
        parts[i] = (part){job, context, i, rows * i / threads, rows * (i + 1) / threads};
    for (int i = 1; i < threads; i++)
        started[i] = start_thread(&handle[i], &parts[i]);
    run_part(&parts[0]);
    for (int i = 1; i < threads; i++)
        if (started[i])
            join_thread(handle[i]);
        else /* the system has no more threads: do the part here */
            run_part(&parts[i]);
}
