// A CUDA device made of host memory: what its two halves share.
//
//     device.cpp   devices, memory, streams, the generator, counts and faults
//     kernels.cpp  what is computed and copied, on tensors that say `cuda:N`
//
// Everything is per process. Settings are environment variables, read when they are first needed.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <string>

namespace fake {

constexpr int MOST_DEVICES = 16;

// What is counted; Python reads them in this order, and then the kernels of each device.
enum Count {
  KERNELS,        // operations that a GPU would launch a kernel for; copies on one GPU among them
  TO_DEVICE,      // copies from the host's memory
  TO_HOST,        // copies to the host's memory
  BETWEEN,        // copies from one GPU to another
  NON_BLOCKING,   // copies of the three kinds above that the host did not wait for
  WAITS,          // how often the host waited for a device
  OF_DEVICE,      // kernels of device 0, and so on
  ALL_COUNTS = OF_DEVICE + MOST_DEVICES
};
void count(Count what, int device = -1);

// Devices.
int devices();
int current_device();
void use(int device);  // raises where there is no such device, or it is out of order
c10::Allocator* allocator();
void charge(int device, int64_t bytes);  // raises where the device's memory is full
void discharge(int device, int64_t bytes);
c10::DeleterFnPtr host_deleter();

// The generator that random kernels of `device` draw from when they are given none.
const at::Generator& default_generator(int device);
uint64_t draw_seed(at::Generator& generator);  // of a kernel's own draws; the offset goes on

// Whether the host's memory at `data` is page-locked: registered, or allocated so.
bool page_locked(const void* data);

// Streams. Kernels run when they are launched. A copy that the host does not wait for is held back,
// where FAKE_CUDA_HOLD is set, until something waits for its stream or needs it in the stream.
c10::StreamId current_stream(int device);
bool holds();
void hold_to_device(int device, std::function<void()> copy);
void hold_to_host(int device, std::function<std::function<void()>()> take);
void advance(int device);  // the current stream goes on: what was copied to the device arrives
void wait_for_stream(int device, c10::StreamId stream);  // and what was copied from it, too

// Raises what the device's faults have it raise for operation `name`; see install.py for them.
void check_faults(int device, const std::string& name);

}  // namespace fake
