"""Figures as tables, on the terminal and in Markdown, and as a picture."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from tljax.report import Rows

_OURS, _THEIRS, _BELOW = '#1f6feb', '#8b949e', '#d1242f'
_COLOURS = {'PyTorch eager': _OURS, 'another peer': _THEIRS, 'below its bar': _BELOW}
Figures = Mapping[str, Mapping]  # by case, of `harness.summary` and the bar


def times(figures: Figures) -> Rows:
  """A row a peer: seconds of both, the ratio, and how it stands to its bar."""
  rows = []
  for case, found in figures.items():
    case = f'{case} {found.get("flags", "")}'.strip()
    ours, *peers = found['contenders'].items()
    for name, theirs in peers or [('', None)]:
      rows.append(
        {
          'case': case,
          'tljax': spread(ours[1], 'seconds'),
          'peer': name,
          'its time': spread(theirs, 'seconds') if theirs else '',
          'ratio': spread(found['ratios'][name]) if theirs else '',
          'bar': verdict(found['bar'], name or None),
        }
      )
    rows += [
      {'case': case, 'tljax': '', 'peer': k, 'its time': why, 'ratio': '', 'bar': ''}
      for k, why in found['missing'].items()
    ]
  return rows


def resources(figures: Figures) -> Rows:
  """A row a step: compilation, peak of memory, and what is reached of the ceiling."""
  rows = []
  for case, found in figures.items():
    ours, *peers = found['contenders'].values()
    if 'flops' not in ours:
      continue
    theirs = found['contenders'].get('torch', {})
    rate = ours['flops'] / ours['median'] / 1e9
    rows.append(
      {
        'case': case,
        'compile, s': f'{ours["compile_seconds"]:.1f}',
        'peak, MiB': f'{ours["memory_bytes"] / 2**20:,.0f}',
        'PyTorch, MiB': f'{theirs["memory_bytes"] / 2**20:,.0f}' if theirs else '',
        'GFLOP': f'{ours["flops"] / 1e9:,.1f}',
        'GFLOP/s': f'{rate:,.0f}',
        'of a product': f'{ours["of_flops"]:.0%}',
        'of a copy': f'{ours["of_bytes"]:.0%}' if 'of_bytes' in ours else '',
      }
    )
  return rows


def verdict(bar: Mapping | None, peer: str | None) -> str:
  """Such as 'BELOW: >= 0.9'; empty where the bar is of another peer."""
  if bar is None or bar['peer'] != peer:
    return ''
  value = f'{bar["value"]:g} s' if peer is None else f'{bar["value"]:g}'
  sign = '<=' if bar['is_cost'] or peer is None else '>='
  cost = f' (cost {bar["found"]:.2f})' if bar['is_cost'] else ''
  return f'{"passes" if bar["passes"] else "BELOW"}: {sign} {value}{cost}'


def spread(quartiles: Mapping[str, float], kind: str = 'ratio') -> str:
  """Median and quartiles: '1.50 (1.40-1.60)', of seconds '23.2 ms (21.7-24.8)'."""
  low, median, high = (quartiles[k] for k in ('low', 'median', 'high'))
  if kind == 'ratio':
    return f'{median:.2f} ({low:.2f}-{high:.2f})'
  scale, unit = (1, 's') if median >= 1 else (1e3, 'ms')
  values = [f'{scale * value:.3g}' for value in (median, low, high)]
  return f'{values[0]} {unit} ({values[1]}-{values[2]})'


def markdown(written: Mapping) -> str:
  """Returns the page of a JSON file's figures."""
  versions = ', '.join(
    f'{name} {written[name]}'
    for name in ('python', 'jax', 'flax', 'torch', 'torchvision', 'timm', 'keras')
    if written[name]
  )
  ceiling = written['ceiling']
  parts = [
    f'# Figures: {written["device"]}, {written["cores"]} cores, {written["date"]}',
    f'{written["processor"]}; {versions}; {written["dtype"]}. A large product reaches '
    f'{ceiling["flops_per_second"] / 1e9:,.0f} GFLOP/s, a large copy '
    f'{ceiling["bytes_per_second"] / 1e9:.1f} GB/s. Median and quartiles; the ratio is '
    "the peer's time over tljax's.",
  ]
  for rows in (times(written['cases']), resources(written['cases'])):
    if rows:
      lines = [list(rows[0]), ['---'] * len(rows[0]), *(row.values() for row in rows)]
      parts.append('\n'.join(f'| {" | ".join(line)} |' for line in lines))
  return '\n\n'.join(parts) + '\n'


def plot(figures: Figures) -> Figure:
  """Draws ratios with their bars, and the peaks of memory, a line a case."""
  timed = {k: f for k, f in figures.items() if f['ratios'] and not _is_cost(f)}
  both = {k: _memory(f) for k, f in figures.items() if _memory(f)}
  height = 1.6 + 0.27 * max(len(timed), len(both), 3)
  figure = Figure(figsize=(11, height), layout='constrained')
  left, right = figure.subplots(1, 2)
  for i, found in enumerate(timed.values()):
    _draw_ratios(left, i, found)
  left.axvline(1, color='0.4', lw=1)
  left.set_title("The peer's time over tljax's; a tick is the bar")
  left.set_xlabel('more is quicker')
  for i, sizes in enumerate(both.values()):
    right.plot(sizes, [i, i], color='0.8', lw=2, zorder=1)
    for size, colour in zip(sizes, (_OURS, _THEIRS), strict=True):
      right.scatter(size, i, color=colour, s=28, zorder=2)
  right.set(title='Peak memory of a step, MiB', xlabel='less is better')
  for axes, names, place, colours in (
    (left, timed, 'left', _COLOURS),
    (right, both, 'right', {'tljax': _OURS, 'PyTorch eager': _THEIRS}),
  ):
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    if axes.dataLim.x1 > 4 * axes.dataLim.x0:  # else powers of two were hardly ticks
      axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter('{x:g}')
    axes.grid(axis='x', alpha=0.3)
    dots = [axes.scatter([], [], color=c, s=28, label=k) for k, c in colours.items()]
    figure.legend(handles=dots, fontsize=8, loc=f'outside lower {place}', ncols=3)
  return figure


def _is_cost(found):
  return found['bar'] is not None and found['bar']['is_cost']


def _memory(found):
  """MiB of tljax and PyTorch, where both are known."""
  ours, theirs = (found['contenders'].get(k, {}) for k in ('tljax', 'torch'))
  sizes = [f.get('memory_bytes', 0) / 2**20 for f in (ours, theirs)]
  return sizes if all(sizes) else None


def _draw_ratios(axes, line, found):
  """Points with quartiles, and a tick where the bar is."""
  bar = found['bar']
  for peer, ratio in found['ratios'].items():
    low, median, high = (ratio[k] for k in ('low', 'median', 'high'))
    colour = _OURS if peer == 'torch' else _THEIRS
    if bar and bar['peer'] == peer:
      axes.plot([bar['value']] * 2, [line - 0.35, line + 0.35], color='0.4', lw=1.5)
      colour = colour if bar['passes'] else _BELOW
    axes.plot([low, high], [line, line], color=colour, lw=2, alpha=0.5)
    axes.scatter(median, line, color=colour, s=28, zorder=3)
