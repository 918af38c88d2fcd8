// What is computed and copied on tensors that say `cuda:N`; see device.h.
//
// One fallback takes every operation of the dispatch key CUDA: it checks the devices, gives the
// kernel of the CPU the same memory under the name `cpu`, and calls what comes of it `cuda:N`.
// Autograd, autocast and inference mode stand above it and are torch's own.
#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <set>

namespace fake {
namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;

const DispatchKeySet ON_CUDA(DispatchKey::CUDA);

// Operations whose answer decides on the host how to go on: it waits for the device.
const std::set<std::string> WAITING = {
    "aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount"};

// Operations that take indices in the host's memory, too; a GPU copies them first.
const std::set<std::string> TAKE_HOST_INDICES = {"aten::index", "aten::_index_put_impl_"};

void refuse(const std::string& one, const std::string& other, const std::string& name) {
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two ",
              "devices, ", one, " and ", other, "! (in ", name, ")");
}

// ---- The same memory under two names.

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

Tensor as_device(const Tensor& host, Device device) {
  if (!host.defined() || host.is_cuda()) return host;
  int64_t span = host.numel() ? 1 : 0;
  for (int64_t i = 0; span && i < host.dim(); ++i) span += (host.size(i) - 1) * host.stride(i);
  const auto bytes = span * static_cast<int64_t>(host.itemsize());
  charge(device.index(), bytes);
  auto* result = new Result{host, device.index(), bytes};
  c10::DataPtr data(bytes ? host.data_ptr() : nullptr, result, &free_result, device);
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), allocator(), true);
  auto named = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), ON_CUDA, host.dtype());
  named.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
  return named;
}

// ---- The fallback.

// Calls `see` for every tensor in an argument, whatever it is wrapped in.
template <class See>
void each_tensor(const IValue& value, See see) {
  if (value.isTensor()) {
    see(value.toTensor());
  } else if (value.isList()) {
    for (const IValue& each : value.toListRef())
      if (each.isTensor()) see(each.toTensor());
  }
}

std::optional<Device> common_device(const std::vector<IValue>& arguments, const std::string& name) {
  std::optional<Device> device;
  std::optional<std::string> on_host;
  for (const auto& argument : arguments) {
    if (argument.isDevice() && argument.toDevice().is_cuda()) device = argument.toDevice();
    each_tensor(argument, [&](const Tensor& tensor) {
      if (!tensor.defined()) return;
      if (!tensor.is_cuda()) {
        if (tensor.dim() > 0) on_host = tensor.device().str();  // a single number may come along
      } else if (device && *device != tensor.device()) {
        refuse(device->str(), tensor.device().str(), name);
      } else {
        device = tensor.device();
      }
    });
  }
  if (device && device->index() < 0) device = Device(DeviceType::CUDA, current_device());
  if (device && on_host) {
    if (!TAKE_HOST_INDICES.count(name)) refuse(device->str(), *on_host, name);
    count(TO_DEVICE), count(WAITS);
  }
  return device;
}

bool takes_generator(const c10::Argument& argument) {
  auto type = argument.type();
  if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  return type->kind() == c10::TypeKind::GeneratorType;
}

IValue host_generator(const IValue& given, Device device, const std::string& name) {
  auto generator = given.isGenerator() ? given.toGenerator() : default_generator(device.index());
  TORCH_CHECK(generator.device().is_cuda(),
              "Expected a 'cuda' device type for generator but found 'cpu' (in ", name, ")");
  return at::detail::createCPUGenerator(draw_seed(generator));
}

IValue for_host(const IValue& value) {
  if (value.isTensor()) return as_host(value.toTensor());
  if (value.isDevice()) return Device(at::kCPU);
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(as_host(tensor));
    return list;
  }
  if (value.isList() && value.toList().elementType()->kind() == c10::TypeKind::OptionalType) {
    c10::List<std::optional<Tensor>> list;
    for (const IValue& each : value.toListRef())
      list.push_back(each.isTensor() ? std::make_optional(as_host(each.toTensor())) : std::nullopt);
    return list;
  }
  return value;
}

IValue for_device(const IValue& value, Device device) {
  if (value.isTensor()) return as_device(value.toTensor(), device);
  if (!value.isTensorList()) return value;
  c10::List<Tensor> list;
  for (const Tensor& tensor : value.toTensorVector()) list.push_back(as_device(tensor, device));
  return list;
}

// An output that the CPU's kernel has made larger: the tensor that was given takes its memory over.
void adopt(const Tensor& given, const Tensor& got) {
  if (!given.defined() || !got.defined() || given.sizes() == got.sizes()) return;
  const auto named = as_device(got, given.device());
  auto* impl = given.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(named.storage());
  impl->set_storage_offset(0);
  impl->set_sizes_and_strides(named.sizes(), named.strides());
}

// The argument that return number `i` is written to, if the schema says that it is one.
std::optional<size_t> written_argument(const c10::FunctionSchema& schema, size_t i) {
  const auto* returned = schema.returns()[i].alias_info();
  if (returned == nullptr || !returned->isWrite()) return std::nullopt;
  for (size_t a = 0; a < schema.arguments().size(); ++a) {
    const auto* argument = schema.arguments()[a].alias_info();
    if (argument != nullptr && *argument == *returned) return a;
  }
  return std::nullopt;
}

void fallback(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const auto& name = schema.name();
  const auto size = schema.arguments().size(), first = stack->size() - size;
  const std::vector<IValue> given(stack->begin() + first, stack->end());
  const auto device = common_device(given, name);
  TORCH_CHECK(device, "no CUDA tensor among the arguments of ", name);
  for (size_t i = 0; i < size; ++i)
    (*stack)[first + i] = takes_generator(schema.arguments()[i])
                              ? host_generator(given[i], *device, name)
                              : for_host(given[i]);
  c10::DeviceGuard guard(*device);
  advance(device->index());
  check_faults(device->index(), name);
  count(KERNELS, device->index());
  if (WAITING.count(name)) {
    count(WAITS);
    complete(device->index(), current_stream(device->index()));
  }
  operation.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  for (size_t i = 0, at = stack->size() - schema.returns().size(); at < stack->size(); ++i, ++at) {
    if (const auto argument = written_argument(schema, i)) {
      if (given[*argument].isTensor()) adopt(given[*argument].toTensor(), (*stack)[at].toTensor());
      (*stack)[at] = given[*argument];
    } else {
      (*stack)[at] = for_device((*stack)[at], *device);
    }
  }
}

// ---- Copies.

void copy_between(const Tensor& to, const Tensor& from, bool non_blocking) {
  const auto here = from.device().index(), there = to.device().index();
  advance(here), advance(there);
  check_faults(there, "aten::copy_");
  if (here == there) {
    count(KERNELS, here);
  } else {
    count(BETWEEN);
    if (non_blocking) count(NON_BLOCKING);
  }
  as_host(to).copy_(as_host(from));
}

void copy_to_device(const Tensor& to, const Tensor& from, bool non_blocking) {
  const auto device = to.device().index();
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

void copy_to_host(const Tensor& to, const Tensor& from, bool non_blocking) {
  const auto device = from.device().index();
  check_faults(device, "aten::copy_");
  count(TO_HOST);
  if (!non_blocking || !page_locked(to.data_ptr())) {  // CUDA waits for those
    count(WAITS);
    complete(device, current_stream(device));
    to.copy_(as_host(from));
    return;
  }
  count(NON_BLOCKING);
  auto take = [to, from]() -> std::function<void()> {
    return [to, taken = as_host(from).clone()] { to.copy_(taken); };
  };
  if (holds()) {
    hold_to_host(device, take);
  } else {
    take()();
  }
}

Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  if (self.numel() == 0) return self;
  const auto from = source.sizes() == self.sizes() ? source : source.expand(self.sizes());
  const c10::InferenceMode inference(true);  // memory is copied; autograd has nothing to record
  if (self.is_cuda() && from.is_cuda()) {
    copy_between(self, from, non_blocking);
  } else if (self.is_cuda()) {
    copy_to_device(self, from, non_blocking);
  } else {
    copy_to_host(self, from, non_blocking);
  }
  return self;
}

// ---- Memory and views: these launch nothing.

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), allocator(), ON_CUDA,
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), allocator(), ON_CUDA,
                                           c10::dtype_or_default(dtype));
}

const Tensor& resize_(const Tensor& self, c10::SymIntArrayRef size,
                      std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!format || *format == at::MemoryFormat::Contiguous, "resize_: only contiguous here");
  const c10::DeviceGuard guard(self.device());
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  const size_t bytes = (self.storage_offset() + self.numel()) * self.itemsize();
  if (bytes > self.storage().nbytes())
    at::native::resize_bytes_cpu(self.storage().unsafeGetStorageImpl(), bytes);
  return self;
}

Tensor view(const Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                  std::optional<c10::SymInt> offset) {
  const auto at = offset ? std::make_optional(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), at);
}

Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size),
                                    C10_AS_INTARRAYREF_SLOW(stride));
}

void record_stream(Tensor&, c10::Stream) {}  // memory is never given back before its time here

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("resize_", &resize_);
  m.impl("copy_", &copy_);
  m.impl("view", &view);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("record_stream", &record_stream);
}

}  // namespace fake
