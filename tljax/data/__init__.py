"""Data sets by name, and batches of them as pure functions of (seed, step).

A `Source` is a set as it is stored, read by one of the files folder, tables, arrays,
tfds and digits; a `Dataset` is one split of it at a network's size, in memory or
decoded as it is used. The host reads and decodes, the same each time; all that is
random happens on the device, in `augment`.
"""

from tljax.data.images import Images as Images
from tljax.data.images import Transform as Transform
from tljax.data.loading import load as load
