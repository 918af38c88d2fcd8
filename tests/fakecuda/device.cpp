// Devices, memory, streams, the generator, counts and faults; see device.h.
#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <sstream>

namespace fake {
namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;
using c10::StreamId;

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// The part of setting `name` that is for `device`: of `0:a,1:b` it is `b` for device 1. A device
// that is named alone has the part `yes`.
std::string setting_of(const char* name, int device) {
  std::stringstream parts(setting(name));
  for (std::string part; std::getline(parts, part, ',');) {
    const auto colon = part.find(':');
    if (part.substr(0, colon) == std::to_string(device))
      return colon == std::string::npos ? "yes" : part.substr(colon + 1);
  }
  return "";
}

[[noreturn]] void raise_cuda_error(int code, const std::string& words) {
  throw c10::AcceleratorError(
      {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, code,
      "CUDA error: " + words +
          "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
          "stacktrace below might be incorrect.\n");
}

std::string words_of(int code) {
  static const std::map<int, std::string> words = {
      {2, "out of memory"},
      {712, "part or all of the requested memory range is already mapped"},
      {713, "pointer does not correspond to a registered memory region"},
      {801, "operation not supported"}};
  const auto found = words.find(code);
  return found == words.end() ? "unknown error" : found->second;
}

// ---- Counts. They lie in a file for each process where FAKE_CUDA_COUNTS names a folder, so that
// they can be read from outside, and after the process was killed.

using Counts = std::array<std::atomic<int64_t>, ALL_COUNTS>;

Counts* map_counts() {
  const auto folder = setting("FAKE_CUDA_COUNTS");
  if (folder.empty()) return new Counts{};
  const auto path = folder + "/" + std::to_string(getpid());
  const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  TORCH_CHECK(fd >= 0 && ftruncate(fd, sizeof(Counts)) == 0, "cannot write ", path);
  void* at = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  TORCH_CHECK(at != MAP_FAILED, "cannot map ", path);
  close(fd);
  return static_cast<Counts*>(at);
}

Counts* counts = nullptr;

Counts& all_counts() {
  if (counts == nullptr) counts = map_counts();
  return *counts;
}

// ---- What a process knows of its devices.

thread_local int current = 0;
std::atomic<bool> initialised{false};
std::atomic<bool> forked{false};  // since it was initialised: CUDA cannot be used then
std::atomic<bool> gives_defaults{false};  // torch.Generator(device) is the device's default one
std::atomic<int> latched{0};      // the last error; the next kernel launch tells it
std::array<std::atomic<int64_t>, MOST_DEVICES> used_bytes{};

// A child of fork counts anew, and may use CUDA only if its parent has not.
const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  counts = nullptr;
  if (initialised) forked = true;
});

int64_t capacity_bytes(int device) {
  const auto value = setting_of("FAKE_CUDA_MEMORY", device);
  return value.empty() ? int64_t{80} << 30 : std::stoll(value);
}

// ---- Streams: what each holds back, in order.

struct Held {
  int64_t ticket;
  std::function<void()> to_device;                  // a copy to the device, or
  std::function<std::function<void()>()> to_host;  // one that takes from it now and lands later
  std::function<void()> landing;
};

std::recursive_mutex streams_mutex;
std::map<std::pair<int, StreamId>, std::deque<Held>> held;
std::atomic<int64_t> last_ticket{0};
std::atomic<StreamId> last_stream{0};
thread_local std::array<StreamId, MOST_DEVICES> current_streams{};

struct Event {
  int device;
  StreamId stream;
  int64_t ticket;
};

// Does what the stream holds back, up to `ticket`; what goes to the host lands only if `land`.
void complete(int device, StreamId stream, int64_t ticket, bool land) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  const c10::InferenceMode inference(true);  // memory is copied; autograd has nothing to record
  auto& queue = held[{device, stream}];
  for (auto& each : queue) {
    if (each.ticket > ticket) break;
    if (each.to_device) std::exchange(each.to_device, nullptr)();
    if (each.to_host) each.landing = std::exchange(each.to_host, nullptr)();
    if (land && each.landing) std::exchange(each.landing, nullptr)();
  }
  while (!queue.empty() && !queue.front().to_device && !queue.front().to_host &&
         !queue.front().landing)
    queue.pop_front();
}

bool is_done(int device, StreamId stream, int64_t ticket) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  const auto& queue = held[{device, stream}];
  return queue.empty() || queue.front().ticket > ticket;
}

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
    return stream(index(of), current_streams[index(of)]);
  }
  Stream getDefaultStream(Device of) const override { return stream(index(of), 0); }
  Stream getNewStream(Device of, int) const override { return stream(index(of), ++last_stream); }
  Stream getStreamFromGlobalPool(Device of, bool) const override { return getNewStream(of, 0); }
  Stream exchangeStream(Stream to) const override {
    const auto before = getStream(to.device());
    current_streams[to.device_index()] = to.id();
    return before;
  }
  bool queryStream(const Stream& of) const override {
    const bool done = is_done(of.device_index(), of.id(), INT64_MAX);
    complete(of.device_index(), of.id(), INT64_MAX, true);  // done when it is asked again
    return done;
  }
  void synchronizeStream(const Stream& of) const override {
    count(WAITS);
    check_faults(of.device_index(), "synchronize");
    complete(of.device_index(), of.id(), INT64_MAX, true);
  }
  void synchronizeDevice(const DeviceIndex device) const override {
    std::lock_guard<std::recursive_mutex> lock(streams_mutex);
    count(WAITS);
    check_faults(device, "synchronize");
    for (auto& [key, queue] : held)
      if (key.first == device) complete(device, key.second, INT64_MAX, true);
  }

  void record(void** event, const Stream& of, const DeviceIndex, const c10::EventFlag) const
      override {
    delete static_cast<Event*>(*event);
    *event = new Event{of.device_index(), of.id(), last_ticket.load()};
  }
  void complete_event(void* event) const {
    if (const auto* e = static_cast<Event*>(event)) complete(e->device, e->stream, e->ticket, true);
  }
  void block(void* event, const Stream&) const override { complete_event(event); }
  bool queryEvent(void* event) const override {
    const auto* e = static_cast<Event*>(event);
    const bool done = e == nullptr || is_done(e->device, e->stream, e->ticket);
    complete_event(event);
    return done;
  }
  void synchronizeEvent(void* event) const override {
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

// ---- The generator: its whole state are a seed and an offset, 16 bytes, as on a real GPU.

struct Generator final : c10::GeneratorImpl {
  uint64_t seed_ = 0, offset_ = 0;
  explicit Generator(DeviceIndex device)
      : GeneratorImpl(Device(DeviceType::CUDA, device),
                      c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { seed_ = seed, offset_ = 0; }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom(true));
    return seed_;
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(state.numel() == 16, "RNG state is wrong size");
    const auto* bytes = static_cast<const uint8_t*>(state.data());
    std::memcpy(&seed_, bytes, 8);
    std::memcpy(&offset_, bytes + 8, 8);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = at::empty({16}, at::TensorOptions().dtype(at::kByte));
    auto* bytes = state.data_ptr<uint8_t>();
    std::memcpy(bytes, &seed_, 8);
    std::memcpy(bytes + 8, &offset_, 8);
    return state.getIntrusivePtr();
  }
  Generator* clone_impl() const override {
    auto* copy = new Generator(device().index());
    copy->seed_ = seed_, copy->offset_ = offset_;
    return copy;
  }
};

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
    return at::make_generator<Generator>(device < 0 ? current : device);
  }
};

}  // namespace

void count(Count what, int device) {
  ++all_counts()[what];
  if (device >= 0) ++all_counts()[OF_DEVICE + device];
}

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

const at::Generator& default_generator(int device) {
  static auto* generators = [] {
    auto* all = new std::vector<at::Generator>;
    for (int d = 0; d < MOST_DEVICES; ++d) all->push_back(at::make_generator<Generator>(d));
    return all;
  }();
  return generators->at(device);
}

uint64_t draw_seed(at::Generator& generator) {
  const auto offset = generator.get_offset();
  generator.set_offset(offset + 4);  // Philox draws four numbers at a time
  return generator.current_seed() * 1000003ULL + offset;
}

bool page_locked(const void* data) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  const auto at = reinterpret_cast<uintptr_t>(data);
  auto next = locked_ranges.upper_bound(at);
  if (next == locked_ranges.begin()) return false;
  --next;
  return at < next->first + next->second;
}

StreamId current_stream(int device) { return current_streams[device]; }

bool holds() { return !setting("FAKE_CUDA_HOLD").empty(); }

void hold_to_device(int device, std::function<void()> copy) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  held[{device, current_stream(device)}].push_back({++last_ticket, std::move(copy), {}, {}});
}

void hold_to_host(int device, std::function<std::function<void()>()> take) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  held[{device, current_stream(device)}].push_back({++last_ticket, {}, std::move(take), {}});
}

void advance(int device) { complete(device, current_stream(device), INT64_MAX, false); }

void wait_for_stream(int device, StreamId stream) { complete(device, stream, INT64_MAX, true); }

void check_faults(int device, const std::string& name) {
  const auto lost = setting("FAKE_CUDA_UNPLUGGED");  // a file that names the devices that are gone
  if (!lost.empty())
    if (FILE* file = std::fopen(lost.c_str(), "r")) {
      int gone = -1;
      while (std::fscanf(file, "%d", &gone) == 1 && gone != device) {
      }
      std::fclose(file);
      if (gone == device) raise_cuda_error(719, "unspecified launch failure");
    }
  if (name == "allocate" || name == "synchronize") return;
  if (!setting_of("FAKE_CUDA_NO_KERNEL", device).empty())
    raise_cuda_error(209, "no kernel image is available for execution on the device");
  if (const int code = latched.exchange(0)) raise_cuda_error(code, words_of(code));
  const auto fails = setting_of("FAKE_CUDA_FAILS_AT", device);  // aten::name:count
  if (fails.empty()) return;
  static std::atomic<int64_t> calls{0};
  const auto colon = fails.rfind(':');
  if (name == fails.substr(0, colon) && ++calls >= std::stoll(fails.substr(colon + 1)))
    raise_cuda_error(700, "an illegal memory access was encountered");
}

}  // namespace fake

// ---- What install.py calls.

extern "C" {

void fake_cuda_counts(int64_t* to) {
  for (int i = 0; i < fake::ALL_COUNTS; ++i) to[i] = fake::all_counts()[i];
}

void fake_cuda_reset_counts() {
  for (auto& each : fake::all_counts()) each = 0;
}

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

static int latch(int code) {
  fake::latched = code;
  return code;
}

int fake_cuda_host_register(uintptr_t begin, size_t bytes) {
  const auto refused = fake::setting("FAKE_CUDA_HOST_REGISTER");
  if (!refused.empty()) return latch(std::stoi(refused));
  if (bytes == 0) return latch(1);
  std::lock_guard<std::mutex> lock(fake::ranges_mutex);
  for (const auto& [at, size] : fake::locked_ranges)
    if (begin < at + size && at < begin + bytes) return latch(712);
  fake::locked_ranges[begin] = bytes;
  return 0;
}

int fake_cuda_host_unregister(uintptr_t begin) {
  std::lock_guard<std::mutex> lock(fake::ranges_mutex);
  return fake::locked_ranges.erase(begin) ? 0 : latch(713);
}
}

C10_REGISTER_GUARD_IMPL(CUDA, fake::Guard);

namespace at {
using FakeHooks = fake::Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, FakeHooks)
}  // namespace at
