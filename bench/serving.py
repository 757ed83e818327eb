"""Load test of the API server on the loopback address: throughput and latency by number of clients.

examples:
  python -m bench.serving                         # 1, 8, 32 and 128 clients, the shipped model
  python -m bench.serving --clients 1 32 --requests 100 --slots 16
  python -m bench.serving --clients 32 --requests 10000 --malformed 0.05 --cut 0.05

  chat            questions of the same mix, one after another by `chat_many` with one question
  requests/s      answers per second; every client sends its next question when it has an answer
  first token     from the request to the first text of a stream; half of the requests stream
  total           from the request to the end of the answer

The mix has captions with masks, referring segmentation, regions, and phrases to be grounded, with
answers of 5 to 60 tokens. With --malformed and --cut, so many requests are damaged, or their
connection is closed at a random time; every request must be answered, refused or cut, and the
server must be empty at the end. The server is a process of its own, as are the clients.

Exit status: 0 success, 1 a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from bench.measure import RESULTS, machine, median, table, write
from glamm_jax.inference.chat import Question, load
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.text.questions import GCG_QUESTIONS

MODEL = Path(__file__).resolve().parent.parent / "checkpoints" / "miniworld-tiny"
SEED, SIZE, NUM_IMAGES = 77_003, 64, 32
# Text, longest answer, regions.
MIX: tuple[tuple[str, int, list[list[int]]], ...] = (
    (GCG_QUESTIONS[0], 60, []),
    ("Segment the red star in this image.", 20, []),
    ("What is in region1 <bbox>? Describe it in detail.", 40, [[8, 8, 48, 48]]),
    ("Where is <p> the circle </p> [SEG]?", 5, []),
    (GCG_QUESTIONS[1], 30, []),
)
SECONDS = 300  # that a client waits for an answer
MALFORMED = (
    b"{",
    b"[]",
    b'{"messages": []}',
    b'{"messages": [{"role": "user", "content": "no image"}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": '
    b'"data:image/png;base64,iVBORw0KGgo="}}]}]}',
)


class Outcome(NamedTuple):
    """What became of a request."""

    kind: str  # answered, refused, cut, lost
    total: float = 0.0  # seconds
    first: float | None = None  # seconds to the first text, of a stream


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    options = parse(arguments)
    rows, lost = [], 0
    chat = chat_per_second(options.chat)
    with running_server(options.slots) as port:
        asyncio.run(send_all(port, 4, 40, options))  # compiles what the server has not yet
        for clients in options.clients:
            row = asyncio.run(measure(port, clients, options))
            rows.append(row)
            lost += row["outcomes"].get("lost", 0)
            print(json.dumps(row), flush=True)
        left = metrics(port)
    base = rows[0]["per_second"]
    print(f"\nchat, one by one, without a server: {chat:.2f} answers/s\n")
    print(table(*as_table(rows)))
    write(
        options.out,
        {
            "machine": machine(),
            "model": MODEL.name,
            "slots": options.slots,
            "chat_per_second": chat,
            "rows": [row | {"speedup": row["per_second"] / base} for row in rows],
            "left": left,
        },
    )
    if lost or any(left.values()):
        print(f"lost: {lost}; left in the server: {left}")
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clients", type=int, nargs="+", default=[1, 8, 32, 128], help="numbers (%(default)s)")
    add("--requests", type=int, default=200, help="for each number of clients (%(default)s)")
    add("--slots", type=int, default=32, help="of the server (%(default)s)")
    add("--chat", type=int, default=20, help="questions without a server (%(default)s)")
    add("--malformed", type=float, default=0.0, help="share of damaged requests (%(default)s)")
    add("--cut", type=float, default=0.0, help="share of closed connections (%(default)s)")
    add("--out", type=Path, default=RESULTS / "serving.json", help="(%(default)s)")
    return parser.parse_args(arguments)


def scene(number: int) -> Any:
    """Return the image of a question."""
    return render_scene(SEED, number % NUM_IMAGES, SIZE, EASY).image


def chat_per_second(count: int) -> float:
    """Return the answers per second without a server, one after another, compilation excluded."""
    assistant = load(MODEL)
    questions = [
        Question(scene(n), MIX[n % len(MIX)][0], MIX[n % len(MIX)][2], max_tokens=MIX[n % 5][1])
        for n in range(count)
    ]
    for question in questions:
        assistant.chat_many([question])
    started = time.perf_counter()
    for question in questions:
        assistant.chat_many([question])
    return count / (time.perf_counter() - started)


@contextmanager
def running_server(slots: int) -> Iterator[int]:
    """Start `glamm-jax serve` on a free port; yields the port."""
    command = [sys.executable, "-m", "glamm_jax", "serve", "--port", "0", "--model", str(MODEL)]
    command += ["--slots", str(slots), "--max-queue", "256"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            ready = re.search(r"ready: http://127\.0\.0\.1:(\d+)", line)
            if ready:
                break
        else:
            raise RuntimeError(f"the server ended with status {process.wait()}")
        # The server would wait if nobody read its log.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield int(ready[1])
        process.terminate()
        if process.wait(60):
            raise RuntimeError(f"the server ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()


async def measure(port: int, clients: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one number of clients."""
    started = time.perf_counter()
    outcomes = await send_all(port, clients, options.requests, options)
    seconds = time.perf_counter() - started
    answered = [outcome for outcome in outcomes if outcome.kind == "answered"]
    totals = [outcome.total for outcome in answered]
    firsts = [outcome.first for outcome in answered if outcome.first is not None]
    return {
        "clients": clients,
        "requests": len(outcomes),
        "outcomes": dict(Counter(outcome.kind for outcome in outcomes)),
        "seconds": seconds,
        "per_second": len(answered) / seconds,
        "first_p50": median(firsts),
        "first_p99": percentile(firsts, 0.99),
        "total_p50": median(totals),
        "total_p99": percentile(totals, 0.99),
    }


async def send_all(
    port: int, clients: int, count: int, options: argparse.Namespace
) -> list[Outcome]:
    """Send requests from some clients at once; returns what became of each.

    Args:
        port: of the server.
        clients: that send their next request when they have an answer.
        count: of requests, all clients together.
        options: shares of damaged requests.
    """
    numbers = iter(range(count))
    outcomes: list[Outcome] = []
    images = [image_part(n) for n in range(NUM_IMAGES)]

    async def client() -> None:
        for number in numbers:
            chance = random.Random(number)
            draw = chance.random()
            if draw < options.malformed:
                body, expected = chance.choice(MALFORMED), "refused"
            else:
                body, expected = request(number, images), "answered"
            cut = None
            if options.malformed <= draw < options.malformed + options.cut:
                expected, cut = "cut", chance.random() * 0.5
            try:
                outcome = await asyncio.wait_for(send(port, body, cut), SECONDS)
            except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
                outcome = Outcome("lost")
                print(f"request {number}: {type(error).__name__}: {error}", file=sys.stderr)
            # A connection may be cut too late.
            if outcome.kind != expected and expected != "cut":
                print(f"request {number}: {outcome}, expected {expected}", file=sys.stderr)
                outcome = Outcome("lost")
            outcomes.append(outcome)

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


def image_part(number: int) -> dict[str, Any]:
    """Return the image of a question as a part of a message."""
    stream = io.BytesIO()
    Image.fromarray(scene(number)).save(stream, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": url}}


def request(number: int, images: Sequence[dict[str, Any]]) -> bytes:
    """Return the body of a request; every second one is to be streamed."""
    text, max_tokens, regions = MIX[number % len(MIX)]
    content = [{"type": "text", "text": text}, images[number % len(images)]]
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": content}]}
    fields |= {"max_tokens": max_tokens, "stream": number // len(MIX) % 2 == 0}
    if regions:
        fields["regions"] = regions
    return json.dumps(fields).encode()


async def send(port: int, body: bytes, cut: float | None) -> Outcome:
    """Send a request, and read its answer or leave.

    Args:
        port: of the server.
        body: of the request.
        cut: seconds after which the connection is closed; None: never.

    Raises:
        OSError, ValueError, asyncio.IncompleteReadError: the answer is not complete.
    """
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        if cut is not None:
            await asyncio.sleep(cut)
            return Outcome("cut")
        status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
        first = None
        content = b""
        while data := await reader.read(1 << 16):
            content += data
            if first is None and b'"content": "' in content.replace(b'"content": ""', b""):
                first = time.perf_counter() - started
        total = time.perf_counter() - started
        if 400 <= status < 500 and b'"error"' in content:
            return Outcome("refused", total)
        is_stream = b"chat.completion.chunk" in content
        complete = b"data: [DONE]" in content if is_stream else b'"finish_reason"' in content
        if status != 200 or not complete or b'"error"' in content:
            raise ValueError(f"status {status}: {content[-200:]!r}")
        return Outcome("answered", total, first)
    finally:
        writer.close()


def metrics(port: int) -> dict[str, float]:
    """Return what is left in the server, which needs a moment for connections that were cut."""
    import urllib.request

    left: dict[str, float] = {}
    for _ in range(100):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
            text = response.read().decode()
        names = ("requests_waiting", "slots_active")
        left = {name: float(re.findall(rf"^glamm_{name} (\S+)", text, re.M)[0]) for name in names}
        if not any(left.values()):
            break
        time.sleep(0.1)
    return left


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def as_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the printed table; times in milliseconds."""
    header = ["clients", "requests/s", "x one client", "first token p50", "p99", "total p50", "p99"]
    times = ("first_p50", "first_p99", "total_p50", "total_p99")
    cells = [
        [
            str(row["clients"]),
            f"{row['per_second']:.2f}",
            f"{row['per_second'] / rows[0]['per_second']:.2f}",
            *(f"{1e3 * row[name]:.0f}" for name in times),
        ]
        for row in rows
    ]
    return header, cells


if __name__ == "__main__":
    sys.exit(main())
