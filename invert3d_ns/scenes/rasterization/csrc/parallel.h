/* A parallel loop on short-lived threads. OpenMP is avoided on purpose: its idle threads spin and starve torch's own. */
#ifndef INVERT3D_PARALLEL_H
#define INVERT3D_PARALLEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define THREADS_MAX 64

/* Handles items [first, end); returns nonzero if memory ran out. */
typedef int (*Work)(void *context, int64_t first, int64_t end);

typedef struct {
    Work work;
    void *context;
    int64_t items, grain;
    _Atomic int64_t next;
    atomic_int failed;
} Loop;

static void *loop_worker(void *argument) {
    Loop *loop = argument;
    for (;;) {
        int64_t first = atomic_fetch_add(&loop->next, loop->grain);
        if (first >= loop->items || atomic_load(&loop->failed)) return NULL;
        int64_t end = first + loop->grain < loop->items ? first + loop->grain : loop->items;
        if (loop->work(loop->context, first, end)) atomic_store(&loop->failed, 1);
    }
}

static int parallel_for(int threads, int64_t items, int64_t grain, Work work, void *context) {
    Loop loop = {.work = work, .context = context, .items = items, .grain = grain};
    atomic_init(&loop.next, 0);
    atomic_init(&loop.failed, 0);
    int64_t chunks = (items + grain - 1) / grain;
    int helpers = (int)(chunks < threads ? chunks : threads) - 1, started = 0;
    pthread_t handles[THREADS_MAX];
    if (helpers > THREADS_MAX) helpers = THREADS_MAX;
    while (started < helpers && pthread_create(&handles[started], NULL, loop_worker, &loop) == 0) started++;
    loop_worker(&loop);
    while (started > 0) pthread_join(handles[--started], NULL);
    return atomic_load(&loop.failed);
}

#endif
