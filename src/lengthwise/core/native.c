/* Softmax attention for a processor: few queries over many keys, in float32 or bfloat16, and bands of
 * distances in float32. Sums are float32.
 *
 * Both go through keys tile by tile with a running maximum (the online softmax). native.py builds
 * this file, once for vectors of 8 floats and once for AVX-512's 16, and calls it; decode.py and
 * band.py say the same in torch.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif

typedef unsigned short half; /* bfloat16: the upper half of a float32 */

static inline float widened(half x) {
    union { unsigned bits; float number; } y = {(unsigned)x << 16};
    return y.number;
}

/* To the nearest, of two equally near to the even one. */
static inline half narrowed(float x) {
    union { float number; unsigned bits; } y = {x};
    if (x != x) return y.bits >> 16 | 0x40;
    return (y.bits + 0x7fff + (y.bits >> 16 & 1)) >> 16;
}

static long most(long a, long b) { return a > b ? a : b; }
static long least(long a, long b) { return a < b ? a : b; }

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int whole __attribute__((vector_size(4 * LANES), aligned(4)));

/* ---- A few queries over many keys: each is read from memory once. ----
 *
 * One work item is a row of the batch, a KV head and a share of its keys; items of one head are
 * merged at the end. */

/* In line, GCC would give some of a function's registers to what lies around it. */
#define APART __attribute__((noinline)) static

#define FEW 64 /* keys of a tile at most */

/* Fewer where a tile, its values and the next of both then stay in the first cache. For wider heads
 * they would not, and fewer keys were slower. */
static long tile_keys(long d) { return d > 32 && d <= 64 ? 32 : FEW; }

/* How keys and values lie in codes of a byte or half of one: a number is code * scale + zero. Keys have
 * scales for each channel of a group of slots, values one for each slot; `packed.py` packs them. */
typedef struct {
    long kind, group, first; /* of the slots, which begin with this one of a group */
    const half *k_scale, *k_zero, *v_scale, *v_zero; /* [groups, d] and [slots] of a head; zeros or 0 */
    long k_batch, k_head, v_batch, v_head;
} packing;

enum { INT8 = 1, INT4, FLOAT8 };

/* Strides in numbers, in bytes of codes; a query's rows lie one after the other. Keys and values are
 * floats or halves, or codes where `how` says how. */
typedef struct {
    const float *q;
    const void *k, *v;
    long keys, k_batch, k_head, k_row, v_batch, v_head, v_row;
    const packing *how;
} part;

typedef struct {
    float *top, *total, *out; /* [rows], [rows], [rows, e] */
} state;

/* GCC before 12 has one name for it, clang another. */
#ifdef __clang__
#define PICK __builtin_shufflevector
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (whole){__VA_ARGS__})
#endif

/* Of each four numbers of `a` and the same four of `b`: every second one, from the first or from the
 * second. And of the fours of `a`, then of `b`: every second one. Processors shuffle within fours
 * faster than across. */
#if LANES == 16
#define EVEN(a, b) PICK(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
#define ODD(a, b) PICK(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31)
#define EVEN_FOURS(a, b) PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD_FOURS(a, b) PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#else
#define EVEN(a, b) PICK(a, b, 0, 2, 8, 10, 4, 6, 12, 14)
#define ODD(a, b) PICK(a, b, 1, 3, 9, 11, 5, 7, 13, 15)
#define EVEN_FOURS(a, b) PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define ODD_FOURS(a, b) PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#endif

static inline lanes each(float x) { return x - (lanes){0}; }

static inline lanes choose(whole where, lanes a, lanes b) {
    return (lanes)((where & (whole)a) | (~where & (whole)b));
}

/* Cody and Waite's reduction and a polynomial of degree 7; 0 below -87. */
static inline lanes exponential(lanes x) {
    lanes n = x * 1.44269504f + 12582912.0f - 12582912.0f; /* round to nearest */
    lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    lanes p = each(1.0f / 5040);
    p = p * r + 1.0f / 720, p = p * r + 1.0f / 120, p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6, p = p * r + 0.5f, p = p * r + 1.0f, p = p * r + 1.0f;
    whole power = (__builtin_convertvector(n, whole) + 127) << 23;
    return choose(x < -87.0f, each(0), p * (lanes)power);
}

static inline lanes larger(lanes a, lanes b) {
    for (int i = 0; i < LANES; i++) a[i] = b[i] > a[i] ? b[i] : a[i];
    return a;
}

static inline lanes join(lanes a, lanes b, int most) { return most ? larger(a, b) : a + b; }

/* The sum, or the largest, over the lanes of each of LANES vectors, side by side. */
static inline lanes fold(const lanes *x, int most) {
    lanes y[LANES / 2];
    for (int i = 0; i < LANES / 2; i++)
        y[i] = join(EVEN(x[2 * i], x[2 * i + 1]), ODD(x[2 * i], x[2 * i + 1]), most);
    for (int i = 0; i < LANES / 4; i++)
        y[i] = join(EVEN(y[2 * i], y[2 * i + 1]), ODD(y[2 * i], y[2 * i + 1]), most);
    for (int n = LANES / 8; n; n /= 2)
        for (int i = 0; i < n; i++)
            y[i] = join(EVEN_FOURS(y[2 * i], y[2 * i + 1]), ODD_FOURS(y[2 * i], y[2 * i + 1]), most);
    return y[0];
}

static inline lanes sums(const lanes *x) { return fold(x, 0); }

/* The next tile is asked for line by line while this one is worked on: a processor that only waits
 * for what it reads next would do one after the other. */
typedef struct {
    const float *row;
    long stride, width, at, left;
    int lines; /* at a time */
} ahead;

#define LINE 16 /* floats */

static inline void ask(ahead *x) {
    for (int i = 0; i < x->lines && x->left; i++, x->left--) {
        __builtin_prefetch(x->row + x->at);
        x->at += LINE;
        if (x->at >= x->width) x->at = 0, x->row += x->stride;
    }
}

static inline ahead coming(const float *row, long stride, long keys, long width, long turns) {
    long lines = keys * ((width + LINE - 1) / LINE);
    return (ahead){row, stride, width, 0, lines, (int)((lines + turns - 1) / turns)};
}

/* Scores of one query over up to FEW keys; what is missing to whole lanes becomes -inf. */
static void score(const float *q, const float *k, long stride, long keys, long d,
                  float scale, float *to, ahead *next) {
    long j = 0;
    for (; j + LANES <= keys; j += LANES) {
        lanes sum[LANES] = {0};
        ask(next);
        for (long c = 0; c < d; c += LANES) {
            lanes x = *(const lanes *)(q + c);
            for (int i = 0; i < LANES; i++)
                sum[i] += x * *(const lanes *)(k + (j + i) * stride + c);
        }
        *(lanes *)(to + j) = sums(sum) * scale;
    }
    for (; j < keys; j++) {
        lanes sum[LANES] = {0};
        for (long c = 0; c < d; c += LANES)
            sum[0] += *(const lanes *)(q + c) * *(const lanes *)(k + j * stride + c);
        to[j] = sums(sum)[0] * scale;
    }
    for (; j % LANES; j++) to[j] = -INFINITY;
}

/* Scores become weights; the running maximum and total follow, and what was summed is rescaled. */
APART void soften(float *x, long keys, long e, float *top, float *total, float *out) {
    lanes most = each(*top), sum[LANES] = {0};
    for (long j = 0; j < keys; j += LANES) {
        lanes s = *(const lanes *)(x + j);
        most = choose(s > most, s, most);
    }
    float peak = *top;
    for (int i = 0; i < LANES; i++) peak = most[i] > peak ? most[i] : peak;
    if (peak > *top) {
        float shrink = expf(*top - peak); /* 0 for the first tile */
        *total *= shrink;
        for (long c = 0; c < e; c += LANES) *(lanes *)(out + c) *= shrink;
        *top = peak;
    }
    if (peak == -INFINITY) peak = 0; /* nothing seen yet: -inf less -inf would be NaN */
    for (long j = 0; j < keys; j += LANES) {
        lanes w = exponential(*(const lanes *)(x + j) - peak);
        *(lanes *)(x + j) = w;
        sum[0] += w;
    }
    *total += sums(sum)[0];
}

/* out += weights @ values for two queries; a value is loaded once for both. */
static void add(const float *w, const float *v, long stride, long keys, long e, float *out,
                ahead *next) {
    for (long c = 0; c < e; c += LANES) {
        lanes a = *(lanes *)(out + c), b = *(lanes *)(out + e + c);
        for (long j = 0; j < keys; j++) {
            lanes x = *(const lanes *)(v + j * stride + c);
            if (!(j & 3)) ask(next);
            a += w[j] * x, b += w[FEW + j] * x;
        }
        *(lanes *)(out + c) = a, *(lanes *)(out + e + c) = b;
    }
}

static void add_wide(const float *w, const float *v, long stride, long keys, long e, float *out,
                     ahead *next) {
    for (long c = 0; c < e; c += 4 * LANES) {
        lanes a[4], b[4];
        for (int i = 0; i < 4; i++) {
            a[i] = *(lanes *)(out + c + i * LANES);
            b[i] = *(lanes *)(out + e + c + i * LANES);
        }
        for (long j = 0; j < keys; j++) {
            ask(next);
            for (int i = 0; i < 4; i++) {
                lanes x = *(const lanes *)(v + j * stride + c + i * LANES);
                a[i] += w[j] * x, b[i] += w[FEW + j] * x;
            }
        }
        for (int i = 0; i < 4; i++) {
            *(lanes *)(out + c + i * LANES) = a[i];
            *(lanes *)(out + e + c + i * LANES) = b[i];
        }
    }
}

/* Some rows of keys or values as floats, from where they lie or, where they are halves, from `room`. */
static const float *floats(const void *from, long at, int halves, long *stride, long rows, long width,
                           float *restrict room) {
    if (!halves) return (const float *)from + at;
    for (long r = 0; r < rows; r++) {
        const half *restrict x = (const half *)from + at + r * *stride;
        for (long c = 0; c < width; c++) room[r * width + c] = widened(x[c]);
    }
    *stride = width;
    return room;
}

typedef unsigned char letters __attribute__((vector_size(LANES), aligned(1)));
#define AS(type, x) __builtin_convertvector(x, type)

/* The exponent and the digits of float8 move to their places; the smallest have no leading 1. */
static inline lanes eighths(letters x) {
    whole bits = AS(whole, x & 127), sign = AS(whole, x & 128); /* GCC 12 needs the masks here */
    lanes number = (lanes)((bits << 20) + (120 << 23));
    number = choose(bits < 8, 2 * (number - 0x1p-7f), number);
    return (lanes)((whole)number | sign << 24);
}

/* Rows of codes as floats, without their scales; of two in a byte the lower ones are the first half of
 * a row. */
APART void unpack(long kind, const unsigned char *from, long stride, long rows, long width, float *to) {
    long middle = width / 2;
    if (kind == INT4 && middle % LANES) {
        for (long r = 0; r < rows; r++, from += stride, to += width)
            for (long c = 0; c < middle; c++) to[c] = from[c] & 15, to[c + middle] = from[c] >> 4;
        return;
    }
    for (long r = 0; r < rows; r++, from += stride, to += width)
        if (kind == INT8)
            for (long c = 0; c < width; c += LANES)
                *(lanes *)(to + c) = AS(lanes, AS(whole, *(const letters *)(from + c) ^ 128) - 128);
        else if (kind == FLOAT8)
            for (long c = 0; c < width; c += LANES)
                *(lanes *)(to + c) = eighths(*(const letters *)(from + c));
        else
            for (long c = 0; c < middle; c += LANES) {
                letters x = *(const letters *)(from + c);
                *(lanes *)(to + c) = AS(lanes, AS(whole, x & 15));
                *(lanes *)(to + c + middle) = AS(lanes, AS(whole, x >> 4));
            }
}

/* A tile of packed keys and values: numbers without scales, which go to the queries and the weights. */
typedef struct {
    float *q, *shift;    /* [rows, d], times the scales of channels, and [rows], times their zeros */
    float *scale, *zero; /* [FEW], of values; zero is 0 where there are none */
    int zeros;
} scaled;

static scaled unpacked(const part *x, const float *q, long rows, long at, long head, long low, long keys,
                       long d, long e, float *room) {
    const packing *how = x->how;
    float *values = room + FEW * d, *by = values + FEW * e;
    scaled to = {by, by + rows * d, by + rows * (d + 1), by + rows * (d + 1) + FEW, how->k_zero != 0};
    const half *k_scale = how->k_scale, *k_zero = how->k_zero;
    long of_k = at * how->k_batch + head * how->k_head + (how->first + low) / how->group * d;
    for (long r = 0; r < rows; r++) {
        to.shift[r] = 0;
        for (long c = 0; c < d; c++) to.q[r * d + c] = q[r * d + c] * widened(k_scale[of_k + c]);
        for (long c = 0; c < d && k_zero; c++) to.shift[r] += q[r * d + c] * widened(k_zero[of_k + c]);
    }
    long of_v = at * how->v_batch + head * how->v_head + low;
    for (long j = 0; j < FEW; j++) {
        to.scale[j] = j < keys ? widened(how->v_scale[of_v + j]) : 0;
        to.zero[j] = j < keys && to.zeros ? widened(how->v_zero[of_v + j]) : 0;
    }
    const unsigned char *k = x->k, *v = x->v;
    unpack(how->kind, k + at * x->k_batch + head * x->k_head + low * x->k_row, x->k_row, keys, d, room);
    unpack(how->kind, v + at * x->v_batch + head * x->v_head + low * x->v_row, x->v_row, keys, e, values);
    return to;
}

/* Weights of a tile become those of its codes, and what the zeros of its values come to is added. */
static void weigh(const scaled *by, float *w, long keys, long e, float *out) {
    lanes sum[LANES] = {0};
    for (long j = 0; j < keys; j += LANES) {
        lanes x = *(const lanes *)(w + j);
        if (by->zeros) sum[0] += x * *(const lanes *)(by->zero + j);
        *(lanes *)(w + j) = x * *(const lanes *)(by->scale + j);
    }
    float shift = by->zeros ? sums(sum)[0] : 0;
    for (long c = 0; c < e && by->zeros; c += LANES) *(lanes *)(out + c) += shift;
}

/* Floats that lie with a thread for a tile. */
static long tile_room(long rows, long d, long e) {
    return FEW * (d + e) + rows * (d + 1) + 2 * FEW;
}

/* The tile behind one, to be asked for. */
static ahead behind(const void *from, long at, int halves, const packing *how, long stride, long keys,
                    long width, long turns) {
    if (how) {
        long bytes = how->kind == INT4 ? width / 2 : width;
        return coming((const float *)((const char *)from + at), stride / 4, keys, bytes / 4, turns);
    }
    if (!halves) return coming((const float *)from + at, stride, keys, width, turns);
    return coming((const float *)((const half *)from + at), stride / 2, keys, width / 2, turns);
}

/* `to` has room for an even number of rows, `room` for `tile_room`. */
static void item(const part *parts, long count, int halves, long at, long head, long kv, long share,
                 long shares, long rows, long d, long e, float scale, state to, float *room) {
    float weights[2 * FEW] = {0};
    long few = tile_keys(d);
    for (long r = 0; r < rows; r++) to.top[r] = -INFINITY, to.total[r] = 0;
    for (long i = 0; i < rows * e; i++) to.out[i] = 0;
    for (long p = 0; p < count; p++) {
        const part x = parts[p];
        const float *q = x.q + (at * kv + head) * rows * d;
        long first_k = at * x.k_batch + head * x.k_head, first_v = at * x.v_batch + head * x.v_head;
        long last = x.keys * (share + 1) / shares;
        for (long low = x.keys * share / shares, keys; low < last; low += keys) {
            long k_row = x.k_row, v_row = x.v_row;
            keys = least(last - low, few);
            if (x.how) keys = least(keys, x.how->group - (x.how->first + low) % x.how->group);
            long at_k = first_k + low * k_row, at_v = first_v + low * v_row;
            ahead next_k =
                behind(x.k, at_k + few * k_row, halves, x.how, k_row, few, d, rows * few / LANES);
            ahead next_v =
                behind(x.v, at_v + few * v_row, halves, x.how, v_row, few, e,
                       rows * few * e / (8 * LANES));
            const float *k = room, *v = room + FEW * d;
            scaled by = {0};
            if (x.how) {
                by = unpacked(&x, q, rows, at, head, low, keys, d, e, room), k_row = d, v_row = e;
            } else {
                k = floats(x.k, at_k, halves, &k_row, keys, d, room);
                v = floats(x.v, at_v, halves, &v_row, keys, e, room + FEW * d);
            }
            for (long r = 0; r < rows; r += 2) {
                if (r + 1 == rows) /* alone: its partner weighs nothing */
                    for (long j = 0; j < FEW; j++) weights[FEW + j] = 0;
                for (int i = 0; i < 2 && r + i < rows; i++) {
                    float *w = weights + i * FEW;
                    score((x.how ? by.q : q) + (r + i) * d, k, k_row, keys, d, scale, w, &next_k);
                    for (long j = 0; j < keys && by.zeros; j++) w[j] += by.shift[r + i] * scale;
                    soften(w, keys, e, to.top + r + i, to.total + r + i, to.out + (r + i) * e);
                    if (x.how) weigh(&by, w, keys, e, to.out + (r + i) * e);
                }
                (e % (4 * LANES) ? add : add_wide)(weights, v, v_row, keys, e, to.out + r * e,
                                                   &next_v);
            }
        }
    }
}

/* Products from which several threads are worth waking. */
#define SHARED (1 << 18)

/* All rows of all heads: `out` [b, kv, rows, e] is written, as halves where `narrow`, and `lse`
 * [b, kv, rows] where there is one. Queries are floats [b, kv, rows, d]. */
static int whole_softmax(const part *parts, long count, int halves, long batch, long kv, long rows,
                         long d, long e, float scale, int threads, int narrow, void *out,
                         float *lse) {
    long keys = 0, wide = halves;
    for (long p = 0; p < count; p++) keys += parts[p].keys, wide |= parts[p].how != 0;
    if (batch * kv * rows * keys * (d + e) < SHARED) threads = 1;
    long shares = most(1, (threads + batch * kv - 1) / (batch * kv));
    long items = batch * kv * shares, sums = (rows + rows % 2) * (e + 2);
    long size = sums + (wide ? tile_room(rows, d, e) : 0);
    float *memory = malloc(sizeof(float) * (items * size + e));
    if (!memory) return 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long i = 0; i < items; i++) {
        float *mine = memory + i * size;
        state to = {mine, mine + rows, mine + 2 * rows};
        long head = i / shares;
        item(parts, count, halves, head / kv, head % kv, kv, i % shares, shares, rows, d, e, scale, to,
             mine + sums);
    }
    for (long head = 0; head < batch * kv; head++)
        for (long r = 0; r < rows; r++) {
            const float *first = memory + head * shares * size;
            long place = (head * rows + r) * e;
            float top = -INFINITY, total = 0;
            float *to = narrow ? memory + items * size : (float *)out + place;
            for (long s = 0; s < shares; s++) top = fmaxf(top, first[s * size + r]);
            for (long c = 0; c < e; c++) to[c] = 0;
            for (long s = 0; s < shares; s++) {
                const float *mine = first + s * size;
                float shrink = mine[r] == top ? 1 : expf(mine[r] - top);
                total += shrink * mine[rows + r];
                for (long c = 0; c < e; c++) to[c] += shrink * mine[2 * rows + r * e + c];
            }
            for (long c = 0; c < e && total != 0; c++) to[c] /= total;
            for (long c = 0; c < e && narrow; c++) ((half *)out)[place + c] = narrowed(to[c]);
            if (lse) lse[head * rows + r] = top + logf(total);
        }
    free(memory);
    return 0;
}

/* q [b, kv, rows, d]; out [b, kv, rows, e] and lse [b, kv, rows] are written, all floats.
 * Returns 0, or 1 where no memory was to be had. */
int lengthwise_decode(const part *parts, long count, int halves, long batch, long kv, long rows,
                      long d, long e, float scale, int threads, float *out, float *lse) {
    return whole_softmax(parts, count, halves, batch, kv, rows, d, e, scale, threads, 0, out, lse);
}

/* ---- A few queries of rows of different lengths. ----
 *
 * All tiles of all rows and heads are one list, and every worker takes an equal run of it, across the
 * borders of heads: no worker waits for a long row. A run that ends within a head leaves a part of
 * its sums, and those of a head are merged at the end. */

typedef struct {
    long unit, low, high; /* a row and head, and its keys */
} stretch;

/* `rows` of the batch, each with its queries [kv, times, d] and no stride of a batch; out [b, kv,
 * times, e] and lse [b, kv, times] are written, and how many tiles each worker had.
 * Returns 0, or 1 where no memory was to be had. */
int lengthwise_ragged(const part *rows, int halves, long batch, long kv, long times, long d, long e,
                      float scale, long tile, long workers, float *out, float *lse, long *loads) {
    long tiles = 0, units = batch * kv, count = 0, at = 0;
    for (long b = 0; b < batch; b++) tiles += kv * ((rows[b].keys + tile - 1) / tile);
    long sums = (times + times % 2) * (e + 2), size = sums + (halves ? tile_room(times, d, e) : 0);
    float *memory = malloc(sizeof(float) * (units + workers) * size);
    stretch *of = malloc(sizeof(stretch) * (units + workers));
    long *begin = malloc(sizeof(long) * (workers + 1));
    if (!memory || !of || !begin) return free(memory), free(of), free(begin), 1;
    long unit = 0, done = 0;
    for (long w = 0; w < workers; w++) {
        begin[w] = count;
        for (long last = tiles * (w + 1) / workers; at < last;) {
            long keys = rows[unit / kv].keys, mine = (keys + tile - 1) / tile;
            if (done == mine) { /* also of a row without keys */
                unit++, done = 0;
                continue;
            }
            long taken = least(mine - done, last - at);
            of[count++] = (stretch){unit, done * tile, least(keys, (done + taken) * tile)};
            done += taken, at += taken;
        }
        loads[w] = tiles * (w + 1) / workers - tiles * w / workers;
    }
    begin[workers] = count;
#pragma omp parallel for num_threads(workers) schedule(static) if (workers > 1)
    for (long w = 0; w < workers; w++)
        for (long i = begin[w]; i < begin[w + 1]; i++) {
            part x = rows[of[i].unit / kv];
            long k = of[i].low * x.k_row, v = of[i].low * x.v_row;
            x.k = halves ? (const void *)((const half *)x.k + k) : (const float *)x.k + k;
            x.v = halves ? (const void *)((const half *)x.v + v) : (const float *)x.v + v;
            x.keys = of[i].high - of[i].low;
            float *mine = memory + i * size;
            state to = {mine, mine + times, mine + 2 * times};
            item(&x, 1, halves, 0, of[i].unit % kv, kv, 0, 1, times, d, e, scale, to, mine + sums);
        }
    for (long i = 0; i < units * times * e; i++) out[i] = 0;
    for (long i = 0; i < units * times; i++) lse[i] = -INFINITY;
    for (long first = 0, end; first < count; first = end) {
        for (end = first; end < count && of[end].unit == of[first].unit;) end++;
        for (long r = 0; r < times; r++) {
            long place = of[first].unit * times + r;
            float top = -INFINITY, total = 0;
            for (long i = first; i < end; i++) top = fmaxf(top, memory[i * size + r]);
            for (long i = first; i < end; i++) {
                const float *mine = memory + i * size;
                float shrink = mine[r] == top ? 1 : expf(mine[r] - top);
                total += shrink * mine[times + r];
                for (long c = 0; c < e; c++) out[place * e + c] += shrink * mine[2 * times + r * e + c];
            }
            for (long c = 0; c < e && total != 0; c++) out[place * e + c] /= total;
            lse[place] = top + logf(total);
        }
    }
    free(memory), free(of), free(begin);
    return 0;
}

/* ---- Rotation by positions. ----
 *
 * x [b, h, t, width] by strides; cosine and sine [b or 1, t, pairs]; to [b, h, t, width]. The
 * partners of a pair lie `apart`, pairs `step`; what is beyond them passes through. */
#define TURN(name, type, in, out) \
    void name(const type *x, long batch, long heads, long times, long width, long x_batch, \
              long x_head, long x_row, long pairs, long step, long apart, const float *cosine, \
              const float *sine, long angle_batch, type *to, int threads) { \
        _Pragma("omp parallel for num_threads(threads) schedule(static) if (batch * heads * times > 256)") \
        for (long i = 0; i < batch * heads * times; i++) { \
            long at = i / (heads * times), head = i / times % heads, time = i % times; \
            const type *restrict from = x + at * x_batch + head * x_head + time * x_row; \
            const float *restrict c = cosine + at * angle_batch + time * pairs; \
            const float *restrict s = sine + at * angle_batch + time * pairs; \
            type *restrict row = to + i * width; \
            if (step == 1) \
                for (long p = 0; p < pairs; p++) { \
                    float a = in(from[p]), b = in(from[p + apart]); \
                    row[p] = out(a * c[p] - b * s[p]); \
                    row[p + apart] = out(b * c[p] + a * s[p]); \
                } \
            else \
                for (long p = 0; p < pairs; p++) { \
                    float a = in(from[2 * p]), b = in(from[2 * p + 1]); \
                    row[2 * p] = out(a * c[p] - b * s[p]); \
                    row[2 * p + 1] = out(b * c[p] + a * s[p]); \
                } \
            for (long j = 2 * pairs; j < width; j++) row[j] = from[j]; \
        } \
    }

TURN(lengthwise_turn, float, , )
TURN(lengthwise_turn_half, half, widened, narrowed)

/* ---- One token more. ----
 *
 * Its key is turned and kept with its value, its query turned and its attention computed: what the
 * functions above and some copies do, in one call. */

/* All numbers of 8 bytes; strides in numbers. */
typedef struct {
    const void *q, *k, *v; /* of the token: [b, heads, d], [b, kv, d] and [b, kv, e] */
    long q_batch, q_head, k_batch, k_head, v_batch, v_head;
    void *k_to, *v_to; /* the slot that is theirs */
    long k_to_batch, k_to_head, v_to_batch, v_to_head;
    long *at, at_batch, position; /* and of its position */
    const float *cosine, *sine; /* [pairs], for the key */
    long pairs, interleaved;
    void *out; /* [b, heads, e] */
    long halves, batch, heads, kv, d, e, threads, runs;
} token;

/* A run of slots that the token sees, its own among them, with the angles of its query there. */
typedef struct {
    const void *k, *v;
    long keys, k_batch, k_head, k_row, v_batch, v_head, v_row;
    const float *cosine, *sine;
} slots;

/* One vector of `width` numbers, turned and times `factor`; one of halves is rounded to halves. */
static void turned(const void *x, long from, int halves, long width, const token *t, const float *c,
                   const float *s, float factor, float *restrict to) {
    long pairs = t->pairs;
    if (halves)
        for (long i = 0; i < width; i++) to[i] = widened(((const half *)x)[from + i]);
    else if (to != (const float *)x + from) memcpy(to, (const float *)x + from, sizeof(float) * width);
    if (t->interleaved)
        for (long p = 0; p < pairs; p++) {
            float a = to[2 * p], b = to[2 * p + 1];
            to[2 * p] = (a * c[p] - b * s[p]) * factor, to[2 * p + 1] = (b * c[p] + a * s[p]) * factor;
        }
    else
        for (long p = 0; p < pairs; p++) {
            float a = to[p], b = to[p + pairs];
            to[p] = (a * c[p] - b * s[p]) * factor, to[p + pairs] = (b * c[p] + a * s[p]) * factor;
        }
    for (long i = 0; i < 2 * pairs && halves; i++) to[i] = widened(narrowed(to[i]));
}

static void keep(const float *x, int halves, long width, void *to, long at) {
    for (long i = 0; i < width; i++)
        if (halves) ((half *)to)[at + i] = narrowed(x[i]);
        else ((float *)to)[at + i] = x[i];
}

/* Returns 0, or 1 where no memory was to be had. */
int lengthwise_step(const token *x, const slots *runs, float factor, float scale) {
    long b = x->batch, kv = x->kv, h = x->heads, d = x->d, e = x->e, count = x->runs;
    part *parts = malloc(sizeof(part) * count + sizeof(float) * (count * b * h * d + most(d, e)));
    if (!parts) return 1;
    float *q = (float *)(parts + count), *one = q + count * b * h * d;
    for (long i = 0; i < b; i++) {
        for (long j = 0; j < kv; j++) {
            turned(x->k, i * x->k_batch + j * x->k_head, x->halves, d, x, x->cosine, x->sine, factor, one);
            keep(one, x->halves, d, x->k_to, i * x->k_to_batch + j * x->k_to_head);
            long from = i * x->v_batch + j * x->v_head, to = i * x->v_to_batch + j * x->v_to_head;
            if (x->halves) memcpy((half *)x->v_to + to, (const half *)x->v + from, sizeof(half) * e);
            else memcpy((float *)x->v_to + to, (const float *)x->v + from, sizeof(float) * e);
        }
        x->at[i * x->at_batch] = x->position;
    }
    for (long p = 0; p < count; p++) {
        const slots run = runs[p];
        float *mine = q + p * b * h * d;
        parts[p] = (part){mine, run.k, run.v, run.keys, run.k_batch, run.k_head, run.k_row,
                          run.v_batch, run.v_head, run.v_row};
        if (p && run.cosine == runs[p - 1].cosine) parts[p].q = parts[p - 1].q;
        else
            for (long i = 0; i < b; i++)
                for (long j = 0; j < h; j++)
                    turned(x->q, i * x->q_batch + j * x->q_head, x->halves, d, x, run.cosine,
                           run.sine, factor, mine + (i * h + j) * d);
    }
    int failed = whole_softmax(parts, count, x->halves, b, kv, h / kv, d, e, scale, x->threads,
                               x->halves, x->out, 0);
    free(parts);
    return failed;
}

/* ---- One token more, which chooses pages. ----
 *
 * As above, and the token reads spans of positions and those pages of equal size whose summaries want
 * it most. Where positions lie is looked up in a table, so rows may differ. */

/* All numbers of 8 bytes; strides in numbers. What is told of each row: the circle of its key, those
 * of its queries, the first page and one past the last that it may choose, the first position that it
 * sees in them, and its spans. */
typedef struct {
    token token; /* without a slot's circles and runs */
    long slot, *slots, slots_batch; /* of positions, [b, limit] */
    const long *positions; /* of the token, [b]; -1 for none */
    const float *cosine, *sine; /* [circles, pairs] */
    const float *made; /* summaries [b, made_heads, pages, width] */
    long made_batch, made_head, made_row, made_heads, width;
    long size, first, choose, choices; /* pages of so many tokens, from a position on; choices of a row */
    long bounds, asks; /* whether queries are split by their sign; which of them ask, -1 as they came */
    float *noted; /* weights in the noted spans are added to it, [b, kv, m] from a position on */
    long noted_batch, noted_head, noted_first;
    long ranked, end; /* the circle of place 0, -1 where pages lie as they are kept; one past theirs */
    long reads; /* which query reads pages */
    long asked, spans, buffers;
} paged;

typedef struct {
    long low, count, asked, circle, noted; /* circle of the first key, -1 for none */
} span;

typedef struct {
    const void *k, *v;
    long slots, k_batch, k_head, k_row, v_batch, v_head, v_row;
} buffer;

#define TOLD 4 /* numbers of a row before its queries' circles and its spans */

static const long *told(const paged *x, const long *rows, long row) {
    return rows + row * (TOLD + x->asked + x->spans * (long)(sizeof(span) / sizeof(long)));
}

/* Keys, or values, of some tokens that lie in `slots`, which rise, as floats. */
static const float *found(const paged *x, const buffer *held, int values, long row, long head,
                          const long *slots, long count, long *stride, float *room) {
    long width = values ? x->token.e : x->token.d, done = 0;
    while (done < count) {
        const buffer *b = held;
        long at = slots[done], n = 1;
        while (at >= b->slots) at -= b->slots, b++;
        while (done + n < count && slots[done + n] == slots[done] + n && at + n < b->slots) n++;
        long from = values ? row * b->v_batch + head * b->v_head + at * b->v_row
                           : row * b->k_batch + head * b->k_head + at * b->k_row;
        *stride = values ? b->v_row : b->k_row;
        float *to = room + done * width;
        const float *got =
            floats(values ? b->v : b->k, from, x->token.halves, stride, n, width, to);
        if (n == count) return got;
        for (long i = 0; i < n && got != to; i++)
            memcpy(to + i * width, got + i * *stride, sizeof(float) * width);
        done += n;
    }
    *stride = width;
    return room;
}

/* Scores of pages `low` to `high - 1` for one choice of a row. */
static void want(const paged *x, const float *ask, long row, long choice, long low, long high,
                 float scale, float *to) {
    long heads = x->made_heads / x->choices;
    ahead none = {0};
    float one[FEW + LANES];
    for (long j = low; j < high; j++) to[j] = 0;
    for (long s = choice * heads; s < (choice + 1) * heads; s++) {
        const float *made = x->made + row * x->made_batch + s * x->made_head + low * x->made_row;
        score(ask + (row * x->made_heads + s) * x->width, made, x->made_row, high - low, x->width, 1,
              one, &none);
        for (long j = low; j < high; j++) to[j] += one[j - low];
    }
    for (long j = low; j < high; j++) {
        float whole = rintf(to[j] * scale);
        to[j] = whole == whole ? whole : -INFINITY;
    }
}

/* The number at place `want` of the falling order. */
static float ordered(float *x, long count, long want) {
    long low = 0, high = count - 1;
    while (low < high) {
        float pivot = x[(low + high) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) {
                float kept = x[i];
                x[i++] = x[j], x[j--] = kept;
            }
        }
        if (want <= j) high = j;
        else if (want >= i) low = i;
        else break;
    }
    return x[want];
}

/* The pages with the largest scores, of equal ones the oldest, in their order; how many. */
static long pick(const float *scores, long low, long high, long choose, long *to, float *room) {
    long count = 0, equal = choose;
    if (high - low <= choose) {
        for (long j = low; j < high; j++) to[count++] = j;
        return count;
    }
    memcpy(room, scores + low, sizeof(float) * (high - low));
    float last = ordered(room, high - low, choose - 1);
    for (long j = low; j < high; j++) equal -= scores[j] > last;
    for (long j = low; j < high; j++)
        if (scores[j] > last || (scores[j] == last && equal-- > 0)) to[count++] = j;
    return count;
}

/* What one row and KV head reads, and what it remembers of it. */
typedef struct {
    const paged *x;
    const buffer *held;
    const float *q; /* [asked, heads, d] of the row */
    long row, head, rows, kept; /* scores in `raw`, for each of the rows */
    float scale, *raw, *room;
    long raw_row;
    state to;
} reader;

/* Tokens from position `low` on. */
static void take(reader *r, span s) {
    const token *t = &r->x->token;
    long d = t->d, e = t->e, few = tile_keys(d), rows = r->rows;
    const float *q = r->q + (s.asked * t->heads + r->head * rows) * d;
    const long *slots = r->x->slots + r->row * r->x->slots_batch;
    float weights[2 * FEW] = {0};
    ahead none = {0};
    for (long at = 0; at < s.count; at += few) {
        long keys = least(few, s.count - at), k_row, v_row;
        const long *mine = slots + s.low + at;
        float *room = r->room;
        const float *k = found(r->x, r->held, 0, r->row, r->head, mine, keys, &k_row, room);
        const float *v =
            found(r->x, r->held, 1, r->row, r->head, mine, keys, &v_row, room + FEW * d);
        if (s.circle >= 0 && t->pairs) {
            for (long j = 0; j < keys; j++) {
                long circle = (s.circle + at + j) * t->pairs;
                turned(k, j * k_row, 0, d, t, r->x->cosine + circle, r->x->sine + circle, 1, room + j * d);
                for (long c = 0; c < 2 * t->pairs && t->halves; c++)
                    room[j * d + c] = widened(narrowed(room[j * d + c]));
            }
            k = room, k_row = d;
        }
        for (long i = 0; i < rows; i += 2) {
            if (i + 1 == rows)
                for (long j = 0; j < FEW; j++) weights[FEW + j] = 0;
            for (int half = 0; half < 2 && i + half < rows; half++) {
                float *w = weights + half * FEW;
                score(q + (i + half) * d, k, k_row, keys, d, r->scale, w, &none);
                if (s.noted)
                    memcpy(r->raw + (i + half) * r->raw_row + r->kept, w, sizeof(float) * keys);
                soften(w, keys, e, r->to.top + i + half, r->to.total + i + half,
                       r->to.out + (i + half) * e);
            }
            (e % (4 * LANES) ? add : add_wide)(weights, v, v_row, keys, e, r->to.out + i * e, &none);
        }
        if (s.noted) r->kept += keys;
    }
}

/* The weights of the keys whose scores were kept, among themselves, summed over the rows. */
static void remember(reader *r, const span *spans) {
    const paged *x = r->x;
    float *to = x->noted + r->row * x->noted_batch + r->head * x->noted_head, *raw = r->raw;
    for (long i = 0; i < r->rows; i++) {
        float *mine = raw + i * r->raw_row;
        for (long j = r->kept; j % LANES; j++) mine[j] = -INFINITY;
        for (long j = 0; j < r->kept; j += LANES) {
            lanes w = exponential(*(lanes *)(mine + j) - r->to.top[i]) / r->to.total[i];
            *(lanes *)(raw + j) = i ? *(lanes *)(raw + j) + w : w;
        }
    }
    for (long s = 0; s < x->spans; s++)
        for (long j = 0; j < spans[s].count && spans[s].noted; j++, raw++)
            if (spans[s].low + j >= x->noted_first) to[spans[s].low + j - x->noted_first] += *raw;
}

/* What was told, with keys and values of every buffer; see `paged`. `wanted` is what one score times
 * it is counted in. Returns 0, or 1 where no memory was to be had. */
int lengthwise_paged(const paged *x, const long *rows, const buffer *held, float factor, float scale,
                     float wanted) {
    const token *t = &x->token;
    long b = t->batch, kv = t->kv, h = t->heads, d = t->d, e = t->e, group = h / kv;
    long asked = x->asked + 1, pages = 0, local = 0, keys = x->choose * x->size;
    for (long i = 0; i < b; i++) {
        const long *mine = told(x, rows, i);
        const span *spans = (const span *)(mine + TOLD + x->asked);
        long noted = 0;
        pages = most(pages, mine[2]);
        for (long s = 0; s < x->spans; s++) {
            keys += spans[s].count;
            if (spans[s].noted) noted += spans[s].count;
        }
        local = most(local, noted);
    }
    long queries = b * asked * h * d, ask = b * x->made_heads * x->width;
    long raw = (local + LANES) / LANES * LANES, even = group + group % 2;
    long scores = b * x->choices * pages, each_item = even * (e + 2) + FEW * (d + e) + group * raw;
    long numbers = queries + ask + 2 * scores + b * kv * each_item + most(d, e);
    long *chosen = malloc(sizeof(long) * (b * x->choices * (x->choose + 1)) + sizeof(float) * numbers);
    if (!chosen) return 1;
    float *q = (float *)(chosen + b * x->choices * (x->choose + 1)), *asks = q + queries;
    float *score_of = asks + ask, *spare = score_of + scores, *items = spare + scores;
    float *one = items + b * kv * each_item;
    for (long i = 0; i < b; i++) {
        const long *mine = told(x, rows, i), position = x->positions[i];
        long circle = mine[0] * t->pairs;
        for (long j = 0; j < kv; j++) {
            turned(t->k, i * t->k_batch + j * t->k_head, t->halves, d, t, x->cosine + circle,
                   x->sine + circle, factor, one);
            keep(one, t->halves, d, t->k_to, i * t->k_to_batch + j * t->k_to_head);
            long from = i * t->v_batch + j * t->v_head, to = i * t->v_to_batch + j * t->v_to_head;
            if (t->halves) memcpy((half *)t->v_to + to, (const half *)t->v + from, sizeof(half) * e);
            else memcpy((float *)t->v_to + to, (const float *)t->v + from, sizeof(float) * e);
        }
        t->at[i * t->at_batch] = position;
        x->slots[i * x->slots_batch + position] = x->slot;
        for (long a = 0; a < asked; a++)
            for (long j = 0; j < h; j++) {
                token plain = *t;
                if (a == x->asked) plain.pairs = 0; /* the last is as it came */
                circle = a == x->asked ? 0 : mine[TOLD + a] * t->pairs;
                turned(t->q, i * t->q_batch + j * t->q_head, t->halves, d, &plain, x->cosine + circle,
                       x->sine + circle, factor, q + ((i * asked + a) * h + j) * d);
            }
        for (long s = 0; s < x->made_heads; s++) {
            long which = x->asks < 0 ? x->asked : x->asks, together = h / x->made_heads;
            const float *from = q + ((i * asked + which) * h + s * together) * d;
            float *to = asks + (i * x->made_heads + s) * x->width;
            for (long c = 0; c < x->width; c++) to[c] = 0;
            for (long j = 0; j < together; j++)
                for (long c = 0; c < d; c++) {
                    float y = from[j * d + c];
                    if (x->bounds) to[y > 0 ? c : d + c] += y;
                    else to[c] += y;
                }
        }
    }
    long blocks = (pages + FEW - 1) / FEW, per_row = x->choices * blocks;
    long work = b * h * keys * (d + e) + b * x->made_heads * pages * x->width;
    int threads = work < SHARED ? 1 : t->threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (long i = 0; i < b * per_row; i++) {
            long row = i / per_row, choice = i % per_row / blocks;
            const long *mine = told(x, rows, row);
            if (mine[2] - mine[1] <= x->choose) continue;
            long low = most(mine[1], i % blocks * FEW), high = least(mine[2], (i % blocks + 1) * FEW);
            if (low < high)
                want(x, asks, row, choice, low, high, wanted,
                     score_of + (row * x->choices + choice) * pages);
        }
#pragma omp for schedule(static)
        for (long i = 0; i < b * x->choices; i++) {
            const long *mine = told(x, rows, i / x->choices);
            long *to = chosen + i * (x->choose + 1);
            to[0] = pick(score_of + i * pages, mine[1], mine[2], x->choose, to + 1, spare + i * pages);
        }
#pragma omp for schedule(static)
        for (long i = 0; i < b * kv; i++) {
            long row = i / kv, head = i % kv;
            const long *mine = told(x, rows, row);
            const span *spans = (const span *)(mine + TOLD + x->asked);
            const long *read = chosen + (row * x->choices + head * x->choices / kv) * (x->choose + 1);
            float *to = items + i * each_item, *room = to + even * (e + 2);
            reader r = {x, held, q + row * asked * h * d, row, head, group, 0, scale,
                        room + FEW * (d + e), room, raw, {to, to + even, to + 2 * even}};
            for (long j = 0; j < group; j++) r.to.top[j] = -INFINITY, r.to.total[j] = 0;
            for (long j = 0; j < even * e; j++) r.to.out[j] = 0;
            for (int noted = 1; noted >= 0; noted--) {
                for (long s = 0; s < x->spans; s++)
                    if (spans[s].noted == noted && spans[s].count) take(&r, spans[s]);
                if (noted && r.kept) remember(&r, spans);
            }
            for (long j = 0; j < read[0]; j++) {
                long from = x->first + read[j + 1] * x->size, low = most(from, mine[3]);
                long place = x->ranked + x->end + (j - read[0]) * x->size + low - from;
                take(&r, (span){low, from + x->size - low, x->reads, x->ranked < 0 ? -1 : place, 0});
            }
            for (long j = 0; j < group; j++) {
                long at = (row * h + head * group + j) * e;
                for (long c = 0; c < e; c++) {
                    float y = r.to.out[j * e + c] / r.to.total[j];
                    if (t->halves) ((half *)t->out)[at + c] = narrowed(y);
                    else ((float *)t->out)[at + c] = y;
                }
            }
        }
    }
    free(chosen);
    return 0;
}

/* ---- A band of distances: many queries at consecutive positions. ----
 *
 * One work item is a row of the batch, a KV head and a run of times; all heads that share the KV
 * head go through its keys together. Products are made of blocks of ROWS queries and two vectors,
 * as many sums as there are registers. */

#define ROWS (LANES == 16 ? 12 : 6) /* of 32 registers, or of 16 */
#define WIDE (2 * LANES)
#define TILE 64  /* keys */
#define TIMES 48 /* times of a work item */

/* c[ROWS, WIDE] = a[ROWS, n] @ b[n, WIDE], or += where `more`. */
APART void block(const float *a, long a_row, const float *b, long b_row, long n, float *c, long c_row,
                 int more) {
    lanes sum[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++)
            sum[r][i] = more ? *(const lanes *)(c + r * c_row + i * LANES) : each(0);
    for (long j = 0; j < n; j++) {
        lanes x = *(const lanes *)(b + j * b_row), y = *(const lanes *)(b + j * b_row + LANES);
        for (int r = 0; r < ROWS; r++) {
            float w = a[r * a_row + j];
            sum[r][0] += w * x, sum[r][1] += w * y;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < 2; i++) *(lanes *)(c + r * c_row + i * LANES) = sum[r][i];
}

/* Four rows of four become columns. */
#define SQUARE(even, odd, p, q, r, s) \
    do { \
        lanes a = even(p, q), b = even(r, s), c = odd(p, q), d = odd(r, s); \
        p = even(a, b), q = even(c, d), r = odd(a, b), s = odd(c, d); \
    } while (0)

/* LANES rows become columns, within fours first, then fours change places: to[i * WIDE + j] is
 * x[j][i]. */
static inline void flip(lanes *x, float *to) {
    for (int i = 0; i < LANES; i += 4) SQUARE(EVEN, ODD, x[i], x[i + 1], x[i + 2], x[i + 3]);
    for (int i = 0; i < 4; i++) {
#if LANES == 16
        SQUARE(EVEN_FOURS, ODD_FOURS, x[i], x[i + 4], x[i + 8], x[i + 12]);
#else
        lanes left = x[i], right = x[i + 4];
        x[i] = EVEN_FOURS(left, right), x[i + 4] = ODD_FOURS(left, right);
#endif
    }
    for (int i = 0; i < LANES; i++) *(lanes *)(to + i * WIDE) = x[i];
}

/* A tile of keys [keys, d] to panels [TILE / WIDE, d, WIDE]; zeros where keys are missing. */
static void panels(const float *k, long stride, long keys, long d, float *to) {
    for (long j = 0; j < TILE; j += LANES)
        for (long c = 0; c < d; c += LANES) {
            lanes x[LANES];
            for (int i = 0; i < LANES; i++)
                x[i] = j + i < keys ? *(const lanes *)(k + (j + i) * stride + c) : each(0);
            flip(x, to + j / WIDE * WIDE * d + c * WIDE + j % WIDE);
        }
}

/* `soften` for ROWS rows of a whole tile. */
static void soften_rows(float *x, long e, float *top, float *total, float *out) {
    lanes most[LANES], sum[LANES];
    for (int r = 0; r < LANES; r++) most[r] = each(-INFINITY), sum[r] = each(0);
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < TILE; j += LANES)
            most[r] = larger(most[r], *(const lanes *)(x + r * TILE + j));
    lanes peaks = fold(most, 1);
    for (int r = 0; r < ROWS; r++, x += TILE) {
        if (peaks[r] > top[r]) {
            float shrink = expf(top[r] - peaks[r]); /* 0 for the first tile */
            total[r] *= shrink;
            for (long c = 0; c < e; c += LANES) *(lanes *)(out + r * e + c) *= shrink;
            top[r] = peaks[r];
        }
        /* Nothing seen yet: -inf less anything is no weight, -inf less -inf would be NaN. */
        float peak = top[r] == -INFINITY ? 0 : top[r];
        for (int j = 0; j < TILE; j += LANES) {
            lanes w = exponential(*(const lanes *)(x + j) - peak);
            *(lanes *)(x + j) = w;
            sum[r] += w;
        }
    }
    lanes totals = fold(sum, 0);
    for (int r = 0; r < ROWS; r++) total[r] += totals[r];
}

/* Strides in floats. Query i sees slot j where i + offset - far < j <= i + offset - near and
 * first <= j < last. */
typedef struct {
    const float *q, *k, *v;
    float *out, *lse; /* [b, h, t, e], [b, h, t] */
    long q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;
    long batch, heads, kv, times, keys, d, e, offset, near, far, first, last;
    float scale;
} band;

static long from(const band *x, long i) { return most(x->first, i + x->offset - x->far + 1); }
static long until(const band *x, long i) { return least(x->last, i + x->offset - x->near + 1); }

static int run(const band *x, long at, long head, long low) {
    long group = x->heads / x->kv, times = least(TIMES, x->times - low), d = x->d, e = x->e;
    long rows = (group * times + ROWS - 1) / ROWS * ROWS;
    void *memory = malloc(sizeof(long) * 2 * rows + sizeof(float) * (rows * (d + e + 2) + d * TILE));
    if (!memory) return 1;
    long *begin = memory, *stop = begin + rows; /* the slots that a row sees */
    float *q = (float *)(stop + rows), *out = q + rows * d, *top = out + rows * e, *total = top + rows;
    float *turned = total + rows; /* a tile of keys */
    for (long r = 0; r < rows; r++) {
        long time = low + r % times, real = r < group * times;
        begin[r] = from(x, time), stop[r] = real ? until(x, time) : 0;
        top[r] = -INFINITY, total[r] = 0;
        for (long c = 0; c < e; c++) out[r * e + c] = 0;
        const float *source =
            x->q + at * x->q_batch + (head * group + r / times) * x->q_head + time * x->q_row;
        for (long c = 0; c < d; c++) q[r * d + c] = real ? source[c] * x->scale : 0;
    }
    long end = until(x, low + times - 1);
    for (long tile = from(x, low); tile < end; tile += TILE) {
        long keys = least(TILE, end - tile);
        const float *k = x->k + at * x->k_batch + head * x->k_head + tile * x->k_row;
        const float *v = x->v + at * x->v_batch + head * x->v_head + tile * x->v_row;
        panels(k, x->k_row, keys, d, turned);
        for (long r = 0; r < rows; r += ROWS) {
            long firsts[ROWS], lasts[ROWS], seen = 0;
            for (int i = 0; i < ROWS; i++) {
                firsts[i] = most(0, begin[r + i] - tile);
                lasts[i] = least(keys, stop[r + i] - tile);
                seen |= lasts[i] > firsts[i];
            }
            if (!seen) continue;
            float s[ROWS * TILE];
            for (long j = 0; j < TILE; j += WIDE)
                block(q + r * d, d, turned + j * d, WIDE, d, s + j, TILE, 0);
            for (int i = 0; i < ROWS; i++) {
                float *w = s + i * TILE;
                for (long j = 0; j < least(firsts[i], TILE); j++) w[j] = -INFINITY;
                for (long j = most(lasts[i], 0); j < TILE; j++) w[j] = -INFINITY;
            }
            soften_rows(s, e, top + r, total + r, out + r * e);
            for (long c = 0; c < e; c += WIDE)
                block(s, TILE, v + c, x->v_row, keys, out + r * e + c, e, 1);
        }
    }
    for (long r = 0; r < group * times; r++) {
        long place = (at * x->heads + head * group + r / times) * x->times + low + r % times;
        for (long c = 0; c < e; c++) x->out[place * e + c] = total[r] ? out[r * e + c] / total[r] : 0;
        x->lse[place] = total[r] ? top[r] + logf(total[r]) : -INFINITY;
    }
    free(memory);
    return 0;
}

/* Returns 0, or 1 where no memory was to be had. */
int lengthwise_band(const band *x, int threads) {
    long runs = (x->times + TIMES - 1) / TIMES, items = x->batch * x->kv * runs;
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(| : failed)
    for (long i = 0; i < items; i++) {
        /* The last runs see the most keys: they go first. */
        long head = i % (x->batch * x->kv), low = (runs - 1 - i / (x->batch * x->kv)) * TIMES;
        failed |= run(x, head / x->kv, head % x->kv, low);
    }
    return failed;
}
