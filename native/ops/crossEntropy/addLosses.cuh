#pragma once
#include "../../cuda/reduce.cuh"

namespace loram {

// Adds `scale` times the sum of the rows' losses to `loss`, in an order that depends on their number alone: one block.
template <int threads>
__global__ void __launch_bounds__(threads) addLosses(int64_t rows, const double* losses, float scale, float* loss) {
  awaitPrevious();
  double sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += threads) sum += losses[row];
  sum = blockSum(sum);
  if (threadIdx.x == 0) *loss += static_cast<float>(scale * sum);
}

}  // namespace loram
