import base64
import dataclasses
import html
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tljax import plots, report


def test_summarise_has_the_samples_deviation():
  summary = report.summarise([0.5, 0.75, 0.7], [1.0, 2.0, 6.0])
  assert summary['accuracy'] == [0.5, 0.75, 0.7]
  mean = (0.5 + 0.75 + 0.7) / 3
  variance = sum((x - mean) ** 2 for x in summary['accuracy']) / 2
  np.testing.assert_allclose(summary['accuracy_mean'], mean)
  np.testing.assert_allclose(summary['accuracy_std'], variance**0.5)
  assert summary['seconds'] == 3.0


def test_scores_have_columns_of_their_own():
  scores = {'os_star': [0.5, 0.7], 'hos': [0.25, 0.35]}
  summary = report.summarise([0.5, 0.6], [1.0, 2.0], **scores)
  assert summary['hos'] == [0.25, 0.35] and summary['hos_mean'] == pytest.approx(0.3)
  (row,) = report.strategy_rows({'osbp': summary})
  columns = ['strategy', 'accuracy (%)', 'OS* (%)', 'HOS (%)', 'seconds']
  assert list(row) == columns and row['OS* (%)'] == '60.0 ± 14.1'
  other = report.summarise([0.5] * 2, [1.0] * 2, os_star=[0.9] * 2, hos=[0.5] * 2)
  (row,) = report.grid_rows({'osbp': {'a to b': summary, 'b to a': other}})
  assert row['mean OS*'] == '75.0' and row['mean HOS'] == '40.0'
  assert list(row)[-3:] == ['mean OS*', 'mean HOS', 'seconds']


def test_one_seed_has_no_deviation():
  assert report.summarise([0.5], [1.0])['accuracy_std'] == 0.0


def test_strategy_rows_are_in_percent(capsys):
  strategies = {
    'source_only': report.summarise([0.5, 0.6], [1.0, 2.0]),
    'dann': report.summarise([0.9, 0.9], [10.0, 20.0]),
  }
  rows = report.strategy_rows(strategies)
  assert rows == [
    {'strategy': 'source only', 'accuracy (%)': '55.0 ± 7.1', 'seconds': '1.5'},
    {'strategy': 'dann', 'accuracy (%)': '90.0 ± 0.0', 'seconds': '15.0'},
  ]
  report.print_table(rows, 'Digits')
  printed = capsys.readouterr().out
  assert all(text in printed for row in rows for text in [*row, *row.values()])


def test_page_is_one_file_and_escapes_what_it_is_given(tmp_path):
  page = report.Page(tmp_path / 'report.html', '<Title> & co', 'a < b')
  page.table('Results', [{'name': '<script>', 'value': '1 & 2'}], 'text > here')
  page.figure('Plot "1"', Figure(figsize=(1, 1)), 'seen')
  page.save()
  assert [path.name for path in tmp_path.iterdir()] == ['report.html']
  text = (tmp_path / 'report.html').read_text(encoding='utf-8')
  for part in ('&lt;Title&gt; &amp; co', 'a &lt; b', '&lt;script&gt;', '1 &amp; 2'):
    assert part in text
  assert '<script' not in text and 'http' not in text
  assert re.findall('<h2>(.*?)</h2>', text)[0] == 'Results'
  (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
  assert base64.b64decode(image).startswith(b'\x89PNG')
  assert text.count('src=') == 1


@pytest.fixture
def drawn(monkeypatch):
  """By function, the figure that it drew for the page and what of."""
  seen = {}

  def spy(name):
    draw = getattr(plots, name)

    def recorded(*args):
      seen[name] = (*args, draw(*args))
      return seen[name][-1]

    monkeypatch.setattr(plots, name, recorded)

  for name in ('image_rows', 'tsne', 'confusion'):
    spy(name)
  return seen


def pictures(path):
  """Titles and pixels of the page's pictures."""
  text = path.read_text(encoding='utf-8')
  found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]+)">', text)
  assert text.count('<img') == len(found)
  return {
    title: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    for title, data in found
  }


def test_domains_are_shown_with_their_features(domains, drawn, tmp_path):
  splits = {f'<{name}>': split['test'] for name, split in domains.items()}
  splits['<digits>'] = splits['<digits>'].take(np.arange(20))
  splits['<digits-m>'] = splits['<digits-m>'].take(np.arange(15))
  rng = np.random.default_rng(0)
  features = {
    title: {name: rng.normal(size=(len(s), 4)) for name, s in splits.items()}
    for title in ('before', 'after')
  }
  page = report.Page(tmp_path / 'report.html', 'title', 'summary')
  page.domains(splits, features)
  page.save()
  shown = pictures(tmp_path / 'report.html')
  assert list(shown) == ['The domains', 'Features before and after adaptation']
  assert all(picture.std() > 1 for picture in shown.values())  # none is blank
  rows, _ = drawn['image_rows']
  for name, split in splits.items():
    np.testing.assert_array_equal(rows[name], split.images[:12])
  embedded, labels, classes, figure = drawn['tsne']
  assert embedded is features and classes == splits['<digits>'].classes
  for name, split in splits.items():
    np.testing.assert_array_equal(labels[name], split.labels)
  assert [axes.get_title() for axes in figure.axes] == ['before', 'after']
  assert '<digits' not in (tmp_path / 'report.html').read_text()


def test_confusion_of_a_strategy_lands_in_the_page(domains, drawn, tmp_path):
  split = dataclasses.replace(
    domains['digits']['test'].take(np.arange(30)), classes=tuple('<"&abcdefg')
  )
  predictions = np.roll(split.labels, 1)
  page = report.Page(tmp_path / 'report.html', 'title', 'summary')
  page.confusion('<b>"dann" & co', split, predictions)
  page.save()
  (title,) = shown = pictures(tmp_path / 'report.html')
  assert html.unescape(title) == 'Confusion of <b>"dann" & co'
  assert shown[title].std() > 1
  text = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert '<b>' not in text
  assert '<h2>Confusion of &lt;b&gt;&quot;dann&quot; &amp; co</h2>' in text
  *_, figure = drawn['confusion']
  matrix = figure.axes[0].images[0].get_array()
  wanted = np.zeros((10, 10))
  np.add.at(wanted, (split.labels, predictions), 1)  # rows are the truth
  np.testing.assert_array_equal(matrix, wanted)
  ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
  assert ticks == list(split.classes)


def test_a_grid_of_methods_and_tasks_has_their_means(tmp_path, capsys):
  figures = {
    'dann': {
      'a to b': report.summarise([0.5, 0.7], [1.0, 3.0]),
      'b to a': report.summarise([0.8, 0.8], [4.0, 4.0]),
    },
    'mcc': {
      'a to b': report.summarise([1.0], [1.0]),
      'b to a': report.summarise([0.0], [1.0]),
    },
  }
  oracle = {task: report.summarise([0.9, 0.95], [1.0, 1.0]) for task in figures['dann']}
  found = {row['method']: row for row in report.grid_rows({'oracle': oracle} | figures)}
  gaps = {name: row['gap'] for name, row in found.items()}
  assert gaps == {'oracle': '0.0', 'dann': '22.5', 'mcc': '42.5'}  # points
  assert list(found['dann'])[:3] == ['method', 'mean', 'gap']
  rows = report.grid_rows(figures)
  assert rows[0] == {
    'method': 'dann',
    'mean': '70.0 ± 7.1',
    'a to b': '60.0 ± 14.1',
    'b to a': '80.0 ± 0.0',
    'seconds': '3.0',
  }
  assert rows[1]['mean'] == '50.0 ± 0.0'
  (axes,) = plots.grid(figures).axes
  assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.7, 0.5])
  dots = {line.get_label(): [*line.get_xdata()] for line in axes.lines}
  assert dots == {'a to b': [pytest.approx(0.6), 1.0], 'b to a': [0.8, 0.0]}
  report.write_grid(tmp_path, 'Grid', figures).save()
  text = (tmp_path / 'report.html').read_text()
  assert '60.0 ± 14.1' in text and 'data:image/png' in text
  assert 'dann' in capsys.readouterr().out
