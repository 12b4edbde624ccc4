"""Files of strangers, and names of strangers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import Says

from mlpmixer import files
from mlpmixer.cli.output import print_table
from mlpmixer.export.card import plain, quoted, table
from mlpmixer.text import printable, to_json


class TestReading:
    def test_a_file_is_read_whole(self, tmp_path: Path):
        (tmp_path / "a").write_bytes(b"12345")
        (tmp_path / "link").symlink_to("a")
        assert files.read(tmp_path / "a", 5) == files.read(tmp_path / "link") == b"12345"

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path, says: Says):
        os.mkfifo(tmp_path / "pipe")
        with says(OSError):
            files.read(tmp_path / "pipe")

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
    def test_a_link_to_a_device(self, tmp_path: Path, device: str, says: Says):
        (tmp_path / "photo.jpg").symlink_to(device)
        with says(OSError):
            files.read(tmp_path / "photo.jpg")

    def test_a_sparse_file_of_terabytes(self, tmp_path: Path, says: Says):
        with (tmp_path / "big").open("wb") as file:
            file.truncate(1 << 42)
        with says(OSError):
            files.read(tmp_path / "big")

    def test_one_byte_too_many(self, tmp_path: Path, says: Says):
        (tmp_path / "a").write_bytes(b"123456")
        with says(OSError):
            files.read(tmp_path / "a", 5)

    def test_a_folder(self, tmp_path: Path, says: Says):
        with says(IsADirectoryError):
            files.read(tmp_path)

    def test_links_may_be_refused(self, tmp_path: Path, says: Says):
        (tmp_path / "a").write_bytes(b"1")
        (tmp_path / "link").symlink_to("a")
        with says(OSError):
            files.read(tmp_path / "link", follow=False)

    def test_what_lies_below_a_folder(self, tmp_path: Path, says: Says):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "cards").symlink_to(tmp_path)
        assert files.below(tmp_path, "run", "new") == tmp_path / "run" / "new"
        with says(OSError):
            files.below(tmp_path / "run", "cards", "a.json")


class TestLocks:
    def test_what_a_link_leads_to_is_left_alone(self, tmp_path: Path, says: Says):
        (tmp_path / "victim").write_text("all I have")
        (tmp_path / ".lock").symlink_to("victim")
        with says(OSError), files.locked(tmp_path / ".lock"):
            pass
        assert (tmp_path / "victim").read_text() == "all I have"

    def test_a_file_that_is_there_is_not_emptied(self, tmp_path: Path):
        (tmp_path / ".lock").write_text("notes")
        with files.locked(tmp_path / ".lock") as held:
            assert held
        assert (tmp_path / ".lock").read_text() == "notes"

    def test_one_process_at_a_time(self, tmp_path: Path):
        code = "import sys, pathlib; from mlpmixer import files; files.locked(pathlib.Path(sys.argv[1])).__enter__()"

        def another() -> str:
            command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
            return subprocess.run(command, check=False, capture_output=True, text=True).stderr

        with files.locked(tmp_path / ".lock"):
            assert "BlockingIOError" in another()
            with pytest.raises(BlockingIOError), files.locked(tmp_path / ".lock"):  # nor twice in this one
                pass
        assert another() == ""

    def test_a_child_that_outlives_its_parent_does_not_hold_it(self, tmp_path: Path):
        release, wait = os.pipe()[::-1]
        with files.locked(tmp_path / ".lock"):
            child = os.fork()
            if child == 0:
                os.close(release)
                os.read(wait, 1)
                os._exit(0)
        with files.locked(tmp_path / ".lock") as held:
            assert held
        os.close(release)
        os.waitpid(child, 0)

    def test_a_lock_that_was_removed_is_no_lock(self, tmp_path: Path):
        path, waiting, order = tmp_path / ".lock", threading.Event(), []

        def wait() -> None:
            with files.locked(path, wait=True, waiting=waiting.set):
                order.append("the one who waited")

        thread = threading.Thread(target=wait)
        with contextlib.ExitStack() as another:
            with files.locked(path):
                thread.start()
                waiting.wait()
                another.enter_context(files.locked(tmp_path / "new"))
                (tmp_path / "new").replace(path)
            order.append("another")
        thread.join()
        assert order == ["another", "the one who waited"]

    def test_it_may_be_removed_at_the_end(self, tmp_path: Path):
        with files.locked(tmp_path / ".lock", remove=True):
            assert (tmp_path / ".lock").exists()
        assert not list(tmp_path.iterdir())


class TestWholeFolders:
    def test_it_is_there_when_it_is_full_and_not_made_twice(self, tmp_path: Path):
        def fill(folder: Path) -> None:
            assert not (tmp_path / "a").exists()
            (folder / "b").write_text("1")

        assert files.whole_folder(tmp_path / "a", fill)
        assert not files.whole_folder(tmp_path / "a", lambda _: pytest.fail("it is there"))
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a" / "b").read_text() == "1"

    def test_nothing_is_left_of_one_that_failed(self, tmp_path: Path, says: Says):
        def fail(folder: Path) -> None:
            (folder / "b").write_text("1")
            raise OSError("the disk is full")

        with says(OSError):
            files.whole_folder(tmp_path / "a", fail)
        assert not list(tmp_path.iterdir())


class TestPrintable:
    @given(st.text())
    def test_any_text_becomes_one_harmless_line(self, text: str):
        assert printable(text).isprintable()
        printable(text).encode()

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("Käse, 犬 and 🐈.jpg", "Käse, 犬 and 🐈.jpg"),
            ("\x1b]52;c;aGk=\x07.jpg", r"\x1b]52;c;aGk=\x07.jpg"),
            ("a\nmixer: all is well", r"a\nmixer: all is well"),
            ("\u202egpj.exe", r"\u202egpj.exe"),
            ("\udce9t\udce9.jpg", r"\udce9t\udce9.jpg"),
        ],
    )
    def test_names(self, name: str, shown: str):
        assert printable(name) == shown

    def test_long_ones_are_cut(self):
        assert printable("a" * 100, 10) == "a" * 9 + "…"


class TestTables:
    @pytest.mark.parametrize("name", ["[/b]", "[b]bold", "[link=file:/etc/passwd]ok[/link]", "[bold red on white]"])
    def test_a_class_that_is_called_like_markup(self, name: str, capsys: pytest.CaptureFixture[str]):
        print_table(["class", name], [[name, "1"]], f"of {name}")
        out = capsys.readouterr().out
        assert out.count(name) == 3
        assert "\x1b" not in out

    def test_a_name_with_commands_for_terminals(self, capsys: pytest.CaptureFixture[str]):
        print_table(["class"], [["\x1b[2J"], ["\x9b31m"], ["a\nmixer: 1,000 images fine"]])
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "\nmixer" not in out


class TestJson:
    @given(
        st.recursive(
            st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none(),
            st.lists,
            max_leaves=5,
        )
    )
    def test_it_is_read_back_and_harmless(self, value: object):
        text = to_json(value, indent=1)
        assert json.loads(text) == value
        assert text.replace("\n", "").isprintable()

    def test_what_is_no_number_is_null(self):
        assert to_json({"a": [float("nan"), (float("inf"), 1.0)]}) == '{"a": [null, [null, 1.0]]}'


class TestMarkdown:
    @pytest.mark.parametrize(
        "name", ["<script>alert(1)</script>", "a\n## Accuracy\n", "x | y", "**b**", "![](http://a)"]
    )
    def test_a_class_name_is_text(self, name: str):
        for written in (plain(name), quoted(name)):
            assert "\n" not in written
        assert not re.search(r"(?<!\\)[<>*\[\]#|!]", plain(name))
        (row,) = table(["class"], [[plain(name)]]).splitlines()[2:]
        assert len(re.findall(r"(?<!\\)\|", row)) == 2


def test_a_small_file_takes_little_memory_whatever_it_might_have_been(tmp_path: Path):
    small = tmp_path / "small"
    small.write_bytes(b"123")
    tracemalloc.start()
    try:
        assert files.read(small, 1 << 30) == b"123"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_file_that_does_not_say_how_long_it_is_is_read_whole(says: Says):
    assert files.read("/proc/self/status").startswith(b"Name:")
    with says(OSError):
        files.read("/proc/self/status", 9)
