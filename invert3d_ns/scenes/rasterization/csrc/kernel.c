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
    const float *rows;
    int row_size;
    float *v_means, *v_conics, *v_colors, *v_opacities, *v_absolute;
} Reduction;

/* Sums each splat's rows and turns moments of dL/dsigma into gradients of its parameters. */
static int reduce_work(void *context, int64_t first, int64_t end) {
    const Reduction *r = context;
    const int channels = r->scene->channels;
    float *sum = malloc(r->row_size * sizeof *sum);
    if (!sum) return 1;
    for (int64_t rank = first; rank < end; rank++) {
        const Splat *s = &r->scene->splats[rank];
        const float *row = r->rows + s->first_row * r->row_size;
        int64_t rows = (int64_t)tiles_wide(s) * tiles_high(s);
        memcpy(sum, row, r->row_size * sizeof *sum);
        for (int64_t i = 1; i < rows; i++)
            for (int k = 0; k < r->row_size; k++) sum[k] += row[i * r->row_size + k];
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
    free(sum);
    return 0;
}

#define EXPORT __attribute__((visibility("default")))

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
    free(scene->transmittance), free(scene->last);
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
        failed = !scene->transmittance || !scene->last;
    }
    if (!failed) {
        Pass pass = {.scene = scene, .render = render, .alphas = alphas};
        failed = parallel_for(threads, tiles, 1, levels[level].forward, &pass);
    }
    if (failed || !keep) invert3d_free(scene);
    else *state = scene;
    return failed;
}

/* Writes the gradients of visible splats; the caller has zeroed the arrays. v_absolute may be NULL. Returns 0, or 1 without memory. */
EXPORT int invert3d_backward(const Scene *scene, int threads, const float *v_render, const float *v_alphas, float *v_means,
                             float *v_conics, float *v_colors, float *v_opacities, float *v_absolute) {
    int row_size = MOMENTS + scene->channels + (v_absolute ? 2 : 0);
    float *rows = malloc((scene->pairs * row_size + 1) * sizeof *rows);
    if (!rows) return 1;
    Pass pass = {.scene = scene, .v_render = v_render, .v_alphas = v_alphas, .rows = rows, .row_size = row_size,
                 .absolute = v_absolute != NULL};
    int64_t tiles = (int64_t)scene->cameras * scene->tiles_x * scene->tiles_y;
    int failed = parallel_for(threads, tiles, 1, levels[scene->level].backward, &pass);
    if (!failed) {
        Reduction reduction = {.scene = scene, .rows = rows, .row_size = row_size, .v_means = v_means, .v_conics = v_conics,
                               .v_colors = v_colors, .v_opacities = v_opacities, .v_absolute = v_absolute};
        failed = parallel_for(threads, scene->visible, 4096, reduce_work, &reduction);
    }
    free(rows);
    return failed;
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_size = 0};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&module); }
