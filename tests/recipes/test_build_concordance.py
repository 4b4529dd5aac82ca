"""The stage build_concordance, in-process on made-up units: clips are what the page says, and it needs its folder
alone."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet
import pytest
from browser import browser_page
from tiny_units import write_tiny_segments, write_tiny_units

from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode
from hf_components.units.motifs.decisions import Decisions
from hf_components.units.table import read_units
from recipes import learn_motifs
from recipes.build_concordance import main

pytestmark = pytest.mark.integration

HOSTILE = '<script>alert("x")</script>&.mp3'


class Page(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concordance")
    units = write_tiny_units(folder / "units", write_tiny_segments(folder / "segments"))
    table = pyarrow.parquet.read_table(units / "units.parquet")
    table = table.set_column(2, table.schema.field("source_file"), [[HOSTILE] * len(table)])
    pyarrow.parquet.write_table(table, units / "units.parquet")
    learn_motifs.main(["--units_dir", str(units), "--output_dir", str(folder / "motifs"), "--vocab_size", "40"])
    return folder


@pytest.fixture(autouse=True)
def from_repository_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def command(folders, output_dir, *more: str) -> list[str]:
    return [
        "--config",
        "recipes/configs/build_concordance/quick.yaml",
        "--corpus",
        str(folders / "segments"),
        "--units_dir",
        str(folders / "units"),
        "--motifs_dir",
        str(folders / "motifs"),
        "--output_dir",
        str(output_dir),
        "--min_units",
        "2",
        *more,
    ]


def test_page_of_the_most_frequent_motifs(folders, tmp_path):
    metrics = main(command(folders, tmp_path / "page", "--num_motifs", "5", "--clips_per_motif", "3"))
    page = Page((tmp_path / "page/index.html").read_text())
    shown = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    counts = [int(count) for count in re.findall(r"(\d+) times in", page.text)]
    assert len(shown) == metrics["motifs"] == 5 and counts == sorted(counts, reverse=True)
    clips = [attributes["src"] for tag, attributes in page.tags if tag == "audio"]
    assert len(clips) == metrics["clips"] == sum(min(3, count) for count in counts)
    assert sorted(clips) == sorted(f"clips/{path.name}" for path in (tmp_path / "page/clips").iterdir())
    assert metrics["clip_bytes"] == sum(path.stat().st_size for path in (tmp_path / "page/clips").iterdir())


def test_motifs_that_are_too_short_are_left_out(folders, tmp_path):
    main(command(folders, tmp_path / "page", "--min_units", "3"))
    units = re.findall(r'class="units">([\d ]+)</span>', (tmp_path / "page/index.html").read_text())
    assert units and all(len(motif.split()) >= 3 for motif in units)
    with pytest.raises(UserError, match="none of the motifs occurs"):
        main(command(folders, tmp_path / "none", "--min_units", "17"))


def test_page_holds_no_foreign_markup_and_no_address(folders, tmp_path):
    main(command(folders, tmp_path / "page"))
    text = (tmp_path / "page/index.html").read_text()
    page = Page(text)
    assert HOSTILE in page.text
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert HOSTILE in {clip["source_file"] for motif in data["motifs"] for clip in motif["clips"]}
    assert "://" not in text and str(tmp_path) not in text


def test_clips_are_the_motif_in_its_context(folders, tmp_path):
    main(command(folders, tmp_path / "page", "--context_seconds", "0.1", "--clips_per_motif", "2"))
    segments = {
        row["id"]: row
        for split in ("train", "dev")
        for row in pyarrow.parquet.read_table(folders / f"segments/data/{split}-00000.parquet").to_pylist()
    }
    rows = {row["id"]: row for row in pyarrow.parquet.read_table(folders / "units/units.parquet").to_pylist()}
    text = (tmp_path / "page/index.html").read_text()
    analysis = json.loads((folders / "motifs/motif_analysis.json").read_text())
    units_of = {row["name"]: row["units"] for row in analysis["motifs"]}
    clips = re.findall(r'src="(clips/(m\d+)_\d+\.flac)".*?, ([\d.]+) s to ([\d.]+) s;\n(\w+),', text, re.DOTALL)
    assert len(clips) > 20
    for file, name, start, end, segment in clips:
        row = rows[segment]
        first, last = (round((float(time) - row["start"]) / 0.02) for time in (start, end))
        units = row["units"][first:last]
        assert [unit for i, unit in enumerate(units) if not i or unit != units[i - 1]] == units_of[name]
        waveform = decode(segments[segment]["audio"]["bytes"])
        expected = waveform[max(0, round((0.02 * first - 0.1) * 16_000)) : round((0.02 * last + 0.1) * 16_000)]
        assert np.array_equal(decode(tmp_path / "page" / file), expected)


def test_the_same_seed_draws_the_same_clips(folders, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        main(command(folders, tmp_path / name, "--seed", str(seed), "--clips_per_motif", "1"))
    page = {name: (tmp_path / name / "index.html").read_text() for name in "abc"}
    assert page["a"] == page["b"] != page["c"]


def test_a_corpus_of_other_segments_is_refused(folders, tmp_path):
    write_tiny_segments(tmp_path / "other", train=2, dev=1)
    with pytest.raises(UserError, match="segment train_2 is not in the corpus; --corpus"):
        main(command(folders, tmp_path / "page", "--corpus", str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("num_motifs", "0", "be at least 1"),
        ("min_units", "1", "be at least 2"),
        ("clips_per_motif", "0", "be at least 1"),
        ("context_seconds", "-1", r"lie in \[0, 60\]"),
    ],
)
def test_limits_are_checked(folders, tmp_path, flag, value, rule):
    with pytest.raises(UserError, match=f"--{flag} must {rule}, got {value}"):
        main(command(folders, tmp_path / "page", f"--{flag}", value))


def test_page_and_table_say_what_their_counts_are_of(folders, tmp_path, capsys):
    main(command(folders, tmp_path / "page"))
    page = " ".join((tmp_path / "page" / "index.html").read_text().split())
    assert "Counts are of all segments, those of train and dev; learn_motifs counts train alone." in page
    assert json.loads((folders / "motifs" / "motif_analysis.json").read_text())["counted_in"] == "train"
    analysis = json.loads((folders / "motifs" / "motif_analysis.json").read_text())
    assert learn_motifs.summary_table({**analysis, "top_motifs": []}).title.endswith("motifs, counted in train")


def test_what_is_decided_on_the_page_is_kept_and_saved(folders, tmp_path):
    main(command(folders, tmp_path / "page"))
    with browser_page(accept_downloads=True) as (page, errors):
        page.goto((tmp_path / "page" / "index.html").as_uri())
        page.fill('input[data-section="0"]', " water ")
        page.click('tr[data-section="0"][data-clip="0"] button[data-verdict="yes"]')
        page.click('tr[data-section="1"][data-clip="0"] button[data-verdict="no"]')
        page.click('tr[data-section="1"][data-clip="1"] button[data-verdict="no"]')
        page.click('tr[data-section="1"][data-clip="1"] button[data-verdict="no"]')  # taken back
        page.reload()
        assert page.inner_text("#count") == "1 named, 2 clips judged"
        pressed = page.locator("button[aria-pressed=true]")
        assert [button.get_attribute("title") for button in pressed.all()] == ["belongs to it", "does not belong"]
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "decisions.json")
        assert errors == []
    identity = read_units(folders / "units").identity
    decided = json.loads((tmp_path / "decisions.json").read_text())
    assert decided["units"] == identity
    assert [(motif["name"], [clip["verdict"] for clip in motif["clips"]][:2]) for motif in decided["motifs"]] == [
        ("water", ["yes", None]),
        (None, ["no", None]),
    ]
    decisions = Decisions.read(tmp_path / "decisions.json", identity, "units")
    rejected = decided["motifs"][1]
    assert decisions.names == {decided["motifs"][0]["motif"]: "water"}
    assert decisions.label(rejected["motif"], rejected["clips"][0]["segment"], rejected["clips"][0]["start"]) is None


def test_the_page_fits_a_telephone(folders, tmp_path):
    main(command(folders, tmp_path / "page"))
    with browser_page() as (page, errors):
        page.set_viewport_size({"width": 360, "height": 700})
        page.goto((tmp_path / "page" / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert errors == []
