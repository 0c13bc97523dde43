"""Constants of `SumTree`, shared by its two implementations."""

FAN = 16  # children of a node: wide enough for few levels, narrow enough to recompute a node cheaply
TOP = 4096  # nodes that the uppermost level may have
BELOW = 1 - 2.0**-53  # x * BELOW is the largest number below x, or the one before it
