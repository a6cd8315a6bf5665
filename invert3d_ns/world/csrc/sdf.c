/* Sphere tracing of unions of signed-distance primitives: the camera of the procedural world.
 *
 * Distances follow Quilez, "Distance functions" (bounds where no exact distance exists); tracing follows Hart, "Sphere tracing"
 * (1996). One worker thread a core takes views from an atomic counter. No state is kept between calls.
 */
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

enum { ELLIPSOID, BOX, CONE, TORUS, CUP, PRISM };
enum { PLAIN, STRIPES, DOTS, CHECKS };
enum { MATTE, SHINY, METALLIC };

#define PRIMITIVE_FLOATS 32
/* layout of one primitive: 0 kind, 1-3 center, 4-12 rotation local->world (row major), 13-16 size, 17 rounding, 18-20 color,
 * 21-23 second color, 24 pattern, 25 pattern frequency, 26 part label, 27 bounding radius, 28 material, 29 blend: the distance
 * over which the primitive flows into those before it, 0 for a sharp seam */

typedef struct {
    const float *primitives;   /* [objects][most][32] */
    const int32_t *counts;     /* [objects] */
    int most;
    const float *cameras;      /* [objects][views][4][4], camera to world, OpenGL axes */
    int objects, views, size, samples;
    float tangent;             /* tan(fov_y / 2) */
    float light[3];
    uint8_t *rgba;             /* [objects][views][size][size][4], color over white, alpha = coverage */
    float *depth;              /* same without the channels; distance along the optical axis, 0 where empty; may be NULL */
    float *normals;            /* [...][3]; may be NULL */
    uint8_t *parts;            /* label of the part, 255 where empty; may be NULL */
    atomic_int next;
} Job;

static inline float clampf(float x, float lo, float hi) { return x < lo ? lo : (x > hi ? hi : x); }

static inline void to_local(const float *p, const float x[3], float q[3]) {
    float d0 = x[0] - p[1], d1 = x[1] - p[2], d2 = x[2] - p[3];
    const float *r = p + 4;
    q[0] = r[0] * d0 + r[3] * d1 + r[6] * d2;
    q[1] = r[1] * d0 + r[4] * d1 + r[7] * d2;
    q[2] = r[2] * d0 + r[5] * d1 + r[8] * d2;
}

/* Capped cone along z: radius r0 at z=-h, r1 at z=+h (exact). */
static inline float cone_distance(const float q[3], float r0, float r1, float h) {
    float qx = sqrtf(q[0] * q[0] + q[1] * q[1]), qz = q[2];
    float k1x = r1, k1z = h, k2x = r1 - r0, k2z = 2 * h;
    float cax = qx - fminf(qx, qz < 0 ? r0 : r1), caz = fabsf(qz) - h;
    float t = clampf(((k1x - qx) * k2x + (k1z - qz) * k2z) / (k2x * k2x + k2z * k2z), 0, 1);
    float cbx = qx - k1x + k2x * t, cbz = qz - k1z + k2z * t;
    float s = (cbx < 0 && caz < 0) ? -1 : 1;
    return s * sqrtf(fminf(cax * cax + caz * caz, cbx * cbx + cbz * cbz));
}

static inline float primitive_distance(const float *p, const float x[3]) {
    float q[3];
    to_local(p, x, q);
    const float *s = p + 13;
    float r = p[17];
    /* Far away the bounding sphere is distance enough. */
    float far = sqrtf(q[0] * q[0] + q[1] * q[1] + q[2] * q[2]) - p[27];
    if (far > 0.25f) return far;
    switch ((int)p[0]) {
    case ELLIPSOID: {
        float a = q[0] / s[0], b = q[1] / s[1], c = q[2] / s[2];
        float k0 = sqrtf(a * a + b * b + c * c);
        a /= s[0], b /= s[1], c /= s[2];
        float k1 = sqrtf(a * a + b * b + c * c);
        return k1 < 1e-6f ? -fminf(s[0], fminf(s[1], s[2])) : k0 * (k0 - 1) / k1;
    }
    case BOX: {
        float a = fabsf(q[0]) - s[0] + r, b = fabsf(q[1]) - s[1] + r, c = fabsf(q[2]) - s[2] + r;
        float pa = fmaxf(a, 0), pb = fmaxf(b, 0), pc = fmaxf(c, 0);
        return sqrtf(pa * pa + pb * pb + pc * pc) + fminf(fmaxf(a, fmaxf(b, c)), 0) - r;
    }
    case CONE:
        return cone_distance(q, fmaxf(s[0] - r, 1e-3f), fmaxf(s[1] - r, 1e-3f), fmaxf(s[2] - r, 1e-3f)) - r;
    case TORUS: {
        float a = sqrtf(q[0] * q[0] + q[1] * q[1]) - s[0];
        return sqrtf(a * a + q[2] * q[2]) - s[1];
    }
    case CUP: { /* a capped cone with a cavity that is open at the top; s[3] is the thickness of its wall */
        float outer = cone_distance(q, s[0], s[1], s[2]);
        float v[3] = {q[0], q[1], q[2] - s[3]};
        float inner = cone_distance(v, fmaxf(s[0] - s[3], 1e-3f), fmaxf(s[1] - s[3], 1e-3f), s[2] + 1e-3f);
        return fmaxf(outer, -inner);
    }
    default: { /* PRISM: a gable with its ridge along y: half width s0 at the base, half length s1, half height s2 */
        float n = 1 / sqrtf(4 * s[2] * s[2] + s[0] * s[0]);
        float side = (2 * s[2] * fabsf(q[0]) + s[0] * (q[2] - s[2])) * n;
        return fmaxf(fmaxf(side, fabsf(q[1]) - s[1]), -q[2] - s[2]);
    }
    }
}

static float scene_distance(const float *primitives, int count, const float x[3], int *nearest) {
    float best = 1e9f;
    for (int i = 0; i < count; i++) {
        float d = primitive_distance(primitives + i * PRIMITIVE_FLOATS, x), blend = primitives[i * PRIMITIVE_FLOATS + 29];
        float before = best;
        if (d < best) best = d, *nearest = i;
        if (blend > 0 && i > 0) { /* quadratic smooth minimum */
            float h = fmaxf(blend - fabsf(d - before), 0);
            best -= h * h / (4 * blend);
        }
    }
    return best;
}

static int is_blended(const float *primitives, int count) {
    for (int i = 0; i < count; i++)
        if (primitives[i * PRIMITIVE_FLOATS + 29] > 0) return 1;
    return 0;
}

static void surface_color(const float *p, const float x[3], float out[3]) {
    const float *color = p + 18;
    int pattern = (int)p[24];
    if (pattern != PLAIN) {
        float q[3], f = p[25];
        to_local(p, x, q);
        int second = 0;
        if (pattern == STRIPES) {
            float a = q[2] * f * 0.5f + 0.25f; /* narrower than the ground, which tells the two colors apart */
            second = a - floorf(a) < 0.42f;
        } else if (pattern == CHECKS) {
            second = ((int)floorf(q[0] * f + 1000.5f) + (int)floorf(q[1] * f + 1000.5f) + (int)floorf(q[2] * f + 1000.5f)) & 1;
        } else {
            /* Balls on a body-centered lattice: half a cell between layers, so that no face of a box can pass between them. */
            for (int layer = 0; layer < 2; layer++) {
                float a = q[0] * f + 0.5f * layer, b = q[1] * f + 0.5f * layer, c = q[2] * f + 0.5f * layer;
                a -= floorf(a + 0.5f), b -= floorf(b + 0.5f), c -= floorf(c + 0.5f);
                second |= a * a + b * b + c * c < 0.115f;
            }
        }
        if (second) color = p + 21;
    }
    memcpy(out, color, 3 * sizeof(float));
}

static void render_view(const Job *job, int index) {
    int object = index / job->views, size = job->size, samples = job->samples;
    const float *primitives = job->primitives + (size_t)object * job->most * PRIMITIVE_FLOATS;
    int count = job->counts[object], blended = is_blended(primitives, count);
    const float *m = job->cameras + (size_t)index * 16;
    float eye[3] = {m[3], m[7], m[11]};
    float radius = 0;
    for (int i = 0; i < count; i++) {
        const float *p = primitives + i * PRIMITIVE_FLOATS;
        radius = fmaxf(radius, sqrtf(p[1] * p[1] + p[2] * p[2] + p[3] * p[3]) + p[27]);
    }
    for (int row = 0; row < size; row++)
        for (int column = 0; column < size; column++) {
            size_t pixel = (size_t)index * size * size + (size_t)row * size + column;
            float sum[3] = {0, 0, 0}, depth = 0, normal_sum[3] = {0, 0, 0};
            int hits = 0, label = 255;
            for (int s = 0; s < samples * samples; s++) {
                float u = ((column + (s % samples + 0.5f) / samples) / size * 2 - 1) * job->tangent;
                float v = (1 - (row + (s / samples + 0.5f) / samples) / size * 2) * job->tangent;
                float d[3];
                for (int k = 0; k < 3; k++) d[k] = u * m[4 * k] + v * m[4 * k + 1] - m[4 * k + 2];
                float length = sqrtf(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
                for (int k = 0; k < 3; k++) d[k] /= length;
                float b = eye[0] * d[0] + eye[1] * d[1] + eye[2] * d[2];
                float c = eye[0] * eye[0] + eye[1] * eye[1] + eye[2] * eye[2] - radius * radius;
                float discriminant = b * b - c;
                if (discriminant <= 0) continue;
                discriminant = sqrtf(discriminant);
                float t = fmaxf(-b - discriminant, 0), end = -b + discriminant, x[3];
                int nearest = 0, hit = 0;
                for (int step = 0; step < 80 && t < end; step++) {
                    for (int k = 0; k < 3; k++) x[k] = eye[k] + t * d[k];
                    float distance = scene_distance(primitives, count, x, &nearest);
                    if (distance < 1.5e-3f) { hit = 1; break; }
                    t += 0.95f * distance;
                }
                if (!hit) continue;
                float normal[3] = {0, 0, 0}, h = 2e-3f;
                static const float corner[4][3] = {{1, -1, -1}, {-1, -1, 1}, {-1, 1, -1}, {1, 1, 1}};
                for (int k = 0; k < 4; k++) {
                    float y[3] = {x[0] + h * corner[k][0], x[1] + h * corner[k][1], x[2] + h * corner[k][2]};
                    int any = nearest;
                    float distance = blended ? scene_distance(primitives, count, y, &any)
                                             : primitive_distance(primitives + nearest * PRIMITIVE_FLOATS, y);
                    for (int a = 0; a < 3; a++) normal[a] += corner[k][a] * distance;
                }
                float n = 1 / fmaxf(sqrtf(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]), 1e-9f);
                for (int a = 0; a < 3; a++) normal[a] *= n;
                float diffuse = fmaxf(normal[0] * job->light[0] + normal[1] * job->light[1] + normal[2] * job->light[2], 0);
                float shade = 0.62f + 0.10f * normal[2] + 0.36f * diffuse, color[3];
                surface_color(primitives + nearest * PRIMITIVE_FLOATS, x, color);
                int material = (int)primitives[nearest * PRIMITIVE_FLOATS + 28];
                float highlight = 0;
                if (material != MATTE) { /* Blinn-Phong highlight; metal also mirrors a bright sky over a dark ground */
                    float half_way[3], along = normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2];
                    for (int a = 0; a < 3; a++) half_way[a] = job->light[a] - d[a];
                    float l = sqrtf(half_way[0] * half_way[0] + half_way[1] * half_way[1] + half_way[2] * half_way[2]);
                    float facing = 0;
                    for (int a = 0; a < 3; a++) facing += normal[a] * half_way[a] / fmaxf(l, 1e-6f);
                    highlight = powf(fmaxf(facing, 0), material == SHINY ? 40.f : 16.f) * (material == SHINY ? 0.75f : 0.45f);
                    if (material == METALLIC) {
                        float sky = clampf(0.5f + 2.f * (d[2] - 2 * along * normal[2]), 0, 1);
                        shade *= 0.5f + 0.75f * sky * sky * (3 - 2 * sky);
                    }
                }
                for (int a = 0; a < 3; a++) sum[a] += fminf(color[a] * shade + highlight, 1), normal_sum[a] += normal[a];
                depth += t / length;
                label = (int)primitives[nearest * PRIMITIVE_FLOATS + 26];
                hits++;
            }
            int total = samples * samples;
            for (int a = 0; a < 3; a++)
                job->rgba[pixel * 4 + a] = (uint8_t)(255 * clampf((sum[a] + (total - hits)) / total, 0, 1) + 0.5f);
            job->rgba[pixel * 4 + 3] = (uint8_t)(255 * hits / total);
            if (job->depth) job->depth[pixel] = hits ? depth / hits : 0;
            if (job->parts) job->parts[pixel] = (uint8_t)label;
            if (job->normals) memcpy(job->normals + pixel * 3, normal_sum, sizeof normal_sum);
        }
}

static void *work(void *argument) {
    Job *job = argument;
    for (;;) {
        int index = atomic_fetch_add(&job->next, 1);
        if (index >= job->objects * job->views) return NULL;
        render_view(job, index);
    }
}

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Of sdf_render. Raise it, and INTERFACE in rendering.py, whenever its arguments, or what they mean, change. */
EXPORT int sdf_interface(void) { return 2; }

EXPORT void sdf_render(const float *primitives, const int32_t *counts, int most, const float *cameras, int objects, int views,
                       int size, int samples, float tangent, const float *light, uint8_t *rgba, float *depth, float *normals,
                       uint8_t *parts, int threads) {
    Job job = {primitives, counts, most, cameras, objects, views, size, samples, tangent,
               {light[0], light[1], light[2]}, rgba, depth, normals, parts, 0};
    pthread_t pool[64];
    int started = 0;
    for (int i = 1; i < threads && i < 64; i++)
        if (pthread_create(&pool[started], NULL, work, &job) == 0) started++;
    work(&job);
    for (int i = 0; i < started; i++) pthread_join(pool[i], NULL);
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sdf", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sdf(void) { return PyModule_Create(&module); }
