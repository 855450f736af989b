"""A model with its computation changed from outside, and its parameters' names kept."""

import dataclasses
from typing import Any

from tljax.method import Variables
from tljax.models import Spec


@dataclasses.dataclass(frozen=True)
class WrappedModel:
  """The model itself; a subclass changes `apply`, or adds parts of the parameters.

  Any Method takes it in the model's place.
  """

  model: Any

  @property
  def spec(self) -> Spec:
    """The model's."""
    return self.model.spec

  @property
  def head(self) -> Any:
    """The model's."""
    return self.model.head

  def clone(self, **changes) -> 'WrappedModel':
    """Returns the same of the changed model, such as one with another head."""
    return dataclasses.replace(self, model=self.model.clone(**changes))

  def init(self, *args, **kwargs) -> Variables:
    """As the model's."""
    return self.model.init(*args, **kwargs)

  def hold(self, variables: Variables) -> Variables:
    """As the model's, where it is a wrapped one too; see `labels.FrozenModel`."""
    is_wrapped = isinstance(self.model, WrappedModel)
    return self.model.hold(variables) if is_wrapped else variables

  def apply(self, variables: Variables, *args, **kwargs) -> Any:
    """As the model's."""
    return self.model.apply(variables, *args, **kwargs)
