"""The site of docs/: it builds without a warning, and its pages load nothing from elsewhere."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.commands import ROOT

# What a browser loads of other hosts without being asked.
LOADS = (
    r'<(?:script|img|source)[^>]*\ssrc="(https?:[^"]*)"',
    r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(https?:[^"]*)"',
)


@pytest.mark.slow
def test_the_site_builds_strictly_and_is_self_contained(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, text=True, capture_output=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    for path, page in pages.items():
        loaded = [match for pattern in LOADS for match in re.findall(pattern, page)]
        assert not loaded, (path, loaded)
    reference = pages[tmp_path / "reference" / "index.html"]
    for name in ("from_workdir", "margins", "noise_shape", "log_probs"):
        assert name in reference
    assert (tmp_path / "pictures" / "1.png").exists()


def test_the_citation_names_paper_and_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{cited["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert "arXiv:2412.17153" in str(cited["references"])
