// Counts, settings and faults; see process.h.
#include "process.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>

namespace fake {

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string setting_of(const char* name, int device) {
  std::stringstream parts(setting(name));
  for (std::string part; std::getline(parts, part, ',');) {
    const auto colon = part.find(':');
    if (part.substr(0, colon) == std::to_string(device))
      return colon == std::string::npos ? "yes" : part.substr(colon + 1);
  }
  return "";
}

void raise_cuda_error(int code, const std::string& words) {
  throw c10::AcceleratorError(
      {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, code,
      "CUDA error: " + words +
          "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
          "stacktrace below might be incorrect.\n");
}

namespace {

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

// A child of fork counts anew.
const int counts_at_fork = pthread_atfork(nullptr, nullptr, [] { counts = nullptr; });

std::atomic<int> latched{0};

}  // namespace

void count(Count what, int device) {
  ++all_counts()[what];
  if (device >= 0) ++all_counts()[OF_DEVICE + device];
}

int latch(int code) {
  latched = code;
  return code;
}

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

// ---- What install.py and inside.py call.

extern "C" {

void fake_cuda_counts(int64_t* to) {
  for (int i = 0; i < fake::ALL_COUNTS; ++i) to[i] = fake::all_counts()[i];
}

void fake_cuda_reset_counts() {
  for (auto& each : fake::all_counts()) each = 0;
}
}
