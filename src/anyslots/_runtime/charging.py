"""What jobs cost: asking the functions of rates, and correcting it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any

from .._scheduling.job import Attempts, Job
from .._scheduling.lane_state import LaneState
from .._scheduling.rates import Rate, RateWindow, check_cost
from .._scheduling.scheduler import Scheduler
from .runtime import entered


def ask_cost(rate: Rate, job: Job[Any]) -> float:
    """What a job's start uses of a rate with a ``cost``; raises what that raises, or `ValueError`.

    A function of users: not for the middle of a transition.
    """
    assert rate.cost is not None
    fn, args = job.fn, job.args or ()
    kwargs: dict[str, Any] = {}
    while isinstance(fn, partial):
        args, kwargs = (*fn.args, *args), {**fn.keywords, **kwargs}
        fn = fn.func
    return check_cost(rate, rate.cost(*args, **kwargs))


def note_costs(job: Job[Any]) -> None:
    """Ask the rates on a job's path what it costs, as far as they haven't been asked."""
    attempt = job.attempt = job.attempt or Attempts()
    known = attempt.costs or {}
    costs: dict[RateWindow, float] = {}
    for lane in job.node.path():
        for window in lane.windows:
            if window.rate.cost is not None:
                costs[window] = known[window] if window in known else ask_cost(window.rate, job)
    attempt.costs = costs or None


def costs_of_queued(
    scheduler: Scheduler, node: LaneState, rates: Sequence[Rate]
) -> dict[Job[Any], dict[int, float]]:
    """What the queued jobs of a lane, and of those inside, cost by new rates of it."""
    places = [place for place, rate in enumerate(rates) if rate.cost is not None]
    if not places:
        return {}
    jobs = [job for job in scheduler.permits.jobs if job.node.is_inside(node)]
    for lane in node.subtree():
        jobs.extend(lane.queue)
        jobs.extend(entry[2] for entry in lane.backoffs or ())
    return {job: {place: ask_cost(rates[place], job) for place in places} for job in jobs}


def charge(rate: Rate, amount: float) -> None:
    """Charge the start of the job that this code runs in with ``amount`` of a rate, in all.

    For what is known only afterwards, such as the tokens that a response has used. ``rate``: one
    on the way of the job, from its lane up to the executor; rates are compared by equality.
    ``amount``: an int or float from 0; it may exceed the rate's limit. What becomes free lets
    others start at once. In a task that a job has started it charges that job; in ``async with
    lane.slot()``, the slot's start.

    Raises `ValueError` for a rate that isn't on the job's way, `RuntimeError` outside of jobs, and
    `TypeError` or `ValueError` for other arguments.

    ::

        response = await ask(prompt)
        charge(tokens, response.usage.total_tokens)
    """
    if not isinstance(rate, Rate):
        raise TypeError(f"rate must be a Rate, not {rate!r}")
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise TypeError(f"amount must be an int or float from 0, not {amount!r}")
    if not 0 <= amount < float("inf"):
        raise ValueError(f"amount must be from 0 and finite, not {amount!r}")
    runtimes = list(entered.get(get_ident(), ()))
    found = [(r, job) for r in runtimes if (job := r.current_job()) is not None]
    found = found or [(r, job) for r in runtimes if (job := r.own_job()) is not None]
    if not found:
        raise RuntimeError("charge is called inside a job, or inside `async with lane.slot()`")
    for runtime, job in found:
        charges = job.attempt.charges if job.attempt is not None else []
        for window, entry in charges:
            if window.rate == rate:
                runtime.scheduler.charge(job, window, entry, amount)
                return
    raise ValueError(f"no lane of the job has the rate {rate!r}")
