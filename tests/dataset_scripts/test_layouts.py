"""Which layout a folder of data has, and what is said of one that a recipe does not take."""

import pytest

from dataset_scripts.layouts import MANIFEST, RECORDINGS, SPEAKERS, must_prepare, require_layout
from hf_components.runtime.errors import UserError
from recipes import (
    prepare_corpus,
    run_children_pipeline,
    run_moe_pipeline,
    run_phonetic_pipeline,
    run_units_pipeline,
    run_voice_pipeline,
    run_wav2vec2_pipeline,
)

pytestmark = pytest.mark.unit

FILES = {
    SPEAKERS: "train/s1/s1.json",  # upper and lower case are the same
    MANIFEST: "train.jsonl",
    RECORDINGS: "anna/t1.MP3",
    "prepared": "data/train-00000-of-00001.parquet",
    "nothing": "notes.txt",
}


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with the file of a layout."""

    def make(layout: str):
        file = tmp_path / layout / FILES[layout]
        file.parent.mkdir(parents=True)
        file.touch()
        return tmp_path / layout

    return make


@pytest.mark.parametrize("layout", [SPEAKERS, MANIFEST, RECORDINGS])
def test_a_corpus_is_made_of_the_right_layout_alone(folder, layout):
    assert must_prepare(folder(layout), layout)
    assert not must_prepare(folder("prepared"), layout)
    assert not must_prepare("user/corpus", layout)
    with pytest.raises(UserError, match="it holds none of what recipes take: a prepared corpus .*Your own data"):
        must_prepare(folder("nothing"), layout)


def test_what_another_recipe_takes_is_said(folder):
    message = "is neither a folder of speakers .* nor a prepared corpus .*; it holds a folder of recordings, .*"
    with pytest.raises(UserError, match=message + "run_units_pipeline, run_wav2vec2_pipeline"):
        must_prepare(folder(RECORDINGS), SPEAKERS)
    with pytest.raises(UserError, match="is not a folder of recordings; it holds a JSONL manifest .*run_children"):
        require_layout(folder(MANIFEST), RECORDINGS)


def test_a_folder_within_and_splits_of_other_names_are_named(folder, tmp_path):
    outer = tmp_path / "unpacked"
    outer.mkdir()
    inner = folder(SPEAKERS).rename(outer / "corpus")
    with pytest.raises(UserError, match=f"did you mean {inner}"):
        must_prepare(outer, SPEAKERS)
    for split in [path for path in inner.iterdir() if path.is_dir()]:
        split.rename(inner / f"{split.name}ing")
    with pytest.raises(UserError, match="ing in it have speakers, but splits are named Train, Dev and Test: rename"):
        must_prepare(inner, SPEAKERS)


@pytest.mark.parametrize(
    ("recipe", "taken"),
    [
        (run_moe_pipeline, SPEAKERS),
        (run_voice_pipeline, SPEAKERS),
        (run_children_pipeline, MANIFEST),
        (run_phonetic_pipeline, MANIFEST),
        (run_units_pipeline, RECORDINGS),
        (run_wav2vec2_pipeline, RECORDINGS),
    ],
)
def test_every_pipeline_refuses_another_layout_before_it_plans(recipe, taken, folder, tmp_path):
    for layout in {SPEAKERS, MANIFEST, RECORDINGS, "nothing"} - {taken}:
        words = [f"--data={folder(layout)}", f"--output_dir={tmp_path / 'run'}", "--dry_run", "--model=user/model"]
        with pytest.raises(UserError, match=f"{layout} is (neither|not) a .*; it holds "):
            recipe.main(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("builder", [SPEAKERS, RECORDINGS])
def test_a_corpus_that_cannot_be_made_leaves_nothing_behind(builder, folder, tmp_path):
    data = folder("nothing")
    with pytest.raises(UserError, match="nothing is not a "):
        prepare_corpus.main([f"--builder={builder}", f"--data_dir={data}", f"--output_dir={tmp_path / 'out'}"])
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"]
