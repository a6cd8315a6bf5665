/* A parallel loop on short-lived threads. OpenMP is avoided on purpose: its idle threads spin and starve torch's own. */
#ifndef INVERT3D_PARALLEL_H
#define INVERT3D_PARALLEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* Handles items [first, end); returns nonzero if memory ran out. */
typedef int (*Work)(void *context, int64_t first, int64_t end);

typedef struct {
    Work work;
    void *context;
    int64_t items, grain;
    _Atomic int64_t next;
    atomic_int failed;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    int busy, closed, owners;     /* under the lock */
} Loop;

static void loop_run(Loop *loop) {
    for (;;) {
        int64_t first = atomic_fetch_add(&loop->next, loop->grain);
        if (first >= loop->items || atomic_load(&loop->failed)) return;
        int64_t end = first + loop->grain < loop->items ? first + loop->grain : loop->items;
        if (loop->work(loop->context, first, end)) atomic_store(&loop->failed, 1);
    }
}

/* Call with the lock held; gives it up. The last owner frees the loop. */
static void loop_leave(Loop *loop) {
    int owners = --loop->owners;
    pthread_mutex_unlock(&loop->lock);
    if (owners) return;
    pthread_cond_destroy(&loop->idle);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

static void *loop_helper(void *argument) {
    Loop *loop = argument;
    pthread_mutex_lock(&loop->lock);
    if (!loop->closed) {
        loop->busy++;
        pthread_mutex_unlock(&loop->lock);
        loop_run(loop);
        pthread_mutex_lock(&loop->lock);
        if (--loop->busy == 0) pthread_cond_signal(&loop->idle);
    }
    loop_leave(loop);
    return NULL;
}

/* Returns nonzero if memory ran out. Waits only for helpers that took an item: on a busy machine some start too late to help, and
 * find the loop closed. */
static int parallel_for(int threads, int64_t items, int64_t grain, Work work, void *context) {
    int64_t chunks = (items + grain - 1) / grain;
    Loop *loop = chunks > 1 && threads > 1 ? malloc(sizeof *loop) : NULL;
    if (!loop) return items > 0 ? work(context, 0, items) : 0;
    *loop = (Loop){.work = work, .context = context, .items = items, .grain = grain, .owners = 1};
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->idle, NULL);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (int64_t helpers = (chunks < threads ? chunks : threads) - 1; helpers > 0; helpers--) {
        pthread_t handle;
        pthread_mutex_lock(&loop->lock);
        loop->owners++;
        pthread_mutex_unlock(&loop->lock);
        if (pthread_create(&handle, &detached, loop_helper, loop)) {
            pthread_mutex_lock(&loop->lock);
            loop_leave(loop);
            break;
        }
    }
    pthread_attr_destroy(&detached);
    loop_run(loop);
    pthread_mutex_lock(&loop->lock);
    loop->closed = 1;
    while (loop->busy) pthread_cond_wait(&loop->idle, &loop->lock);
    int failed = atomic_load(&loop->failed);
    loop_leave(loop);
    return failed;
}

#endif
