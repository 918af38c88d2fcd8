// A CUDA device made of host memory:
//
//     process.cpp  counts, settings and faults
//     streams.cpp  copies that are held back
//     device.cpp   devices, their memory, what torch asks a build with CUDA for
//     random.cpp   generators
//     graphs.cpp   CUDA graphs
//     copies.cpp   what is copied to, from and between tensors that say `cuda:N`
//     kernels.cpp  what is computed on them
//
// Everything is per process.
#pragma once

#include "process.h"
#include "streams.h"

#include <ATen/core/Generator.h>
#include <c10/core/Allocator.h>

namespace fake {

int devices();
int current_device();
void use(int device);  // raises where there is no such device, or CUDA may not be used

c10::Allocator* allocator();
void charge(int device, int64_t bytes);  // raises where the device's memory is full
void discharge(int device, int64_t bytes);

// Whether the host's memory at `data` is page-locked: registered, or allocated so.
bool page_locked(const void* data);

// ---- Generators.

struct Position {
  uint64_t seed, offset;
};
constexpr uint64_t DRAWN_AT_ONCE = 4;  // by a kernel: Philox draws four numbers at a time

at::Generator new_generator(int device);
// The generator that random kernels of `device` draw from when they are given none.
const at::Generator& default_generator(int device);

Position position(const at::Generator& generator);
void skip(at::Generator& generator, uint64_t draws);  // raises while it is captured
Position draw_now(at::Generator& generator);          // returns where it was, and goes on
void set_captured(at::Generator& generator, bool captured);  // stays so if the capture fails
uint64_t mixed(Position at);  // the seed of a kernel's own draws

}  // namespace fake
