"""Which job starts next: synchronous code, without tasks, event loops or a clock of its own.

`scheduler` has a method for each transition of a job. What it works on has a module for each
structure, with its invariant above its fields: a lane, its queue, rates, timers and so on. Nothing
here imports from the layers above, which pass in the clock, and functions to be called back.
"""
