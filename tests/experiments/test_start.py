"""How a script's process starts."""

import os
import sys

import pytest

import experiments


@pytest.mark.parametrize(
  ('program', 'platform', 'tunables', 'anew'),
  [
    ('-m', 'linux', None, True),
    ('-m', 'linux', 'glibc.malloc.hugetlb=0', False),
    ('-m', 'darwin', None, False),
    ('pytest', 'linux', None, False),
  ],
)
def test_a_script_starts_with_huge_pages(
  monkeypatch, program, platform, tunables, anew
):
  """Once: what starts anew finds the variable set."""
  started = []
  monkeypatch.setattr(os, 'execv', lambda *given: started.append(given))
  monkeypatch.setattr(sys, 'argv', [program])
  monkeypatch.setattr(sys, 'platform', platform)
  monkeypatch.setattr(os, 'environ', {'GLIBC_TUNABLES': tunables} if tunables else {})
  experiments.start_with_huge_pages()
  experiments.start_with_huge_pages()
  assert started == [(sys.executable, sys.orig_argv)] * anew
  assert os.environ.get('GLIBC_TUNABLES') == (
    'glibc.malloc.hugetlb=1' if anew else tunables
  )
