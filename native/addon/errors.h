#pragma once
#include <napi.h>

#include <new>

#include "../core/gpuError.h"

namespace loram {

// Runs `body`; errors of the GPU and of memory become JavaScript errors with a code and figures, which src/native/gpuErrors.ts reads.
template <class Body>
auto typed(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const GpuOutOfMemory& error) {
    auto thrown = Napi::Error::New(env, error.what());
    thrown.Set("code", "E_GPU_OOM");
    thrown.Set("asked", static_cast<double>(error.asked));
    thrown.Set("free", static_cast<double>(error.free));
    throw thrown;
  } catch (const std::bad_alloc&) {
    auto thrown = Napi::Error::New(env, "the system has no memory left");
    thrown.Set("code", "E_MEMORY");
    throw thrown;
  } catch (const NcclError& error) {
    auto thrown = Napi::Error::New(env, error.what());
    thrown.Set("code", "E_NCCL");
    throw thrown;
  } catch (const GpuError& error) {
    auto thrown = Napi::Error::New(env, error.what());
    thrown.Set("code", "E_CUDA");
    throw thrown;
  }
}

}  // namespace loram
