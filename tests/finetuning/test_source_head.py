"""What Co-Tuning and LwF share."""

import jax
import optax
import pytest

from tljax.errors import InputError
from tljax.finetuning import co_tuning, lwf
from tljax.models.heads import Hidden


@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('method', [co_tuning.method, lwf.method])
def test_a_head_with_statistics_is_refused(model, family_batches, method, given):
  head = Hidden(10, (4,), (0.0, 0.0), batch_norm=True)
  options = {'source_head': (head, {})} if given else {}
  built = method(model if given else model.clone(head=head), optax.sgd(0.1), **options)
  with pytest.raises(InputError, match='keeps batch_stats .*; give one without batch'):
    built.init(jax.random.key(0), None, family_batches['finetuning'](0))
