"""This machine: its processors, memory, GPUs and limits. Used by every process."""
