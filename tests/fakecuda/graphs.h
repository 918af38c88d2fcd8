// CUDA graphs: what a stream is given while it is captured is done at every replay, and not before.
//
//     fallback, copies --add--> nodes of the graph --replay--> the same, on the same memory
//
// One stream at a time is captured. What CUDA refuses meanwhile is refused.
#pragma once

#include "device.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace fake {

// Where each generator of the graph is when it is replayed.
using Draws = std::vector<Position>;
// Does its part; returns what a copy to the host has yet to write there, if it is one.
using Node = std::function<std::function<void()>(const Draws&)>;
// The seed of a kernel's own draws.
using SeedOf = std::function<uint64_t(const Draws&)>;

// Whether work for the device's current stream is captured. Raises where another stream of the
// process is: the work would not be part of the graph.
bool capturing(int device);
bool in_capture(int device, StreamId stream);

// Raises, and spoils the capture, where there is one: of what waits for a device, or may.
void refuse_in_capture();

void add(const std::string& name, Node node);
void keep(const at::Tensor& tensor);  // it is as now again when the capture ends
// What a kernel draws from: of `generator` as it is, or as it will be when it is replayed.
SeedOf draw(at::Generator generator, int device);

}  // namespace fake
