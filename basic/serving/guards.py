"""What every request passes: host, origin, and headers of the answer."""

import ipaddress
import urllib.parse
from collections.abc import Collection, Iterable
from typing import Any

from starlette import datastructures, responses

# Nothing inline, nothing from elsewhere; `blob:` shows a picture that was dropped.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def refusal(status: int, sentence: str) -> responses.JSONResponse:
  """An answer that says what was wrong."""
  return responses.JSONResponse({"error": sentence}, status)


class Guards:
  """An ASGI application around another one.

  A page of another site can make a browser send requests here, and, with a name
  that it lets point to this machine, read the answers (DNS rebinding). So the
  host that was asked for must be this one, and so must be the page that asks.
  """

  def __init__(self, app: Any, names: Collection[str] = ()):
    """Wraps an application.

    Args:
      app: of ASGI.
      names: of this machine, beside "localhost" and all addresses.
    """
    self._app = app
    self._names = {"localhost", *(name.lower() for name in names)}

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Answers a request, or lets the application answer it."""
    if scope["type"] != "http":  # Lifespan; there are no web sockets.
      await self._app(scope, receive, send)
      return

    async def guarded(message):
      if message["type"] == "http.response.start":
        headers = datastructures.MutableHeaders(scope=message)
        for name, value in HEADERS.items():
          headers[name] = value
        headers.setdefault("cache-control", "no-store")
      await send(message)

    headers = datastructures.Headers(scope=scope)
    answer = self._refusal(headers.getlist("host"), headers) or self._app
    await answer(scope, receive, guarded)

  def _refusal(
      self, hosts: list[str], headers: datastructures.Headers
  ) -> responses.Response | None:
    if len(hosts) != 1 or not self._is_own(hosts[0]):
      return refusal(
          421, f"This server does not answer for the host {', '.join(hosts)!r:.200}."
      )
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != hosts[0]:
      return refusal(403, "This server answers only its own page.")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
      return refusal(403, "This server answers only its own page.")
    return None

  def _is_own(self, host: str) -> bool:
    """Whether a Host header names this machine; an address cannot be rebound."""
    try:
      name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
      return False
    return name in self._names or is_address(name)


def is_address(name: str) -> bool:
  """Whether a name is an IP address.

  Example:
    >>> [is_address(name) for name in ("127.0.0.1", "::1", "evil.example")]
    [True, True, False]
  """
  try:
    ipaddress.ip_address(name)
  except ValueError:
    return False
  return True


def is_loopback(host: str) -> bool:
  """Whether a host to listen on can be reached from this machine alone.

  Example:
    >>> [is_loopback(host) for host in ("localhost", "::1", "0.0.0.0")]
    [True, True, False]
  """
  return host == "localhost" or (
      is_address(host) and ipaddress.ip_address(host).is_loopback
  )


def open_to_others(host: str, names: Iterable[str] = ()) -> str:
  """A warning for a host that others can reach; "" for this machine alone."""
  if is_loopback(host):
    return ""
  return (
      f"WARNING: on {host}, everybody who can reach this machine can search, and "
      "see all pictures of the source; there is no password. Without --host, it "
      "listens on this machine alone. Names that it answers for, beside "
      f"addresses: {', '.join(['localhost', *names])}."
  )
