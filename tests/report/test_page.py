"""One file, no network, no script, and no name breaks out of it."""

from __future__ import annotations

import base64
import html
import re
from collections import Counter
from pathlib import Path

import pytest

from hpcmaf.report import aggregate
from hpcmaf.run.directory import RunDir
from tests.report.conftest import MakeRun


@pytest.fixture
def run(make_run: MakeRun) -> RunDir:
    return make_run("<b>run & more", upto=1)


def test_one_file_without_network(run: RunDir, tmp_path: Path) -> None:
    report = aggregate([run.root], tmp_path)
    text = (tmp_path / "report.html").read_text()
    targets = re.findall(r"""<[^>]*\b(?:src|href|srcset|action|data)=["']?([^"'\s>]+)""", text)
    pictures = [target for target in targets if not target.startswith("#")]
    assert len(pictures) == 2 and "default-src 'none'" in text
    assert "<script" not in text and not re.search(r"<[^>]*\son\w+=", text)
    for picture in pictures:
        assert picture.startswith("data:image/svg+xml;base64,")
        assert b"<svg" in base64.b64decode(picture.partition(",")[2])[:600]
    # The tables are those of the report, without a script.
    shown = Counter(map(html.unescape, re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text)))
    for table in report.tables():
        assert not Counter(cell for row in table.rows for cell in row if cell) - shown
    assert "&lt;b&gt;run &amp; more" in text
