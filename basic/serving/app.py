"""The search page as an ASGI application.

    GET  /                       the page, with /search.css, /search.js, /icon.svg
    GET  /about                  the model and the collection
    GET  /search?text=&k=        the nearest to words
    POST /search?k=              the nearest to the picture that is the body
    POST /classify?name=&name=   probabilities of names for the picture in the body
    GET  /thumbnail/NUMBER       a small JPEG file

Errors are sentences: {"error": "..."} with 400 (what was asked makes no sense),
403 or 421 (another site), 404, 405, 408, 413, 415, or 422 (no picture that can be
read).
"""

import asyncio
import functools
import logging
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import anyio
import anyio.to_thread
from starlette import applications, exceptions, requests, responses, routing

from basic.serving import guards, service

UPLOAD = 20 * 2**20  # bytes of a picture
_SECONDS = 30.0  # for a picture to arrive
_AT_ONCE = 2  # requests that decode or encode; each may take 160 MB for pixels
_PAGE = pathlib.Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/search.css": ("search.css", "text/css; charset=utf-8"),
    "/search.js": ("search.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_BINARY = "application/octet-stream"
_log = logging.getLogger(__name__)


class _Fault(Exception):
  """Ends a request with a status and a sentence."""

  def __init__(self, status: int, sentence: str):
    super().__init__(sentence)
    self.status = status


def app(
    answers: service.Service,
    *,
    upload: int = UPLOAD,
    seconds: float = _SECONDS,
    names: Collection[str] = (),
) -> guards.Guards:
  """The application.

  Args:
    answers: to what the page asks.
    upload: bytes that a picture may have; more are not read.
    seconds: that an upload may take.
    names: of this machine, by which it may be asked.

  Returns:
    An ASGI application.
  """
  limiter: Any = None

  async def work(function, *arguments):
    nonlocal limiter  # It belongs to the loop that serves.
    limiter = limiter or anyio.CapacityLimiter(_AT_ONCE)
    call = functools.partial(function, *arguments)
    return await anyio.to_thread.run_sync(call, limiter=limiter)

  async def about(request):
    return responses.JSONResponse({**answers.about(), "upload": upload})

  async def search(request):
    k = _number(request.query_params.get("k", "24"))
    if request.method == "POST":
      data = await _body(request, upload, seconds)
      found = await work(answers.picture, data, k)
    else:
      found = await work(answers.words, request.query_params.get("text", ""), k)
    return responses.JSONResponse({"found": found})

  async def classify(request):
    names = request.query_params.getlist("name")
    data = await _body(request, upload, seconds)
    found = await work(answers.probabilities, data, names)
    return responses.JSONResponse({"names": found})

  async def thumbnail(request):
    content = await work(answers.thumbnail, request.path_params["number"])
    # Not to be kept: another collection may be served at the same address next.
    return responses.Response(content, media_type="image/jpeg")

  routes = [
      routing.Route("/about", about),
      routing.Route("/search", search, methods=["GET", "POST"]),
      routing.Route("/classify", classify, methods=["POST"]),
      routing.Route("/thumbnail/{number:int}", thumbnail),
      *(routing.Route(path, _file(*file)) for path, file in _FILES.items()),
  ]
  return guards.Guards(
      applications.Starlette(routes=routes, exception_handlers=_HANDLERS), names
  )


def _file(name: str, kind: str) -> Callable[[requests.Request], Any]:
  """Answers with a file of the page."""
  content = (_PAGE / name).read_bytes()

  async def file(request):
    return responses.Response(content, headers={"content-type": kind})

  return file


async def _body(request: requests.Request, most: int, seconds: float) -> bytes:
  """The picture in the body of a request, of which no more is read than allowed."""
  kind = request.headers.get("content-type", _BINARY).split(";")[0].strip().lower()
  if not kind.startswith("image/") and kind != _BINARY:
    raise _Fault(415, f"Found a file of the kind {kind:.80}; drop a picture.")
  declared = request.headers.get("content-length", "0")
  too_large = _Fault(
      413, f"This file is too large; pictures may have {most / 2**20:.3g} MB."
  )
  if not declared.isdecimal() or int(declared) > most:
    raise too_large
  parts, size = [], 0
  try:
    async with asyncio.timeout(seconds):
      async for part in request.stream():
        size += len(part)
        if size > most:
          raise too_large
        parts.append(part)
  except TimeoutError as error:
    raise _Fault(408, f"The picture did not arrive in {seconds:g} s.") from error
  if not size:
    raise _Fault(400, "This file is empty; drop a picture.")
  return b"".join(parts)


def _number(text: str) -> int:
  if not text.isdecimal() or len(text) > 6:
    raise service.Refused(f"k is {text!r:.80}; it takes a number.")
  return int(text)


async def _fault(request: requests.Request, error: Any) -> responses.Response:
  return guards.refusal(error.status, str(error))


async def _refused(request: requests.Request, error: Any) -> responses.Response:
  unreadable = error.__cause__ is not None
  return guards.refusal(422 if unreadable else 400, str(error))


async def _lookup(request: requests.Request, error: Any) -> responses.Response:
  return guards.refusal(404, str(error))


async def _http(request: requests.Request, error: Any) -> responses.Response:
  sentence = f"{request.method} {request.url.path[:200]}: {error.detail}."
  answer = guards.refusal(error.status_code, sentence)
  answer.headers.update(error.headers or {})
  return answer


async def _broken(request: requests.Request, error: Any) -> responses.Response:
  _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
  return guards.refusal(500, "This went wrong; the server's log says why.")


_HANDLERS: Any = {
    _Fault: _fault, service.Refused: _refused, LookupError: _lookup,
    exceptions.HTTPException: _http, Exception: _broken,
}
