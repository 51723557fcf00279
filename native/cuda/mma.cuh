// bf16 tensor-core products of one warp: mma.sync m16n8k16 and the fragments it takes, for sm_80 and later.
//
// Operands lie in shared memory as panels: rows of 64 bf16 = 128 bytes, in which the 16-byte chunk c of row r is stored
// at chunk c ^ (r & 7). So ldmatrix and 16-byte writes, by row or by column of chunks, meet no bank twice; it is also
// the 128-byte swizzle of TMA and wgmma. A panel begins on a multiple of 1024 bytes.
//
// Fragments, with g = lane / 4 and t = lane % 4:   C  c0 c1 = (g, 2t) (g, 2t + 1), c2 c3 = the same in row g + 8
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace loram {

constexpr int panelColumns = 64;

__device__ inline uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Where chunk `chunk` of row `row` lies in the panel at `panel`.
__device__ inline uint32_t panelAddress(uint32_t panel, int row, int chunk) {
  return panel + row * 128 + ((chunk ^ (row & 7)) << 4);
}

__device__ inline void storeShared(uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
}

__device__ inline void storeShared(uint32_t address, float2 value) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(value.x), "f"(value.y) : "memory");
}

__device__ inline uint32_t packBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ inline float lowBf16(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ inline float highBf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000); }

__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void ldmatrix(uint32_t (&d)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}

__device__ inline void ldmatrixTransposed(uint32_t (&d)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}

// How a tile lies in its panels, `panelBytes` apart. byDepth: row = position in M or N, column = depth, so memory runs
// along the reduction. byPosition: row = depth, column = position.
enum class Order { byDepth, byPosition };

// The 16 x 16 fragment of A at (position, depth) of a tile.
template <Order order>
__device__ inline void loadA(uint32_t (&a)[4], uint32_t tile, int panelBytes, int position, int depth) {
  const int lane = threadIdx.x % 32;
  if constexpr (order == Order::byDepth) {
    const int column = depth % panelColumns / 8 + lane / 16;
    ldmatrix(a, panelAddress(tile + depth / panelColumns * panelBytes, position + lane % 16, column));
  } else {
    const int row = depth + lane % 8 + lane / 16 * 8, column = position % panelColumns / 8 + lane / 8 % 2;
    ldmatrixTransposed(a, panelAddress(tile + position / panelColumns * panelBytes, row, column));
  }
}

// Two neighbouring 8 x 16 fragments of B, at positions `position` and `position + 8`: b[0..1] and b[2..3].
template <Order order>
__device__ inline void loadB(uint32_t (&b)[2][2], uint32_t tile, int panelBytes, int position, int depth) {
  const int lane = threadIdx.x % 32;
  uint32_t d[4];
  if constexpr (order == Order::byDepth) {
    const int row = position + lane % 8 + lane / 16 * 8, column = depth % panelColumns / 8 + lane / 8 % 2;
    ldmatrix(d, panelAddress(tile + depth / panelColumns * panelBytes, row, column));
  } else {
    const int row = depth + lane % 16, column = position % panelColumns / 8 + lane / 16;
    ldmatrixTransposed(d, panelAddress(tile + position / panelColumns * panelBytes, row, column));
  }
  b[0][0] = d[0], b[0][1] = d[1], b[1][0] = d[2], b[1][1] = d[3];
}

}  // namespace loram
