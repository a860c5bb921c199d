"""JupyterLab as a reader starts it: `python -m tensorlab lab`, with a home of its own."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import parse_qs, urlsplit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def lab(home, *options, cwd, timeout=60, python=sys.executable):
    """Start it and give (address without path, token, the line it printed); with the block it ends,
    kernels too."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "JPY_"))
    }
    env |= {
        "HOME": str(home),
        "TENSORLAB_FAST": "1",
        "PYTHONUNBUFFERED": "1",
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [python, "-m", "tensorlab", "lab", "--port", str(free_port()), *options]
    log = home / "lab.log"
    with log.open("w") as err:
        server = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=err, text=True
        )
    # Without it, a server that says nothing would be waited for.
    watchdog = threading.Timer(timeout, server.kill)
    watchdog.start()
    line = server.stdout.readline()
    watchdog.cancel()
    try:
        found = re.search(r"http://\S+", line)
        assert found, f"no address printed, but {line!r}\n{log.read_text()}"
        url = urlsplit(found[0])
        yield f"{url.scheme}://{url.netloc}", parse_qs(url.query)["token"][0], line
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(15)
