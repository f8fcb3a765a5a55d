// One pass of a decoder with rotary positions and gated feed-forward blocks (Llama, Qwen, Mistral, Gemma) through all its layers, in
// one call. It computes new tokens of many sequences: whole prompts, then one token of each in decoding. decoder.py documents each
// argument.
//
// In a small model, calling operators one by one costs more than the products. Here the threads run through the whole pass and share
// each phase piece by piece, so on a busy machine they do not wait for a thread that the system has suspended. Every product reads
// its weight once, from one block of memory, and fetches the next panel while it multiplies by this one. A row is summed in the same
// order whatever other rows are computed, so its bits do not depend on them. Between the products numbers are fp32; what a product
// reads is rounded once.

#include <omp.h>

#include <algorithm>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "paged_attention.h"
#include "products.h"
#include "transpose.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

struct Layer {
    const float *norm_before_attention, *query_norm, *key_norm, *norm_after_attention, *norm_before_mlp, *norm_after_mlp;
    const float *rotary;  // [positions, cosines and sines, head width / 2]
    Linear mixed, attention_output, gated, contract;
    int64_t window;  // how many tokens a token sees, including itself; 0: all
};

struct Decoder {
    int64_t layers, width, heads, key_heads, head_width, key_column, value_column, activation;
    float epsilon, embedding_scale, scaling;
    const void *embedding;
    const float *final_norm;
    Linear head;
    const Layer *layer;
};

struct Batch {
    int64_t rows, threads, pages_per_sequence, wanted;
    const int64_t *tokens, *positions, *sequences;  // [rows]; the rows of a sequence are consecutive
    const int64_t *pages;                           // [sequences, pages per sequence]: addresses
    const int64_t *wanted_rows;                     // [wanted]: rows whose logits are wanted
    void *logits;                                   // [wanted, panels * 32]
};

// ---------------------------------------------------------------- between the products

// The working memory of a pass. Strides are in numbers; rows of T begin in different sets of the first-level cache.
template <typename T>
struct Buffers {
    float *hidden, *branch, *mixed;  // residual stream; what a branch adds to it, if a norm follows; queries, keys and values
    T *normed, *attended, *expanded;  // what products read; attended holds the queries before
    char *scratch;                    // of each thread
    int64_t *tiles;                   // first row of each tile of attention, and the number of rows at the end
    Counter *counters;                // of the team
    int64_t hidden_stride, mixed_stride, normed_stride, attended_stride, expanded_stride, scratch_bytes, num_tiles, total;

    // Eight phases a layer, and four more.
    static int64_t counter_bytes(const Decoder &d, const Batch &b) { return (8 * d.layers + 4) * (b.threads + 1) * sizeof(Counter); }

    Buffers(const Decoder &d, const Batch &b, char *memory) {
        const auto odd_lines = [](int64_t width) {
            const int64_t lines = up_to(width * static_cast<int64_t>(sizeof(T)), 64) / 64;
            return (lines | 1) * 64 / static_cast<int64_t>(sizeof(T));
        };
        const auto take = [&](auto *&to, int64_t bytes) {
            to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(memory + total);
            total += up_to(bytes, 64);
        };
        const Layer &layer = d.layer[0];
        total = up_to(reinterpret_cast<int64_t>(memory), 64) - reinterpret_cast<int64_t>(memory);
        hidden_stride = up_to(d.width, COLUMNS);
        mixed_stride = layer.mixed.panels * COLUMNS;
        normed_stride = odd_lines(d.width);
        attended_stride = odd_lines(d.heads * d.head_width);
        expanded_stride = odd_lines(layer.gated.panels * 16);
        scratch_bytes = up_to(attention_scratch(b.pages_per_sequence * PAGE, d.head_width), 64) + 64;
        take(hidden, b.rows * hidden_stride * 4);
        take(branch, b.rows * hidden_stride * 4);
        take(mixed, b.rows * mixed_stride * 4);
        take(normed, b.rows * std::max(normed_stride, attended_stride) * sizeof(T));
        take(attended, b.rows * std::max(normed_stride, attended_stride) * sizeof(T));
        take(expanded, b.rows * expanded_stride * sizeof(T));
        take(scratch, b.threads * scratch_bytes);
        take(tiles, (b.rows + 1) * 8);
        take(counters, counter_bytes(d, b));
        num_tiles = 0;
    }
};

template <typename F>
void each(Team &team, int64_t count, F compute) {
    team.share(count, [&](int64_t i, int64_t) { compute(i); });
}

// Stores x * weight / (root mean square of x), [width]. Loops run over whole registers; the numbers after the width are 0.
template <typename Store>
void root_mean_square_norm(const float *x, const float *weight, int64_t width, float epsilon, Store store) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
        const __m512 part = _mm512_loadu_ps(x + i);
        squares = _mm512_fmadd_ps(part, part, squares);
    }
    const __m512 scale = _mm512_set1_ps(1 / std::sqrt(_mm512_reduce_add_ps(squares) / width + epsilon));
    for (int64_t i = 0; i < width; i += 16)
        store(i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale), _mm512_loadu_ps(weight + i)));
}

// Adds the branch's result to the hidden state, through its norm if it has one, and stores the norm that the next product reads.
template <typename T>
void norm_rows(Team &team, const Decoder &d, const Buffers<T> &s, int64_t rows, const float *after, const float *before) {
    each(team, rows, [&](int64_t row) {
        float *hidden = s.hidden + row * s.hidden_stride;
        T *to = s.normed + row * s.normed_stride;
        if (after)
            root_mean_square_norm(s.branch + row * s.hidden_stride, after, d.width, d.epsilon, [&](int64_t i, __m512 added) {
                _mm512_storeu_ps(hidden + i, _mm512_add_ps(_mm512_loadu_ps(hidden + i), added));
            });
        root_mean_square_norm(hidden, before, d.width, d.epsilon, [&](int64_t i, __m512 value) { Number<T>::store16(to + i, value); });
    });
}

template <typename T>
void embed(Team &team, const Decoder &d, const Batch &b, const Buffers<T> &s) {
    each(team, b.rows, [&](int64_t row) {
        const T *from = static_cast<const T *>(d.embedding) + b.tokens[row] * d.width;
        float *to = s.hidden + row * s.hidden_stride;
        for (int64_t i = 0; i < d.width; i++) {
            T scaled;  // rounded, as in the model's own class
            store(scaled, load(from[i]) * d.embedding_scale);
            to[i] = load(scaled);
        }
        for (int64_t i = d.width; i < s.hidden_stride; i++) to[i] = 0;
    });
}

// A head's norm, if it has one, and its rotation to a position: [width] fp32 -> T.
template <typename T>
void rotate(float *head, const float *norm, const float *rotary, int64_t width, float epsilon, T *to) {
    if (norm) {
        float squares = 0;
        for (int64_t i = 0; i < width; i++) squares += head[i] * head[i];
        const float scale = 1 / std::sqrt(squares / width + epsilon);
        for (int64_t i = 0; i < width; i++) head[i] *= scale * norm[i];
    }
    const int64_t half = width / 2;
    const float *cosines = rotary, *sines = rotary + half;
    int64_t i = 0;
    for (; i + LANES_512 <= half; i += LANES_512) {
        const __m512 left = _mm512_loadu_ps(head + i), right = _mm512_loadu_ps(head + half + i);
        const __m512 cosine = _mm512_loadu_ps(cosines + i), sine = _mm512_loadu_ps(sines + i);
        Number<T>::store16(to + i, _mm512_fmsub_ps(left, cosine, _mm512_mul_ps(right, sine)));
        Number<T>::store16(to + half + i, _mm512_fmadd_ps(right, cosine, _mm512_mul_ps(left, sine)));
    }
    for (; i < half; i++) {
        store(to[i], head[i] * cosines[i] - head[half + i] * sines[i]);
        store(to[half + i], head[half + i] * cosines[i] + head[i] * sines[i]);
    }
}

// Computes norms and rotations of queries and keys, and puts keys and values into the cache.
template <typename T>
void place_rows(Team &team, const Decoder &d, const Batch &b, const Buffers<T> &s, int64_t number) {
    const Layer &layer = d.layer[number];
    const int64_t width = d.head_width;
    T *key = reinterpret_cast<T *>(s.scratch + team.thread * s.scratch_bytes), *value = key + width;
    each(team, b.rows, [&](int64_t row) {
        const int64_t position = b.positions[row], sequence = b.sequences[row];
        const bool last = row + 1 == b.rows || b.sequences[row + 1] != sequence;
        const float *rotary = layer.rotary + position * width;
        float *mixed = s.mixed + row * s.mixed_stride;
        for (int64_t head = 0; head < d.heads; head++)
            rotate(mixed + head * width, layer.query_norm, rotary, width, d.epsilon, s.attended + row * s.attended_stride + head * width);
        char *page = reinterpret_cast<char *>(b.pages[sequence * b.pages_per_sequence + position / PAGE]);
        for (int64_t head = 0; head < d.key_heads; head++) {
            rotate(mixed + d.key_column + head * width, layer.key_norm, rotary, width, d.epsilon, key);
            const float *from = mixed + d.value_column + head * width;
            for (int64_t i = 0; i < width; i++) store(value[i], from[i]);
            put(page, HeadPlace<T>(number, head, d.key_heads, width), position % PAGE, key, value, width, last);
        }
    });
}

// The threads share the tiles of rows. A thread goes through all key heads of a tile, which lie beside each other in a page.
template <typename T>
void attend_rows(Team &team, const Decoder &d, const Batch &b, const Buffers<T> &s, int64_t number) {
    const int64_t group = d.heads / d.key_heads, window = d.layer[number].window;
    const auto first_seen = [&](int64_t row) { return window && b.positions[row] >= window ? b.positions[row] - window + 1 : 0; };
    const auto seen_by_tile = [&](int64_t tile) {
        const int64_t first = first_seen(s.tiles[tile]), last = b.positions[s.tiles[tile + 1] - 1];
        return Seen{b.pages + b.sequences[s.tiles[tile]] * b.pages_per_sequence, first / PAGE, last / PAGE + 1, last};
    };
    const auto place_of = [&](int64_t head) { return HeadPlace<T>(number, head, d.key_heads, d.head_width); };
    team.share(s.num_tiles, [&](int64_t tile, int64_t end) {
        const int64_t begin = s.tiles[tile], all = (s.tiles[tile + 1] - begin) * group, parts = (all + QUERIES - 1) / QUERIES;
        const Seen seen = seen_by_tile(tile), next = tile + 1 < end ? seen_by_tile(tile + 1) : seen;
        for (int64_t head = 0; head < d.key_heads; head++) {
            const bool last_head = head + 1 == d.key_heads;
            const Ahead<T> ahead = {last_head ? next : seen, place_of(last_head ? 0 : head + 1)};
            for (int64_t part = 0; part < parts; part++) {
                Queries<T> queries;
                queries.count = 0;
                for (int64_t q = all * part / parts; q < all * (part + 1) / parts; q++) {
                    const int64_t row = begin + q / group, i = queries.count++;
                    queries.vectors[i] = s.attended + row * s.attended_stride + (head * group + q % group) * d.head_width;
                    queries.first[i] = first_seen(row);
                    queries.last[i] = b.positions[row];
                }
                attend_to_pages(queries, seen, place_of(head), ahead, d.head_width, d.scaling,
                                s.scratch + team.thread * s.scratch_bytes);
            }
        }
    });
}

// ---------------------------------------------------------------- the pass

// Only some rows are read after the last attention. Copies them to the beginning of other buffers, and uses those.
template <typename T>
void keep_wanted(Team &team, const Batch &b, Buffers<T> &s) {
    each(team, b.wanted, [&](int64_t i) {
        const int64_t row = b.wanted_rows[i];
        std::copy_n(s.hidden + row * s.hidden_stride, s.hidden_stride, s.branch + i * s.hidden_stride);
        std::copy_n(s.attended + row * s.attended_stride, s.attended_stride, s.normed + i * s.attended_stride);
    });
    std::swap(s.hidden, s.branch);
    std::swap(s.normed, s.attended);
}

template <typename T>
void pass(Team team, const Decoder &d, const Batch &b, Buffers<T> s) {
    int64_t rows = b.rows;
    const auto run = [&](const Linear &linear, const T *from, int64_t stride, Destination destination, float *floats, T *numbers,
                         int64_t to_stride, const Linear &next) {
        multiply<T>(team, {linear, from, rows, stride, destination, floats, numbers, to_stride, d.activation, next});
    };
    const auto to_hidden = [&](const Linear &linear, const T *from, int64_t stride, const float *norm_after, const Linear &next) {
        run(linear, from, stride, norm_after ? TO_FLOAT : ADD_TO_FLOAT, norm_after ? s.branch : s.hidden, nullptr, s.hidden_stride, next);
    };
    embed(team, d, b, s);
    const float *after = nullptr;
    for (int64_t number = 0; number < d.layers; number++) {
        const Layer &layer = d.layer[number];
        const bool last = number + 1 == d.layers;
        norm_rows(team, d, s, rows, after, layer.norm_before_attention);
        run(layer.mixed, s.normed, s.normed_stride, TO_FLOAT, s.mixed, nullptr, s.mixed_stride, layer.attention_output);
        place_rows(team, d, b, s, number);
        attend_rows(team, d, b, s, number);
        if (last && b.wanted < b.rows) {
            keep_wanted(team, b, s);
            rows = b.wanted;
        }
        to_hidden(layer.attention_output, s.attended, s.attended_stride, layer.norm_after_attention, layer.gated);
        norm_rows(team, d, s, rows, layer.norm_after_attention, layer.norm_before_mlp);
        run(layer.gated, s.normed, s.normed_stride, GATE, nullptr, s.expanded, s.expanded_stride, layer.contract);
        to_hidden(layer.contract, s.expanded, s.expanded_stride, layer.norm_after_mlp, last ? d.head : d.layer[number + 1].mixed);
        after = layer.norm_after_mlp;
    }
    norm_rows(team, d, s, rows, after, d.final_norm);
    run(d.head, s.normed, s.normed_stride, TO_NUMBER, nullptr, static_cast<T *>(b.logits), d.head.panels * COLUMNS, d.layer[0].mixed);
}

template <typename T>
int64_t decode(const Decoder &d, const Batch &b, char *memory) {
    Buffers<T> buffers(d, b, memory);
    if (!memory) return buffers.total + 64;
    // Tiles of attention: rows of one sequence, as many as their query heads fit.
    const int64_t most = std::max<int64_t>(1, QUERIES / (d.heads / d.key_heads));
    for (int64_t row = 0; row < b.rows; row++)
        if (row == 0 || b.sequences[row] != b.sequences[row - 1] || row - buffers.tiles[buffers.num_tiles - 1] == most)
            buffers.tiles[buffers.num_tiles++] = row;
    buffers.tiles[buffers.num_tiles] = b.rows;
    std::memset(static_cast<void *>(buffers.counters), 0, Buffers<T>::counter_bytes(d, b));
    const int threads = static_cast<int>(b.threads);
#pragma omp parallel num_threads(threads)
    pass<T>({omp_get_thread_num(), threads, buffers.counters, 0}, d, b, buffers);
    return 0;
}

// ---------------------------------------------------------------- packing

// Packs rows of a weight [outputs, inputs] as columns, 16 at a time, in every `step`-th half of a panel from `half` on: `groups` halves,
// which end with zeros if there are more than outputs.
template <typename T>
void pack(int64_t outputs, int64_t groups, int64_t inputs, const T *from, char *to, int64_t half, int64_t step) {
    const int64_t words = inputs / Number<T>::TOGETHER;
    for (int64_t group = 0; group < groups; group++) {
        const int64_t place = half + group * step, count = std::min<int64_t>(16, outputs - group * 16);
        char *column = to + place / 2 * words * COLUMNS * 4 + place % 2 * 64;
        for (int64_t word = 0; word < words; word += 16) {
            const int64_t some = std::min<int64_t>(16, words - word);
            const __mmask16 mask = static_cast<__mmask16>((1u << some) - 1);
            __m512i lines[16];
            for (int64_t i = 0; i < 16; i++)
                lines[i] = i < count ? _mm512_maskz_loadu_epi32(mask, from + (group * 16 + i) * inputs + word * Number<T>::TOGETHER)
                                     : _mm512_setzero_si512();
            transpose(lines);
            for (int64_t i = 0; i < some; i++) _mm512_store_si512(column + (word + i) * COLUMNS * 4, lines[i]);
        }
    }
}

}  // namespace

extern "C" {

#define DECODER(KIND, T)                                                                                                              \
    int64_t decode_##KIND(const Decoder *decoder, const Batch *batch, char *memory) { return decode<T>(*decoder, *batch, memory); }    \
    void pack_##KIND(int64_t outputs, int64_t groups, int64_t inputs, const T *from, char *to, int64_t half, int64_t step) {                      \
        pack<T>(outputs, groups, inputs, from, to, half, step);                                                                        \
    }                                                                                                                                  \
    int64_t page_bytes_##KIND(int64_t layers, int64_t key_heads, int64_t width) {                                                      \
        return layers * HeadPlace<T>::bytes_of_layer(key_heads, width);                                                                \
    }

// Asks the system for large pages, because a pass reads all weights.
void prefer_huge_pages(char *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const int64_t begin = up_to(reinterpret_cast<int64_t>(memory), 4096), end = reinterpret_cast<int64_t>(memory) + bytes;
    if (end > begin) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
#endif
    (void)memory, (void)bytes;
}

DECODER(float32, float)
#if HAS_BFLOAT16_PRODUCTS
DECODER(bfloat16, bfloat16)
#endif
}

#endif
