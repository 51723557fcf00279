#pragma once
#include <cmath>

#include "../ops.h"

namespace loram {

// torch takes these in double and rounds each once, where it meets the tensors.
struct AdamFactors {
  float decay, takeFirst, beta2, takeSecond, rootCorrection, eps, stepSize;

  explicit AdamFactors(const AdamW& op)
      : decay(static_cast<float>(1 - op.learningRate * op.weightDecay)),
        takeFirst(static_cast<float>(1 - op.beta1)),
        beta2(static_cast<float>(op.beta2)),
        takeSecond(static_cast<float>(1 - op.beta2)),
        rootCorrection(static_cast<float>(std::sqrt(1 - std::pow(op.beta2, op.step)))),
        eps(static_cast<float>(op.eps)),
        stepSize(static_cast<float>(-op.learningRate / (1 - std::pow(op.beta1, op.step)))) {}
};

}  // namespace loram
