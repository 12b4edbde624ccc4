"""Decoding and preparing images."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Says
from PIL import Image

from mlpmixer.data import jpeg
from mlpmixer.data.headers import Header, header_of
from mlpmixer.data.images import decode, pixels
from mlpmixer.data.jpeg import quick_jpeg
from mlpmixer.data.limits import DECODING, Limits, Room, usual_limits
from mlpmixer.data.preprocess import normalize, prepare, preprocess, resize, short_side
from mlpmixer.errors import ImageError, UsageError
from mlpmixer.kernels.library import library
from mlpmixer.kernels.resize import resized
from mlpmixer.metadata import Preprocessing


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


GRADIENT = Image.fromarray(np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3).astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        saved(GRADIENT.convert("CMYK"), "JPEG"),
        saved(GRADIENT.convert("L"), "PNG"),
        saved(GRADIENT.convert("1"), "PNG"),
        saved(GRADIENT.convert("P"), "GIF"),
        saved(GRADIENT.convert("RGBA"), "PNG"),
        saved(GRADIENT.convert("LA"), "PNG"),
        saved(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), "PNG"),
        saved(GRADIENT, "GIF", save_all=True, append_images=[GRADIENT.rotate(90)]),
        saved(GRADIENT, "WEBP"),
        saved(GRADIENT, "TIFF"),
        GRADIENT,
        np.asarray(GRADIENT),
        np.asarray(GRADIENT.convert("L")),
    ],
    ids=[
        "cmyk",
        "gray",
        "bits",
        "palette",
        "alpha",
        "gray alpha",
        "16 bit",
        "animated",
        "webp",
        "tiff",
        "pil",
        "array",
        "gray array",
    ],
)
def test_every_mode_becomes_rgb(image: Any):
    decoded = decode(image)
    assert decoded.mode == "RGB"
    assert decoded.size == (60, 40)
    assert int(np.asarray(decoded).max()) > 200  # 16 bits are scaled, not clipped


def test_a_camera_held_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270° to view
    assert decode(saved(GRADIENT, "JPEG", exif=exif)).size == (40, 60)


def test_transparent_is_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(saved(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"", "not a readable image"),
        (b"hello", "not a readable image"),
        (saved(GRADIENT, "JPEG")[:300], "not a readable image"),
        (saved(GRADIENT, "PNG")[:-40], "not a readable image"),
        ("nowhere.jpg", "there is no file nowhere.jpg"),
        (".", "is a folder"),
        (np.zeros((3, 3, 5), np.uint8), "must be a uint8 array"),
        (np.zeros((3, 3), np.float32), "must be a uint8 array"),
        (np.zeros((0, 0, 3), np.uint8), "has no pixels"),
        (saved(Image.new("1", (30_000, 20_000)), "PNG"), "more pixels than Pillow decodes"),
        (saved(Image.new("1", (9_000, 9_000)), "PNG"), "has 81 million pixels, and 67 million are allowed"),
        (saved(GRADIENT, "EPS"), "not a readable image"),
        (saved(GRADIENT, "ICO"), "not a readable image"),
        (b"P2 1 1 255 " + b"1 " * (1 << 21), "image in digits"),
    ],
)
def test_what_is_no_image_says_so_in_one_line(bad: Any, message: str):
    with pytest.raises(ImageError, match=message) as caught:
        decode(bad)
    assert "\n" not in str(caught.value)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8))

JPEGS = {
    "usual": saved(NOISE, "JPEG"),
    "fine": saved(NOISE, "JPEG", quality=98, subsampling=0),
    "half": saved(NOISE, "JPEG", subsampling=1),
    "progressive": saved(NOISE, "JPEG", progressive=True),
    "gray": saved(NOISE.convert("L"), "JPEG"),
    "restarts": saved(NOISE, "JPEG", restart_marker_rows=1),
    "untransformed": saved(NOISE, "JPEG", keep_rgb=True),
}


@pytest.fixture(params=["simplejpeg", "pillow"])
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """The test runs with the extra fast-decode and without it."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setitem(sys.modules, "simplejpeg", None)  # as if it were not installed
    jpeg.decoder.cache_clear()
    yield request.param == "simplejpeg"
    jpeg.decoder.cache_clear()


class TestPixels:
    """The array is what the image is, bit for bit, whoever decodes it."""

    @pytest.mark.parametrize("kind", JPEGS)
    def test_jpegs_are_what_pillow_makes_of_them(self, kind: str, quick: bool):
        image = np.asarray(decode(JPEGS[kind]))
        assert image.shape == (75, 101, 3)
        assert np.array_equal(pixels(JPEGS[kind]), image)
        assert (quick_jpeg(JPEGS[kind], Limits()) is not None) == quick

    def test_photos(self, photos: list[Path], quick: bool):  # noqa: ARG002 (both ways)
        for photo in photos:
            assert np.array_equal(pixels(photo), np.asarray(decode(photo)))
            assert np.array_equal(pixels(photo.read_bytes()), np.asarray(decode(photo)))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned_images_are_turned(self, orientation: int, quick: bool):  # noqa: ARG002 (both ways)
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = saved(NOISE, "JPEG", exif=exif)
        assert pixels(turned).shape == ((75, 101, 3) if orientation < 5 else (101, 75, 3))
        assert np.array_equal(pixels(turned), np.asarray(decode(turned)))
        with Image.open(io.BytesIO(turned)) as opened:  # somebody else opened it and did not turn it
            assert np.array_equal(pixels(opened), pixels(turned))

    def test_damaged_notes_turn_nothing(self, quick: bool):  # noqa: ARG002 (both ways)
        exif = Image.Exif()
        exif[0x0112] = 6
        damaged = (
            saved(NOISE, "JPEG", exif=exif).replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
        )
        assert np.array_equal(pixels(damaged), pixels(JPEGS["usual"]))

    def test_turned_by_another_kind_of_note(self, quick: bool):  # noqa: ARG002 (both ways)
        note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
        turned = saved(NOISE, "JPEG", xmp=note)
        assert pixels(turned).shape == (101, 75, 3)
        assert np.array_equal(pixels(turned), np.asarray(decode(turned)))

    @pytest.mark.parametrize("kind", JPEGS)
    def test_a_cut_jpeg_is_an_error_wherever_it_is_cut(self, kind: str, quick: bool, says: Says):  # noqa: ARG002 (both ways)
        whole = JPEGS[kind]
        for length in [*range(0, len(whole) - 100, 211), *range(len(whole) - 100, len(whole))]:
            with says(ImageError):
                pixels(whole[:length])

    def test_damage_is_judged_alike(self, quick: bool):  # noqa: ARG002 (both ways)
        chance, judged = np.random.default_rng(1), set()
        for _ in range(200):
            damaged = bytearray(JPEGS["usual"])
            damaged[chance.integers(len(damaged))] = chance.integers(256)
            try:
                image = np.asarray(decode(bytes(damaged)))
            except ImageError:
                judged.add("error")
                with pytest.raises(ImageError):
                    pixels(bytes(damaged))
            else:
                judged.add("image")
                assert np.array_equal(pixels(bytes(damaged)), image)
        assert judged == {"error", "image"}

    def test_other_kinds(self, quick: bool):  # noqa: ARG002 (both ways)
        for image in (
            saved(NOISE.convert("CMYK"), "JPEG"),
            saved(NOISE, "PNG"),
            saved(NOISE.convert("LA"), "PNG"),
            NOISE,
            NOISE.convert("L"),
            np.asarray(NOISE.convert("L")),
            np.asarray(NOISE.convert("RGBA")),
        ):
            assert np.array_equal(pixels(image), np.asarray(decode(image)))
        array = np.asarray(NOISE)
        assert pixels(array) is array  # no copy: a packed data set is as large as a disk

    def test_an_array_that_is_no_image(self, says: Says):
        with says(ImageError):
            pixels(np.zeros((3, 3, 3), np.float32))


def many_scans(count: int, side: int = 512) -> bytes:
    """A progressive JPEG whose last scan comes so many times."""
    whole = saved(NOISE.resize((side, side)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + (count - whole.count(b"\xff\xda") + 1) * whole[last:-2] + whole[-2:]


class TestLimits:
    """An image may cost a few seconds and about a gigabyte, whatever its file claims."""

    def test_a_jpeg_of_very_many_scans(self, quick: bool, says: Says):  # noqa: ARG002 (both ways)
        assert pixels(many_scans(20)).shape == (512, 512, 3)
        for read in (pixels, decode):
            with says(ImageError):
                read(many_scans(2_000))

    def test_a_jpeg_with_its_notes_a_thousand_times(self, quick: bool, says: Says):  # noqa: ARG002 (both ways)
        note = b"Exif\0\0" + bytes(60_000)
        block = b"\xff\xe1" + (len(note) + 2).to_bytes(2, "big") + note
        whole = JPEGS["usual"]
        assert pixels(whole[:2] + 3 * block + whole[2:]).shape == (75, 101, 3)
        for read in (pixels, decode):
            with says(ImageError):
                read(whole[:2] + 1_000 * block + whole[2:])

    def test_many_scans_of_many_pixels(self, quick: bool, says: Says):  # noqa: ARG002 (both ways)
        with says(ImageError):
            pixels(many_scans(80, 6_000))

    def test_a_small_file_of_many_pixels_takes_little_memory(self, tmp_path: Path):
        Image.new("1", (13_000, 13_000)).save(tmp_path / "a.png")
        small = saved(GRADIENT, "WEBP", lossless=True)
        sides = (16_000 - 1 | (11_000 - 1) << 14).to_bytes(4, "little")
        at = small.index(b"VP8L") + 9
        (tmp_path / "a.webp").write_bytes(small[:at] + sides + small[at + 4 :])
        code = (
            "import resource, sys\n"
            "from mlpmixer.data.images import pixels\n"
            "from mlpmixer.errors import ImageError\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "for path in sys.argv[1:]:\n"
            "    try: print(pixels(path).shape)\n"
            "    except ImageError as error: print(error)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        files = [str(tmp_path / name) for name in ("a.png", "a.webp")]
        ran = subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True, text=True)
        *said, grown = ran.stdout.splitlines()
        assert said == [
            f"{files[0]} has 169 million pixels, and 67 million are allowed; scale it down, or set MLPMIXER_MAX_PIXELS",
            f"{files[1]} has 176 million pixels, and 67 million are allowed; scale it down, or set MLPMIXER_MAX_PIXELS",
        ]
        assert int(grown) < 50_000  # kB

    def test_the_limit_can_be_raised(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says):
        Image.new("1", (9_000, 9_000)).save(tmp_path / "a.png")
        try:
            for limit in ("many", "100e6"):
                monkeypatch.setenv("MLPMIXER_MAX_PIXELS", limit)
                usual_limits.cache_clear()
                if limit == "many":
                    with says(UsageError):
                        decode(tmp_path / "a.png")
            assert decode(tmp_path / "a.png").size == (9000, 9000)
        finally:
            usual_limits.cache_clear()

    def test_callers_may_be_stricter(self, says: Says):
        with says(ImageError):
            pixels(JPEGS["usual"], Limits(bytes=100))
        with says(ImageError):
            pixels(saved(NOISE, "GIF"), Limits(formats=("JPEG", "PNG")))

    def test_sizes_are_read_off_headers(self, photos: list[Path]):
        """As Pillow has them, and not more slowly for files of millions of parts, which it would take minutes for."""
        big = io.BytesIO()
        GRADIENT.save(big, "TIFF", big_tiff=True)
        files = [photo.read_bytes() for photo in photos] + [big.getvalue()]
        files += [saved(GRADIENT, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
        files += [saved(GRADIENT, "JPEG", progressive=True), saved(NOISE, "TIFF", compression="tiff_lzw")]
        files += [saved(GRADIENT, "WEBP", lossless=True), saved(GRADIENT, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")]
        for file in files:
            with Image.open(io.BytesIO(file)) as opened:
                assert header_of(file) == Header(opened.format or "", (opened.height, opened.width))
            for length in range(2, 60):  # damaged ones raise nothing
                header_of(file[:length])
        gif = saved(GRADIENT, "GIF")
        small = gif[:6] + b"\1\0\1\0" + gif[10:]  # a screen of one pixel, and a frame that goes beyond it
        with Image.open(io.BytesIO(small)) as opened:
            assert opened.size == GRADIENT.size
            assert header_of(small) == header_of(gif)
        assert header_of(b"<svg/>") is None
        assert header_of(b"RIFF1234WAVE") is None

    def test_files_of_very_many_parts(self):
        png, jpeg = saved(GRADIENT, "PNG"), saved(GRADIENT, "JPEG")
        chunk = struct.pack(">I4s3sI", 3, b"tEXt", b"k\0v", zlib.crc32(b"tEXtk\0v"))
        tags = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 200_000, 70), (278, 4, 1, 1))
        strips = struct.pack("<2sHIH", b"II", 42, 8, 6) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        tags = ((256, 4, 1, 64), (257, 4, 1, 64), (274, 5, 100_000, 70))
        fractions = struct.pack("<2sHIH", b"II", 42, 8, 3) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        gif, pixels_at = saved(GRADIENT, "GIF"), jpeg.index(b"\xff\xda")
        for bomb, says in (
            (png[:33] + 9_000 * chunk + png[33:], "chunks"),
            (jpeg[:2] + 9_000 * b"\xff\xe5\0\2" + jpeg[2:], "segments"),
            (jpeg[:pixels_at] + 9_000 * b"\xff\xe5\0\2" + jpeg[pixels_at:], "segments"),
            (jpeg[:pixels_at] + 90_000 * b"\xff" + jpeg[pixels_at:], "bytes between its segments"),
            (jpeg[:pixels_at] + bytes(90_000), "bytes between its segments"),
            (gif[:13] + 768 * b"\0" + b"!\xfe" + 9_000 * b"\1a" + b"\0", "blocks"),
            (gif[:13] + 768 * b"\0" + 9_000 * b"x", "blocks"),
            (fractions + bytes(900_000), "values of tags"),
            (strips + bytes(900_000), "strips"),
            (strips[:8] + b"\xff\xff" + bytes(900_000), "tags"),
        ):
            for read in (pixels, decode):
                with pytest.raises(ImageError, match=f"the image has more than .* {says}; that is a mistake"):
                    read(bomb)
        bmp = bytearray(saved(GRADIENT, "BMP"))
        bmp[30] = 1  # in runs
        for read in (pixels, decode):
            with pytest.raises(ImageError, match="is a large BMP in runs"):
                read(bytes(bmp) + bytes(1 << 22))

    def test_a_small_image_in_a_large_tile(self):
        for kind, side, fits in ((3, 4_096, True), (4, 4_097, False), (3, 65_520, False), (9, 16, False)):
            tags = ((256, 4, 1, 64), (257, 4, 1, 64), (322, kind, 1, side), (323, 4, 1, 16))
            file = struct.pack("<2sHIH", b"II", 42, 8, 4) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
            if fits:
                assert header_of(file) == Header("TIFF", (64, 64))
            else:
                with pytest.raises(ImageError, match="has tiles of more than 4,096 pixels a side"):
                    header_of(file)

    def test_exif_without_an_end_turns_nothing(self):
        """A million fractions in the place of one number take Pillow seconds."""
        image = Image.new("RGB", (8, 4))
        for count, size in ((1, (4, 8)), (1_000_000, (8, 4))):
            exif = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x0112, 3, 1, 6) + bytes(8 * count)
            assert decode(saved(image, "PNG", exif=exif)).size == size

    def test_large_images_wait_for_each_other(self):
        room, inside, most = Room(10), [], []
        start = threading.Barrier(8)

        def work(wanted: int) -> None:
            start.wait()
            for _ in range(50):
                with room.of(wanted):
                    inside.append(min(wanted, 10))
                    most.append(sum(inside))
                    inside.remove(min(wanted, 10))

        threads = [threading.Thread(target=work, args=(wanted,)) for wanted in (1, 2, 3, 4, 5, 6, 10, 99)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 8 * 50
        assert max(most) <= 10

    def test_a_child_is_not_held_up_by_its_parents_threads(self, photos: list[Path]):
        with DECODING.of(DECODING.total):
            child = os.fork()
            if not child:
                os._exit(pixels(photos[0]).ndim)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


class TestFilesOfStrangers:
    def test_a_pipe_called_jpg(self, tmp_path: Path, says: Says):
        os.mkfifo(tmp_path / "b.jpg")
        with says(ImageError):
            pixels(tmp_path / "b.jpg")

    def test_a_link_to_a_device(self, tmp_path: Path, says: Says):
        (tmp_path / "b.jpg").symlink_to("/dev/zero")
        with says(ImageError):
            decode(tmp_path / "b.jpg")

    def test_a_sparse_file(self, tmp_path: Path, says: Says):
        with (tmp_path / "b.jpg").open("wb") as file:
            file.truncate(30 << 30)
        with says(ImageError):
            pixels(tmp_path / "b.jpg")

    def test_names_that_no_system_has(self):
        for name in ("a\0.jpg", "a" * 5_000):
            with pytest.raises(ImageError):
                pixels(name)


Size = tuple[int, int]
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


NARROW = """
import os, resource
import numpy as np
from mlpmixer.data.preprocess import prepare
from mlpmixer.errors import ImageError
from mlpmixer.kernels.library import library
from mlpmixer.metadata import Preprocessing

pixels = 16_777_218
room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (1 << 29)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for os.environ["MLPMIXER_KERNELS"] in ("off", "on"):
    library.cache_clear()
    for shape in ((pixels, 1, 3), (1, pixels, 3)):
        try:
            prepare(np.zeros(shape, np.uint8), Preprocessing())
        except ImageError as error:
            print(error)
"""


class TestPreprocess:
    def test_agrees_with_torchvision(self, photos: list[Path], timm: Any):  # noqa: ARG002 (brings torchvision)
        from torchvision.transforms import v2

        how = Preprocessing()
        reference = v2.Compose(
            [
                v2.PILToTensor(),
                v2.Resize(256, antialias=True),
                v2.CenterCrop(224),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )
        for photo in photos:
            image = decode(photo)
            assert float((preprocess(image, how) - reference(image)).abs().max()) <= 2 / 127  # a gray level

    def test_stretch_ignores_the_proportions(self, photos: list[Path]):
        image = decode(photos[0])
        how = Preprocessing(shape="stretch", resize=64, crop=(64, 64))
        exact = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
        assert np.abs(preprocess(image, how).permute(1, 2, 0).numpy() - exact).max() <= 2.1 / 127.5

    @pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (20, 20), (2000, 10)])
    def test_any_image_gives_the_crop(self, size: tuple[int, int]):
        for shape in ("short_side", "stretch"):
            how = Preprocessing(resize=32, crop=(28, 30), shape=shape)
            assert preprocess(Image.new("RGB", size), how).shape == (3, 28, 30)

    @settings(max_examples=300, derandomize=True)
    @given(st.data(), SIZES, SIZES, st.sampled_from(["bilinear", "bicubic"]))
    def test_the_kernel_scales_as_pytorch_does(self, data: st.DataObject, old: Size, new: Size, how: str):
        """Bit for bit; any part of any image, any window of the result."""
        whole = np.random.default_rng(old).integers(0, 256, (old[0] + 3, old[1] + 5, 3), dtype=np.uint8)
        image = whole[2 : 2 + old[0], 4 : 4 + old[1]]
        rows, columns = (data.draw(st.integers(1, side)) for side in new)
        top, left = data.draw(st.integers(0, new[0] - rows)), data.draw(st.integers(0, new[1] - columns))
        found = resize(image, new, how, (top, left, rows, columns))
        spread = np.repeat(image, 2, axis=2)[..., ::2]  # the same, as the kernel does not take it
        assert resized(spread, new, (0, 0, *new), how) is None
        true = resize(spread, new, how)[:, top : top + rows, left : left + columns]
        assert torch.equal(found, true)

    @pytest.mark.skipif(isinstance(library("resize"), str), reason=f"no kernels here: {library('resize')}")
    def test_most_are_scaled_by_the_kernel(self, photos: list[Path]):
        for photo in photos:
            assert resized(pixels(photo), (341, 256), (58, 16, 224, 224)) is not None
        assert resized(np.zeros((9, 3000, 3), np.uint8), (9, 100), (0, 0, 9, 100)) is None  # 30 pixels into one

    @pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux")
    def test_an_image_of_absurd_proportions_is_refused(self):
        """1×16,777,218 pixels are 2³² + 512 where the short side has 256: too many for an `int` and for memory. In a
        process of its own, which they might end; with the kernel and without."""
        told = subprocess.run(
            [sys.executable, "-O", "-c", NARROW],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        why = "pixels is too narrow: with a short side of 256 pixels, its long one would be above 100,000; crop it"
        said = [f"an image of {size} {why}" for size in ("1×16,777,218", "16,777,218×1")]
        assert told.stdout.splitlines() == 2 * said

    def test_long_images_are_scaled_up_to_a_bound(self, says: Says):
        how = Preprocessing(resize=100, crop=(100, 100))
        for shape in ((1, 1000, 3), (1000, 1, 3)):
            assert prepare(np.zeros(shape, np.uint8), how).shape == (3, 100, 100)
        for shape in ((1, 1001, 3), (1001, 1, 3), (0, 5, 3), (0, 0, 3)):
            with says(ImageError):
                prepare(np.zeros(shape, np.uint8), how)

    @given(st.integers(1, 5000), st.integers(1, 600))
    def test_a_square_stays_one(self, side: int, pixels: int):
        assert short_side(side, side, pixels) == (pixels, pixels)
        assert short_side(side, 2 * side, pixels) == (pixels, 2 * pixels)

    def test_values(self):
        how = Preprocessing(resize=4, crop=(4, 4), mean=(0.0, 0.5, 0.25), std=(1.0, 0.5, 0.25))
        out = preprocess(Image.new("RGB", (4, 4), (255, 255, 0)), how)
        torch.testing.assert_close(out[:, 0, 0], torch.tensor([1.0, 1.0, -1.0]))

    def test_images_become_bytes_one_by_one_and_numbers_in_batches(self, photos: list[Path]):
        how = Preprocessing(resize=40, crop=(32, 36), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        batch = torch.stack([prepare(decode(photo), how) for photo in photos])
        assert batch.dtype == torch.uint8
        alone = torch.stack([preprocess(pixels(photo), how) for photo in photos])
        assert torch.equal(normalize(batch, how), alone)
        assert normalize(batch, how).dtype == torch.float32
