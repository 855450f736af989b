"""Times the core steps beside PyTorch doing the same work: see README.md here."""

import experiments  # noqa: F401  its memory, of which PyTorch's steps gain, too
