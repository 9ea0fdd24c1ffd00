"""A file of prompts against an OpenAI-compatible API: within its limits, and resumed where it was.

    python examples/llm_batch.py prompts.jsonl answers.sqlite --requests 500 --tokens 200000

Each line of the prompts is a JSON object with an "id" and a "prompt". Ctrl-C lets finish what is
running; a second one doesn't. After that, or a crash, the same command answers what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import anyio
import httpx

from anyslots import Adaptive, Executor, JobCancelled, Rate, Retry, charge
from anyslots.httpx import retry_after

# An answer that's stored outlives the program; and no other one gets at the file meanwhile.
SETUP = """
    PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal;
    CREATE TABLE IF NOT EXISTS answers(id PRIMARY KEY, text, tokens_in INT, tokens_out INT, at REAL)
"""
SUMS = "SELECT count(*), total(tokens_in), total(tokens_out), max(at) FROM answers"
LONGEST = 500  # tokens of an answer


def read_prompts(path: str) -> dict[str, str]:
    prompts = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            prompt = json.loads(line)
            prompts[str(prompt["id"])] = str(prompt["prompt"])
        except (ValueError, LookupError, TypeError):
            sys.exit(f"{path}: line {number} is no object with an id and a prompt")
    return prompts


class Overloaded(Exception): ...


def is_temporary(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, (Overloaded, httpx.TransportError))


class Batch:
    def __init__(self, args: argparse.Namespace, client: Any, answers: sqlite3.Connection) -> None:
        self.args, self.client, self.answers = args, client, answers
        self.failed, self.stopped = 0, False
        self.done, *tokens, last = answers.execute(SUMS).fetchone()
        self.dollars = self.price(*tokens)
        per = args.per * 1.05  # not every request takes equally long to get there
        # Until its tokens are known, a request is charged rather too many.
        self.tokens = Rate(args.tokens, per, cost=lambda id, prompt: len(prompt) // 3 + LONGEST)
        self.executor = Executor(
            Adaptive(start=8, most=100, on=Overloaded),
            rate=[Rate(args.requests, per), self.tokens],
            retry=Retry(attempts=8, on=is_temporary),
        )
        self.wait = max(0.0, (last or 0) + per - time.time())

    def price(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.args.price_in + tokens_out * self.args.price_out) / 1_000_000

    async def ask(self, id: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.args.model, "messages": messages, "max_tokens": LONGEST}
        key = {"Idempotency-Key": id}  # asked again after a crash, it isn't answered twice
        response = await self.client.post("chat/completions", json=body, headers=key)
        if response.status_code in (429, 503):
            self.executor.pause(retry_after(response))  # for all
            raise Overloaded(f"the server answered {response.status_code} again and again")
        answer = response.raise_for_status().json()
        charge(self.tokens, answer["usage"]["total_tokens"])
        return answer

    def store(self, id: str, answer: Any) -> None:
        text, usage = answer["choices"][0]["message"]["content"], answer["usage"]
        row = (id, text, usage["prompt_tokens"], usage["completion_tokens"], time.time())
        self.answers.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", row)
        self.done += 1
        self.dollars += self.price(*row[2:4])

    async def run(self, prompts: dict[str, str]) -> None:
        ids = takewhile(lambda _: not self.stopped, prompts)
        async with self.executor as executor:
            executor.pause(self.wait)  # the server remembers what an earlier run has sent
            texts = prompts.values()
            results = executor.map(self.ask, ids, texts, ordered=False, return_exceptions=True)
            async for (id, _), answer in results.items():
                if not isinstance(answer, Exception):
                    self.store(id, answer)
                elif isinstance(answer, httpx.TransportError):
                    raise answer  # the server has gone: there's no use in asking it for the rest
                elif not isinstance(answer, JobCancelled):
                    self.failed += 1
                    print(f"{id}: {answer}", file=sys.stderr)
                counts = f"{self.done} answered, {self.failed} failed, {executor.slots} slots"
                print(f"\r{counts}, ${self.dollars:.4f}", end=" ", flush=True)

    async def stop_on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            await anext(signals)
        self.stopped = True
        self.executor.clear()


async def main(args: argparse.Namespace, prompts: dict[str, str]) -> int:
    key = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    async with httpx.AsyncClient(base_url=args.url, headers=key, timeout=60) as client:
        (await client.get("models")).raise_for_status()  # the address and the key are right
        with closing(sqlite3.connect(args.answers, isolation_level=None)) as answers:
            answers.executescript(SETUP)
            for (id,) in answers.execute("SELECT id FROM answers"):
                prompts.pop(id, None)
            batch = Batch(args, client, answers)
            async with anyio.create_task_group() as group:
                group.start_soon(batch.stop_on_signal)
                await batch.run(prompts)
                group.cancel_scope.cancel()
    return 130 if batch.stopped else int(batch.failed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer a file of prompts.")
    parser.add_argument("prompts")
    parser.add_argument("answers")
    texts = {"url": "https://api.openai.com/v1", "model": "gpt-5-mini", "backend": "asyncio"}
    numbers = {"requests": 500, "tokens": 200_000, "per": 60.0, "price-in": 0.25, "price-out": 2.0}
    for name, default in (texts | numbers).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    try:
        status: object = anyio.run(main, args, read_prompts(args.prompts), backend=args.backend)
    except* (OSError, sqlite3.Error, httpx.HTTPError) as errors:
        error = errors.exceptions[0]
        status = f"{type(error).__name__}: {error}".partition("\n")[0]
    sys.exit(status)
