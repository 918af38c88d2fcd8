// What is computed on tensors that say `cuda:N`; see device.h.
//
// One fallback takes every operation of the dispatch key CUDA: it checks the devices, gives the
// kernel of the CPU the same memory under the name `cpu`, and calls what comes of it `cuda:N`.
// Autograd, autocast and inference mode stand above it and are torch's own. In a capture the CPU
// computes too, so that there are tensors to go on with; what was there before is kept.
#include "copies.h"
#include "graphs.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
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

// Operations that copy single numbers of the host to the device first; others take them as they are.
const std::set<std::string> MOVE_NUMBERS = {"aten::where"};

void refuse(const std::string& one, const std::string& other, const std::string& name) {
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two ",
              "devices, ", one, " and ", other, "! (in ", name, ")");
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
  bool moves = false;
  for (const auto& argument : arguments) {
    if (argument.isDevice() && argument.toDevice().is_cuda()) device = argument.toDevice();
    each_tensor(argument, [&](const Tensor& tensor) {
      if (!tensor.defined()) return;
      if (!tensor.is_cuda()) {
        if (tensor.dim() > 0) on_host = tensor.device().str();  // a single number may come along
        if (tensor.dim() > 0 || MOVE_NUMBERS.count(name)) moves = true;
      } else if (device && *device != tensor.device()) {
        refuse(device->str(), tensor.device().str(), name);
      } else {
        device = tensor.device();
      }
    });
  }
  if (device && device->index() < 0) device = Device(DeviceType::CUDA, current_device());
  if (device && on_host && !TAKE_HOST_INDICES.count(name)) refuse(device->str(), *on_host, name);
  if (device && moves) {
    refuse_in_capture();
    count(TO_DEVICE), count(WAITS);
  }
  return device;
}

bool takes_generator(const c10::Argument& argument) {
  auto type = argument.type();
  if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  return type->kind() == c10::TypeKind::GeneratorType;
}

at::Generator generator_of(const IValue& given, Device device, const std::string& name) {
  auto generator = given.isGenerator() ? given.toGenerator() : default_generator(device.index());
  TORCH_CHECK(generator.device().is_cuda(),
              "Expected a 'cuda' device type for generator but found 'cpu' (in ", name, ")");
  return generator;
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
  refuse_in_capture();
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

// Arguments as the CPU takes them, and what its generator is seeded with if it has one.
struct Call {
  c10::OperatorHandle operation;
  torch::jit::Stack arguments;
  std::optional<size_t> generator;
  SeedOf seed;

  torch::jit::Stack compute(const Draws& draws) const {
    auto stack = arguments;
    if (generator) stack[*generator] = at::detail::createCPUGenerator(seed(draws));
    operation.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
    return stack;
  }
};

// Puts a result where the one of the capture is.
void put(const IValue& result, const IValue& there) {
  std::vector<Tensor> from, to;
  each_tensor(result, [&](const Tensor& tensor) { from.push_back(tensor); });
  each_tensor(there, [&](const Tensor& tensor) { to.push_back(tensor); });
  for (size_t i = 0; i < to.size(); ++i) {
    if (!to[i].defined()) continue;
    TORCH_CHECK(to[i].sizes() == from[i].sizes(), "a replay has another shape than its capture");
    to[i].copy_(from[i]);
  }
}

// Has the graph compute again at every replay; `results` are new ones, none where one was given.
void capture(const Call& call, torch::jit::Stack results) {
  add(call.operation.schema().name(), [call, results = std::move(results)](const Draws& draws) {
    const auto again = call.compute(draws);
    for (size_t i = 0; i < results.size(); ++i)
      if (!results[i].isNone()) put(again[i], results[i]);
    return nullptr;
  });
}

void fallback(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const auto& name = schema.name();
  const auto size = schema.arguments().size();
  const std::vector<IValue> given(stack->end() - size, stack->end());
  torch::jit::drop(*stack, size);
  const auto device = common_device(given, name);
  TORCH_CHECK(device, "no CUDA tensor among the arguments of ", name);
  c10::DeviceGuard guard(*device);
  const bool captured = capturing(device->index());
  if (WAITING.count(name)) refuse_in_capture();
  Call call{operation, {}, std::nullopt, {}};
  for (size_t i = 0; i < size; ++i) {
    const auto& argument = schema.arguments()[i];
    if (takes_generator(argument)) {
      call.generator = i;
      call.seed = draw(generator_of(given[i], *device, name), device->index());
    }
    if (captured && argument.alias_info() != nullptr && argument.alias_info()->isWrite())
      each_tensor(given[i], keep);
    call.arguments.push_back(takes_generator(argument) ? IValue() : for_host(given[i]));
  }
  if (!captured) {
    advance(device->index());
    check_faults(device->index(), name);
    count(KERNELS, device->index());
    if (WAITING.count(name)) {
      count(WAITS);
      complete(device->index(), current_stream(device->index()));
    }
  }
  auto results = call.compute({});
  for (size_t i = 0; i < results.size(); ++i) {
    if (const auto argument = written_argument(schema, i)) {
      if (given[*argument].isTensor()) adopt(given[*argument].toTensor(), results[i].toTensor());
      stack->push_back(given[*argument]);
      results[i] = IValue();
    } else {
      stack->push_back(for_device(results[i], *device));
    }
  }
  if (captured) capture(call, std::move(results));
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
