// Generators: the whole state of one are a seed and an offset, 16 bytes, as on a real GPU.
#include "device.h"
#include "graphs.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

namespace fake {
namespace {

struct Generator final : c10::GeneratorImpl {
  Position at_{0, 0};
  bool captured_ = false;
  explicit Generator(c10::DeviceIndex device)
      : GeneratorImpl(c10::Device(c10::DeviceType::CUDA, device),
                      c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}

  // The state of the host says nothing of one that a graph will draw from.
  static void refuse(const char* call) {
    TORCH_CHECK(!in_capture(current_device(), current_stream(current_device())), "Cannot call ",
                "CUDAGeneratorImpl::", call, " during CUDA graph capture. If you need this call to "
                "be captured, please file an issue.");
  }
  void set_current_seed(uint64_t seed) override {
    refuse("set_current_seed");
    at_ = {seed, 0};
  }
  void set_offset(uint64_t offset) override {
    refuse("set_offset");
    at_.offset = offset;
  }
  uint64_t get_offset() const override {
    refuse("get_offset");
    return at_.offset;
  }
  uint64_t current_seed() const override {
    refuse("current_seed");
    return at_.seed;
  }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom(true));
    return at_.seed;
  }
  void set_state(const c10::TensorImpl& state) override {
    refuse("set_state");
    TORCH_CHECK(state.numel() == sizeof(at_), "RNG state is wrong size");
    std::memcpy(&at_, state.data(), sizeof(at_));
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    refuse("current_seed");
    auto state = at::empty({sizeof(at_)}, at::TensorOptions().dtype(at::kByte));
    std::memcpy(state.mutable_data_ptr(), &at_, sizeof(at_));
    return state.getIntrusivePtr();
  }
  Generator* clone_impl() const override {
    auto* copy = new Generator(device().index());
    copy->at_ = at_;
    return copy;
  }
};

Generator* impl(const at::Generator& generator) {
  return static_cast<Generator*>(generator.unsafeGetGeneratorImpl());
}

}  // namespace

at::Generator new_generator(int device) { return at::make_generator<Generator>(device); }

const at::Generator& default_generator(int device) {
  static auto* generators = [] {
    auto* all = new std::vector<at::Generator>;
    for (int d = 0; d < MOST_DEVICES; ++d) all->push_back(new_generator(d));
    return all;
  }();
  return generators->at(device);
}

Position position(const at::Generator& generator) { return impl(generator)->at_; }

void skip(at::Generator& generator, uint64_t draws) {
  TORCH_CHECK(!impl(generator)->captured_,
              "Offset increment outside graph capture encountered unexpectedly.");
  impl(generator)->at_.offset += draws;
}

void set_captured(at::Generator& generator, bool captured) {
  impl(generator)->captured_ = captured;
}

Position draw_now(at::Generator& generator) {
  const auto here = position(generator);
  skip(generator, DRAWN_AT_ONCE);
  return here;
}

uint64_t mixed(Position at) { return at.seed * 1000003ULL + at.offset; }

}  // namespace fake
