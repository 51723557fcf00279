// Every op, once: its name, its tensors and its scalars in call order. Shapes and dtypes are checked by the TypeScript
// wrapper of the same name in src/native, so an op trusts its arguments. A tensor marked `?` may be absent. `adds` means
// the op adds to what the tensor holds, `out` that it overwrites all of it, `in/out` that it changes it in place. `float`
// is f32 on the CPU, and f32 or bf16 on CUDA; the `float` tensors of one call have the same dtype, unless it says otherwise.
#pragma once
#include <cstdint>
#include <tuple>

#include "../core/tensor.h"

using cudaStream_t = struct CUstream_st*;  // as CUDA's headers declare it, which need not be there

namespace loram {

// c = alpha * op(a) * op(b) + beta * c, with op the identity or the transpose. beta 0 does not read c. With left and right
// LoRA's part rides along: alpha * (op(a) * op(b) + left * op(right)); then a is not transposed.
struct Gemm {
  static constexpr auto name = "gemm";
  Tensor a;  // op(a) is [M, K]   float
  Tensor b;  // op(b) is [K, N]   f32 | bf16
  Tensor c;  // [M, N]            float, whatever a is   out or in/out
  bool transposeA, transposeB;
  float alpha, beta;
  Tensor left;   // ? [M, r]                         dtype of a
  Tensor right;  // ? [r, N], transposeB [N, r]      float, whatever a is
  auto fields() { return std::tie(a, b, c, transposeA, transposeB, alpha, beta, left, right); }
};

// With w [N, K] dequantised on the way: y = x * w^T + beta * y, or transposed y = x * w + beta * y. left and right as in
// Gemm: y += left * right^T, or transposed y += left * right.
struct Nf4Gemm {
  static constexpr auto name = "nf4Gemm";
  Tensor x;             // [M, K], transposed [M, N]   float
  Tensor packed;        // [ceil(N * K / 2)]           u8    see nf4Quantize
  Tensor absmax;        // [ceil(N * K / 64)]          f32, or u8 when double quantised
  Tensor nestedAbsmax;  // ? [ceil(blocks / 256)]      f32
  Tensor nestedOffset;  // ? [1]                       f32
  Tensor y;             // [M, N], transposed [M, K]   float   out or in/out
  bool transposed;
  float beta;
  Tensor left;   // ? [M, r]                        dtype of x
  Tensor right;  // ? [N, r], transposed [r, K]     float, whatever x is
  auto fields() { return std::tie(x, packed, absmax, nestedAbsmax, nestedOffset, y, transposed, beta, left, right); }
};

// NF4 (QLoRA, arXiv 2305.14314) as bitsandbytes stores it: blocks of 64 of the flattened tensor, first value of a pair in
// the high nibble.
struct Nf4Quantize {
  static constexpr auto name = "nf4Quantize";
  Tensor w;       // [...]               f32 | bf16 | f16
  Tensor packed;  // [ceil(n / 2)]       u8    out
  Tensor absmax;  // [ceil(n / 64)]      f32   out
  auto fields() { return std::tie(w, packed, absmax); }
};

// absmax to 8 bits: minus its mean, in blocks of 256, nearest entry of the signed dynamic map.
struct Nf4QuantizeAbsmax {
  static constexpr auto name = "nf4QuantizeAbsmax";
  Tensor absmax;        // [blocks]               f32
  Tensor codes;         // [blocks]               u8    out
  Tensor nestedAbsmax;  // [ceil(blocks / 256)]   f32   out
  Tensor nestedOffset;  // [1]                    f32   out
  auto fields() { return std::tie(absmax, codes, nestedAbsmax, nestedOffset); }
};

struct Nf4Dequantize {
  static constexpr auto name = "nf4Dequantize";
  Tensor packed;        // [ceil(n / 2)]            u8
  Tensor absmax;        // [ceil(n / 64)]           f32 | u8
  Tensor nestedAbsmax;  // ? [ceil(blocks / 256)]   f32
  Tensor nestedOffset;  // ? [1]                    f32
  Tensor w;             // [...] n elements         f32 | bf16   out
  auto fields() { return std::tie(packed, absmax, nestedAbsmax, nestedOffset, w); }
};

// y[i,j] += bias[j]
struct AddBias {
  static constexpr auto name = "addBias";
  Tensor y;     // [rows, dim]   float   in/out
  Tensor bias;  // [dim]         f32
  auto fields() { return std::tie(y, bias); }
};

// dbias[j] += sum_i dy[i,j]
struct AddBiasBackward {
  static constexpr auto name = "addBiasBackward";
  Tensor dy;     // [rows, dim]   float
  Tensor dbias;  // [dim]         f32   adds
  auto fields() { return std::tie(dy, dbias); }
};

// u = scale * drop(x) * a^T;  y += u * b^T. Dropout keeps element i of x where uniform(philox(seed, stream, i / 4)[i % 4])
// >= dropout, and multiplies what it keeps by 1 / (1 - dropout).
struct LoraForward {
  static constexpr auto name = "loraForward";
  Tensor x;  // [T, K]   float
  Tensor a;  // [r, K]   float, whatever x is
  Tensor b;  // [N, r]   float, whatever x is
  Tensor u;  // [T, r]   float   out
  Tensor y;  // ? [T, N] float   adds; absent where the product with the weight takes u along
  float scale, dropout;
  int64_t seed, stream;
  auto fields() { return std::tie(x, a, b, u, y, scale, dropout, seed, stream); }
};

// d = scale * dy * b;  db += dy^T * u
struct LoraOutputBackward {
  static constexpr auto name = "loraOutputBackward";
  Tensor dy;  // [T, N]   float
  Tensor b;   // [N, r]   float, whatever dy is
  Tensor u;   // [T, r]   float
  Tensor d;   // [T, r]   float   out
  Tensor db;  // [N, r]   f32   adds
  float scale;
  auto fields() { return std::tie(dy, b, u, d, db, scale); }
};

// da += d^T * drop(x);  dx += drop(d * a), with forward's mask.
struct LoraInputBackward {
  static constexpr auto name = "loraInputBackward";
  Tensor d;   // [T, r]   float
  Tensor x;   // [T, K]   float
  Tensor a;   // [r, K]   float, whatever x is
  Tensor dx;  // ? [T, K] float   adds; absent where the product with the weight takes d along
  Tensor da;  // [r, K]   f32   adds
  float dropout;
  int64_t seed, stream;
  auto fields() { return std::tie(d, x, a, dx, da, dropout, seed, stream); }
};

// Each row of x holds `groups` vectors of weight's length. For each of them, in order:
// y[i,j] = x[i,j] * rstd[i] * weight[j],   rstd[i] = 1 / sqrt(mean_j x[i,j]^2 + eps).  rstd is kept for backward.
struct RmsNorm {
  static constexpr auto name = "rmsNorm";
  Tensor x;       // [rows, groups * dim]   float
  Tensor weight;  // [dim]                  f32
  Tensor y;       // [rows, groups * dim]   float   out
  Tensor rstd;    // [rows * groups]        f32   out
  Tensor copy;    // ? [rows, groups * dim] float   out   what a residual connection adds to
  float eps;
  auto fields() { return std::tie(x, weight, y, rstd, copy, eps); }
};

// g = dy * weight, n = x * rstd:  dx += rstd * (g - n * mean(g * n));  dweight += sum over all vectors of dy * n
struct RmsNormBackward {
  static constexpr auto name = "rmsNormBackward";
  Tensor dy;       // [rows, groups * dim]   float
  Tensor x;        // [rows, groups * dim]   float
  Tensor weight;   // [dim]                  f32
  Tensor rstd;     // [rows * groups]        f32
  Tensor dx;       // [rows, groups * dim]   float   adds
  Tensor dweight;  // ? [dim]                f32   adds
  auto fields() { return std::tie(dy, x, weight, rstd, dx, dweight); }
};

// Rotates dimension j of every head of queries and keys together with j + headDim / 2 by positions[row] *
// inverseFrequencies[j]; the angle and its sine and cosine are taken in double. `inverse` turns back, which is the backward
// pass.
struct Rope {
  static constexpr auto name = "rope";
  Tensor q;                   // [T, nh * headDim]      float   in/out
  Tensor k;                   // [T, nkv * headDim]     float   in/out
  Tensor positions;           // [T]                    i32
  Tensor inverseFrequencies;  // [headDim / 2]          f32
  bool inverse;
  auto fields() { return std::tie(q, k, positions, inverseFrequencies, inverse); }
};

// Causal attention over packed sequences with grouped key-value heads: query head h reads kv head h / (nh / nkv). Sequence
// s has the queries [queryBounds[s], queryBounds[s + 1]) and the keys [keyBounds[s], keyBounds[s + 1]), their ends aligned:
// with a cache there are more keys than queries. A query sees its own key and those before it, `window` keys at most where
// that is not 0. scale = 1 / sqrt(headDim).
struct Attention {
  static constexpr auto name = "attention";
  Tensor q;            // [Tq, nh * headDim]    float
  Tensor k;            // [Tk, nkv * headDim]   float
  Tensor v;            // [Tk, nkv * headDim]   float
  Tensor queryBounds;  // [sequences + 1]       i32
  Tensor keyBounds;    // [sequences + 1]       i32
  Tensor y;            // [Tq, nh * headDim]    float   out
  Tensor lse;          // [Tq, nh]              f32   out   log of the sum of exp of a query's scores
  int64_t headDim, window;
  auto fields() { return std::tie(q, k, v, queryBounds, keyBounds, y, lse, headDim, window); }
};

// FlashAttention-2's backward (arXiv 2307.08691) for Attention with queryBounds = keyBounds = bounds.
struct AttentionBackward {
  static constexpr auto name = "attentionBackward";
  Tensor dy;      // [T, nh * headDim]    float
  Tensor q;       // [T, nh * headDim]    float
  Tensor k;       // [T, nkv * headDim]   float
  Tensor v;       // [T, nkv * headDim]   float
  Tensor y;       // [T, nh * headDim]    float
  Tensor lse;     // [T, nh]              f32
  Tensor bounds;  // [sequences + 1]      i32
  Tensor dq;      // [T, nh * headDim]    float   out
  Tensor dk;      // [T, nkv * headDim]   float   out
  Tensor dv;      // [T, nkv * headDim]   float   out
  int64_t headDim, window;
  auto fields() { return std::tie(dy, q, k, v, y, lse, bounds, dq, dk, dv, headDim, window); }
};

// y = silu(gate) * up
struct Swiglu {
  static constexpr auto name = "swiglu";
  Tensor gate;  // [rows, dim]   float
  Tensor up;    // [rows, dim]   float
  Tensor y;     // [rows, dim]   float   out
  auto fields() { return std::tie(gate, up, y); }
};

// dgate and dup may lie where gate and up lie.
struct SwigluBackward {
  static constexpr auto name = "swigluBackward";
  Tensor dy;     // [rows, dim]   float
  Tensor gate;   // [rows, dim]   float
  Tensor up;     // [rows, dim]   float
  Tensor dgate;  // [rows, dim]   float   out
  Tensor dup;    // [rows, dim]   float   out
  auto fields() { return std::tie(dy, gate, up, dgate, dup); }
};

// With p = softmax(logits) and a target t a row: tokenLoss = -log p[t], loss += scale * sum of tokenLoss. With `backward`
// the logits become scale * (p - onehot(t)). Every target is in [0, vocab): rows without one are left out before.
struct CrossEntropy {
  static constexpr auto name = "crossEntropy";
  Tensor logits;     // [rows, vocab]   float   in/out
  Tensor targets;    // [rows]          i32
  Tensor loss;       // [1]             f32   adds
  Tensor tokenLoss;  // ? [rows]        f32   out
  float scale;
  bool backward;
  auto fields() { return std::tie(logits, targets, loss, tokenLoss, scale, backward); }
};

// Distillation (Hinton et al. 2015, arXiv 1503.02531), with p = softmax(teacher / T), q = softmax(logits / T), c =
// softmax(logits):  loss += scale * sum over rows of (1 - weight) * -log c[target] + weight * T^2 * KL(p || q).  With
// `backward` the logits become scale * ((1 - weight) * (c - onehot(target)) + weight * T * (q - p)).
struct Distillation {
  static constexpr auto name = "distillation";
  Tensor logits;   // [rows, vocab]   float   in/out
  Tensor teacher;  // [rows, vocab]   float
  Tensor targets;  // [rows]          i32
  Tensor loss;     // [1]             f32   adds
  float scale, weight, temperature;
  bool backward;
  auto fields() { return std::tie(logits, teacher, targets, loss, scale, weight, temperature, backward); }
};

struct Embedding {
  static constexpr auto name = "embedding";
  Tensor weight;  // [vocab, hidden]   f32 | bf16
  Tensor ids;     // [T]               i32
  Tensor y;       // [T, hidden]       float   out
  auto fields() { return std::tie(weight, ids, y); }
};

// Embedding with weight [vocab, hidden] in NF4: y[i] = row ids[i] as nf4Dequantize gives it.
struct Nf4Embedding {
  static constexpr auto name = "nf4Embedding";
  Tensor packed;        // [ceil(n / 2)]            u8    see nf4Quantize, n = vocab * hidden
  Tensor absmax;        // [ceil(n / 64)]           f32 | u8
  Tensor nestedAbsmax;  // ? [ceil(blocks / 256)]   f32
  Tensor nestedOffset;  // ? [1]                    f32
  Tensor ids;           // [T]                      i32
  Tensor y;             // [T, hidden]              float   out
  auto fields() { return std::tie(packed, absmax, nestedAbsmax, nestedOffset, ids, y); }
};

struct EmbeddingBackward {
  static constexpr auto name = "embeddingBackward";
  Tensor dy;       // [T, hidden]       float
  Tensor ids;      // [T]               i32
  Tensor dweight;  // [vocab, hidden]   f32   adds
  auto fields() { return std::tie(dy, ids, dweight); }
};

// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with decoupled decay, in torch's order of operations; step counts from 1.
struct AdamW {
  static constexpr auto name = "adamW";
  Tensor parameters;    // [n]   f32   in/out
  Tensor grads;         // [n]   f32
  Tensor firstMoment;   // [n]   f32   in/out
  Tensor secondMoment;  // [n]   f32   in/out
  double learningRate, beta1, beta2, eps, weightDecay;
  int64_t step;
  auto fields() {
    return std::tie(parameters, grads, firstMoment, secondMoment, learningRate, beta1, beta2, eps, weightDecay, step);
  }
};

// norm = sqrt(sum of squares);  grads *= min(1, maxNorm / (norm + 1e-6)).  maxNorm 0: only measures.
struct ClipGradNorm {
  static constexpr auto name = "clipGradNorm";
  Tensor grads;  // [n]   f32   in/out
  Tensor norm;   // [1]   f32   out
  float maxNorm;
  auto fields() { return std::tie(grads, norm, maxNorm); }
};

// y[i] = x[indices[i]] over the rows of x.
struct GatherRows {
  static constexpr auto name = "gatherRows";
  Tensor x;        // [rows, columns]   any
  Tensor indices;  // [n]               i32
  Tensor y;        // [n, columns]      dtype of x   out
  auto fields() { return std::tie(x, indices, y); }
};

// y[indices[i]] = x[i]; rows of y that no index names stay as they are. Indices are distinct.
struct ScatterRows {
  static constexpr auto name = "scatterRows";
  Tensor x;        // [n, columns]      any
  Tensor indices;  // [n]               i32
  Tensor y;        // [rows, columns]   dtype of x   in/out
  auto fields() { return std::tie(x, indices, y); }
};

struct GatherColumns {
  static constexpr auto name = "gatherColumns";
  Tensor x;        // [rows, columns]   any
  Tensor indices;  // [n]               i32
  Tensor y;        // [rows, n]         dtype of x   out
  auto fields() { return std::tie(x, indices, y); }
};

struct ScatterColumns {
  static constexpr auto name = "scatterColumns";
  Tensor x;        // [rows, n]         any
  Tensor indices;  // [n]               i32
  Tensor y;        // [rows, columns]   dtype of x   in/out
  auto fields() { return std::tie(x, indices, y); }
};

// s = |w * grad|, or |w| without grad, squared on request;  rowSums[i] += sum_j s[i,j];  columnSums[j] += sum_i s[i,j]
struct Importance {
  static constexpr auto name = "importance";
  Tensor w;           // [rows, columns]     f32 | bf16
  Tensor grad;        // ? [rows, columns]   f32
  Tensor rowSums;     // ? [rows]            f32   adds
  Tensor columnSums;  // ? [columns]         f32   adds
  bool squared;
  auto fields() { return std::tie(w, grad, rowSums, columnSums, squared); }
};

// grads[i] = 0 where parameters[i] is 0: what pruning cut out of a weight that trains stays cut.
struct KeepZeros {
  static constexpr auto name = "keepZeros";
  Tensor parameters;  // [rows, columns]   f32
  Tensor grads;       // [rows, columns]   f32   in/out
  auto fields() { return std::tie(parameters, grads); }
};

// y = x, converted to y's dtype, rounding to nearest even.
struct Cast {
  static constexpr auto name = "cast";
  Tensor x;  // [...]   f32 | bf16 | f16
  Tensor y;  // [...]   f32 | bf16 | f16   out
  auto fields() { return std::tie(x, y); }
};

// count[0] = how many values are NaN or infinite, count[1] = flat index of the first (-1: none).
struct CountNonFinite {
  static constexpr auto name = "countNonFinite";
  Tensor x;      // [...]   f32 | bf16 | f16
  Tensor count;  // [2]     i64   out
  auto fields() { return std::tie(x, count); }
};

// x[i] = uniform in [low, high), or normal with mean `low` and standard deviation `high` (Box-Muller); element i uses
// word i % 4 of philox(seed, stream, i / 4).
struct Random {
  static constexpr auto name = "random";
  Tensor x;  // [...]   f32   out
  bool normal;
  float low, high;
  int64_t seed, stream;
  auto fields() { return std::tie(x, normal, low, high, seed, stream); }
};

// In every run of m columns of a row, the n of the least |w| * scale become 0, of equal ones those on the left.
struct CutLeast {
  static constexpr auto name = "cutLeast";
  Tensor w;      // [rows, columns]   f32   in/out   columns is a multiple of m
  Tensor scale;  // ? [columns]       f32
  int64_t n, m;
  auto fields() { return std::tie(w, scale, n, m); }
};

// The upper triangular U with (H + damping * mean(diagonal of H) * I)^-1 = U^T U. A 0 on the diagonal of H, of an input that
// is always 0, counts as 1. Where that matrix is not positive definite, `succeeded` is 0.
struct InverseFactor {
  static constexpr auto name = "inverseFactor";
  Tensor h;          // [n, n]   f32
  Tensor u;          // [n, n]   f32   out
  Tensor succeeded;  // [1]      i32   out
  double damping;
  auto fields() { return std::tie(h, u, succeeded, damping); }
};

// SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774), block by block of columns, from the left: cuts the n of m
// neighbours in a row with the least w^2 / u[j,j]^2, or with m = 0 the share `ratio` of the block, and changes the weights
// on their right so that the output for the inputs behind H = 2 X^T X changes least. U is InverseFactor's of h.
struct SparseGpt {
  static constexpr auto name = "sparseGpt";
  Tensor w;  // [rows, columns]      f32   in/out   columns and block are multiples of m
  Tensor h;  // [columns, columns]   f32
  Tensor u;  // [columns, columns]   f32
  int64_t n, m;
  double ratio;
  int64_t block;
  auto fields() { return std::tie(w, h, u, n, m, ratio, block); }
};

template <class... Op>
struct OpList {};

using Ops =
    OpList<Gemm, Nf4Gemm, Nf4Quantize, Nf4QuantizeAbsmax, Nf4Dequantize, AddBias, AddBiasBackward, LoraForward,
           LoraOutputBackward, LoraInputBackward, RmsNorm, RmsNormBackward, Rope, Attention, AttentionBackward, Swiglu,
           SwigluBackward, CrossEntropy, Distillation, Embedding, Nf4Embedding, EmbeddingBackward, AdamW, ClipGradNorm,
           GatherRows, ScatterRows, GatherColumns, ScatterColumns, Importance, KeepZeros, Cast, CountNonFinite, Random>;

// Work that is done once a model, in host memory: on every machine the CPU does it.
using HostOps = OpList<CutLeast, InverseFactor, SparseGpt>;

void cpu(const Gemm&);
void cpu(const Nf4Gemm&);
void cpu(const Nf4Quantize&);
void cpu(const Nf4QuantizeAbsmax&);
void cpu(const Nf4Dequantize&);
void cpu(const AddBias&);
void cpu(const AddBiasBackward&);
void cpu(const LoraForward&);
void cpu(const LoraOutputBackward&);
void cpu(const LoraInputBackward&);
void cpu(const RmsNorm&);
void cpu(const RmsNormBackward&);
void cpu(const Rope&);
void cpu(const Attention&);
void cpu(const AttentionBackward&);
void cpu(const Swiglu&);
void cpu(const SwigluBackward&);
void cpu(const CrossEntropy&);
void cpu(const Distillation&);
void cpu(const Embedding&);
void cpu(const Nf4Embedding&);
void cpu(const EmbeddingBackward&);
void cpu(const AdamW&);
void cpu(const ClipGradNorm&);
void cpu(const GatherRows&);
void cpu(const ScatterRows&);
void cpu(const GatherColumns&);
void cpu(const ScatterColumns&);
void cpu(const Importance&);
void cpu(const KeepZeros&);
void cpu(const Cast&);
void cpu(const CountNonFinite&);
void cpu(const Random&);
void cpu(const CutLeast&);
void cpu(const InverseFactor&);
void cpu(const SparseGpt&);

void cuda(const Gemm&, cudaStream_t);
void cuda(const Nf4Gemm&, cudaStream_t);
void cuda(const Nf4Quantize&, cudaStream_t);
void cuda(const Nf4QuantizeAbsmax&, cudaStream_t);
void cuda(const Nf4Dequantize&, cudaStream_t);
void cuda(const AddBias&, cudaStream_t);
void cuda(const AddBiasBackward&, cudaStream_t);
void cuda(const LoraForward&, cudaStream_t);
void cuda(const LoraOutputBackward&, cudaStream_t);
void cuda(const LoraInputBackward&, cudaStream_t);
void cuda(const RmsNorm&, cudaStream_t);
void cuda(const RmsNormBackward&, cudaStream_t);
void cuda(const Rope&, cudaStream_t);
void cuda(const Attention&, cudaStream_t);
void cuda(const AttentionBackward&, cudaStream_t);
void cuda(const Swiglu&, cudaStream_t);
void cuda(const SwigluBackward&, cudaStream_t);
void cuda(const CrossEntropy&, cudaStream_t);
void cuda(const Distillation&, cudaStream_t);
void cuda(const Embedding&, cudaStream_t);
void cuda(const Nf4Embedding&, cudaStream_t);
void cuda(const EmbeddingBackward&, cudaStream_t);
void cuda(const AdamW&, cudaStream_t);
void cuda(const ClipGradNorm&, cudaStream_t);
void cuda(const GatherRows&, cudaStream_t);
void cuda(const ScatterRows&, cudaStream_t);
void cuda(const GatherColumns&, cudaStream_t);
void cuda(const ScatterColumns&, cudaStream_t);
void cuda(const Importance&, cudaStream_t);
void cuda(const KeepZeros&, cudaStream_t);
void cuda(const Cast&, cudaStream_t);
void cuda(const CountNonFinite&, cudaStream_t);
void cuda(const Random&, cudaStream_t);

}  // namespace loram
