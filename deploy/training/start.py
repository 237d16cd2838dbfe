"""Trains an agent, and serves the page that shows its curve.

    AGENT           qlearning, neural or ppo
    TRAIN_OPTIONS   further options of `kv-cache-rl serving train`
    RUNS            the folder that the page shows; default: runs
    PORT            default: 7860

The training is a process beside the server. When it ends, well or not, the server stays. A signal ends both.
The next start goes on with the training where the folder has lasted."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

AGENT = os.environ.get("AGENT") or "qlearning"
RUNS = Path(os.environ.get("RUNS") or "runs")
FOLDER = RUNS / "training"
LOG = FOLDER / f"{AGENT}.log"
"""The page shows its last line where the training has stopped."""
GOODBYE_S = 20


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def begun() -> subprocess.Popen | None:
    """The training; None, with the reason said, where it cannot begin."""
    words = ["kv-cache-rl", "serving", "train", "--agent", AGENT, "--out", str(FOLDER)]
    try:
        words += shlex.split(os.environ.get("TRAIN_OPTIONS", ""))
        FOLDER.mkdir(parents=True, exist_ok=True)
        with LOG.open("ab") as log:
            started = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    except ValueError as error:
        say(f"error: TRAIN_OPTIONS cannot be read ({error}); write it as in a shell. Nothing trains.")
        return None
    except OSError as error:
        say(
            f"error: {error.filename}: {error.strerror}, so nothing trains, and the page is served without; "
            "mount a folder there that this user may write to, or name one with RUNS"
        )
        return None
    say(f"training: {shlex.join(words)} (its words: {LOG})")
    return started


def watch(training: subprocess.Popen) -> None:
    """Says how the training has ended."""
    status = training.wait()
    if status == 0:
        say(f"the training has ended; {FOLDER} holds what it made")
        return
    said = LOG.read_text(errors="replace").strip().splitlines()
    last = said[-1] if said else "it said nothing: perhaps the memory was not enough"
    say(f"error: the training ended with status {status}: {last}")
    say("mend that and start again: the training goes on where it was saved. The page stays.")


def main() -> int:
    """Ends with the server, and with its status."""
    server: subprocess.Popen | None = None
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        if server is not None:
            server.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    training = begun()
    words = ["kv-cache-rl", "serve", "--host", "0.0.0.0", "--port", os.environ.get("PORT") or "7860"]
    server = subprocess.Popen([*words, "--runs", str(RUNS)])
    for number in signals:  # that came before there was a server
        server.send_signal(number)
    if training is not None:
        threading.Thread(target=watch, args=(training,), daemon=True).start()
    status = server.wait()
    if training is not None and training.poll() is None:
        training.terminate()
        try:
            training.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            training.kill()
    return status


if __name__ == "__main__":
    sys.exit(main())
