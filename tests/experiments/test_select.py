"""The choice of a pretrained network, in miniature."""

import json
import math

import pytest

from experiments import selection
from tljax.errors import InputError
from tljax.finetuning import strategy

pytestmark = pytest.mark.filterwarnings('ignore:The field .weights. is annotated')


def test_select_measures_recommends_and_trains(launch, pets, squeezenet, tmp_path):
  out, other = tmp_path / 'run', tmp_path / 'other.safetensors'
  other.write_bytes(squeezenet.read_bytes())
  candidates = [f'squeezenet1_1={path}' for path in (squeezenet, other)]
  flags = ('--data', f'folder:{pets}', '--models', *candidates, '--image-size', 33)
  flags += ('--batch-size', 6, '--seeds', 1, '--run', '--out', out)
  ended = launch('select', *flags, '--cache', tmp_path / 'cache')
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  first, second = result['candidates'].values()
  assert list(result['candidates']) == ['squeezenet1_1', 'squeezenet1_1 other']
  assert first['scores'] == second['scores']  # of the same weights
  assert {'LogME', 'LEEP', 'NCE', 'linear probe'} <= first['scores'].keys()
  assert all(math.isfinite(v) for v in first['scores'].values())
  assert 0 < first['costs']['step'] < 60 and first['costs']['memory'] > 1e6
  assert first['costs']['parameters'] == 722_496 + 2 * 513
  assert result['recommendation']['model'] == 'squeezenet1_1'
  assert 'Take squeezenet1_1' in ended.out and 'linear head' in ended.out
  assert result['outcome']['squeezenet1_1'] >= 0.75  # cats are dark, dogs are bright
  page = (out / 'report.html').read_text()
  for title in ('Scores', 'Costs', 'Estimate and outcome', 'Accuracy and cost'):
    assert f'<h2>{title}</h2>' in page


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (('--models', 'squeezenet1_1'), 'say MODEL=WEIGHTS'),
    (('--models', 'squeezenot=a.npz'), "'squeezenot' is unknown"),
    (('--models', 'squeezenet1_1=a.npz', '--score', 'luck'), "'luck' is unknown"),
    (('--models', 'squeezenet1_1=a.npz'), 'no such file'),
  ],
)
def test_bad_input_is_one_line(launch, pets, tmp_path, flags, message):
  data = ('--data', f'folder:{pets}', '--image-size', 33, '--out', tmp_path / 'run')
  ended = launch('select', *data, *flags)
  assert ended.status == 2 and message in ended.err
  assert ended.err.count('\n') == 1


def test_a_candidate_twice_is_refused():
  text = 'squeezenet1_1=a.npz'
  with pytest.raises(InputError, match='twice'):
    selection.parse([text, text, text])


def candidate(score, estimate, seconds):
  costs = {'step': seconds}
  scores = {'LogME': score, 'linear probe': estimate}
  return selection.Candidate(scores, costs, strategy.choose(EVIDENCE))


EVIDENCE = strategy.Evidence(400, 2, 0.9)


def test_the_front_has_what_nothing_beats():
  found = {
    'slow': candidate(1.0, 0.9, 3.0),
    'quick': candidate(0.5, 0.8, 1.0),
    'worse': candidate(0.1, 0.7, 2.0),
  }
  assert selection.front(found) == ['quick', 'slow']
  best, text = selection.recommend(found, 'LogME')
  assert best == 'slow' and 'quick takes 33% of the time' in text
  assert 'its LogME is the highest of 3' in text
  level = {name: candidate(1.0, 0.9, 3.0) for name in 'ab'}
  assert 'which another --score may tell' in selection.recommend(level, 'LogME')[1]
  assert '10.0 points less' in text and 'Tune the head and all stages' in text
