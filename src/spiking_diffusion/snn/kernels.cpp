// CPU kernels of a spiking layer: a synapse that only visits spikes, and batch normalisation with LIF in one pass.
//
// Arrays are float32, contiguous, channels last: x[row][channel]. A row is one position of one image at one step.
// Every sum has a fixed order, so results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t LANES = 16, IMAGES = 32, ROWS = 1024, FEW = 16, BLOCK = 1024;
// the size of one register, because compilers keep wider vectors in memory
#if defined(__AVX512F__)
constexpr int64_t WIDTH = 16;
#elif defined(__AVX__)
constexpr int64_t WIDTH = 8;
#else
constexpr int64_t WIDTH = 4;
#endif
typedef float Lanes __attribute__((vector_size(WIDTH * sizeof(float)), aligned(4)));

Lanes load(const float* p, int64_t width) {
    if (width >= WIDTH) return *reinterpret_cast<const Lanes*>(p);
    Lanes lanes = {};
    for (int64_t i = 0; i < width; i++) lanes[i] = p[i];
    return lanes;
}

void store(float* p, Lanes lanes, int64_t width) {
    if (width >= WIDTH) *reinterpret_cast<Lanes*>(p) = lanes;
    else for (int64_t i = 0; i < width; i++) p[i] = lanes[i];
}

}  // namespace

extern "C" {

// Spikes as lists: `channel` of all spikes, those of row r from start[r] to start[r + 1].
struct Events {
    const uint16_t* channel;
    const int64_t* start;
};

// A convolution by its geometry: output o of an image is the sum over i in [start[o], start[o + 1]) of the input
// position from[i] seen through kernel element element[i]. Weights are [block][element][channel in][R x LANES].
struct Synapse {
    int64_t images, positions_in, positions_out, channels_in, channels_out, elements;
    const int32_t *start, *from, *element;
    int64_t batch;          // images of one time step
    const uint8_t* wanted;  // null, or 1 or 0 for each output: only those with 1 are computed
};

void count_spikes(
    const float* spikes, int64_t rows, int64_t channels, int64_t step_rows, const uint8_t* wanted, int64_t* counts,
    int64_t threads
) {
    #pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float* row = spikes + r * channels;
        int32_t n = 0;
        if (!wanted || wanted[r % step_rows])
            for (int64_t c = 0; c < channels; c++) n += row[c] != 0;
        counts[r] = n;
    }
}

void list_spikes(
    const float* spikes, int64_t rows, int64_t channels, const int64_t* start, uint16_t* channel, int64_t threads
) {
    #pragma omp parallel num_threads(threads)
    {
        std::vector<uint16_t> found(channels + 1);
        #pragma omp for
        for (int64_t r = 0; r < rows; r++) {
            if (start[r] == start[r + 1]) continue;
            const float* row = spikes + r * channels;
            int64_t n = 0;
            for (int64_t c = 0; c < channels; c++) found[n] = c, n += row[c] != 0;  // no branch to mispredict
            std::copy_n(found.data(), n, channel + start[r]);
        }
    }
}

}  // extern "C"

namespace {

template <int R>
void apply(const Events& events, const Synapse& s, const float* weights, float* out, int64_t threads) {
    constexpr int64_t width = R * LANES, V = width / WIDTH;
    const int64_t blocks = (s.channels_out + width - 1) / width, size = s.elements * s.channels_in * width;
    #pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t first = 0; first < s.images; first += IMAGES)
        for (int64_t b = 0; b < blocks; b++)  // the weights of a block stay in the cache for IMAGES images
            for (int64_t n = first; n < std::min(first + IMAGES, s.images); n++)
                for (int64_t o = 0; o < s.positions_out; o++) {
                    if (s.wanted && !s.wanted[n % s.batch * s.positions_out + o]) continue;
                    Lanes sum[V] = {};
                    for (int32_t i = s.start[o]; i < s.start[o + 1]; i++) {
                        const int64_t row = n * s.positions_in + s.from[i];
                        const float* w = weights + b * size + s.element[i] * s.channels_in * width;
                        for (int64_t e = events.start[row]; e < events.start[row + 1]; e++) {
                            const Lanes* wc = reinterpret_cast<const Lanes*>(w + events.channel[e] * width);
                            for (int r = 0; r < V; r++) sum[r] += wc[r];
                        }
                    }
                    const int64_t c = b * width;
                    float* y = out + (n * s.positions_out + o) * s.channels_out + c;
                    for (int r = 0; r < V; r++) store(y + r * WIDTH, sum[r], s.channels_out - c - r * WIDTH);
                }
}

template <int R>
void weight_gradient(const Events& events, const Synapse& s, const float* grad, float* weights, int64_t threads) {
    constexpr int64_t width = R * LANES, V = width / WIDTH;
    const int64_t blocks = (s.channels_out + width - 1) / width, size = s.elements * s.channels_in * width;
    #pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t n = 0; n < s.images; n++)
            for (int64_t o = 0; o < s.positions_out; o++) {
                const int64_t c = b * width;
                const float* g = grad + (n * s.positions_out + o) * s.channels_out + c;
                Lanes lanes[V];
                for (int r = 0; r < V; r++) lanes[r] = load(g + r * WIDTH, s.channels_out - c - r * WIDTH);
                for (int32_t i = s.start[o]; i < s.start[o + 1]; i++) {
                    const int64_t row = n * s.positions_in + s.from[i];
                    float* w = weights + b * size + s.element[i] * s.channels_in * width;
                    for (int64_t e = events.start[row]; e < events.start[row + 1]; e++) {
                        Lanes* wc = reinterpret_cast<Lanes*>(w + events.channel[e] * width);
                        for (int r = 0; r < V; r++) wc[r] += lanes[r];
                    }
                }
            }
}

}  // namespace

extern "C" {

void synapse_apply(
    const Events* events, const Synapse* synapse, int64_t lanes, const float* weights, float* out, int64_t threads
) {
    (lanes == 4 ? apply<4> : lanes == 2 ? apply<2> : apply<1>)(*events, *synapse, weights, out, threads);
}

void synapse_weight_gradient(
    const Events* events, const Synapse* synapse, int64_t lanes, const float* grad, float* weights, int64_t threads
) {
    (lanes == 4 ? weight_gradient<4> : lanes == 2 ? weight_gradient<2> : weight_gradient<1>)(
        *events, *synapse, grad, weights, threads);
}

// Mean and biased variance of each channel over all rows.
void moments(const float* x, int64_t rows, int64_t channels, float* mean, float* variance, int64_t threads) {
    const int64_t parts = (rows + ROWS - 1) / ROWS;
    std::vector<double> sums(parts * channels), squares(parts * channels);
    #pragma omp parallel for num_threads(threads)
    for (int64_t p = 0; p < parts; p++) {
        std::vector<float> s(channels), q(channels);
        const int64_t end = std::min(rows, (p + 1) * ROWS);
        for (int64_t first = p * ROWS; first < end; first += FEW) {  // few enough rows for float32 sums
            std::fill(s.begin(), s.end(), 0.0f);
            std::fill(q.begin(), q.end(), 0.0f);
            for (int64_t r = first; r < std::min(first + FEW, end); r++)
                for (int64_t c = 0; c < channels; c++) {
                    const float d = x[r * channels + c] - x[c];  // relative to the first row: a large mean cancels
                    s[c] += d;
                    q[c] += d * d;
                }
            for (int64_t c = 0; c < channels; c++) {
                sums[p * channels + c] += s[c];
                squares[p * channels + c] += q[c];
            }
        }
    }
    for (int64_t c = 0; c < channels; c++) {
        double s = 0, q = 0;
        for (int64_t p = 0; p < parts; p++) s += sums[p * channels + c], q += squares[p * channels + c];
        s /= rows, q /= rows;
        mean[c] = x[c] + s;
        variance[c] = std::max(0.0, q - s * s);
    }
}

// LIF neurons, Eq. 1-3: `steps` steps of `rows` rows, with current scale x + shift for each channel.
struct Neurons {
    int64_t steps, rows, channels, constant;  // constant: x has one step, which is used at every step
    float tau, threshold, reset, alpha;
    int64_t detach_reset;
    const float* readout;  // null, or a weight for each step: then the output is the weighted sum of the spikes
    const uint8_t* wanted;  // null, or 1 or 0 for each row: rows with 0 need not be computed
};

}  // extern "C"

namespace {

// A row's numbers, repeated for each row of a block, so that inner loops run over whole blocks.
std::vector<float> repeat(const float* row, int64_t channels, int64_t rows) {
    std::vector<float> all;
    for (int64_t r = 0; r < rows; r++) all.insert(all.end(), row, row + channels);
    return all;
}

// One step of `width` neurons, with or without adding to `out`.
void step(
    Neurons n, int64_t width, const float* __restrict x, const float* __restrict scale, const float* __restrict shift,
    float* __restrict v, float* __restrict out, float weight, bool add
) {
    if (!add) std::fill_n(out, width, 0.0f);
    for (int64_t i = 0; i < width; i++) {
        const float current = x[i] * scale[i] + shift[i];
        const float h = v[i] + (current - (v[i] - n.reset)) / n.tau;
        out[i] += h >= n.threshold ? weight : 0.0f;
        v[i] = h >= n.threshold ? n.reset : h;
    }
}

// The same, and stores the membranes h before the reset.
void charge(
    Neurons n, int64_t width, const float* __restrict x, const float* __restrict scale, const float* __restrict shift,
    float* __restrict v, float* __restrict h
) {
    for (int64_t i = 0; i < width; i++) {
        const float current = x[i] * scale[i] + shift[i];
        h[i] = v[i] + (current - (v[i] - n.reset)) / n.tau;
        v[i] = h[i] >= n.threshold ? n.reset : h[i];
    }
}

// The gradient of one step. `v` is the gradient of the membrane after the step, and afterwards of the membrane before
// it.
void step_back(
    Neurons n, int64_t width, const float* __restrict up, const float* __restrict x, const float* __restrict mean,
    const float* __restrict h, float* __restrict v, float* __restrict out, float* __restrict sum,
    float* __restrict sum_x, float weight, bool add
) {
    const float slope = 1.57079632679489662f * n.alpha, half = n.alpha / 2, keep = 1 - 1 / n.tau;
    const float attached = n.detach_reset ? 0 : 1;
    if (!add) std::fill_n(out, width, 0.0f);
    for (int64_t i = 0; i < width; i++) {
        const float over = h[i] - n.threshold, z = slope * over;
        const float through_reset = v[i] * (n.reset - h[i]) * attached;
        const float fire = (weight * up[i] + through_reset) * (half / (1 + z * z));
        const float grad_h = (over >= 0 ? 0.0f : v[i]) + fire;
        const float g = grad_h / n.tau;
        v[i] = grad_h * keep;
        out[i] += g;
        sum[i] += g;
        sum_x[i] += g * (x[i] - mean[i]);
    }
}

bool any(const uint8_t* flags, int64_t n) { return std::find(flags, flags + n, 1) != flags + n; }

int64_t rows_of_block(int64_t channels) { return std::max<int64_t>(1, BLOCK / channels); }

}  // namespace

extern "C" {

void lif(const Neurons* neurons, const float* x, const float* scale, const float* shift, float* spikes, int64_t threads) {
    const Neurons n = *neurons;
    const int64_t size = n.rows * n.channels, block = rows_of_block(n.channels) * n.channels;
    const auto scales = repeat(scale, n.channels, block / n.channels);
    const auto shifts = repeat(shift, n.channels, block / n.channels);
    #pragma omp parallel num_threads(threads)
    {
        std::vector<float> membrane(block);
        #pragma omp for
        for (int64_t at = 0; at < size; at += block) {
            const int64_t width = std::min(block, size - at);
            if (n.wanted && !any(n.wanted + at / n.channels, width / n.channels)) continue;
            const float *a = scales.data(), *b = shifts.data();
            float* v = membrane.data();
            std::fill_n(v, width, n.reset);
            if (n.readout) std::fill_n(spikes + at, width, 0.0f);
            for (int64_t t = 0; t < n.steps; t++) {
                const float* in = x + at + (n.constant ? 0 : t * size);
                float* out = spikes + at + (n.readout ? 0 : t * size);
                const float weight = n.readout ? n.readout[t] : 1.0f;
                step(n, width, in, a, b, v, out, weight, n.readout != nullptr);
            }
        }
    }
}

// Gradient of the current by backpropagation through time, with the membranes computed again. For a constant current it
// is summed over the steps. Also, for each channel, the sum of the gradient and its sum with x - mean.
void lif_backward(
    const Neurons* neurons, const float* x, const float* mean, const float* scale, const float* shift,
    const float* grad_spikes, float* grad, double* sum, double* sum_x, int64_t threads
) {
    const Neurons n = *neurons;
    const int64_t size = n.rows * n.channels, block = rows_of_block(n.channels) * n.channels;
    const int64_t part = block * (ROWS / rows_of_block(n.channels) + 1), parts = (size + part - 1) / part;
    const auto scales = repeat(scale, n.channels, block / n.channels);
    const auto shifts = repeat(shift, n.channels, block / n.channels);
    const auto means = repeat(mean, n.channels, block / n.channels);
    std::vector<double> sums(parts * n.channels), sums_x(parts * n.channels);
    #pragma omp parallel num_threads(threads)
    {
        std::vector<float> charged(n.steps * block), state(block), total(block), total_x(block);
        #pragma omp for
        for (int64_t p = 0; p < parts; p++) {
            const int64_t end = std::min(size, (p + 1) * part);
            for (int64_t at = p * part; at < end; at += block) {
                const int64_t width = std::min(block, end - at);
                const float *a = scales.data(), *b = shifts.data(), *m = means.data();
                float *v = state.data(), *s = total.data(), *sx = total_x.data();
                std::fill_n(v, width, n.reset);
                for (int64_t t = 0; t < n.steps; t++) {
                    const float* in = x + at + (n.constant ? 0 : t * size);
                    float* h = charged.data() + t * block;
                    charge(n, width, in, a, b, v, h);
                }
                std::fill_n(v, width, 0.0f);  // from here on, v is the gradient of the membrane
                std::fill_n(s, width, 0.0f);
                std::fill_n(sx, width, 0.0f);
                for (int64_t t = n.steps - 1; t >= 0; t--) {
                    const float* up = grad_spikes + at + (n.readout ? 0 : t * size);
                    const float* in = x + at + (n.constant ? 0 : t * size);
                    const float* h = charged.data() + t * block;
                    float* out = grad + at + (n.constant ? 0 : t * size);
                    const float weight = n.readout ? n.readout[t] : 1.0f;
                    step_back(n, width, up, in, m, h, v, out, s, sx, weight, n.constant && t < n.steps - 1);
                }
                for (int64_t i = 0; i < width; i += n.channels)
                    for (int64_t c = 0; c < n.channels; c++) {
                        sums[p * n.channels + c] += s[i + c];
                        sums_x[p * n.channels + c] += sx[i + c];
                    }
            }
        }
    }
    for (int64_t c = 0; c < n.channels; c++) {
        sum[c] = sum_x[c] = 0;
        for (int64_t p = 0; p < parts; p++) {
            sum[c] += sums[p * n.channels + c];
            sum_x[c] += sums_x[p * n.channels + c];
        }
    }
}

// grad = a grad + b x + c for each channel, in place: the backward pass of batch normalisation.
void affine(
    float* grad, const float* x, int64_t rows, int64_t channels, const float* a, const float* b, const float* c,
    int64_t threads
) {
    #pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < channels; i++)
            grad[r * channels + i] = a[i] * grad[r * channels + i] + b[i] * x[r * channels + i] + c[i];
}

}  // extern "C"
