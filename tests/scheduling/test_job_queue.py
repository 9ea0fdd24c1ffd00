from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trees import new_job, new_lane

from anyslots._scheduling.job import CANCELLED, QUEUED, RUNNING, Attempts, Job
from anyslots._scheduling.job_queue import JobQueue

STEPS = st.tuples(
    st.sampled_from(["add", "add", "pop", "discard", "discard", "retry", "undo"]),
    st.integers(0, 200),
)


def queued(number: int) -> Job:
    job = new_job(new_lane())
    job.attempt = Attempts()
    job.attempt.number = number
    return job


@given(st.lists(STEPS, min_size=40, max_size=120))
def test_jobs_start_by_age(steps) -> None:
    queue = JobQueue()
    naive: list[Job] = []
    started: list[Job] = []
    for number, (what, at) in enumerate(steps):
        if what == "add":
            naive.append(queued(number))
            queue.jobs.append(naive[-1])
        elif what in ("pop", "undo") and naive:
            assert queue.head() is naive[0]
            job = queue.pop()
            assert job is naive.pop(0)
            if what == "undo":
                queue.restore(job)
                naive.insert(0, job)
            else:
                job.status = RUNNING
                job.attempt.count += 1
                started.append(job)
        elif what == "discard" and naive:
            naive.pop(at % len(naive)).status = CANCELLED
            queue.discard()
        elif what == "retry" and started:
            job = started.pop(at % len(started))
            job.status = QUEUED
            queue.restore(job)
            naive = sorted([*naive, job], key=lambda each: each.attempt.number)
        assert list(queue) == naive
        assert len(queue) == len(naive)
        assert bool(queue.jobs or queue.retried) == bool(naive)
        entries = [*queue.jobs, *(job for _, job in queue.retried)]
        assert queue.dead == sum(job.status == CANCELLED for job in entries) <= len(naive) + 32


def test_jobs_cancelled_behind_the_head_do_not_pile_up() -> None:
    queue = JobQueue()
    jobs = [queued(number) for number in range(1000)]
    queue.jobs.extend(jobs)
    for job in jobs[1:]:
        job.status = CANCELLED
        queue.discard()
    assert len(queue) == 1
    assert len(queue.jobs) <= 34
