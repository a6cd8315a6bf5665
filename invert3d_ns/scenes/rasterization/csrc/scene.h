/* What is shared by the stages of one rendering: the splats in drawing order and their lists per tile. */
#ifndef INVERT3D_SCENE_H
#define INVERT3D_SCENE_H

#include <stdint.h>

#define TILE 16
#define BLOCK_W 4
#define TILE_PIXELS (TILE * TILE)

/* gsplat's constants: largest alpha, smallest alpha that is drawn, transmittance at which a pixel is finished. */
#define ALPHA_MAX 0.999f
#define ALPHA_MIN (1.0f / 255.0f)
#define TRANSMITTANCE_MIN 1e-4f

/* Entries of a gradient row: moments of dL/dsigma, then the channels, then (if asked for) sums of absolute values. */
enum { M_0, M_X, M_Y, M_XX, M_XY, M_YY, MOMENTS };

typedef struct {
    float x, y;                   /* mean, pixels */
    float half_a, b, half_c;      /* sigma = half_a dx^2 + b dx dy + half_c dy^2 */
    float opacity;
    float limit;                  /* where sigma exceeds this, alpha < ALPHA_MIN */
    int32_t source;               /* index into the caller's arrays */
    int32_t x0, y0, x1, y1;       /* pixels that it may touch, half open */
} Splat;

typedef struct {
    int level;                    /* index into the table of SIMD levels */
    int cameras, channels, width, height, cull_size;
    int tiles_x, tiles_y;
    int64_t count;                /* splats that the caller passed */
    int64_t visible;              /* splats that touch a pixel: length of `splats` */
    int64_t pairs;                /* (tile, splat) pairs: length of `list` */
    Splat *splats;                /* [visible], camera by camera, front to back */
    float *colors;                /* [visible][channels] */
    int64_t *tile_start;          /* [tiles + 1], offsets into `list` */
    int32_t *list;                /* [pairs], indices into `splats`, tile by tile, front to back and so ascending */
    float *transmittance;         /* [tiles][TILE_PIXELS], after the last splat; block order */
    int32_t *last;                /* [tiles][TILE_PIXELS], position in the tile's list of the last contributor, -1 for none */
    int32_t *reached;             /* [tiles], splats of the tile's list up to its last contributor; until the list is cut there */
} Scene;

/* One image-sized argument of a tile function: values come in, gradients go out, or the other way round. */
typedef struct {
    const Scene *scene;
    float *render, *alphas;       /* forward: outputs; [cameras][height][width][channels], [cameras][height][width] */
    const float *v_render, *v_alphas; /* backward: dL/d(outputs) */
    float *rows;                  /* backward: [pairs of a chunk of tiles][row_size] */
    int64_t first_tile;           /* backward: where the chunk begins; work items are tiles from there on */
    int row_size, absolute;
} Pass;

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }

#endif
