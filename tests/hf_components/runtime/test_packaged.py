"""Weights in Python packages are used only if they are those that were tested."""

import importlib.util

import pytest

from hf_components.runtime import UserError, packaged_weights
from hf_components.runtime.packaged import TESTED


@pytest.mark.parametrize(("package", "name"), TESTED)
def test_the_installed_packages_hold_the_tested_weights(package, name):
    if importlib.util.find_spec(package) is None:  # some are installed without what their code needs
        pytest.skip(f"{package} is not installed")
    assert packaged_weights(package, name).exists()


@pytest.mark.parametrize("name", ["weights.bin", "folder"])
def test_other_weights_and_missing_ones_are_refused(tmp_path, monkeypatch, name):
    init = tmp_path / "some_package" / "__init__.py"
    (tmp_path / "some_package" / "folder").mkdir(parents=True)
    init.touch()
    for file in ("weights.bin", "folder/a", "folder/b"):
        (tmp_path / "some_package" / file).write_bytes(file.encode())
    monkeypatch.syspath_prepend(tmp_path)
    from hf_components.runtime import packaged

    digest = packaged._digest(tmp_path / "some_package" / name)
    monkeypatch.setitem(TESTED, ("some_package", name), digest)
    assert packaged_weights("some_package", name) == tmp_path / "some_package" / name

    changed = tmp_path / "some_package" / (name if name.endswith("bin") else "folder/b")
    changed.write_bytes(b"others")
    with pytest.raises(UserError, match="does not hold the weights that were tested.*--no-deps some-package"):
        packaged_weights("some_package", name)
    monkeypatch.setitem(TESTED, ("some_package", "gone"), digest)
    with pytest.raises(UserError, match="gone does not hold"):
        packaged_weights("some_package", "gone")
