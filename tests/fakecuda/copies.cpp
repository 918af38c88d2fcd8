// Copies, and one memory under two names; see device.h and copies.h.
#include "copies.h"

#include "graphs.h"

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

namespace fake {
namespace {

using at::Tensor;
using c10::Device;
using c10::DispatchKey;
using c10::DispatchKeySet;

struct Result {
  Tensor host;
  int device;
  int64_t bytes;
};

void free_result(void* context) {
  auto* result = static_cast<Result*>(context);
  discharge(result->device, result->bytes);
  delete result;
}

// In a capture nothing is copied yet. Of memory that is not page-locked the graph would know only
// where it was.
void check_capturable(const Tensor& host, bool non_blocking) {
  if (!non_blocking) refuse_in_capture();
  TORCH_CHECK(page_locked(host.data_ptr()),
              "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU "
              "tensor is pinned. Please use tensor.pin_memory() or allocate the tensor with "
              "pin_memory=True.");
}

void copy_on_device(const Tensor& to, const Tensor& from) {
  const auto device = to.device().index();
  const auto there = as_host(to), here = as_host(from);
  if (capturing(device)) {
    keep(to);
    add("aten::copy_", [there, here](const Draws&) {
      there.copy_(here);
      return nullptr;
    });
  } else {
    advance(device);
    check_faults(device, "aten::copy_");
    count(KERNELS, device);
  }
  there.copy_(here);
}

void copy_between(const Tensor& to, const Tensor& from, bool non_blocking) {
  const auto here = from.device().index(), there = to.device().index();
  refuse_in_capture();
  advance(here), advance(there);
  check_faults(there, "aten::copy_");
  count(BETWEEN);
  if (non_blocking) count(NON_BLOCKING);
  as_host(to).copy_(as_host(from));
}

void copy_to_device(const Tensor& to, const Tensor& from, bool non_blocking) {
  const auto device = to.device().index();
  if (capturing(device)) {
    check_capturable(from, non_blocking);
    keep(to);
    const auto there = as_host(to);
    add("aten::copy_", [there, from](const Draws&) {
      there.copy_(from);
      return nullptr;
    });
    there.copy_(from);
    return;
  }
  check_faults(device, "aten::copy_");
  count(TO_DEVICE);
  if (!non_blocking) {
    count(WAITS);
    complete(device, current_stream(device));
    as_host(to).copy_(from);
    return;
  }
  count(NON_BLOCKING);
  // What is not page-locked is copied aside first, before the call returns.
  const auto source = page_locked(from.data_ptr()) ? from : from.clone();
  auto copy = [to, source] { as_host(to).copy_(source); };
  if (holds()) {
    hold_to_device(device, copy);
  } else {
    copy();
  }
}

// Reads the device's memory now, and returns what writes to the host's.
std::function<void()> taken(const Tensor& to, const Tensor& from) {
  return [to, copy = from.clone()] { to.copy_(copy); };
}

void copy_to_host(const Tensor& to, const Tensor& from, bool non_blocking) {
  const auto device = from.device().index();
  const auto there = as_host(from);
  if (capturing(device)) {
    check_capturable(to, non_blocking);
    add("aten::copy_", [to, there](const Draws&) { return taken(to, there); });
    return;
  }
  check_faults(device, "aten::copy_");
  count(TO_HOST);
  if (!non_blocking || !page_locked(to.data_ptr())) {  // CUDA waits for those
    count(WAITS);
    complete(device, current_stream(device));
    to.copy_(there);
    return;
  }
  count(NON_BLOCKING);
  if (holds()) {
    hold_to_host(device, [to, there] { return taken(to, there); });
  } else {
    to.copy_(there);
  }
}

}  // namespace

Tensor as_host(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  const auto options = at::TensorOptions().dtype(tensor.dtype()).device(at::kCPU);
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  void* data = static_cast<char*>(tensor.storage().mutable_data()) +
               tensor.storage_offset() * static_cast<int64_t>(tensor.itemsize());
  return at::for_blob(data, tensor.sizes())
      .strides(tensor.strides())
      .deleter([tensor](void*) {})
      .options(options)
      .make_tensor();
}

Tensor as_device(const Tensor& host, Device device) {
  if (!host.defined() || host.is_cuda()) return host;
  int64_t span = host.numel() ? 1 : 0;
  for (int64_t i = 0; span && i < host.dim(); ++i) span += (host.size(i) - 1) * host.stride(i);
  const auto bytes = span * static_cast<int64_t>(host.itemsize());
  charge(device.index(), bytes);
  auto* result = new Result{host, device.index(), bytes};
  c10::DataPtr data(bytes ? host.data_ptr() : nullptr, result, &free_result, device);
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), allocator(), true);
  auto named = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), DispatchKeySet(DispatchKey::CUDA), host.dtype());
  named.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
  return named;
}

Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  if (self.numel() == 0) return self;
  const auto from = source.sizes() == self.sizes() ? source : source.expand(self.sizes());
  const c10::InferenceMode inference(true);  // memory is copied; autograd has nothing to record
  if (!self.is_cuda()) {
    copy_to_host(self, from, non_blocking);
  } else if (!from.is_cuda()) {
    copy_to_device(self, from, non_blocking);
  } else if (self.device() == from.device()) {
    copy_on_device(self, from);
  } else {
    copy_between(self, from, non_blocking);
  }
  return self;
}

}  // namespace fake
