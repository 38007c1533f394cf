"""A day of a fleet's troubles in ten minutes: cuts, stalls, damage, other sizes and killed servers.

    python benchmarks/soak.py --data FOLDER

Eight cameras, YOLOX-Nano each, over MPEG-TS from a server in a process of its own, each behind a proxy that
does harm. Every few seconds one camera's connection is cut, stalls, gets damaged packets or continues with
pictures of another size; now and then the server's process is killed and comes back half a second later.
Counted are: cameras that are live again at the end; whether every picture and every lost connection is
accounted for; and what memory, threads and open files grow by between the second minute and the end. States
are written and memory is freed on the way (``keep``, ``evict_after``). The result goes to
``benchmarks/results/fleet.json``, a table to ``docs/cameras.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fleet import MARK, memory, network, render
from benchmarks.pages import fill
from benchmarks.store import Store
from tests.support.cameras import HttpServer, Proxy, broadcast, live
from videoeff import Fleet
from videoeff.bench.machine import describe
from videoeff.serialize.files import write_text
from videoeff.video.live import Transport

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((240, 320), (180, 240), (360, 480))
RATE = 10
STALL = 2.0
FAULTS = ("cut", "stall", "damage", "size")


# ---------------------------------------------------------------- the server's process


class Scene:
    """One camera's pictures, whose size is another now and then, also within a connection."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.size = SIZES[0]
        self._first = 0

    def change(self) -> None:
        """Go on with another size."""
        self.size = self._random.choice([s for s in SIZES if s != self.size])

    def pieces(self) -> Iterator[bytes]:
        """MPEG-TS without end."""
        while True:
            size = self.size
            for piece in broadcast(size, rate=RATE, first=self._first, start=self._first / RATE):
                self._first += 1
                yield piece
                if self.size != size:
                    break


def serve(ports: Sequence[int], every: float, seed: int) -> None:
    """Serve a camera at each port until killed, do harm to one every few seconds, and say what."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        scenes, proxies = [], []
        for number, port in enumerate(ports):
            scene = Scene(seed + number)
            server = stack.enter_context(HttpServer({"/live.ts": live(scene.pieces, gap=1 / RATE)}))
            proxies.append(stack.enter_context(Proxy(server.port, port)))
            scenes.append(scene)
        print(json.dumps({"ready": True}), flush=True)
        while True:
            time.sleep(chance.uniform(0.5, 1.5) * every)
            number, fault = chance.randrange(len(ports)), chance.choice(FAULTS)
            print(json.dumps({"camera": number, "fault": fault}), flush=True)
            proxy = proxies[number]
            if fault == "cut":
                proxy.cut()
            elif fault == "stall":
                proxy.stalled.set()
                threading.Timer(STALL + 1.5, proxy.stalled.clear).start()
            elif fault == "damage":
                damage = random.Random(chance.random())
                proxy.harm = lambda data, damage=damage: _damaged(data, damage)
                threading.Timer(1.0, setattr, (proxy, "harm", None)).start()
            else:
                scenes[number].change()


def _damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(len(changed) // 400):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


class ServerProcess:
    """The server's process, which may be killed."""

    def __init__(self, ports: Sequence[int], every: float) -> None:
        self._ports, self._every, self._seeds = ports, every, itertools.count(1)
        self.told: Counter[str] = Counter()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [sys.executable, __file__, "--serve", ",".join(map(str, self._ports))]
        command += ["--every", str(self._every), "--seed", str(next(self._seeds))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, lines: Any) -> None:
        for line in lines:
            self.told[json.loads(line)["fault"]] += 1

    def kill(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.told["kill"] += 1


# ---------------------------------------------------------------- the fleet's process


def soak(
    data: Path, minutes: float, cameras: int, every: float, kill_every: float, threads: int
) -> dict[str, Any]:
    """Let a fleet live through it."""
    stream = network(data)
    server = ServerProcess(_free_ports(cameras), every)
    server.start()
    transport = Transport(timeout=5.0, stall=STALL, backoff=(0.1, 1.0))
    samples: list[dict[str, float]] = []
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as keep,
        Fleet(stream, workers=threads, keep=keep, evict_after=3.0, save_every=10.0) as fleet,
    ):
        for number, port in enumerate(server._ports):
            fleet.add(f"cam{number}", f"http://127.0.0.1:{port}/live.ts", transport=transport)
        end, kill_at = begin + 60 * minutes, begin + kill_every
        while time.monotonic() < end:
            time.sleep(1.0)
            samples.append(_sample(fleet))
            if time.monotonic() > kill_at and time.monotonic() + kill_every / 2 < end:
                server.kill()
                time.sleep(0.5)
                server.start()
                kill_at = time.monotonic() + kill_every
        live_again = _wait_until_live(fleet)
        status = fleet.status()
    server.kill()
    server.told["kill"] -= 1
    warm = samples[min(120, len(samples) // 4) :]
    return {
        "minutes": minutes,
        "cameras": cameras,
        "faults": dict(server.told),
        "live_again": live_again,
        "lost": sum(c.counters.lost for c in status.cameras),
        "connections": sum(c.counters.connections for c in status.cameras),
        "resized": sum(c.counters.resized for c in status.cameras),
        "damaged": sum(c.counters.damaged + c.counters.refused for c in status.cameras),
        "decoded": sum(c.counters.decoded for c in status.cameras),
        "frames": status.frames,
        "late": status.late,
        "refused": sum(c.refused for c in status.cameras),
        "unaccounted": sum(_unaccounted(c) for c in status.cameras),
        "unaccounted_connections": sum(
            c.counters.connections - c.counters.lost - (c.state in ("live", "failing"))
            for c in status.cameras
        ),
        "evictions": max(s["evicted"] for s in samples),
        "growth": {key: _growth(warm, key) for key in ("memory", "threads", "files")},
        "samples": samples[:: max(1, len(samples) // 60)],
    }


def _sample(fleet: Fleet) -> dict[str, float]:
    status = fleet.status()
    return {
        "memory": memory(),
        "state": status.state_bytes,
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "live": sum(c.state == "live" for c in status.cameras),
        "evicted": sum(c.evicted for c in status.cameras),
    }


def _wait_until_live(fleet: Fleet) -> int:
    """How many cameras give pictures within twenty seconds."""
    before = {c.name: c.frames for c in fleet.status().cameras}
    end = time.monotonic() + 20
    found = 0
    while time.monotonic() < end and found < len(before):
        time.sleep(0.2)
        found = sum(c.frames > before[c.name] + 5 for c in fleet.status().cameras)
    return found


def _unaccounted(camera: Any) -> int:
    """Pictures that were decoded and are in no count; the one that is being computed is none of these."""
    known = camera.frames + camera.refused + camera.skipped + camera.late + camera.waiting
    return max(0, abs(int(camera.counters.decoded) - int(known)) - 1)


def _growth(samples: Sequence[Mapping[str, float]], key: str) -> float:
    """The median of the last quarter less that of the first, of what is in memory beside states."""
    values = sorted
    quarter = max(1, len(samples) // 4)

    def middle(part: Sequence[Mapping[str, float]]) -> float:
        taken = values([s[key] - (s["state"] if key == "memory" else 0) for s in part])
        return taken[len(taken) // 2]

    return middle(samples[-quarter:]) - middle(samples[:quarter])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two faults, on average")
    parser.add_argument(
        "--kill-every", type=float, default=30.0, help="seconds between two kills of the server"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "fleet.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "cameras.md")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve([int(port) for port in options.serve.split(",")], options.every, options.seed)
        return
    if options.data is None:
        parser.error("--data FOLDER is needed; see benchmarks/detectors.py for what it holds")
    row = soak(
        options.data, options.minutes, options.cameras, options.every, options.kill_every, options.threads
    )
    store = Store(options.json, again=True)
    machine = describe(options.threads)
    store.put(
        MARK, "soak", row | {"machine": machine["cpu"], "command": "python benchmarks/soak.py --data FOLDER"}
    )
    print(json.dumps({k: v for k, v in row.items() if k != "samples"}, indent=1))
    page = options.page.read_text(encoding="utf-8")
    write_text(options.page, fill(page, MARK, render(store.document)))


if __name__ == "__main__":
    main()
