"""Voices that a recogniser gets wrong: the same bytes each time, in the layout of speaker-JSON."""

import json

import pytest

from dataset_scripts.demo_personal import GROUPS, write_demo_personal

pytestmark = pytest.mark.integration
pytest.importorskip("espeakng_loader")


def test_every_group_speaks_and_twice_the_same(tmp_path):
    for run in ("one", "two"):
        rows = write_demo_personal(tmp_path / run, utterances_per_speaker=2, seed=1)
        assert sorted(row["group"] for row in rows) == sorted(GROUPS)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 3 * len(GROUPS)
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    content = json.loads(next((tmp_path / "one" / "Dev").glob("*/*.json")).read_text())
    assert len(content["Files"]) == 2
