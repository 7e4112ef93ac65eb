"""A headless Chromium over its DevTools protocol, and a JupyterLab server for it to open.

    with open_browser(scratch) as page, serve_jupyterlab(folder, scratch) as address:
        page.open(address + "/lab/tree/x.ipynb?token=" + TOKEN)

websocket-client comes with jupyter_server. https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--window-size=1400,1000",
)  # fmt: skip
TOKEN = secrets.token_hex(16)
# No look-up of news; nothing asks a question when a notebook opens.
PAGE_CONFIG = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


def find_chromium() -> str | None:
    """The browser's command."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def find_missing() -> list[str]:
    """What has to be installed before the browser test can run."""
    missing = [] if find_chromium() else ["Chromium (apt install chromium)"]
    packages = {"jupyterlab": "jupyterlab", "websocket": "websocket-client"}
    return missing + [f"{name} (pip)" for module, name in packages.items() if not find_spec(module)]


def wait_for(look: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The first true value of `look`; AssertionError says what did not come."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)
    return found


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        import websocket

        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self.count = 0

    def call(self, method: str, **values) -> dict:
        """Send a DevTools command and return its result; events that come between are dropped."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": values}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The JSON value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """A left click in the middle of an element."""
        script = f"(r => [r.x + r.width / 2, r.y + r.height / 2])({find(selector)}"
        x, y = self.run(script + ".getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def has(self, selector: str) -> bool:
        """Whether an element is there."""
        return bool(self.run(f"!!{find(selector)}"))

    def save_picture(self, file: Path) -> None:
        """A PNG of what is to be seen."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def find(selector: str) -> str:
    """JavaScript for the first element of a CSS selector."""
    return f"document.querySelector({json.dumps(selector)})"


@contextmanager
def open_browser(scratch: Path) -> Iterator[Page]:
    """Chromium with a profile of its own."""
    profile = scratch / "profile"
    command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with running(command, scratch / "chromium.log"):
        file = profile / "DevToolsActivePort"
        port = wait_for(lambda: file.is_file() and file.read_text().split(), "browser")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        yield Page(tabs[0]["webSocketDebuggerUrl"])


def register_kernel(scratch: Path) -> dict[str, str]:
    """A kernel of this very interpreter for serve_jupyterlab; the notebook's kernelspec."""
    folder = scratch / "data" / "kernels" / "this-python"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this python", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return {"name": folder.name, "display_name": spec["display_name"]}


@contextmanager
def serve_jupyterlab(folder: Path, scratch: Path, environment: dict) -> Iterator[str]:
    """A JupyterLab server on loopback with TOKEN; yields its address."""
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data",
              "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings",
              "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
    places = {name: str(scratch / place) for name, place in places.items()}
    pages = scratch / "config" / "labconfig" / "page_config.json"
    pages.parent.mkdir(parents=True)
    pages.write_text(json.dumps(PAGE_CONFIG), encoding="utf-8")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
               f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    with running(command, scratch / "jupyterlab.log", {**os.environ, **environment, **places}):
        runtime = scratch / "runtime"
        file = wait_for(lambda: list(runtime.glob("jpserver-*.json")), "JupyterLab server")[0]
        yield wait_for(lambda: read_address(file), "address of the server")


def read_address(file: Path) -> str | None:
    """The address in a server's info file; None while it is being written."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["url"].rstrip("/")
    except ValueError:
        return None


@contextmanager
def running(command: list[str], log: Path, environment: dict | None = None) -> Iterator[None]:
    """A program that is ended afterwards; what it says goes into `log`."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
