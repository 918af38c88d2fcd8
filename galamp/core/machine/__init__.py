"""Every process: the processors, memory, GPUs and limits of this machine."""
