"""A block that meets its cancellation by what that has done to its jobs."""

from __future__ import annotations

import anyio
import pytest

from anyslots import Executor, Future

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("in_a_group", [False, True])
async def test_a_job_cancelled_together_with_the_block_is_no_error_of_it(in_a_group: bool) -> None:
    async def wait_for(future: Future[None]) -> None:
        await future

    with anyio.CancelScope() as scope:
        async with Executor(1) as executor:
            future = executor.submit(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            # The body learns of it from the job alone.
            with anyio.CancelScope(shield=True):
                if in_a_group:
                    async with anyio.create_task_group() as group:
                        group.start_soon(wait_for, future)
                else:
                    await future
    assert scope.cancelled_caught
    assert future.cancelled()
