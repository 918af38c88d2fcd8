"""Learners: how published vectors reach their peers, here through shared memory."""
