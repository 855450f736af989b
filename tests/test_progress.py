import numpy as np
import pytest

from tljax import progress


@pytest.mark.parametrize('loss', [None, np.float32(0.25)])
def test_progress_is_a_line_every_ten_seconds(monkeypatch, capsys, loss):
  now = 0.0
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: now)
  with progress.Bar('features', 0, 10, 'image') as bar:
    now = 4.0
    bar.update(2, loss)
    now = 12.0
    bar.update(6, loss)
  text = 'features: image 6/10, 0.5 images/s, 8 s left'
  text += '' if loss is None else ', loss 0.250'
  assert capsys.readouterr().err == f'{text}\n'
