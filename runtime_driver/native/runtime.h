// ExecuTorch's modules and tensors, and its thread pool: the wheel has that library, but not its header
// (extension/threadpool/threadpool.h). The Android tests' bridge includes this too.
#pragma once

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>

namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
