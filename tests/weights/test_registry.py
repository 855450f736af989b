"""The registry's rows, and fetching from a server of our own."""

import concurrent.futures
import dataclasses
import hashlib
import http.server
import re
import threading

import pytest

from tljax import models
from tljax.errors import InputError
from tljax.weights import registry

CONTENT = bytes(range(256)) * 5000


@dataclasses.dataclass
class Site:
  """A server of one file: `breaks` counts downloads to cut off half-way."""

  address: str = ''
  breaks: int = 0
  ranges: bool = True
  requests: list = dataclasses.field(default_factory=list)


@pytest.fixture
def site(monkeypatch, tmp_path):
  site = Site()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      wanted = self.headers.get('Range')
      site.requests.append(wanted)
      first = int(re.search(r'\d+', wanted)[0]) if wanted and site.ranges else 0
      if first >= len(CONTENT):
        self.send_error(416)
        return
      self.send_response(206 if first else 200)
      body = CONTENT[first:]
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      if site.breaks:
        site.breaks -= 1
        body = body[: len(body) // 2]
      self.wfile.write(body)

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  site.address = f'http://127.0.0.1:{server.server_port}/weights.pth'
  monkeypatch.setenv('TLJAX_CACHE', str(tmp_path / 'cache'))
  yield site
  server.shutdown()
  server.server_close()


def row(site, digest=None):
  digest = hashlib.sha256(CONTENT).hexdigest()[:8] if digest is None else digest
  return registry.table()[0]._replace(
    url=site.address, hash=f'sha256:{digest}' if digest else ''
  )


def test_a_file_is_fetched_once(site):
  path = registry.fetch(row(site))
  assert path.read_bytes() == CONTENT
  assert path.parent == registry.cache()
  registry.fetch(row(site))
  assert site.requests == [None]


@pytest.mark.parametrize('ranges', [True, False])
def test_a_broken_download_is_gone_on_with(site, ranges):
  site.breaks, site.ranges = 1, ranges
  with pytest.raises(InputError, match='cannot fetch .*put it at'):
    registry.fetch(row(site))
  assert not row(site).file.exists()
  assert registry.fetch(row(site)).read_bytes() == CONTENT
  first, again = site.requests
  half = len(CONTENT) // 2
  assert first is None
  assert half - registry._CHUNK <= int(re.search(r'\d+', again)[0]) <= half


def test_a_download_that_was_whole_is_only_verified(site):
  partial = row(site).file.with_name(row(site).file.name + '.partial')
  partial.parent.mkdir(parents=True)
  partial.write_bytes(CONTENT)
  assert registry.fetch(row(site)).read_bytes() == CONTENT


def test_another_file_is_refused_and_removed(site):
  with pytest.raises(InputError, match='not the published file.*00000000'):
    registry.fetch(row(site, '00000000'))
  assert [file.suffix for file in registry.cache().iterdir()] == ['.lock']


def test_of_two_that_want_it_one_fetches(site):
  with concurrent.futures.ThreadPoolExecutor(2) as threads:
    first, second = threads.map(registry.fetch, [row(site)] * 2)
  assert first == second and first.read_bytes() == CONTENT
  assert site.requests == [None]


def test_a_missing_hash_is_said(site, capsys):
  registry.fetch(row(site, ''))
  assert hashlib.sha256(CONTENT).hexdigest() in capsys.readouterr().err


def test_offline_the_error_says_which_file_to_put_where(site):
  away = row(site)._replace(url='http://127.0.0.1:9/weights.pth')
  with pytest.raises(InputError, match='127.0.0.1:9/weights.pth.*put it at') as error:
    registry.fetch(away)
  assert str(away.file) in str(error.value) and '\n' not in str(error.value)
  away.file.write_bytes(CONTENT)
  assert registry.fetch(away) == away.file


def test_locate_takes_tags_and_paths(monkeypatch, tmp_path):
  monkeypatch.setattr(registry, 'fetch', lambda row: row.url)
  url = registry.locate('resnet18', 'torchvision/imagenet1k_v1')
  assert url.endswith('resnet18-f37072fd.pth')
  assert registry.locate('resnet18', tmp_path / 'a.pth') == tmp_path / 'a.pth'
  with pytest.raises(InputError, match='imagenet1k_v9.*torchvision/imagenet1k_v1'):
    registry.locate('resnet18', 'torchvision/imagenet1k_v9')


@pytest.mark.parametrize('row', registry.table(), ids=lambda r: f'{r.model}-{r.tag}')
def test_rows(row):
  assert row.model in models.names()
  assert row.tag.split('/')[0] in models.family(row.model).layouts(row.model)
  assert row.url.startswith('https://')
  assert re.fullmatch(r'(sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32})?', row.hash)
  assert row.resize >= row.input_size > 0
  assert row.interpolation in ('bilinear', 'bicubic')
  assert row.licence and row.data


def test_no_two_rows_share_a_tag():
  tags = [(row.model, row.tag) for row in registry.table()]
  assert len(set(tags)) == len(tags)
