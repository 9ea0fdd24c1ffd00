"""An instrument that keeps what each job has ended with."""

from __future__ import annotations

from typing import Any

from anyslots import Future, JobCancelled


class Ended:
    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []

    def job_finished(self, future: Future[Any]) -> None:
        self.errors.append(JobCancelled() if future.cancelled() else future.error)

    @property
    def names(self) -> list[str]:
        return [type(error).__name__ for error in self.errors]
