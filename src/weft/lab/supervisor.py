"""Keeps a program running: an agent, a node's runtime, a process of the lab itself."""

import os
import subprocess
import threading
import time

#: Seconds before a program that ended is started again: at first, and at most.
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
#: Seconds that a program gets to stop.
STOP_TIMEOUT = 10.0


class Supervisor:
    """Runs a program, and runs it again when it ends."""

    def __init__(self, command: list[str], log: int, name: str = "agent") -> None:
        self._command = command
        self._log = log
        self._name = name
        self._paused = threading.Event()
        self._ended = threading.Event()
        self._over = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Keep it running until told to stop; then stop it."""
        pause = SHORTEST_PAUSE
        while not stopping.is_set():
            if self._paused.is_set():
                self._ended.set()
                stopping.wait(0.05)
                continue
            begun = time.monotonic()
            program = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
            while program.poll() is None and not (self._paused.is_set() or stopping.wait(0.05)):
                pass
            if program.returncode is None:
                end(program)
                continue
            pause = SHORTEST_PAUSE if time.monotonic() - begun > 10 else min(2 * pause, LONGEST_PAUSE)
            said = f"{self._name} ended with status {program.returncode}; starting it again\n"
            os.write(self._log, said.encode())
            stopping.wait(pause)
        self._over.set()

    def pause(self) -> None:
        """End the program until ``resume``; return when it has ended."""
        self._ended.clear()
        self._paused.set()
        while not (self._ended.wait(0.1) or self._over.is_set()):
            pass

    def resume(self) -> None:
        """Run the program again after ``pause``."""
        self._paused.clear()

    @property
    def paused(self) -> bool:
        """Whether it was told to pause."""
        return self._paused.is_set()


def end(program: "subprocess.Popen[bytes]") -> None:
    """Stop a program; kill it where it does not."""
    program.terminate()
    try:
        program.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
