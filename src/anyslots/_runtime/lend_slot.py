"""Lending the slot of a job for a block."""

from __future__ import annotations

from threading import get_ident
from types import TracebackType
from typing import final

from .._scheduling.wait_queue import Waiter
from .lending import Lender
from .runtime import entered


@final
class lend_slot:
    """Lend the slot of the job that this code runs in, for as long as the block takes.

    For a wait that has nothing to do with the executor, such as a lock. Queued jobs run in the slot
    meanwhile; before the block is left, a slot is taken back, ahead of the queue. If the wait is
    cancelled, by whatever it is, the job goes on at once without one, and no queued job starts
    until that is made up for.

    Only the job's own task lends: outside of jobs, and in tasks that a job has started, the block
    does nothing. Waiting for jobs of the job's own executor lends the slot without this. One object
    serves one job at a time: `RuntimeError` for another.

    ::

        async with lend_slot():
            await lock.acquire()
    """

    __slots__ = ("_lenders", "_loans")

    def __init__(self) -> None:
        self._lenders: list[Lender] | None = None
        # For each time that it's entered: what it lends there.
        self._loans: list[list[tuple[Lender, Waiter]]] = []

    async def __aenter__(self) -> None:
        runtimes = list(entered.get(get_ident(), ()))
        lenders = [lender for each in runtimes if (lender := each.current_lender()) is not None]
        if self._loans and lenders != self._lenders:
            raise RuntimeError("this lend_slot() serves another job: make one for each")
        self._lenders = lenders
        loans: list[tuple[Lender, Waiter]] = []
        self._loans.append(loans)
        loans.extend((lender, lender.lend()) for lender in lenders if lender.loan is None)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for lender, loan in self._loans.pop():
            if lender.loan is loan:  # or else the job has ended meanwhile
                if exc is None or isinstance(exc, Exception):
                    await lender.reacquire()
                else:
                    lender.resume()
