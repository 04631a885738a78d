"""python -m basic.serve --workdir RUN --source.name=folder --source.path=pictures

Embeds a collection once, and serves one page on this machine that searches it:
type words or drop a picture, and see the nearest; type names of classes, and see
how probable each is for the picture. Ctrl-C ends it.

    pip install -e '.[serve]'                      what it needs
    python -m basic.serve --help                   all settings
    python -m basic.serve --weights hf_clip:DIR --port 8080 \\
      --source.name=tar --source.shards='data/*.tar'
"""

import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from basic import cli
from basic.experiment import command_line
from basic.interface import model


def application(
    *,
    source: Mapping[str, Any],
    workdir: str | None = None,
    weights: str | None = None,
    step: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    names: tuple[str, ...] = (),
    upload_mb: float = 20.0,
    cache: str | None = None,
) -> Any:
  """The page of a collection, as an ASGI application.

  Args:
    source: `name` of a source, and its settings: --source.name=folder
      --source.path=pictures. A folder of pictures without captions:
      --source.layout=pictures.
    workdir: folder of a run; or
    weights: a format and a path, such as hf_clip:DIR.
    step: the checkpoint of a run; None: the newest.
    host: address to listen on. Others than this machine can reach it only if it
      is set.
    port: to listen on; 0: any that is free.
    names: of this machine, by which browsers may ask for the page beside
      localhost and its addresses.
    upload_mb: a picture may have so many megabytes (2**20 bytes).
    cache: folder where embeddings are kept; None: $XDG_CACHE_HOME/basic/embeddings.

  Returns:
    An ASGI application.

  Raises:
    FileNotFoundError: if there is no such run, weights or data.
    ImportError: if the libraries of the extra `serve` are not installed.
    ValueError: if neither `workdir` nor `weights` is given, or both, or a setting
      is wrong.
  """
  if (workdir is None) == (weights is None):
    raise ValueError("give one of --workdir RUN and --weights FORMAT:PATH.")
  if not 0 <= port < 2**16 or upload_mb <= 0:
    raise ValueError(
        f"found --port {port} and --upload_mb {upload_mb}; a port is a number from "
        "0 to 65535, and a picture may have more than 0 megabytes."
    )
  app, _ = _libraries()
  from basic.serving import service

  loaded = model.load(workdir or weights or "", step=step)
  index = loaded.index(source, cache=cache)
  print(f"{index} by {loaded.towers.origin}")
  return app.app(
      service.Service(loaded, index), upload=int(upload_mb * 2**20),
      names=(*names, host),
  )


def serve(**settings: Any) -> None:
  """Serves the page until it is interrupted.

  Args:
    **settings: of `application`.

  Raises:
    OSError: if the port is taken.
    ValueError: and the other errors of `application`.
  """
  host, port = settings.get("host", "127.0.0.1"), settings.get("port", 8000)
  _, uvicorn = _libraries()
  from basic.serving import guards

  with _bound(host, port) as listener:  # A taken port is noticed at once.
    built = application(**settings)
    if warning := guards.open_to_others(host, settings.get("names", ())):
      logging.getLogger(__name__).warning("%s", warning)
    server = uvicorn.Server(uvicorn.Config(
        built, log_level="warning", server_header=False, limit_concurrency=64,
        timeout_keep_alive=10, ws="none", lifespan="off",
    ))
    shown = f"[{host}]" if ":" in host else host
    port = listener.getsockname()[1]
    listener.listen()  # So that the address answers as soon as it is printed.
    print(f"http://{shown}:{port}/  (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
  """A socket that is bound to an address, and refuses connections until it listens."""
  found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
  try:
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((host, port))
    return found
  except OverflowError as error:
    found.close()
    raise ValueError(
        f"--port is {port}; a port is a number from 0 to 65535."
    ) from error
  except OSError as error:
    found.close()
    raise OSError(
        f"cannot listen on {host} port {port}: {error.strerror or error}. Another "
        "program may be using it; give another --port, or 0 for any that is free."
    ) from error


def _libraries() -> tuple[Any, Any]:
  """The application's module and uvicorn, which only this program needs."""
  try:
    import uvicorn

    from basic.serving import app
  except ImportError as error:
    raise ImportError(
        f"serving a page needs more libraries: pip install -e '.[serve]' ({error})"
    ) from error
  return app, uvicorn


def main(arguments: Sequence[str]) -> None:
  """Serves a page."""
  if not arguments or {"--help", "-h"} & set(arguments):
    print(__doc__, command_line.manual(application), sep="\n")
    return
  with cli.sentences():
    serve(**command_line.settings("serve", application, arguments))


if __name__ == "__main__":
  main(sys.argv[1:])
