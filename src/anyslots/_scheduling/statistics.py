"""What an executor or a lane says about itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """The counts of one moment, of a lane and all lanes inside it.

    At any time ``submitted == queued + running + lent + succeeded + failed + cancelled``.
    """

    slots: float
    """How many jobs may run at once; `math.inf` for no limit."""
    running: int
    """Jobs that have started and not ended, without the lent ones."""
    queued: int
    """Jobs that have not started, or wait for another attempt."""
    lent: int
    """Jobs that have lent their slot while they wait."""
    submitted: int
    """All jobs that were ever submitted."""
    succeeded: int
    """Jobs that returned a value."""
    failed: int
    """Jobs that raised an exception."""
    cancelled: int
    """Jobs that were cancelled, before they started or while they ran."""
