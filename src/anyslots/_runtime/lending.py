"""Lending the slot of a job: around one wait, or for a block."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import coroutine
from typing import Any, Protocol

from .._scheduling.job import Job
from .._scheduling.scheduler import Scheduler
from .._scheduling.wait_queue import Waiter
from .backend import Backend, Parked


class Host(Protocol):
    """What a lender needs of its runtime."""

    scheduler: Scheduler
    backend: Backend


class Lender:
    """What runs a job, and may lend the job's slot while the job waits for something.

    Holds at all times: `loan` is set while the slot is lent, from before instruments are told of it
    until the job goes on.
    """

    __slots__ = ("_way_back", "enclosing", "host", "job", "loan")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.job: Job[Any] | None = None
        self.loan: Waiter | None = None
        # What runs the job that this one is a part of: a slot that's occupied inside of a job.
        self.enclosing: Lender | None = None
        # Where the job waits for a slot to go on with, when it has to.
        self._way_back: Parked | None = None

    def jobs(self) -> Iterator[Job[Any]]:
        """Its job and those around it, innermost first."""
        lender: Lender | None = self
        while lender is not None:
            if lender.job is not None:
                yield lender.job
            lender = lender.enclosing

    def lend(self) -> Waiter:
        """Lend the job's slot; return what stands for that until it goes on."""
        assert self.job is not None
        self.loan = loan = Waiter(self.job, self._wake)
        self.host.scheduler.lend(self.job)
        return loan

    def request_slot(self) -> None:
        """What the job waits for has happened: have it go on ahead of all queued jobs.

        Also called in the middle of the transition that makes it happen, before the slot that
        becomes free in it can go to another job.
        """
        assert self.loan is not None
        self.host.scheduler.reacquire(self.loan)

    @coroutine
    def reacquire(self) -> Generator[Any, Any, None]:
        """Wait for a slot to go on with; cancelled, go on at once."""
        loan = self.loan
        if loan is None:
            return
        self.host.scheduler.reacquire(loan)
        if not loan.served:
            self._way_back = self.host.backend.park()
            try:
                yield from self._way_back.wait()
            except BaseException:
                self.resume()
                raise
            finally:
                self._way_back = None
        self.resume()

    def resume(self) -> None:
        """Have the job go on at once, beyond the limit if there's no slot for it."""
        loan = self.loan
        if loan is not None:
            self.host.scheduler.resume(loan)
            self.loan = None
            self.host.scheduler.resumed(loan.job)

    def _wake(self) -> None:
        if self._way_back is not None:
            self._way_back.wake()


class TaskWaiter:
    """One wait of the current task, until it's woken; a job of the executor lends its slot for it.

    ``wake`` may be called at any time, in the middle of transitions too, and more than once.
    """

    __slots__ = ("lenders", "lending", "parked")

    def __init__(self, parked: Parked, lenders: list[Lender]) -> None:
        self.parked = parked
        # Those that run the job whose task this is: one for each executor that it's a job of; and
        # those of them that lend for this wait, while it lasts.
        self.lenders = lenders
        self.lending: list[Lender] = []

    def is_waiting(self) -> bool:
        return self.parked.is_waiting()

    def wake(self, _: object = None) -> None:
        self.parked.wake()
        for lender in self.lending:
            lender.request_slot()

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        lending = [lender for lender in self.lenders if lender.loan is None]
        if not lending or not self.parked.is_waiting():
            yield from self.parked.wait()
            return
        self.lending = lending
        for lender in lending:
            lender.lend()
        try:
            yield from self.parked.wait()
        except BaseException:
            for lender in lending:
                lender.resume()
            raise
        finally:
            self.lending = []
        for lender in lending:
            yield from lender.reacquire()
