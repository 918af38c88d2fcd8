// Devices and their memory, and what torch asks a build with CUDA for; see device.h.
#include "graphs.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace fake {
namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

thread_local int current = 0;
std::atomic<bool> initialised{false};
std::atomic<bool> forked{false};  // since it was initialised: CUDA cannot be used then
std::atomic<bool> gives_defaults{false};  // torch.Generator(device) is the device's default one
std::array<std::atomic<int64_t>, MOST_DEVICES> used_bytes{};

// A child of fork may use CUDA only if its parent has not.
const int device_at_fork = pthread_atfork(nullptr, nullptr, [] {
  if (initialised) forked = true;
});

int64_t capacity_bytes(int device) {
  const auto value = setting_of("FAKE_CUDA_MEMORY", device);
  return value.empty() ? int64_t{80} << 30 : std::stoll(value);
}

struct Event {
  int device;
  StreamId stream;
  int64_t ticket;
  bool captured;  // it stands for work that is only captured
};

// ---- The device guard: how torch changes and asks for the current device and stream.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return Device(DeviceType::CUDA, current); }
  Device exchangeDevice(Device to) const override {
    const auto before = getDevice();
    setDevice(to);
    return before;
  }
  void setDevice(Device to) const override { use(to.index()); }
  void uncheckedSetDevice(Device to) const noexcept override { current = to.index(); }
  DeviceIndex deviceCount() const noexcept override { return devices(); }

  Stream stream(int device, StreamId id) const {
    return Stream(Stream::UNSAFE, Device(DeviceType::CUDA, device), id);
  }
  int index(Device of) const { return of.index() < 0 ? current : of.index(); }
  Stream getStream(Device of) const override {
    return stream(index(of), current_stream(index(of)));
  }
  Stream getDefaultStream(Device of) const override { return stream(index(of), 0); }
  Stream getNewStream(Device of, int) const override { return stream(index(of), new_stream()); }
  Stream getStreamFromGlobalPool(Device of, bool) const override { return getNewStream(of, 0); }
  Stream exchangeStream(Stream to) const override {
    return stream(to.device_index(), exchange_stream(to.device_index(), to.id()));
  }
  bool isStreamCapturing(const Stream& of) const override {
    return in_capture(of.device_index(), of.id());
  }
  bool queryStream(const Stream& of) const override {
    refuse_in_capture();
    const bool done = is_done(of.device_index(), of.id());
    complete(of.device_index(), of.id());  // done when it is asked again
    return done;
  }
  void synchronizeStream(const Stream& of) const override {
    refuse_in_capture();
    count(WAITS);
    check_faults(of.device_index(), "synchronize");
    complete(of.device_index(), of.id());
  }
  void synchronizeDevice(const DeviceIndex device) const override {
    refuse_in_capture();
    count(WAITS);
    check_faults(device, "synchronize");
    complete_all(device);
  }

  void record(void** event, const Stream& of, const DeviceIndex, const c10::EventFlag) const
      override {
    delete static_cast<Event*>(*event);
    *event = new Event{of.device_index(), of.id(), last_ticket(), isStreamCapturing(of)};
  }
  void complete_event(void* event) const {
    if (const auto* e = static_cast<Event*>(event)) complete(e->device, e->stream, e->ticket);
  }
  void block(void* event, const Stream& by) const override {
    const auto* e = static_cast<Event*>(event);
    const bool captured = isStreamCapturing(by);
    if (e != nullptr && e->captured && !captured && by.id() == 0)
      raise_cuda_error(906, "operation would make the legacy stream depend on a capturing blocking "
                            "stream");
    TORCH_CHECK(e == nullptr || e->captured == captured, "of all streams only one is captured here");
    complete_event(event);
  }
  bool queryEvent(void* event) const override {
    refuse_in_capture();
    const auto* e = static_cast<Event*>(event);
    const bool done = e == nullptr || is_done(e->device, e->stream, e->ticket);
    complete_event(event);
    return done;
  }
  void synchronizeEvent(void* event) const override {
    refuse_in_capture();
    count(WAITS);
    complete_event(event);
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override {
    delete static_cast<Event*>(event);
  }
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0.0; }
};

// ---- Memory: of the devices, and page-locked memory of the host.

struct Block {
  void* data;
  int64_t bytes;
  int device;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  discharge(block->device, block->bytes);
  std::free(block->data);
  delete block;
}

void* aligned(size_t bytes) {
  void* data = nullptr;
  if (bytes != 0 && posix_memalign(&data, 64, bytes) != 0) throw std::bad_alloc();
  return data;
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    charge(current, static_cast<int64_t>(bytes));
    auto* block = new Block{aligned(bytes), static_cast<int64_t>(bytes), current};
    return {block->data, block, &free_block, Device(DeviceType::CUDA, current)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

std::mutex ranges_mutex;
std::map<uintptr_t, size_t> locked_ranges;  // begin -> bytes

void free_locked(void* data) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  locked_ranges.erase(reinterpret_cast<uintptr_t>(data));
  std::free(data);
}

struct LockedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    refuse_in_capture();
    const auto refused = setting("FAKE_CUDA_HOST_ALLOC");
    if (!refused.empty()) raise_cuda_error(std::stoi(refused), "no page-locked memory");
    void* data = aligned(bytes);
    std::lock_guard<std::mutex> lock(ranges_mutex);
    if (data != nullptr) locked_ranges[reinterpret_cast<uintptr_t>(data)] = bytes;
    return {data, data, &free_locked, Device(DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

DeviceAllocator device_allocator;
LockedAllocator locked_allocator;
const bool has_allocator = [] {
  c10::SetAllocator(DeviceType::CUDA, &device_allocator);
  return true;
}();

// ---- What torch asks a build with CUDA for.

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return devices() > 0; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return devices() > 0; }
  int getNumGPUs() const override { return devices(); }
  DeviceIndex deviceCount() const override { return devices(); }
  bool hasPrimaryContext(DeviceIndex) const override { return initialised; }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex device) const override { use(device); }
  void deviceSynchronize(DeviceIndex device) const override { Guard().synchronizeDevice(device); }
  at::Allocator* getCUDADeviceAllocator() const override { return &device_allocator; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &locked_allocator; }
  bool isPinnedPtr(const void* data) const override { return page_locked(data); }
  Device getDeviceFromPtr(void*) const override { return Device(DeviceType::CUDA, current); }
  const at::Generator& getDefaultGenerator(DeviceIndex device = -1) const override {
    return default_generator(device < 0 ? current : device);
  }
  at::Generator getNewGenerator(DeviceIndex device = -1) const override {
    if (gives_defaults) return getDefaultGenerator(device);
    return new_generator(device < 0 ? current : device);
  }
};

}  // namespace

int devices() { return std::min(std::atoi(setting("FAKE_CUDA_DEVICES").c_str()), MOST_DEVICES); }

int current_device() { return current; }

void use(int device) {
  if (forked)
    TORCH_CHECK(false, "Cannot re-initialize CUDA in forked subprocess. To use CUDA with "
                       "multiprocessing, you must use the 'spawn' start method");
  initialised = true;
  if (device < 0 || device >= devices()) raise_cuda_error(101, "invalid device ordinal");
  current = device;
}

c10::Allocator* allocator() { return &device_allocator; }

void charge(int device, int64_t bytes) {
  use(device);
  check_faults(device, "allocate");
  const auto capacity = capacity_bytes(device);
  const auto free = capacity - used_bytes[device];
  TORCH_CHECK_WITH(OutOfMemoryError, bytes <= free, "CUDA out of memory. Tried to allocate ",
                   bytes / double(1 << 20), " MiB. GPU ", device, " has a total capacity of ",
                   capacity / double(1 << 30), " GiB of which ", free / double(1 << 20),
                   " MiB is free.");
  used_bytes[device] += bytes;
}

void discharge(int device, int64_t bytes) { used_bytes[device] -= bytes; }

bool page_locked(const void* data) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  const auto at = reinterpret_cast<uintptr_t>(data);
  auto next = locked_ranges.upper_bound(at);
  if (next == locked_ranges.begin()) return false;
  --next;
  return at < next->first + next->second;
}

}  // namespace fake

// ---- What install.py calls.

extern "C" {

int fake_cuda_current_device() { return fake::current; }

int64_t fake_cuda_current_stream(int device) { return fake::current_stream(device); }

void fake_cuda_give_defaults(int whether) { fake::gives_defaults = whether != 0; }

// 0: used; 1: forked after CUDA was initialised.
int fake_cuda_initialise() {
  if (fake::forked) return 1;
  fake::initialised = true;
  at::globalContext().lazyInitDevice(at::kCUDA);
  return 0;
}

int fake_cuda_initialised() { return fake::initialised && !fake::forked; }

void fake_cuda_memory(int device, int64_t* used_and_capacity) {
  used_and_capacity[0] = fake::used_bytes[device];
  used_and_capacity[1] = fake::capacity_bytes(device);
}

int fake_cuda_host_register(uintptr_t begin, size_t bytes) {
  const auto refused = fake::setting("FAKE_CUDA_HOST_REGISTER");
  if (!refused.empty()) return fake::latch(std::stoi(refused));
  if (bytes == 0) return fake::latch(1);
  std::lock_guard<std::mutex> lock(fake::ranges_mutex);
  for (const auto& [at, size] : fake::locked_ranges)
    if (begin < at + size && at < begin + bytes) return fake::latch(712);
  fake::locked_ranges[begin] = bytes;
  return 0;
}

int fake_cuda_host_unregister(uintptr_t begin) {
  std::lock_guard<std::mutex> lock(fake::ranges_mutex);
  return fake::locked_ranges.erase(begin) ? 0 : fake::latch(713);
}
}

C10_REGISTER_GUARD_IMPL(CUDA, fake::Guard);

namespace at {
using FakeHooks = fake::Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, FakeHooks)
}  // namespace at
