// A CUDA device made of host memory:
//
//     process.cpp  counts, settings and faults
//     streams.cpp  copies that are held back
//     device.cpp   devices, their memory, the generator, what torch asks a build with CUDA for
//     kernels.cpp  what is computed and copied, on tensors that say `cuda:N`
//
// Everything is per process.
#pragma once

#include "process.h"
#include "streams.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>

namespace fake {

int devices();
int current_device();
void use(int device);  // raises where there is no such device, or CUDA may not be used

c10::Allocator* allocator();
void charge(int device, int64_t bytes);  // raises where the device's memory is full
void discharge(int device, int64_t bytes);

// The generator that random kernels of `device` draw from when they are given none.
const at::Generator& default_generator(int device);
uint64_t draw_seed(at::Generator& generator);  // of a kernel's own draws; the offset goes on

// Whether the host's memory at `data` is page-locked: registered, or allocated so.
bool page_locked(const void* data);

}  // namespace fake
