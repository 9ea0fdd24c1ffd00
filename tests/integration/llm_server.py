"""An LLM server that enforces limits on requests and tokens, and logs each request.

It answers as OpenAI's chat completions do, streamed ones included, and Anthropic's messages. What
has the `Idempotency-Key` of a request that was answered gets that answer again: nothing is counted.

    python -m llm_server --port 8000 --requests 100 --tokens 10000 --window 1

`make_app` makes one for a server in the test's own event loop. Whether a request fails at random
depends on the seed, on its prompt's id and on how often that was sent: not on the order.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any
from zlib import crc32

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class Options:
    requests: float = 100  # in any window
    tokens: float = 10_000  # in any window
    window: float = 1.0  # seconds
    errors: float = 0.0  # the part of requests that are answered with 500
    delay: float = 0.01  # seconds that an answer takes
    capacity: float = 20  # requests at once beyond which answers take longer, in proportion
    seed: float = 0


@dataclass
class Window:
    """What was admitted within the last seconds."""

    limit: float
    seconds: float
    admitted: deque[tuple[float, float]] = field(default_factory=deque)

    def wait(self, now: float, amount: float) -> float:
        """Return in how many seconds an amount can be admitted; 0: now."""
        while self.admitted and self.admitted[0][0] <= now - self.seconds:
            self.admitted.popleft()
        excess = sum(amount for _, amount in self.admitted) + amount - self.limit
        seconds = 0.0
        for admitted_at, freed in self.admitted:
            if excess <= 0:
                break
            excess -= freed
            seconds = admitted_at + self.seconds - now
        return seconds if excess <= 0 else self.seconds


def prompt_tokens(prompt: str) -> int:
    return len(prompt.encode()) // 4 + 1


def completion_tokens(prompt: str, most: int) -> int:
    return min(most, 10 + crc32(prompt.encode()) % 40)


class Service:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.requests = Window(options.requests, options.window)
        self.tokens = Window(options.tokens, options.window)
        self.sent: Counter[str] = Counter()
        self.answered: set[str] = set()  # their keys
        self.running = 0
        self.entries: list[dict[str, Any]] = []

    async def log(self, request: Request) -> Response:
        """Return each request's id, status, time of arrival, tokens, and how many ran with it.

        An answer that was given before has the status 208 there.
        """
        return JSONResponse(self.entries)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        prompt = "\n".join(message["content"] for message in body["messages"])
        id = (body.get("metadata") or {}).get("id", prompt)
        given = prompt_tokens(prompt)
        made = completion_tokens(prompt, body.get("max_tokens") or 50)
        now = time.monotonic()
        key = request.headers.get("Idempotency-Key")
        wait = max(self.requests.wait(now, 1), self.tokens.wait(now, given + made))
        status = 208 if key in self.answered else 429 if wait else 200
        if status == 200:
            self.requests.admitted.append((now, 1))
            self.tokens.admitted.append((now, given + made))
            self.sent[id] += 1
            if Random(f"{self.options.seed} {id} {self.sent[id]}").random() < self.options.errors:
                status = 500
        if status == 200 and key is not None:
            self.answered.add(key)
        entry = {"id": id, "status": status, "time": now, "tokens": given + made}
        self.entries.append(entry | {"running": self.running + 1})
        if status >= 400:
            kind = "rate_limit_exceeded" if wait else "server_error"
            # Not whole seconds, as other servers' are: the windows of tests are short.
            headers = {"Retry-After": f"{wait:.3f}"} if wait else {}
            error = {"message": kind.replace("_", " "), "type": kind, "code": kind}
            return JSONResponse({"error": error}, status, headers)
        self.running += 1
        try:
            await anyio.sleep(self.options.delay * max(1, self.running / self.options.capacity))
        finally:
            self.running -= 1
        words = [f"word{number} " for number in range(made)]
        if request.url.path.endswith("/messages"):
            return JSONResponse(anthropic_message(body["model"], words, given))
        if body.get("stream"):
            chunks = openai_chunks(body["model"], words)
            return StreamingResponse(chunks, media_type="text/event-stream")
        usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(openai_object(body["model"], "", choice) | {"usage": usage})


def openai_object(model: str, suffix: str, choice: dict[str, Any]) -> dict[str, Any]:
    kind = f"chat.completion{suffix}"
    return {"id": "chat-1", "object": kind, "created": 0, "model": model, "choices": [choice]}


async def openai_chunks(model: str, words: list[str]) -> AsyncIterator[str]:
    for word in words:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        yield f"data: {json.dumps(openai_object(model, '.chunk', choice))}\n\n"
        await anyio.sleep(0.001)
    yield "data: [DONE]\n\n"


def anthropic_message(model: str, words: list[str], given: int) -> dict[str, Any]:
    content = [{"type": "text", "text": "".join(words)}]
    usage = {"input_tokens": given, "output_tokens": len(words)}
    message = {"id": "msg-1", "type": "message", "role": "assistant", "model": model}
    return message | {"content": content, "stop_reason": "end_turn", "usage": usage}


def make_app(options: Options) -> Starlette:
    service = Service(options)
    paths = ["/v1/chat/completions", "/v1/messages"]
    routes = [Route(path, service.complete, methods=["POST"]) for path in paths]
    routes += [Route("/v1/models", service.models), Route("/log", service.log)]
    return Starlette(routes=routes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    for option in fields(Options):
        parser.add_argument(f"--{option.name}", type=float, default=option.default)
    chosen = vars(parser.parse_args())
    port = chosen.pop("port")
    uvicorn.run(make_app(Options(**chosen)), port=port, log_level="warning")
