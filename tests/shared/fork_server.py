"""Starts commands without starting Python: a process with all imported that forks for each.

`fork_server.py SOCKET` serves until its standard input ends. A request is JSON (arguments behind
the interpreter, folder, environment, and whether a session begins) and three descriptors. The
answer is the process id, and for clients that are no parent also how the process ended.
"""

import atexit
import fcntl
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from select import select

NOT_IMPORTED = ("onnxruntime", "ray")
"""Libraries that start threads, which no fork survives."""


def import_all() -> None:
    """Import the package and what its commands need."""
    sys.path.insert(1, str(Path(__file__).parents[2] / "batch"))
    sys.modules.update(dict.fromkeys(NOT_IMPORTED))  # type: ignore[arg-type]
    package = import_module("aobatch")
    for module in pkgutil.walk_packages(package.__path__, "aobatch."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    # Arrow imports pandas, where it is, when it is first given values.
    for name in ("aobatch.testing", "gguf", "jinja2", "pandas", "pyarrow.parquet", "tokenizers"):
        import_module(name)
    for name in NOT_IMPORTED:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def serve(address: str) -> Callable[[], None]:
    """Fork for each request; return in the processes that are to become a command."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        ready = select([listener, sys.stdin], [], [])[0]
        if sys.stdin in ready:
            sys.exit()
        connection = listener.accept()[0]
        request, descriptors = received(connection)
        between = os.fork()
        if not between:
            listener.close()
            return lambda: begin(connection, request, descriptors)
        # A client that is an ancestor adopts what this process leaves behind when it ends.
        if not request["is_told_end"]:
            os.waitpid(between, 0)
        for descriptor in (*descriptors, connection.detach()):
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def received(connection: socket.socket) -> tuple[dict[str, object], list[int]]:
    """Read a request, which is one line."""
    text, descriptors, *_ = socket.recv_fds(connection, 2**16, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(2**16)
    return json.loads(text), descriptors


def begin(connection: socket.socket, request: dict[str, object], descriptors: list[int]) -> None:
    """Become the command in a process of its own."""
    if process := os.fork():
        connection.sendall(b"%d\n" % process)
        if request["is_told_end"]:
            tell_end(connection, process)
        os._exit(0)
    connection.close()
    # Whoever started the server may have ignored or blocked what a command is to hear.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["begins_session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["begins_session"] and os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    open_streams()
    try:
        become(request["arguments"])
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            raise
        end_at_once(stop.code or 0)
    else:
        end_at_once(0)


def end_at_once(code: int) -> None:
    """Do what Python does at its end, but for taking apart all that this process has imported.

    That would need more time than most commands. If a stream takes nothing, it is for Python.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code & 0xFF)
    sys.exit(code)


def tell_end(connection: socket.socket, process: int) -> None:
    """Tell how a process ended; kill it if its client goes away."""
    if connection in select([connection, os.pidfd_open(process)], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    with suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % status)


def open_streams() -> None:
    """Give the streams that Python opens for these descriptors."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        old = getattr(sys, name)
        raw = open(number, f"{mode}b", -1, closefd=False)  # noqa: SIM115
        is_direct = number == 2 or (mode == "w" and raw.isatty())
        stream = TextIOWrapper(raw, old.encoding, old.errors, line_buffering=is_direct)
        stream.mode = mode  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def become(arguments: list[str]) -> None:
    """Do what Python does with these arguments: a script or `-m MODULE`, and theirs."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_all()
    serve(sys.argv[1])()
