// One memory under two names, a tensor that says `cuda:N` and one that kernels of the CPU take; and
// the copies to, from and between the former.
#pragma once

#include <ATen/core/Tensor.h>

namespace fake {

at::Tensor as_host(const at::Tensor& tensor);
at::Tensor as_device(const at::Tensor& host, c10::Device device);

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking);

}  // namespace fake
