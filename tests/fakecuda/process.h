// What a process counts, and what goes wrong in it.
#pragma once

#include <cstdint>
#include <string>

namespace fake {

constexpr int MOST_DEVICES = 16;

// What is counted; Python reads them in this order, and then the launches on each device.
enum Count {
  KERNELS,        // operations that a GPU would launch a kernel for; copies on one GPU among them
  TO_DEVICE,      // copies from the host's memory
  TO_HOST,        // copies to the host's memory
  BETWEEN,        // copies from one GPU to another
  NON_BLOCKING,   // copies of the three kinds above that the host did not wait for
  WAITS,          // how often the host waited for a device
  GRAPHS,         // replays of CUDA graphs; what is in them is not counted again
  OF_DEVICE,      // kernels and graphs of device 0, and so on
  ALL_COUNTS = OF_DEVICE + MOST_DEVICES
};
void count(Count what, int device = -1);

// Environment variables: see install.py. They are read whenever they matter.
std::string setting(const char* name);
// The part of a setting that is for `device`: of `0:a,1:b` it is `b` for device 1. A device that is
// named alone has the part `yes`.
std::string setting_of(const char* name, int device);

[[noreturn]] void raise_cuda_error(int code, const std::string& words);

// Raises what the device's faults have it raise for operation `name`.
void check_faults(int device, const std::string& name);

// An error that the runtime keeps until it is asked for it: the next kernel launch raises it.
int latch(int code);

}  // namespace fake
