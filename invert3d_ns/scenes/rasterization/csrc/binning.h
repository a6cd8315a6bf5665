/* From projected Gaussians to front-to-back lists per tile. Everything here is independent of the SIMD level. */
#ifndef INVERT3D_BINNING_H
#define INVERT3D_BINNING_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "scene.h"

typedef struct {
    const float *means, *conics, *colors, *opacities, *depths; /* the caller's arrays, [count][...] */
    const int32_t *radii;
    const int64_t *offsets;       /* [cameras + 1]: the splats of a camera lie together */
    Scene *scene;
    int32_t (*rects)[4];          /* [count]; pixels that a splat may touch, all 0 where invisible */
    float *limits;                /* [count]; see Splat */
    uint32_t *keys, *keys_swap;   /* [count]; depth as an ordered integer */
    int32_t *order, *order_swap;  /* [count]; per camera the visible splats, front to back */
    int64_t *visible, *pairs;     /* [cameras + 1]; counts, then offsets */
} Binning;

/* Rounds down. Plain floor() is a slow call on x86 without SSE 4.1. Only for |value| < 2^31. */
static inline int floor_int(double value) {
    int truncated = (int)value;
    return truncated - (truncated > value);
}

/* Pixels that splat i may touch: gsplat's rectangle (three sigma, in whole tiles) cut to where alpha >= 1/255 is possible. */
static void splat_rectangle(const Binning *bin, int64_t i, int32_t rect[4], float *limit) {
    const Scene *scene = bin->scene;
    memset(rect, 0, 4 * sizeof *rect);
    double x = bin->means[2 * i], y = bin->means[2 * i + 1], radius = bin->radii[i];
    double a = bin->conics[3 * i], b = bin->conics[3 * i + 1], c = bin->conics[3 * i + 2];
    float opacity = bin->opacities[i];
    /* Negated comparisons, so that a NaN counts as invisible. */
    if (bin->radii[i] <= 0 || !(opacity >= ALPHA_MIN) || !(fabs(x) + radius < 1e9) || !(fabs(y) + radius < 1e9) ||
        !(fabs(a) + fabs(b) + fabs(c) < 1e30)) return;
    const int cull = scene->cull_size;
    int x0 = max_int(floor_int((x - radius) / cull) * cull, 0), x1 = min_int(-floor_int(-(x + radius) / cull) * cull, scene->width);
    int y0 = max_int(floor_int((y - radius) / cull) * cull, 0), y1 = min_int(-floor_int(-(y + radius) / cull) * cull, scene->height);
    *limit = logf(255.0f * opacity) + 1e-3f;
    double determinant = a * c - b * b;
    if (determinant > 0.0 && a > 0.0 && c > 0.0) {
        double reach = 2.0 * (*limit + 1e-2) / determinant;
        /* The center of pixel p is p + 0.5. */
        double half_x = sqrt(reach * c), half_y = sqrt(reach * a);
        if (half_x > 1e9) half_x = 1e9; /* fits an int */
        if (half_y > 1e9) half_y = 1e9;
        x0 = max_int(x0, -floor_int(half_x + 0.5 - x));
        y0 = max_int(y0, -floor_int(half_y + 0.5 - y));
        x1 = min_int(x1, floor_int(x + half_x - 0.5) + 1);
        y1 = min_int(y1, floor_int(y + half_y - 0.5) + 1);
    }
    if (x0 >= x1 || y0 >= y1) return;
    rect[0] = x0, rect[1] = y0, rect[2] = x1, rect[3] = y1;
}

static int rectangles_work(void *context, int64_t first, int64_t end) {
    Binning *bin = context;
    for (int64_t i = first; i < end; i++) splat_rectangle(bin, i, bin->rects[i], &bin->limits[i]);
    return 0;
}

static uint32_t ordered_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Stable radix sort of n keys with their values; the result is in `keys` and `values`. */
static void radix_sort(uint32_t *keys, int32_t *values, uint32_t *keys_swap, int32_t *values_swap, int64_t n) {
    enum { BITS = 8, BUCKETS = 1 << BITS, PASSES = 32 / BITS };
    int64_t histogram[PASSES][BUCKETS];
    memset(histogram, 0, sizeof histogram);
    for (int64_t i = 0; i < n; i++)
        for (int pass = 0; pass < PASSES; pass++) histogram[pass][keys[i] >> (pass * BITS) & (BUCKETS - 1)]++;
    for (int pass = 0; pass < PASSES; pass++) {
        int64_t start = 0;
        for (int bucket = 0; bucket < BUCKETS; bucket++) {
            int64_t size = histogram[pass][bucket];
            histogram[pass][bucket] = start;
            start += size;
        }
        for (int64_t i = 0; i < n; i++) {
            int64_t target = histogram[pass][keys[i] >> (pass * BITS) & (BUCKETS - 1)]++;
            keys_swap[target] = keys[i];
            values_swap[target] = values[i];
        }
        uint32_t *k = keys; keys = keys_swap; keys_swap = k;
        int32_t *v = values; values = values_swap; values_swap = v;
    }
}

static int sort_work(void *context, int64_t first, int64_t end) {
    Binning *bin = context;
    for (int64_t camera = first; camera < end; camera++) {
        int64_t base = bin->offsets[camera], n = 0, pairs = 0;
        for (int64_t i = base; i < bin->offsets[camera + 1]; i++) {
            const int32_t *r = bin->rects[i];
            if (r[2] == 0) continue;
            pairs += (int64_t)((r[2] - 1) / TILE - r[0] / TILE + 1) * ((r[3] - 1) / TILE - r[1] / TILE + 1);
            bin->keys[base + n] = ordered_bits(bin->depths[i]);
            bin->order[base + n++] = (int32_t)i;
        }
        radix_sort(bin->keys + base, bin->order + base, bin->keys_swap + base, bin->order_swap + base, n);
        bin->visible[camera + 1] = n;
        bin->pairs[camera + 1] = pairs;
    }
    return 0;
}

static int pack_work(void *context, int64_t first, int64_t end) {
    Binning *bin = context;
    Scene *scene = bin->scene;
    int camera = 0;
    for (int64_t rank = first; rank < end; rank++) {
        while (rank >= bin->visible[camera + 1]) camera++;
        int64_t i = bin->order[bin->offsets[camera] + rank - bin->visible[camera]];
        const int32_t *r = bin->rects[i];
        scene->splats[rank] = (Splat){
            .x = bin->means[2 * i], .y = bin->means[2 * i + 1],
            .half_a = 0.5f * bin->conics[3 * i], .b = bin->conics[3 * i + 1], .half_c = 0.5f * bin->conics[3 * i + 2],
            .opacity = bin->opacities[i], .limit = bin->limits[i], .source = (int32_t)i,
            .x0 = r[0], .y0 = r[1], .x1 = r[2], .y1 = r[3],
        };
        memcpy(scene->colors + rank * scene->channels, bin->colors + i * scene->channels, scene->channels * sizeof(float));
    }
    return 0;
}

/* Appends each splat of a camera, front to back, to the lists of the tiles that it meets. */
static int lists_work(void *context, int64_t first, int64_t end) {
    Binning *bin = context;
    Scene *scene = bin->scene;
    int64_t tiles = (int64_t)scene->tiles_x * scene->tiles_y;
    int64_t *next = malloc(tiles * sizeof *next);
    if (!next) return 1;
    for (int64_t camera = first; camera < end; camera++) {
        int64_t *start = scene->tile_start + camera * tiles;
        memset(next, 0, tiles * sizeof *next);
        for (int64_t rank = bin->visible[camera]; rank < bin->visible[camera + 1]; rank++) {
            const Splat *s = &scene->splats[rank];
            for (int y = s->y0 / TILE; y <= (s->y1 - 1) / TILE; y++)
                for (int x = s->x0 / TILE; x <= (s->x1 - 1) / TILE; x++) next[y * scene->tiles_x + x]++;
        }
        int64_t position = bin->pairs[camera];
        for (int64_t tile = 0; tile < tiles; tile++) {
            start[tile] = position;
            position += next[tile];
            next[tile] = start[tile];
        }
        for (int64_t rank = bin->visible[camera]; rank < bin->visible[camera + 1]; rank++) {
            const Splat *s = &scene->splats[rank];
            for (int y = s->y0 / TILE; y <= (s->y1 - 1) / TILE; y++)
                for (int x = s->x0 / TILE; x <= (s->x1 - 1) / TILE; x++)
                    scene->list[next[y * scene->tiles_x + x]++] = (int32_t)rank;
        }
    }
    free(next);
    return 0;
}

/* Fills scene->splats, colors, tile_start and list. Returns nonzero if memory ran out. */
static int bin_splats(Binning *bin, int threads) {
    Scene *scene = bin->scene;
    int64_t n = scene->count > 0 ? scene->count : 1, tiles = (int64_t)scene->cameras * scene->tiles_x * scene->tiles_y;
    bin->rects = malloc(n * sizeof *bin->rects), bin->limits = malloc(n * sizeof *bin->limits);
    bin->keys = malloc(n * sizeof *bin->keys), bin->keys_swap = malloc(n * sizeof *bin->keys);
    bin->order = malloc(n * sizeof *bin->order), bin->order_swap = malloc(n * sizeof *bin->order);
    bin->visible = calloc(scene->cameras + 1, sizeof *bin->visible);
    bin->pairs = calloc(scene->cameras + 1, sizeof *bin->pairs);
    scene->tile_start = malloc((tiles + 1) * sizeof *scene->tile_start);
    int failed = !bin->rects || !bin->limits || !bin->keys || !bin->keys_swap || !bin->order || !bin->order_swap || !bin->visible ||
                 !bin->pairs || !scene->tile_start;
    if (!failed) {
        parallel_for(threads, scene->count, 4096, rectangles_work, bin);
        parallel_for(threads, scene->cameras, 1, sort_work, bin);
        for (int camera = 0; camera < scene->cameras; camera++) {
            bin->visible[camera + 1] += bin->visible[camera];
            bin->pairs[camera + 1] += bin->pairs[camera];
        }
        scene->visible = bin->visible[scene->cameras];
        scene->pairs = bin->pairs[scene->cameras];
        scene->tile_start[tiles] = scene->pairs;
        scene->splats = malloc((scene->visible + 1) * sizeof *scene->splats);
        scene->colors = malloc((scene->visible * scene->channels + 1) * sizeof *scene->colors);
        scene->list = malloc((scene->pairs + 1) * sizeof *scene->list);
        failed = !scene->splats || !scene->colors || !scene->list;
    }
    if (!failed) {
        parallel_for(threads, scene->visible, 4096, pack_work, bin);
        failed = parallel_for(threads, scene->cameras, 1, lists_work, bin);
    }
    free(bin->rects), free(bin->limits), free(bin->keys), free(bin->keys_swap), free(bin->order), free(bin->order_swap);
    free(bin->visible), free(bin->pairs);
    return failed;
}

#endif
