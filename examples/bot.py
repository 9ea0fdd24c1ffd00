"""A chat bot that streams a model's answers into its chats, within the limits of both services.

    python examples/bot.py [--backend trio] [--chats 5] [--answers 3]

The chat service takes 30 messages a second from a bot, one a second in a chat, and 20 a minute in a
group. An answer is shown while it grows: by one edit of its message after the other, each with as
much text as has come by then. Both services are made up, and in this program.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import anyio
import httpx

from anyslots import Executor, Future, Rate, Retry

BOT_RATE = Rate(30, per=1)
CHAT_RATE = Rate(1, per=1)
GROUP_RATE = Rate(20, per=60)


def chat_options(chat: str) -> dict[str, Any]:
    is_group = chat.startswith("group")
    return {"rate": [CHAT_RATE, GROUP_RATE] if is_group else CHAT_RATE, "slots": 1}


class Bot:
    def __init__(self, executor: Executor, client: httpx.AsyncClient, answers: int) -> None:
        self.client = client
        self.model = executor.lane("model", slots=answers, timeout=300)
        messages = executor.lane("messages", rate=BOT_RATE, retry=Retry(on=httpx.TransportError))
        self.chats = messages.keyed(chat_options)

    async def answer(self, chat: str, question: str) -> None:
        """Show the model's answer to a question as it comes."""
        message = Message(self, chat)
        request = self.client.stream("POST", "http://model/", json={"question": question})
        async with self.model.slot(), request as response:
            async for part in response.aiter_text():
                message.append(part)
        # Out of the model's slot: another answer may begin while the last edit waits for its turn.
        await message.shown()


class Message:
    """A message that shows a text which grows; at most one edit of it is waiting to be sent."""

    def __init__(self, bot: Bot, chat: str) -> None:
        self.bot = bot
        self.chat = chat
        self.text = self.sent = ""
        self.id: str | None = None
        self.edit: Future[None] | None = None

    def append(self, part: str) -> None:
        self.text += part
        if self.edit is None or self.edit.status != "queued":
            self.edit = self.bot.chats[self.chat].submit(self.send)

    async def send(self) -> None:
        if self.text != self.sent:
            text = self.text
            body = {"chat": self.chat, "id": self.id, "text": text}
            response = await self.bot.client.post("http://chat/", json=body)
            self.id = response.raise_for_status().json()["id"]
            self.sent = text

    async def shown(self) -> None:
        if self.edit is not None:
            await self.edit


class MadeUpServices:
    """A model that says a word now and then, and a chat service that prints what it's sent."""

    def __init__(self) -> None:
        self.start = anyio.current_time()
        self.ids = count(1)
        self.log: list[tuple[float, str, str]] = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "model":
            return httpx.Response(200, content=self.words(json.loads(request.content)["question"]))
        await anyio.sleep(0.05)
        message = json.loads(request.content)
        self.log.append((anyio.current_time() - self.start, message["chat"], message["text"]))
        print("{:5.2f} {}: {}".format(*self.log[-1]), flush=True)
        return httpx.Response(200, json={"id": message["id"] or str(next(self.ids))})

    async def words(self, question: str) -> AsyncIterator[bytes]:
        for word in question.split():
            await anyio.sleep(0.15)
            yield f"{word} ".encode()


async def main(questions: list[tuple[str, str]], answers: int) -> list[tuple[float, str, str]]:
    """Have so many answers given at once; return what the chat service was sent, and when."""
    services = MadeUpServices()
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(services.answer)) as client,
        Executor(1000) as executor,
        anyio.create_task_group() as group,
    ):
        bot = Bot(executor, client, answers)
        for chat, question in questions:
            group.start_soon(bot.answer, chat, question)
    return services.log


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer questions in made-up chats.")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--chats", type=int, default=5)
    parser.add_argument("--answers", type=int, default=3, help="at once")
    args = parser.parse_args()
    text = "the answer to your question is that it depends on what you want to know"
    questions = [(f"{'group' if n % 2 else 'chat'}-{n}", text) for n in range(args.chats)]
    anyio.run(main, questions, args.answers, backend=args.backend)
