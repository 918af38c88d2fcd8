// Streams. Kernels run when they are launched. A copy that the host does not wait for is held back,
// where FAKE_CUDA_HOLD is set, until something waits for its stream or needs it in the stream.
#pragma once

#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>

namespace fake {

using c10::StreamId;

constexpr int64_t ALL = INT64_MAX;  // a ticket later than that of any copy

StreamId new_stream();
StreamId current_stream(int device);
StreamId exchange_stream(int device, StreamId stream);  // returns the one before

bool holds();
void hold_to_device(int device, std::function<void()> copy);
// `take` reads the device's memory as the stream goes on; what it returns writes to the host's.
void hold_to_host(int device, std::function<std::function<void()>()> take);

void advance(int device);  // the current stream goes on: what was copied to the device arrives
// Does all that the stream holds back, up to a ticket; and so for all streams of a device.
void complete(int device, StreamId stream, int64_t ticket = ALL);
void complete_all(int device);
bool is_done(int device, StreamId stream, int64_t ticket = ALL);
int64_t last_ticket();  // of the copies held back so far, in any stream

}  // namespace fake
