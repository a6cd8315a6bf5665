/* Alpha blending of one tile, forward and backward. Included once per SIMD level, without a guard.
 *
 * A tile is cut into blocks of BLOCK_W x (LANES / BLOCK_W) pixels, one pixel to a lane; splats are the outer loop, the blocks that a
 * splat's rectangle meets the inner one. Per pixel (Kerbl et al. 2023, with gsplat's thresholds), splats front to back:
 *     alpha = min(0.999, opacity exp(-sigma)), skipped if below 1/255;  T' = T (1 - alpha), finished if T' <= 1e-4
 *     color += alpha T c;  T = T'
 * The backward pass walks the list in reverse and divides T by (1 - alpha). With v the gradient of the pixel's color and
 * q = c . v:  dL/dalpha = q T - B / (1 - alpha), where B sums alpha T q over the splats behind, minus T_final dL/d(pixel alpha). */

#define BLOCK_H (LANES / BLOCK_W)
#define BLOCKS_X (TILE / BLOCK_W)
#define BLOCKS (TILE_PIXELS / LANES)

/* Where lane `lane` of block `block` lies in its tile. */
INLINE int NAME(pixel_x)(int block, int lane) { return block % BLOCKS_X * BLOCK_W + lane % BLOCK_W; }
INLINE int NAME(pixel_y)(int block, int lane) { return block / BLOCKS_X * BLOCK_H + lane / BLOCK_W; }

typedef struct { int x0, y0, x1, y1; } NAME(Blocks);

/* The blocks of the tile at (left, top) that a splat's rectangle meets. */
INLINE NAME(Blocks) NAME(blocks_of)(const Splat *s, int left, int top) {
    return (NAME(Blocks)){
        max_int(s->x0 - left, 0) / BLOCK_W, max_int(s->y0 - top, 0) / BLOCK_H,
        (min_int(s->x1 - left, TILE) + BLOCK_W - 1) / BLOCK_W, (min_int(s->y1 - top, TILE) + BLOCK_H - 1) / BLOCK_H,
    };
}

INLINE void NAME(lane_offsets)(vf *x, vf *y) {
    for (int lane = 0; lane < LANES; lane++) {
        (*x)[lane] = 0.5f + lane % BLOCK_W;
        (*y)[lane] = 0.5f + lane / BLOCK_W;
    }
}

INLINE void NAME(forward_tile_of)(const Pass *pass, int64_t tile, vf *colors, const int channels) {
    const Scene *scene = pass->scene;
    int64_t per_camera = (int64_t)scene->tiles_x * scene->tiles_y, camera = tile / per_camera, within = tile % per_camera;
    int left = (int)(within % scene->tiles_x) * TILE, top = (int)(within / scene->tiles_x) * TILE;
    const int32_t *list = scene->list + scene->tile_start[tile];
    int64_t length = scene->tile_start[tile + 1] - scene->tile_start[tile];

    vf lane_x, lane_y, zero = {0}, transmittance[BLOCKS];  /* negative once a pixel is finished */
    vi last[BLOCKS];
    NAME(lane_offsets)(&lane_x, &lane_y);
    for (int block = 0; block < BLOCKS; block++) {
        for (int lane = 0; lane < LANES; lane++) {
            int inside = left + NAME(pixel_x)(block, lane) < scene->width && top + NAME(pixel_y)(block, lane) < scene->height;
            transmittance[block][lane] = inside ? 1.0f : -1.0f;
        }
        last[block] = NAME(splat_int)(-1);
        for (int k = 0; k < channels; k++) colors[block * channels + k] = zero;
    }

    for (int64_t j = 0; j < length; j++) {
        if (j % 16 == 0) {
            mask alive = NAME(less)(zero, transmittance[0]);
            for (int block = 1; block < BLOCKS; block++) alive |= NAME(less)(zero, transmittance[block]);
            if (!NAME(any)(alive)) break;
        }
        const Splat *s = &scene->splats[list[j]];
        const float *c = scene->colors + (int64_t)list[j] * channels;
        NAME(Blocks) range = NAME(blocks_of)(s, left, top);
        for (int by = range.y0; by < range.y1; by++) {
            vf dy = (s->y - top - by * BLOCK_H) - lane_y, b_dy = s->b * dy, c_dy2 = s->half_c * dy * dy;
            for (int bx = range.x0; bx < range.x1; bx++) {
                int block = by * BLOCKS_X + bx;
                vf dx = (s->x - left - bx * BLOCK_W) - lane_x;
                vf sigma = dx * (s->half_a * dx + b_dy) + c_dy2, t = transmittance[block];
                mask near = NAME(at_most)(sigma, NAME(splat)(s->limit)) & NAME(at_most)(zero, sigma) & NAME(less)(zero, t);
                if (!NAME(any)(near)) continue;
                vf alpha = NAME(smaller)(s->opacity * NAME(exp_minus)(sigma), NAME(splat)(ALPHA_MAX));
                vf next = t * (1.0f - alpha);
                mask hit = near & NAME(at_most)(NAME(splat)(ALPHA_MIN), alpha);
                mask add = hit & NAME(less)(NAME(splat)(TRANSMITTANCE_MIN), next);
                vf weight = NAME(select)(add, alpha * t, zero);
                for (int k = 0; k < channels; k++) colors[block * channels + k] += weight * c[k];
                transmittance[block] = NAME(select)(hit, NAME(select)(add, next, -t), t);
                last[block] = NAME(select_int)(add, NAME(splat_int)((int32_t)j), last[block]);
            }
        }
    }

    int32_t deepest = -1;
    for (int block = 0; block < BLOCKS; block++) {
        vf final = NAME(select)(NAME(less)(transmittance[block], zero), -transmittance[block], transmittance[block]);
        for (int lane = 0; lane < LANES; lane++) {
            int x = left + NAME(pixel_x)(block, lane), y = top + NAME(pixel_y)(block, lane);
            if (x >= scene->width || y >= scene->height) continue;
            int64_t pixel = (camera * scene->height + y) * scene->width + x;
            pass->alphas[pixel] = 1.0f - final[lane];
            for (int k = 0; k < channels; k++) pass->render[pixel * channels + k] = colors[block * channels + k][lane];
        }
        if (scene->transmittance) {
            memcpy(scene->transmittance + tile * TILE_PIXELS + block * LANES, &final, sizeof final);
            memcpy(scene->last + tile * TILE_PIXELS + block * LANES, &last[block], sizeof last[block]);
            for (int lane = 0; lane < LANES; lane++)
                if (last[block][lane] > deepest) deepest = last[block][lane];
        }
    }
    if (scene->reached) scene->reached[tile] = deepest + 1;
}

INLINE void NAME(backward_tile_of)(const Pass *pass, int64_t tile, vf *v, vf *sums, const int channels, const int absolute) {
    const Scene *scene = pass->scene;
    int64_t per_camera = (int64_t)scene->tiles_x * scene->tiles_y, camera = tile / per_camera, within = tile % per_camera;
    int left = (int)(within % scene->tiles_x) * TILE, top = (int)(within / scene->tiles_x) * TILE;
    const int32_t *list = scene->list + scene->tile_start[tile];
    int64_t length = scene->tile_start[tile + 1] - scene->tile_start[tile];
    float *rows = pass->rows + (scene->tile_start[tile] - scene->tile_start[pass->first_tile]) * pass->row_size;
    if (length == 0) return;

    vf lane_x, lane_y, zero = {0}, transmittance[BLOCKS], behind[BLOCKS];
    vi last[BLOCKS];
    NAME(lane_offsets)(&lane_x, &lane_y);
    for (int block = 0; block < BLOCKS; block++) {
        memcpy(&transmittance[block], scene->transmittance + tile * TILE_PIXELS + block * LANES, sizeof(vf));
        memcpy(&last[block], scene->last + tile * TILE_PIXELS + block * LANES, sizeof(vi));
        vf v_alpha = zero;
        for (int k = 0; k < channels; k++) v[block * channels + k] = zero;
        for (int lane = 0; lane < LANES; lane++) {
            int x = left + NAME(pixel_x)(block, lane), y = top + NAME(pixel_y)(block, lane);
            if (x >= scene->width || y >= scene->height) continue;
            int64_t pixel = (camera * scene->height + y) * scene->width + x;
            v_alpha[lane] = pass->v_alphas[pixel];
            for (int k = 0; k < channels; k++) v[block * channels + k][lane] = pass->v_render[pixel * channels + k];
        }
        behind[block] = -transmittance[block] * v_alpha;
    }

    for (int64_t j = length - 1; j >= 0; j--) {
        const Splat *s = &scene->splats[list[j]];
        float *row = rows + j * pass->row_size;
        const float *c = scene->colors + (int64_t)list[j] * channels;
        vf m_0 = zero, m_x = zero, m_y = zero, m_xx = zero, m_xy = zero, m_yy = zero, abs_x = zero, abs_y = zero;
        for (int k = 0; k < channels; k++) sums[k] = zero;
        NAME(Blocks) range = NAME(blocks_of)(s, left, top);
        for (int by = range.y0; by < range.y1; by++) {
            vf dy = (s->y - top - by * BLOCK_H) - lane_y, b_dy = s->b * dy, c_dy2 = s->half_c * dy * dy;
            for (int bx = range.x0; bx < range.x1; bx++) {
                int block = by * BLOCKS_X + bx;
                vf dx = (s->x - left - bx * BLOCK_W) - lane_x;
                vf sigma = dx * (s->half_a * dx + b_dy) + c_dy2;
                mask near = NAME(at_most)(sigma, NAME(splat)(s->limit)) & NAME(at_most)(zero, sigma) &
                            NAME(at_least_int)(last[block], NAME(splat_int)((int32_t)j));
                if (!NAME(any)(near)) continue;
                vf raw = s->opacity * NAME(exp_minus)(sigma), alpha = NAME(smaller)(raw, NAME(splat)(ALPHA_MAX));
                mask hit = near & NAME(at_most)(NAME(splat)(ALPHA_MIN), alpha);
                alpha = NAME(select)(hit, alpha, zero);
                vf ratio = 1.0f / (1.0f - alpha), t = transmittance[block] * ratio, weight = alpha * t, q = zero;
                for (int k = 0; k < channels; k++) {
                    q += c[k] * v[block * channels + k];
                    sums[k] += weight * v[block * channels + k];
                }
                vf v_sigma = raw * (behind[block] * ratio - q * t);
                v_sigma = NAME(select)(hit & NAME(at_most)(raw, NAME(splat)(ALPHA_MAX)), v_sigma, zero);
                transmittance[block] = t;
                behind[block] += weight * q;
                vf v_dx = v_sigma * dx, v_dy = v_sigma * dy;
                m_0 += v_sigma, m_x += v_dx, m_y += v_dy;
                m_xx += v_dx * dx, m_xy += v_dx * dy, m_yy += v_dy * dy;
                if (absolute) {
                    vf gx = 2.0f * s->half_a * v_dx + s->b * v_dy, gy = s->b * v_dx + 2.0f * s->half_c * v_dy;
                    abs_x += NAME(select)(NAME(less)(gx, zero), -gx, gx);
                    abs_y += NAME(select)(NAME(less)(gy, zero), -gy, gy);
                }
            }
        }
        row[M_0] = NAME(total)(m_0), row[M_X] = NAME(total)(m_x), row[M_Y] = NAME(total)(m_y);
        row[M_XX] = NAME(total)(m_xx), row[M_XY] = NAME(total)(m_xy), row[M_YY] = NAME(total)(m_yy);
        for (int k = 0; k < channels; k++) row[MOMENTS + k] = NAME(total)(sums[k]);
        if (absolute) row[MOMENTS + channels] = NAME(total)(abs_x), row[MOMENTS + channels + 1] = NAME(total)(abs_y);
    }
}

/* The usual numbers of channels get code of their own, with everything in registers. */
static int NAME(forward_work)(void *context, int64_t first, int64_t end) {
    const Pass *pass = context;
    const int channels = pass->scene->channels;
    vf *colors = NULL, local[BLOCKS * 4];
    if (channels > 4 && posix_memalign((void **)&colors, sizeof(vf), sizeof(vf) * BLOCKS * channels)) return 1;
    for (int64_t tile = first; tile < end; tile++) {
        switch (channels) {
            case 1: NAME(forward_tile_of)(pass, tile, local, 1); break;
            case 3: NAME(forward_tile_of)(pass, tile, local, 3); break;
            case 4: NAME(forward_tile_of)(pass, tile, local, 4); break;
            default: NAME(forward_tile_of)(pass, tile, colors ? colors : local, channels);
        }
    }
    free(colors);
    return 0;
}

static int NAME(backward_work)(void *context, int64_t first, int64_t end) {
    const Pass *pass = context;
    const int channels = pass->scene->channels;
    vf *v = NULL, local[BLOCKS * 4];
    if (channels > 4 && posix_memalign((void **)&v, sizeof(vf), sizeof(vf) * (BLOCKS + 1) * channels)) return 1;
    for (int64_t tile = pass->first_tile + first; tile < pass->first_tile + end; tile++) {
        vf sums[4];
        if (channels == 3 && !pass->absolute) NAME(backward_tile_of)(pass, tile, local, sums, 3, 0);
        else if (channels == 4 && !pass->absolute) NAME(backward_tile_of)(pass, tile, local, sums, 4, 0);
        else if (channels == 3) NAME(backward_tile_of)(pass, tile, local, sums, 3, 1);
        else if (channels == 4) NAME(backward_tile_of)(pass, tile, local, sums, 4, 1);
        else NAME(backward_tile_of)(pass, tile, v ? v : local, v ? v + BLOCKS * channels : sums, channels, pass->absolute);
    }
    free(v);
    return 0;
}

#undef BLOCK_H
#undef BLOCKS_X
#undef BLOCKS
#undef INLINE
#undef vf
#undef vi
#undef mask
