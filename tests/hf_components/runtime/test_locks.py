"""One run at a time in a folder, as long as it lives and no longer."""

import multiprocessing
import time

import pytest

from hf_components.runtime.errors import UserError
from hf_components.runtime.locks import alone_in
from hf_components.runtime.stages import run_stage

pytestmark = pytest.mark.unit


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    with (
        alone_in(tmp_path / "new" / "run", "--output_dir"),
        pytest.raises(UserError, match="another run is writing to .*run; wait for it, or choose another --output_dir"),
        alone_in(tmp_path / "new" / "run", "--output_dir"),
    ):
        pass
    with alone_in(tmp_path / "new" / "run", "--output_dir"):
        pass


def test_two_stages_do_not_write_one_folder(tmp_path):
    def produce(folder):
        (folder / "half.txt").write_text("half")
        with pytest.raises(UserError, match="another run is writing to .*.stage.partial; wait for it, or choose"):
            run_stage(tmp_path / "stage", produce, config={})
        assert (folder / "half.txt").read_text() == "half"
        return {}

    assert run_stage(tmp_path / "stage", produce, config={}) == {}
    assert run_stage(tmp_path / "stage", lambda folder: {"again": True}, config={}) == {"again": True}
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_what_a_run_has_forked_does_not_keep_the_folder(tmp_path):
    with alone_in(tmp_path, "--output_dir"):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
        time.sleep(0.5)  # for the worker to come up
    with alone_in(tmp_path, "--output_dir"):
        assert worker.is_alive()
    worker.kill()
    worker.join()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write to .*file: .*; choose another --output_dir"),
        alone_in(tmp_path / "file" / "run", "--output_dir"),
    ):
        pass
