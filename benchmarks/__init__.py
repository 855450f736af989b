"""Times the core steps beside PyTorch doing the same work: see README.md here."""
