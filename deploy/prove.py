"""Builds the containers in a bare folder, without docker, and proves that they serve.

    python deploy/prove.py               # the server, and the server that trains
    python deploy/prove.py --keep DIR    # and leave the folder there, to look into

The steps are read from the Dockerfiles (`container`). The server listens on a free port in place of 7860;
nothing else of its command differs."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from container import Machine, base_python, build, machine_for
from dockerfile import SERVER, TRAINING, Step, Wrong, faults, steps_of

START_S, GOODBYE_S = 180.0, 20.0
REQUESTS: dict[str, Any] = {
    "/api/simulate": [
        {"agent": name, "task": "easy", "ticks": 20} for name in ("lru", "qlearning", "ppo", "oracle")
    ],
    "/api/eviction/episodes": [
        {"scenario": "eviction-eval-hard-0000-v2", "policy": name}
        for name in ("learned", "lookahead", "oracle")
    ],
    "/api/hierarchy/curves": [{"workload": "rag_burst", "policies": ["lru", "arc", "s3fifo"], "points": 2}],
    "/api/hierarchy/replays": [{"workload": "periodic_reuse", "policies": ["lru", "sieve"]}],
    "/api/sessions": [{"task": "hard", "ticks": 20}],
}
"""What the first clients ask for; none of it may wait for the compiler."""


def check(holds: object, what: str) -> None:
    """Raises Wrong where it does not hold."""
    if not holds:
        raise Wrong(f"this does not hold: {what}")
    print(f"       ok  {what}", flush=True)


class Served:
    """A server that was started from an image."""

    def __init__(self, machine: Machine, steps: list[Step], port: str, **changes: str) -> None:
        def ported(word: str) -> list[str]:
            words = [step for step in steps if step.word == word][-1].command() or []
            return [one.replace("7860", port) for one in words]

        self.machine, self.health, self.url = machine, ported("HEALTHCHECK"), f"http://127.0.0.1:{port}"
        self.process = machine.run(ported("CMD"), **changes)

    def wait(self) -> float:
        """Seconds until the health check answers. Raises Wrong where it never does."""
        began = time.monotonic()
        while subprocess.run(
            self.health, env=self.machine.env, capture_output=True, **self.machine.user()
        ).returncode:
            if self.process.poll() is not None:
                raise Wrong(f"the server ended: {self.process.communicate()[0][-3000:]}")
            if time.monotonic() - began > START_S:
                raise Wrong(f"the server is not healthy after {START_S:g} s")
        return time.monotonic() - began

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """Status and text of an answer."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self) -> tuple[int, str]:
        """Status and words of the server after SIGTERM. Raises Wrong where it does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            said, _ = self.process.communicate(timeout=GOODBYE_S)
        except subprocess.TimeoutExpired:
            raise Wrong(f"the server has not ended {GOODBYE_S:g} s after SIGTERM") from None
        return self.process.returncode, said

    def ends_well(self, what: str) -> None:
        """Checks that SIGTERM ends it, and that it says nothing of an error."""
        status, said = self.end()
        check(status in (0, -signal.SIGTERM, 143) and "Traceback" not in said, f"{what} ({status})")


@contextmanager
def serving(machine: Machine, steps: list[Step], port: str, **changes: str) -> Iterator[Served]:
    """A healthy server, which is ended whatever happens."""
    one = Served(machine, steps, port, **changes)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.terminate()  # what it has started ends with it
            try:
                one.process.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                one.process.kill()


def code_files(machine: Machine) -> set[str]:
    """The files of compiled code, and of a second cache that the server may have fallen back to."""
    folders = [
        Path(machine.env["KV_CACHE_RL_CACHE"]),
        Path(tempfile.gettempdir(), f"kv-cache-rl-{os.getuid()}"),
    ]
    return {str(path) for folder in folders for path in folder.rglob("*.nb?")}


def prove_server(machine: Machine, steps: list[Step], port: str) -> None:
    """A fresh start compiles nothing, and serves; what may not be, is not; signals end it."""
    package = next((machine.path("/opt/venv") / "lib").glob("python*/site-packages/kv_cache_rl"))
    touch = machine.run(["touch", str(package / "altered")])
    check(touch.wait() != 0, "the image's user cannot write to the package's folder")
    before = code_files(machine)
    check(len(before) > 100, f"{len(before)} files of compiled code were made by the build")
    with serving(machine, steps, port) as one:
        seconds = one.wait()
        check(code_files(machine) == before, f"a fresh start compiles nothing; healthy after {seconds:.1f} s")
        check("<title>kv-cache-rl</title>" in one.ask("/")[1], "the page loads")
        check(one.ask("/web/app.js")[0] == one.ask("/metrics")[0] == 200, "its modules and the metrics, too")
        for path, bodies in REQUESTS.items():
            for body in bodies:
                status, text = one.ask(path, body)
                check(
                    status in (200, 201),
                    f"{path} answers to {json.dumps(body)}" + ("" if status < 300 else text),
                )
        check(code_files(machine) == before, "first requests compile nothing")
        check(one.ask("/health", host="elsewhere.example")[0] == 403, "another name is refused")
        second = Served(machine, steps, port)
        said = second.process.communicate(timeout=START_S)[0]
        check(
            second.process.returncode == 2 and "--port" in said, f"a port in use is refused: {said.strip()}"
        )
        one.ends_well("SIGTERM ends it")
    name = "kv-cache-rl.hf.space"
    with serving(machine, steps, port, SPACE_HOST=name) as one:
        one.wait()
        check(one.ask("/health", host=name)[0] == 200, "in a Space it answers to the Space's name")
    prove_read_only(machine, steps, port, before)


def prove_read_only(machine: Machine, steps: list[Step], port: str, before: set[str]) -> None:
    """With a root file system that cannot be written, as Kubernetes gives it, it starts all the same."""
    home = str(machine.path("/home/user"))
    subprocess.run(["chmod", "-R", "a-w", home], check=True)
    try:
        with serving(machine, steps, port) as one:
            one.wait()
            check(
                one.ask("/api/simulate", {"agent": "lru", "task": "easy", "ticks": 20})[0] == 200,
                "it serves from read-only folders",
            )
            check(code_files(machine) == before, "and compiles nothing then, either")
    finally:
        subprocess.run(["chmod", "-R", "u+w", home], check=True)


def prove_training(machine: Machine, steps: list[Step], port: str) -> None:
    """The curve of a training grows on the page's call; what ends it is said, and it goes on."""
    before, options = code_files(machine), "--task easy --episodes 100000"
    log = machine.path("/home/user/runs/training/qlearning.log")
    with serving(machine, steps, port, PORT=port, TRAIN_OPTIONS=options) as one:
        one.wait()
        first = grown(one, 0)
        then = grown(one, len(first["curve"]))
        check(then["done"] > first["done"] > 0, f"its curve grows: {first['done']}, {then['done']} episodes")
        check(code_files(machine) == before, "a training compiles nothing")
        one.ends_well("SIGTERM ends both")
        check("go on with: kv-cache-rl serving train" in log.read_text(), "the training says how it goes on")
    with serving(machine, steps, port, PORT=port, TRAIN_OPTIONS=options) as one:
        one.wait()
        check(grown(one, 0)["done"] >= then["done"], "the next start goes on with it")
        one.end()
    with serving(machine, steps, port, PORT=port, AGENT="lru") as one:
        one.wait()
        time.sleep(1)
        check("error: the training ended with status 2" in one.end()[1], "a training that dies is named")
    with serving(machine, steps, port, PORT=port, RUNS="/nowhere/runs") as one:
        one.wait()
        said = one.end()[1]
        check("nothing trains" in said and "RUNS" in said, "so is a folder that cannot be written")


def grown(one: Served, points: int) -> dict[str, Any]:
    """The training that runs, once its curve has more points. Raises Wrong where it stands still."""
    until, found = time.monotonic() + START_S, {}
    while time.monotonic() < until:
        status, text = one.ask("/api/trainings/training/qlearning")
        found = json.loads(text) if status == 200 else {}
        if found.get("status") == "running" and len(found["curve"]) > points:
            return found
        time.sleep(0.2)
    raise Wrong(f"after {START_S:g} s its curve has no more than {points} points: {found}")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return str(one.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a new folder for the image, which stays")
    parser.add_argument(
        "--python", type=Path, help="stands for the base image; default: the system's python3"
    )
    options = parser.parse_args()
    bare = options.keep or Path(tempfile.mkdtemp(prefix="kv-cache-rl-image-"))
    try:
        bare.mkdir(parents=True, exist_ok=True)
        bare.chmod(0o755)
        steps, whole = steps_of(*SERVER), steps_of(*TRAINING)
        if found := [*faults(steps), *faults(whole)]:
            raise Wrong("\n".join(found))
        machine = machine_for(steps, bare, base_python(options.python))
        build(machine, steps)
        prove_server(machine, steps, free_port())
        build(machine, whole[len(steps) :], stage="kv-cache-rl")
        prove_training(machine, whole, free_port())
    except Wrong as wrong:
        raise SystemExit(f"error: {wrong}") from None
    finally:
        if not options.keep:
            subprocess.run(["chmod", "-R", "u+w", str(bare)], check=False)
            shutil.rmtree(bare, ignore_errors=True)
    print("the containers are sound")


if __name__ == "__main__":
    main()
