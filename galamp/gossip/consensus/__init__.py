"""Parent and tools: how far apart the learners are, measured, bounded and predicted."""
