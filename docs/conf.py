"""How Sphinx builds the site; the command is `bash launch/docs.sh`."""

import pathlib
import sys
from typing import Any

_HERE = pathlib.Path(__file__).resolve().parent

project = "basic"
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = "basic"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # It would be fetched, which disks refuse.
html_show_sphinx = False
smartquotes = False
# Code blocks without a language, and settings that are no complete program.
highlight_language = "text"
suppress_warnings = ["misc.highlighting_failure"]


def setup(app: Any) -> None:
  """Writes the reference of this checkout before Sphinx reads the pages."""
  sys.path[:0] = [str(_HERE.parent), str(_HERE)]
  import listing

  listing.write(pathlib.Path(app.srcdir) / "reference")
