"""What is refused before the work begins, and before torch is imported: mistakes get one line, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlpmixer.cli import main
from mlpmixer.errors import RecipeError
from mlpmixer.recipes import find, toml
from mlpmixer.recipes.check import require_source


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The line that the command ends with."""
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (code, "", 1), err
    return err.removeprefix("mixer: ").removesuffix("\n")


class TestOwnPhotos:
    def test_a_folder_that_nobody_named(self, capsys: pytest.CaptureFixture[str], tmp_path: Path):
        for name in ("photos", "photos_b16", "photos_from_scratch"):
            assert refused(capsys, "train", name) == (
                f"{name} trains on your own images: name their folder with --data.source FOLDER (in it a folder for "
                "each class; 'my-photos' only holds the place)"
            )
        path = tmp_path / "my.toml"
        path.write_text(toml.dumps(find("photos")))
        assert "--data.source FOLDER" in refused(capsys, "train", str(path))
        with pytest.raises(RecipeError, match=r"--data\.source FOLDER"):
            require_source(find("photos"))

    def test_a_folder_may_be_called_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my-photos").mkdir()
        require_source(find("photos"))
