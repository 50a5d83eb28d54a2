"""A real browser, driven over WebDriver's HTTP with the standard library alone."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the standard gives to elements
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def missing():
    """What has to be installed before a browser can be driven; nothing if all is there."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver on the PATH (Debian: chromium-driver)"
    if not any(map(shutil.which, _CHROMIUM)):
        return "no chromium on the PATH"
    return ""


class Browser:
    """Headless Chromium.

    Args:
        folder: empty, for its profile.
    """

    def __init__(self, folder):
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for line in self._driver.stdout:
            if "started successfully on port" in line:
                self._url = f"http://127.0.0.1:{line.rstrip().rstrip('.').rpartition(' ')[2]}"
                break
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={folder}",
            "--window-size=1100,1000",
        ]
        options = {"args": flags, "binary": next(filter(None, map(shutil.which, _CHROMIUM)))}
        capabilities = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 60_000},
        }
        self._session = ""
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{answer['sessionId']}"

    def close(self):
        with contextlib.suppress(OSError):
            self._ask("DELETE", "")
        self._driver.terminate()
        self._driver.wait(20)
        self._driver.stdout.close()

    def open(self, url):
        self._ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """The value of a script's `return`; a promise is waited for."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command, **parameters):
        """A command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def texts(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)"
        return self.run(script, selector)

    def wait(self, script, *arguments, seconds=20):
        """Until a script returns something true; returns that."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < deadline, (script, arguments, self.text("body"))
            time.sleep(0.02)
        return value

    def wait_for(self, selector, words, seconds=20):
        """Until an element's text contains words."""
        script = "return document.querySelector(arguments[0])?.innerText.includes(arguments[1])"
        self.wait(script, selector, words, seconds=seconds)

    def click(self, selector):
        self._ask("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector, keys):
        """Type into an element; into a file field, the path of a file."""
        self._ask("POST", f"/element/{self._find(selector)}/value", {"text": keys})

    def choose(self, selector, value):
        """Choose from a menu, by the value of the option."""
        self.click(f'{selector} option[value="{value}"]')

    def drop(self, *paths):
        """Drop files from outside onto the page, as a hand does."""
        data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.devtools("Input.dispatchDragEvent", type=kind, x=200, y=300, data=data)

    def paste_png(self, content):
        """Put an image into the clipboard and press Ctrl-V."""
        self.devtools(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        )
        self.devtools("Page.bringToFront")
        self.run(
            """
            const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
            const blob = new Blob([bytes], { type: "image/png" });
            return navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
            """,
            base64.b64encode(content).decode(),
        )
        key = {"key": "v", "code": "KeyV", "modifiers": 2, "windowsVirtualKeyCode": 86}
        self.devtools("Input.dispatchKeyEvent", type="rawKeyDown", commands=["paste"], **key)
        self.devtools("Input.dispatchKeyEvent", type="keyUp", **key)

    def complaints(self):
        """What the browser's console holds: refused scripts and styles, failed requests."""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def _find(self, selector):
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return found[_ELEMENT]

    def _ask(self, method, path, body=None):
        request = urllib.request.Request(
            self._url + self._session + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error
