"""What comes from outside, bent in every way: a clear error each time, or it is as it was.

Every property runs with a few examples in the gate, always the same ones, and with many fresh ones
among the slow tests; `test_amounts.py` holds that these are 10,000 at least.
"""
