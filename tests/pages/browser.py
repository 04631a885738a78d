"""A headless Chromium, driven over a pipe by the DevTools protocol."""

import json
import os
import select
import shutil
import subprocess

PROGRAM = next(filter(None, map(
    shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions",
    "--disable-background-networking", "--no-first-run", "--remote-debugging-pipe",
)


class Browser:
  """One page; a context manager.

  Attributes:
    events: what the page has reported: (method, parameters).
  """

  def __init__(self, folder):
    self._folder = folder
    self.events = []

  def __enter__(self):
    theirs, self._to = os.pipe()
    self._from, answers = os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to 4.
    script = f'exec "$0" "$@" 3<&{theirs} 4>&{answers}'
    self._process = subprocess.Popen(
        ["bash", "-c", script, PROGRAM, *_FLAGS,
         f"--user-data-dir={self._folder}", "about:blank"],
        pass_fds=(theirs, answers), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(answers)
    self._number, self._rest, self._session = 0, b"", None
    target = self._call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self._call(
        "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self._call(f"{domain}.enable")
    return self

  def __exit__(self, *error):
    self._process.kill()
    self._process.wait()
    os.close(self._to)
    os.close(self._from)

  def open(self, url, width, scheme="light"):
    """Loads a page at a width in CSS pixels, in a light or dark scheme."""
    self.events.clear()
    self._call("Emulation.setDeviceMetricsOverride", width=width, height=900,
               deviceScaleFactor=1, mobile=False)
    self._call("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-color-scheme", "value": scheme}])
    self._call("Page.navigate", url=url)
    while not any(method == "Page.loadEventFired" for method, _ in self.events):
      self._receive()

  def evaluate(self, expression):
    """The value of an expression in the page; the policy does not apply to it."""
    return self._call(
        "Runtime.evaluate", expression=expression, returnByValue=True,
    )["result"].get("value")

  def complaints(self):
    """Errors, violations of the policy and messages on the console."""
    self.evaluate("0")  # what was reported before is read by then
    return [
        parameters for method, parameters in self.events
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled",
                      "Runtime.exceptionThrown")
    ]

  def requests(self):
    """URLs that the page has asked for, without those that it contains."""
    return [
        parameters["request"]["url"] for method, parameters in self.events
        if method == "Network.requestWillBeSent"
        and not parameters["request"]["url"].startswith("data:")
    ]

  def _call(self, method, **parameters):
    self._number += 1
    message = {"id": self._number, "method": method, "params": parameters}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._to, json.dumps(message).encode() + b"\0")
    while True:
      answer = self._receive()
      if answer.get("id") == self._number:
        assert "error" not in answer, answer
        return answer["result"]

  def _receive(self):
    while b"\0" not in self._rest:
      assert select.select([self._from], [], [], 60)[0], "the browser is silent"
      chunk = os.read(self._from, 1 << 20)
      assert chunk, "the browser has ended"
      self._rest += chunk
    line, _, self._rest = self._rest.partition(b"\0")
    message = json.loads(line)
    if "method" in message:
      self.events.append((message["method"], message["params"]))
    return message
