import numpy as np
import pytest
from matplotlib import colors
from sklearn import manifold

from tljax import plots


def test_curves_are_means_over_seeds_with_a_band():
  def seed(offset):
    return [{'step': s, 'loss': s + offset, 'accuracy': offset} for s in (10, 20)]

  records = {'source_only': [seed(0.0), seed(2.0)], 'dann': [seed(1.0), seed(1.0)]}
  panels = plots.curves(records, 'loss', 'accuracy').axes
  lines = [line.get_xydata() for line in panels[0].lines]
  np.testing.assert_allclose(lines[0], [[10, 11], [20, 21]])
  band = panels[0].collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == (10, 22)
  np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [1, 1])
  legend = [text.get_text() for text in panels[1].get_legend().get_texts()]
  assert legend == ['source only', 'dann']


def test_bars_are_means_and_dots_seeds():
  (axes,) = plots.bars({'scratch': [0.2, 0.4], 'fine_tuning': [0.9]}, 'accuracy').axes
  np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [0.3, 0.9])
  np.testing.assert_allclose(axes.lines[0].get_xdata(), [0.2, 0.4])
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ['scratch', 'fine tuning']


def test_image_rows_show_the_images(domains):
  rows = {name: splits['test'].images[:3] for name, splits in domains.items()}
  rows['digits-m'] = rows['digits-m'][:2]  # rows of unequal length
  shown = [axes.images for axes in plots.image_rows(rows).axes]
  assert [len(images) for images in shown] == [1, 1, 1, 1, 1, 0]
  np.testing.assert_array_equal(shown[3][0].get_array(), rows['digits-m'][0])


def test_confusion_counts_labels_in_rows():
  figure = plots.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 'abc')
  matrix = figure.axes[0].images[0].get_array()
  np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


def test_tsne_maps_some_of_each_domain(monkeypatch):
  """With their own labels; which do not depend on the panel."""
  features = np.random.default_rng(0).normal(size=(1200, 2))
  rows = {'few': features[:5], 'many': features}
  seen = []

  def embed(self, rows):
    seen.append(rows)
    return rows

  monkeypatch.setattr(manifold.TSNE, 'fit_transform', embed)
  labels = {k: np.int32(part[:, 0] > 0) for k, part in rows.items()}
  panels = plots.tsne({'one': rows, 'two': rows}, labels, ('left', 'right')).axes
  np.testing.assert_array_equal(*seen)
  assert len(seen[0]) == 505 and len(np.unique(seen[0][5:], axis=0)) == 500
  many = panels[0].collections[2]
  colours = np.array([colors.to_rgba(f'C{k}') for k in (0, 1)])
  points = np.asarray(many.get_offsets())
  wanted = colours[np.int32(points[:, 0] > 0), :3]
  np.testing.assert_allclose(many.get_facecolors()[:, :3], wanted)


@pytest.mark.parametrize('count', [20, 35])
@pytest.mark.parametrize('names', [('digits', 'digits-m'), tuple('abcdef')])
def test_tsne_embeds_the_domains_of_a_panel_together(count, names):
  rng = np.random.default_rng(0)
  features = {'before': {name: rng.normal(size=(count, 4)) for name in names}}
  labels = {name: np.arange(count) % 2 for name in names}
  (axes,) = plots.tsne(features, labels, ('0', '1')).axes
  points = [c.get_offsets() for c in axes.collections if len(c.get_offsets())]
  assert [len(p) for p in points] == [count] * len(names)
  assert np.all(np.isfinite(np.concatenate(points)))
  legend = {text.get_text() for text in axes.get_legend().get_texts()}
  assert legend == {*names, '0', '1'}
