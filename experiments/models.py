"""Lists the model zoo: architectures, and the weights that are published for them.

  python -m experiments.models --match resnet --weights torchvision

`--weights TAG` of the other scripts takes what the column 'weights' shows.
"""

import dataclasses
import fnmatch

from rich.console import Console
from rich.table import Table

from experiments import cli
from tljax import models as zoo
from tljax.errors import InputError
from tljax.weights import registry


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Lists architectures and published weights."""

  match: str = '*'
  """Names to list, such as 'resnet50' or 'vit*'; a part of the name will do."""
  weights: str = ''
  """Only weights whose tag holds this: 'keras', 'in21k'."""
  max_parameters: float | None = None
  """Only models of at most so many million parameters."""


def rows(flags: Flags) -> list[dict]:
  """The lines of the table."""
  lines = []
  for name in zoo.names():
    spec = zoo.spec(name)
    millions = spec.parameters / 1e6 if spec.parameters else None
    if not fnmatch.fnmatch(name, f'*{flags.match}*'):
      continue
    if flags.max_parameters and (millions or 0) > flags.max_parameters:
      continue
    published = registry.published(name)
    for row in published or ([] if flags.weights else [None]):
      if row and flags.weights not in row.tag:
        continue
      lines.append(
        {
          'model': name,
          'parameters, M': f'{millions:.1f}' if millions else '',
          'multiply-adds, G': f'{(spec.multiply_adds or 0) / 1e3:.2f}',
          'input': str(spec.input_size),
          'features': str(spec.feature_dim),
          'weights': row.tag if row else '',
          'trained on': row.data if row else '',
          'top-1, %': f'{row.top1:.1f}' if row and row.top1 else '',
          'MB': f'{row.megabytes:.0f}' if row and row.megabytes else '',
          'licence': row.licence if row else '',
        }
      )
  if not lines:
    raise InputError('no model fits these filters; leave one out')
  return lines


def models(flags: Flags) -> None:
  lines = rows(flags)
  table = Table(title=f'{len(lines)} of the zoo')
  for column in lines[0]:
    text = column in ('model', 'weights', 'trained on', 'licence')
    table.add_column(column, justify='left' if text else 'right')
  for line in lines:
    table.add_row(*line.values())
  console = Console()
  # A table cut to a narrow pipe would lose names.
  console.width = console.width if console.is_terminal else 200
  console.print(table)


if __name__ == '__main__':
  cli.main(models, Flags)
