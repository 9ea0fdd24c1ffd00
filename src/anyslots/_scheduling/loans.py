"""Slots that running jobs have lent, and the jobs that want theirs back."""

from __future__ import annotations

import itertools

from .lane_state import LaneState
from .wait_queue import Lenders, Waiter


class Loans:
    """The lenders that wait to go on, ahead of all queued jobs.

    Holds at all times: `waiting` is the number of lenders in the tree's wait queues.
    """

    __slots__ = ("root", "tickets", "waiting")

    def __init__(self, root: LaneState) -> None:
        self.root = root
        self.waiting = 0
        self.tickets = itertools.count()

    def add(self, loan: Waiter) -> None:
        """Have a lender wait for a slot."""
        self.waiting += 1
        self._lenders_of(loan.job.node).add(loan, next(self.tickets))

    def remove(self, loan: Waiter) -> None:
        """A lender goes on, if it did wait."""
        node: LaneState = loan.job.node
        if loan.is_waiting():
            self.waiting -= 1
            assert node.lenders is not None
            node.lenders.remove(loan)

    def first(self) -> Waiter | None:
        """The lender that may go on next, if there's a slot for any."""
        if not self.waiting:
            return None
        assert self.root.lenders is not None
        return self.root.lenders.first()

    def changed(self, node: LaneState) -> None:
        """The slots of the lanes on a path, or those held, have changed."""
        if not self.waiting:
            return
        while node.lenders is None and node.parent is not None:
            node = node.parent
        if node.lenders is not None:
            node.lenders.update()

    def _lenders_of(self, node: LaneState) -> Lenders:
        if node.lenders is None:
            parent = node.parent
            node.lenders = Lenders(node, None if parent is None else self._lenders_of(parent))
        return node.lenders
