"""Where published weights are."""

import pathlib


def locate(name: str, source: str | pathlib.Path) -> pathlib.Path:
  """Returns the path of the weights."""
  return pathlib.Path(source)
