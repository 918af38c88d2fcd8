r"""`bin/bench gpu`: all that has to be known of galamp on a machine with GPUs, by one command.

    facts     driver, GPUs, cores, NUMA nodes, the build of torch
    trial     page-locked memory, launches, waits, copies, CUDA graphs: microseconds each
    parity    100 updates on fixed rollouts: the same on the GPU as on the CPU, TF32 off and on, and
              as CUDA graphs the same actions and parameters as without
    learner   one learner trains
    kill      four learners on one GPU; one of them is killed, and comes back
    resume    a run goes on on a CPU, and on the GPU again
    profile   20 rollouts under torch.profiler: launches, waits, copies, the longest kernels
    rates     learners at as many environments: agent steps/s, GPU, watts, frames per joule
    chaos     faults for 40 s
    pong      40 s on the GPU and on the CPU with the same seed: losses alike

    command --Step, Step, ...--> steps.run_steps --Report--> lines at once, a JSON row per step
                                   |  each within its own time, and all within --limit-s
                                   +--> a child or a run of galamp (processes.Program)

What uses a GPU does so in a process of its own, which ends with its step: one that hangs costs its
step. The parent only has them tried, and leaves out those that cannot be used. Where no CUDA graph
can be recorded galamp goes on without, and far slower: here that is a failure of each step that
sees it (trial, parity, learner, profile), which shows why.

Where there is no package registry
----------------------------------
A machine with a GPU may reach no registry. torch and numpy have to be there; what else is needed
can lie in any folder on PYTHONPATH, as unpacked wheels for that machine's Python. Where there is a
registry (for Python 3.12 there):

    python3 -m pip download --only-binary=:all: --no-deps --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux_2_5_x86_64 \
        -c bin/constraints.txt -d wheels \
        ale-py gymnasium farama-notifications cloudpickle typing-extensions setproctitle \
        safetensors rich markdown-it-py mdurl pygments

There, from the checkout:

    for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" /tmp/packages; done
    PYTHONPATH=/tmp/packages python3 -m galamp.tools.bench gpu --json gpu.jsonl

The folder's path is absolute, for children may start elsewhere. Power and utilisation are read
through the package nvidia-ml-py, or by nvidia-smi where that is missing.
"""
