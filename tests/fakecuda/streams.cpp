// What streams hold back, and when they no longer may; see streams.h.
#include "streams.h"

#include "process.h"

#include <c10/core/InferenceMode.h>

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

namespace fake {
namespace {

struct Held {
  int64_t ticket;
  std::function<void()> to_device;                  // a copy to the device, or
  std::function<std::function<void()>()> to_host;  // one that takes from it now and lands later
  std::function<void()> landing;
};

std::recursive_mutex streams_mutex;
std::map<std::pair<int, StreamId>, std::deque<Held>> held;
std::atomic<int64_t> tickets{0};
std::atomic<StreamId> last_stream{0};
thread_local std::array<StreamId, MOST_DEVICES> current_streams{};

// Does what the stream holds back, up to `ticket`; what goes to the host lands only if `land`.
void complete_until(int device, StreamId stream, int64_t ticket, bool land) {
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

}  // namespace

StreamId new_stream() { return ++last_stream; }

StreamId current_stream(int device) { return current_streams[device]; }

StreamId exchange_stream(int device, StreamId stream) {
  return std::exchange(current_streams[device], stream);
}

bool holds() { return !setting("FAKE_CUDA_HOLD").empty(); }

void hold_to_device(int device, std::function<void()> copy) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  held[{device, current_stream(device)}].push_back({++tickets, std::move(copy), {}, {}});
}

void hold_to_host(int device, std::function<std::function<void()>()> take) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  held[{device, current_stream(device)}].push_back({++tickets, {}, std::move(take), {}});
}

void advance(int device) { complete_until(device, current_stream(device), ALL, false); }

void complete(int device, StreamId stream, int64_t ticket) {
  complete_until(device, stream, ticket, true);
}

void complete_all(int device) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  for (const auto& [key, queue] : held)
    if (key.first == device) complete(device, key.second);
}

bool is_done(int device, StreamId stream, int64_t ticket) {
  std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  const auto& queue = held[{device, stream}];
  return queue.empty() || queue.front().ticket > ticket;
}

int64_t last_ticket() { return tickets; }

}  // namespace fake
