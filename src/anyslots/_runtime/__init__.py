"""Tasks and the event loop: what runs the jobs that the scheduler starts.

`runtime` has what everything here shares. Workers drive jobs, the pool starts workers and wakes
them, and a waiter is what a job waits with, lending its slot. What differs between event loops is
in `asyncio_backend` and `trio_backend`, behind the protocol in `backend`.
"""
