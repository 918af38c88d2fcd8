// Captures and replays; see graphs.h.
#include "graphs.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>

namespace fake {
namespace {

struct Memory {
  c10::Storage storage;
  std::vector<char> bytes;
};

struct Graph {
  int device = -1;
  StreamId stream = 0;
  bool spoiled = false, ended = false;
  std::vector<std::pair<std::string, Node>> nodes;
  std::vector<at::Generator> generators;
  std::vector<uint64_t> drawn;  // by each generator, in one replay
  std::map<c10::StorageImpl*, Memory> before;

  // A stream's work is in order: each node finds what those before it have left.
  std::function<void()> run(const Draws& draws) const {
    const c10::InferenceMode inference(true);
    const c10::DeviceGuard guard(c10::Device(c10::DeviceType::CUDA, device));
    std::vector<std::function<void()>> landings;
    for (const auto& [name, node] : nodes) {
      check_faults(device, name);
      if (auto landing = node(draws)) landings.push_back(std::move(landing));
    }
    return [landings = std::move(landings)] {
      for (const auto& landing : landings) landing();
    };
  }

  void restore() {
    for (auto& [_, memory] : before)
      std::memcpy(memory.storage.mutable_data(), memory.bytes.data(), memory.bytes.size());
    before.clear();
  }
};

// Autograd works in threads of its own: a capture is the process's, not a thread's.
std::recursive_mutex graphs_mutex;
std::map<int64_t, std::shared_ptr<Graph>> graphs;
std::shared_ptr<Graph> underway;

using Lock = std::lock_guard<std::recursive_mutex>;

std::shared_ptr<Graph> graph_of(int64_t number) {
  const Lock lock(graphs_mutex);
  return graphs.at(number);
}

int64_t graph_new() {
  const Lock lock(graphs_mutex);
  static int64_t last = 0;
  graphs[++last] = std::make_shared<Graph>();
  return last;
}

void graph_drop(int64_t number) {
  const Lock lock(graphs_mutex);
  graphs.erase(number);
}

void graph_register(int64_t number, at::Generator generator) {
  const auto graph = graph_of(number);
  graph->generators.push_back(std::move(generator));
  graph->drawn.push_back(0);
}

void graph_begin(int64_t number) {
  const Lock lock(graphs_mutex);
  const auto graph = graph_of(number);
  TORCH_CHECK(!graph->ended, "This CUDAGraph instance already owns a captured graph. To capture a "
                             "new graph, create a new instance.");
  TORCH_CHECK(!underway, "only one stream at a time is captured here");
  graph->device = current_device();
  graph->stream = current_stream(graph->device);
  TORCH_CHECK(graph->stream != 0, "CUDA graphs must be captured on a non-default stream. (However, "
                                  "after capture, it's ok to replay them on the default stream.)");
  for (auto& generator : graph->generators) set_captured(generator, true);
  if (!setting("FAKE_CUDA_NO_GRAPHS").empty()) raise_cuda_error(801, "operation not supported");
  underway = graph;
}

void graph_end(int64_t number) {
  const Lock lock(graphs_mutex);
  const auto graph = graph_of(number);
  TORCH_CHECK(graph == underway, "capture_end() called before capture_begin().");
  TORCH_CHECK(current_device() == graph->device && current_stream(graph->device) == graph->stream,
              "Capture must end on the same stream it began on.");
  underway.reset();
  graph->restore();
  if (graph->spoiled)
    raise_cuda_error(901, "operation failed due to a previous error during capture");
  for (auto& generator : graph->generators) set_captured(generator, false);
  graph->ended = true;
}

void graph_replay(int64_t number) {
  const auto graph = graph_of(number);
  TORCH_CHECK(graph->ended, "Called CUDAGraph::replay without a preceding successful capture.");
  refuse_in_capture();
  Draws draws;
  for (size_t i = 0; i < graph->generators.size(); ++i) {
    draws.push_back(position(graph->generators[i]));
    skip(graph->generators[i], graph->drawn[i]);
  }
  count(GRAPHS, graph->device);
  check_faults(graph->device, "graph");
  auto take = [graph, draws] { return graph->run(draws); };
  if (holds()) {
    hold_to_host(graph->device, take);
  } else {
    advance(graph->device);
    take()();
  }
}

bool graph_capturing() {
  return in_capture(current_device(), current_stream(current_device()));
}

}  // namespace

bool in_capture(int device, StreamId stream) {
  const Lock lock(graphs_mutex);
  return underway && underway->device == device && underway->stream == stream;
}

bool capturing(int device) {
  const Lock lock(graphs_mutex);
  if (!underway) return false;
  if (underway->spoiled)
    raise_cuda_error(901, "operation failed due to a previous error during capture");
  TORCH_CHECK(in_capture(device, current_stream(device)),
              "work for another stream than the one that is captured: no graph has it");
  return true;
}

void refuse_in_capture() {
  const Lock lock(graphs_mutex);
  if (!underway) return;
  underway->spoiled = true;
  raise_cuda_error(900, "operation not permitted when stream is capturing");
}

void add(const std::string& name, Node node) {
  const Lock lock(graphs_mutex);
  underway->nodes.emplace_back(name, std::move(node));
}

void keep(const at::Tensor& tensor) {
  const Lock lock(graphs_mutex);
  if (!tensor.defined() || tensor.storage().nbytes() == 0) return;
  const auto& storage = tensor.storage();
  const auto* begin = static_cast<const char*>(storage.data());
  underway->before.try_emplace(storage.unsafeGetStorageImpl(),
                               Memory{storage, {begin, begin + storage.nbytes()}});
}

SeedOf draw(at::Generator generator, int device) {
  const Lock lock(graphs_mutex);
  if (!capturing(device)) {
    const auto here = draw_now(generator);
    return [here](const Draws&) { return mixed(here); };
  }
  for (size_t i = 0; i < underway->generators.size(); ++i) {
    if (underway->generators[i] != generator) continue;
    const auto offset = underway->drawn[i];
    underway->drawn[i] += DRAWN_AT_ONCE;
    const auto now = position(generator);
    return [i, offset, now](const Draws& draws) {
      const auto from = draws.empty() ? now : draws[i];
      return mixed({from.seed, from.offset + offset});
    };
  }
  underway->spoiled = true;
  TORCH_CHECK(false, "philox_cuda_state for an unexpected CUDA generator used during capture. In "
                     "regions captured by CUDA graphs, you may only use the default CUDA RNG "
                     "generator on the device that's current when capture begins, or register it.");
}

TORCH_LIBRARY(fakecuda, m) {
  m.def("graph_new() -> int", &graph_new);
  m.def("graph_drop(int graph) -> ()", &graph_drop);
  m.def("graph_register(int graph, Generator? generator) -> ()", &graph_register);
  m.def("graph_begin(int graph) -> ()", &graph_begin);
  m.def("graph_end(int graph) -> ()", &graph_end);
  m.def("graph_replay(int graph) -> ()", &graph_replay);
  m.def("graph_capturing() -> bool", &graph_capturing);
}

}  // namespace fake
