/* Differentiable rasterization of projected Gaussians on a CPU.
 *
 * The functions at the end are called through ctypes; the Python module is only a way to build and find this library. The inner
 * loops (blend.h) are compiled once per SIMD level and chosen at run time, so that one binary serves every machine of its kind.
 * Results do not depend on the number of threads: tiles share nothing, and gradient rows are summed in a fixed order. */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "binning.h"
#include "parallel.h"
#include "scene.h"

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#include <immintrin.h>
#endif

#define LANES 4
#define NAME(x) x##_baseline
#include "simd.h"
#include "blend.h"
#undef LANES
#undef NAME

#ifdef X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
#define NAME(x) x##_avx2
#include "simd.h"
#include "blend.h"
#undef LANES
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#endif
#define LANES 16
#define NAME(x) x##_avx512
#include "simd.h"
#include "blend.h"
#undef LANES
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

typedef struct { Work forward, backward; } Level;

static const Level levels[] = {
    {forward_work_baseline, backward_work_baseline},
#ifdef X86
    {forward_work_avx2, backward_work_avx2},
    {forward_work_avx512, backward_work_avx512},
#endif
};

typedef struct {
    const Scene *scene;
    const float *rows;            /* [pairs of the tiles first_tile .. end_tile][row_size] */
    int64_t first_tile, end_tile;
    int row_size;
    float *sums;                  /* [visible][row_size] */
    float *v_means, *v_conics, *v_colors, *v_opacities, *v_absolute;
} Reduction;

/* Adds the rows of a chunk of tiles to the sums of splats [first, end), tile after tile: in the same order whatever is done at once. */
static int sum_work(void *context, int64_t first, int64_t end) {
    const Reduction *r = context;
    const Scene *scene = r->scene;
    const int row_size = r->row_size;
    for (int64_t tile = r->first_tile; tile < r->end_tile; tile++) {
        const int32_t *list = scene->list + scene->tile_start[tile];
        const float *rows = r->rows + (scene->tile_start[tile] - scene->tile_start[r->first_tile]) * row_size;
        int64_t length = scene->tile_start[tile + 1] - scene->tile_start[tile], j = 0;
        for (int64_t upper = length; j < upper;) { /* the first splat that is not before `first` */
            int64_t middle = (j + upper) / 2;
            if (list[middle] < first) j = middle + 1;
            else upper = middle;
        }
        for (; j < length && list[j] < end; j++) {
            float *sum = r->sums + (int64_t)list[j] * row_size;
            for (int k = 0; k < row_size; k++) sum[k] += rows[j * row_size + k];
        }
    }
    return 0;
}

/* Turns each splat's moments of dL/dsigma into gradients of its parameters. */
static int gradients_work(void *context, int64_t first, int64_t end) {
    const Reduction *r = context;
    const int channels = r->scene->channels;
    for (int64_t rank = first; rank < end; rank++) {
        const Splat *s = &r->scene->splats[rank];
        const float *sum = r->sums + rank * r->row_size;
        int64_t i = s->source;
        r->v_means[2 * i] = 2.0f * s->half_a * sum[M_X] + s->b * sum[M_Y];
        r->v_means[2 * i + 1] = s->b * sum[M_X] + 2.0f * s->half_c * sum[M_Y];
        r->v_conics[3 * i] = 0.5f * sum[M_XX];
        r->v_conics[3 * i + 1] = sum[M_XY];
        r->v_conics[3 * i + 2] = 0.5f * sum[M_YY];
        r->v_opacities[i] = -sum[M_0] / s->opacity;
        memcpy(r->v_colors + i * channels, sum + MOMENTS, channels * sizeof *sum);
        if (r->v_absolute) memcpy(r->v_absolute + 2 * i, sum + MOMENTS + channels, 2 * sizeof *sum);
    }
    return 0;
}

/* Drops from each tile's list what lies behind its last contributor: the backward pass has nothing to do there. */
static void cut_lists(Scene *scene, int64_t tiles) {
    int64_t position = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t start = scene->tile_start[tile];
        memmove(scene->list + position, scene->list + start, scene->reached[tile] * sizeof *scene->list);
        scene->tile_start[tile] = position;
        position += scene->reached[tile];
    }
    scene->tile_start[tiles] = scene->pairs = position;
    int32_t *smaller = realloc(scene->list, (position + 1) * sizeof *scene->list);
    if (smaller) scene->list = smaller;
    free(scene->reached);
    scene->reached = NULL;
}

#define EXPORT __attribute__((visibility("default")))

/* Of what is exported here. Raise it, and INTERFACE in _compiled.py, whenever arguments of a function change. */
EXPORT int invert3d_interface(void) { return 1; }

/* The widest level that this machine runs: 0 baseline, 1 AVX2, 2 AVX-512. */
EXPORT int invert3d_simd_level(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

EXPORT void invert3d_free(Scene *scene) {
    if (!scene) return;
    free(scene->splats), free(scene->colors), free(scene->tile_start), free(scene->list);
    free(scene->transmittance), free(scene->last), free(scene->reached);
    free(scene);
}

/* Draws `count` splats, those of camera c at offsets[c] .. offsets[c + 1]. With `keep`, *state receives what the backward pass needs.
 * Returns 0, or 1 if memory ran out. */
EXPORT int invert3d_forward(int level, int threads, int cameras, int channels, int width, int height, int cull_size, int64_t count,
                            const int64_t *offsets, const float *means, const float *conics, const float *colors,
                            const float *opacities, const int32_t *radii, const float *depths, float *render, float *alphas,
                            int keep, Scene **state) {
    *state = NULL;
    Scene *scene = calloc(1, sizeof *scene);
    if (!scene) return 1;
    scene->level = level, scene->cameras = cameras, scene->channels = channels, scene->count = count;
    scene->width = width, scene->height = height, scene->cull_size = cull_size;
    scene->tiles_x = (width + TILE - 1) / TILE, scene->tiles_y = (height + TILE - 1) / TILE;
    int64_t tiles = (int64_t)cameras * scene->tiles_x * scene->tiles_y;
    Binning bin = {.means = means, .conics = conics, .colors = colors, .opacities = opacities, .depths = depths, .radii = radii,
                   .offsets = offsets, .scene = scene};
    int failed = bin_splats(&bin, threads);
    if (!failed && keep) {
        scene->transmittance = malloc(tiles * TILE_PIXELS * sizeof *scene->transmittance);
        scene->last = malloc(tiles * TILE_PIXELS * sizeof *scene->last);
        scene->reached = malloc(tiles * sizeof *scene->reached);
        failed = !scene->transmittance || !scene->last || !scene->reached;
    }
    if (!failed) {
        Pass pass = {.scene = scene, .render = render, .alphas = alphas};
        failed = parallel_for(threads, tiles, 1, levels[level].forward, &pass);
    }
    if (failed || !keep) {
        invert3d_free(scene);
    } else {
        cut_lists(scene, tiles);
        *state = scene;
    }
    return failed;
}

/* Writes the gradients of visible splats; the caller has zeroed the arrays. v_absolute may be NULL. What tiles give to splats is kept
 * for at most `budget` bytes of tiles at a time (or for one tile), then summed. Returns 0, or 1 without memory. */
EXPORT int invert3d_backward(const Scene *scene, int threads, int64_t budget, const float *v_render, const float *v_alphas,
                             float *v_means, float *v_conics, float *v_colors, float *v_opacities, float *v_absolute) {
    int row_size = MOMENTS + scene->channels + (v_absolute ? 2 : 0);
    int64_t tiles = (int64_t)scene->cameras * scene->tiles_x * scene->tiles_y, most = budget / (row_size * sizeof(float));
    const int64_t *start = scene->tile_start;
    int64_t capacity = scene->pairs < most ? scene->pairs : most;
    for (int64_t tile = 0; tile < tiles; tile++)
        if (start[tile + 1] - start[tile] > capacity) capacity = start[tile + 1] - start[tile];
    float *rows = malloc((capacity * row_size + 1) * sizeof *rows), *sums = calloc(scene->visible * row_size + 1, sizeof *sums);
    int failed = !rows || !sums;
    int64_t share = scene->visible / (4 * (int64_t)threads) + 1; /* of the splats, for one thread at a time */
    for (int64_t first = 0, end; first < tiles && !failed; first = end) {
        for (end = first + 1; end < tiles && start[end + 1] - start[first] <= capacity;) end++;
        Pass pass = {.scene = scene, .v_render = v_render, .v_alphas = v_alphas, .rows = rows, .row_size = row_size,
                     .first_tile = first, .absolute = v_absolute != NULL};
        failed = parallel_for(threads, end - first, 1, levels[scene->level].backward, &pass);
        Reduction chunk = {.scene = scene, .rows = rows, .first_tile = first, .end_tile = end, .row_size = row_size, .sums = sums};
        failed = failed || parallel_for(threads, scene->visible, share < 1024 ? 1024 : share, sum_work, &chunk);
    }
    Reduction all = {.scene = scene, .row_size = row_size, .sums = sums, .v_means = v_means, .v_conics = v_conics,
                     .v_colors = v_colors, .v_opacities = v_opacities, .v_absolute = v_absolute};
    failed = failed || parallel_for(threads, scene->visible, 4096, gradients_work, &all);
    free(rows), free(sums);
    return failed;
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_size = 0};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&module); }
