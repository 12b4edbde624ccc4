"""The page of the service, in a real browser: images in by every way, answers, errors, and for whom it works."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import runpy
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

import mlpmixer
from mlpmixer.data.preprocess import prepare, visible_region
from mlpmixer.metadata import Preprocessing

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, expect  # noqa: E402
from serving import running  # noqa: E402

from mlpmixer.serve.app import app_of  # noqa: E402
from mlpmixer.serve.page import document  # noqa: E402
from mlpmixer.serve.served import Models  # noqa: E402
from mlpmixer.serve.server import Server, listen  # noqa: E402
from mlpmixer.serve.service import Service, Settings  # noqa: E402

BROWSERS = ("/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium", "chromium", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), "")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine (apt install chromium)")
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")
ARGUMENTS = [
    "--no-sandbox",
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    *(f"--disable-{one}" for one in QUIET),
]
AXE = os.environ.get("MLPMIXER_AXE", "")  # axe.min.js, of `npm pack axe-core`
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
PATIENCE = 30_000  # ms, on a busy machine
HOSTILE = "<img src=x onerror=alert(1)>.jpg"

DROP = """async ([files, text]) => {
    const data = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        data.items.add(new File([bytes], name, { type: "image/jpeg" }));
    }
    if (text) data.setData(text[0], text[1]);
    const options = { bubbles: true, cancelable: true };
    document.body.dispatchEvent(new DragEvent("dragover", { ...options, dataTransfer: data }));
    const dragging = document.body.classList.contains("dragging");
    document.body.dispatchEvent(new DragEvent("drop", { ...options, dataTransfer: data }));
    return dragging && !document.body.classList.contains("dragging");
}"""
PASTE = """async (text) => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    document.body.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, clipboardData: data }));
}"""
COPY = """async (content) => {
    const bitmap = await createImageBitmap(new Blob([Uint8Array.from(atob(content), (l) => l.charCodeAt(0))]));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/png" });
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""


@dataclass
class Opened:
    """A tab, and what it did that it should not."""

    page: Page
    context: BrowserContext
    wrong: list[str] = field(default_factory=list)

    def card(self, name: str) -> Locator:
        return self.page.get_by_role("article", name=name, exact=True)

    def choose(self, *files: tuple[str, bytes]) -> None:
        payloads = [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files]
        self.page.set_input_files("#files", payloads)  # pyright: ignore[reportArgumentType]

    def says(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_role("status")).to_contain_text(text)


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service(Models(["mixer_clothing", "mixer_cifar10"], {}), Settings(), workers=1, tell=lambda _: None)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(app_of(service), lifespan="off", log_config=None, access_log=False)
    server = Server(config)

    async def serve() -> None:
        service.start()
        await server.serve(sockets=[listener])

    service.load()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    service.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"  # pyright: ignore[reportAttributeAccessIssue]
    yield service
    server.should_exit = True
    thread.join(30)
    service.close()
    listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Open]:
    """Opens tabs. None of them may ask anything of anyone else, raise an error, or do what its policy forbids."""
    tabs: list[Opened] = []
    url: str = service.url  # pyright: ignore[reportAttributeAccessIssue]

    def opened(*, loaded: bool = True, **options: Any) -> Opened:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        tab = Opened(context.new_page(), context)
        tabs.append(tab)
        page, wrong = tab.page, tab.wrong

        def noted(text: str) -> None:
            if not text.startswith("Failed to load resource"):  # the browser's own word on a status of 400 or more
                wrong.append(text)

        def dismissed(dialog: Dialog) -> None:
            wrong.append(dialog.message)
            dialog.dismiss()

        page.on("request", lambda one: None if one.url.startswith((url, "blob:", "data:")) else wrong.append(one.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: noted(message.text))
        page.on("dialog", dismissed)
        page.goto(url)
        if loaded:
            expect(page.get_by_label("Model", exact=True)).to_be_visible()
        return tab

    settings = service.settings
    yield opened
    service.settings = settings
    wrong = [text for tab in tabs for text in tab.wrong]
    for tab in tabs:
        tab.context.close()
    assert not wrong


@pytest.fixture(scope="module")
def photo() -> bytes:
    return (Path(__file__).parent / "photos" / "dress.jpg").read_bytes()


def test_the_policy_lets_run_what_is_in_the_page_and_nothing_else():
    text, policy = document(Settings(max_body=123))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    inside = re.fullmatch(r"(?s).*<style>(.*)</style>.*<script type=\"module\">(.*)</script>.*", text)
    assert inside
    for part, rule in zip(inside.groups(), ("style-src", "script-src"), strict=True):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in policy
    assert 'data-max-body="123"' in text
    addresses = set(re.findall(r"https?://[^'\"\s]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a format
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"<[^>]+\s(style|on\w+)=", text.partition("<style>")[0] + text.partition("</style>")[2])


@pytest.mark.parametrize("shape", ["short_side", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(120, 300), (300, 120), (64, 64)])
def test_the_region_is_what_the_model_sees(height: int, width: int, shape: Any):
    how = Preprocessing(resize=64, crop=(56, 48), shape=shape)
    along = np.linspace(0, 255, width).round().astype(np.uint8)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height).round().astype(np.uint8)[:, None].repeat(width, 1)
    seen = prepare(np.stack([along, down, down], axis=2), how).float() / 255
    left, top, right, bottom = visible_region(height, width, how)
    found = (seen[0, 0, 0], seen[1, 0, 0], seen[0, 0, -1], seen[1, -1, 0])
    assert [float(one) for one in found] == pytest.approx([left, top, right, bottom], abs=0.02)


def test_black_around_an_image_is_outside_of_it():
    left, top, right, bottom = visible_region(10, 20, Preprocessing(resize=10, crop=(20, 20)))
    assert (left, right) == (0, 1)
    assert (top, bottom) == (-0.5, 1.5)


@needs_browser
def test_chosen_images_get_their_labels_or_what_is_wrong_with_them(open_page: Open, service: Service, photo: bytes):
    tab = open_page()
    tab.choose(("dress.jpg", photo), (HOSTILE, b"nothing"), ("été & 猫.jpg", photo))
    tab.says("2 images classified. 1 image could not be.")
    predictor = service.models.find("mixer_clothing").predictor
    rows = tab.card("dress.jpg").get_by_role("listitem")
    assert [text.split() for text in rows.all_inner_texts()] == [
        [label, f"{100 * score:.1f}", "%"] for label, score in predictor(photo).top
    ]
    shares = rows.locator("b").evaluate_all(
        "(all) => all.map((one) => one.offsetWidth / one.parentElement.offsetWidth)"
    )
    assert shares == pytest.approx([score for _, score in predictor(photo).top], abs=0.02)
    bad = tab.card(HOSTILE)
    expect(bad.get_by_role("heading")).to_have_text(HOSTILE)
    expect(bad.locator(".answer > .error")).to_contain_text("image")
    bad.get_by_role("button", name=f"Remove {HOSTILE}").click()
    tab.says(f"{HOSTILE} is removed.")
    tab.choose((HOSTILE, b"nothing"))
    tab.says(re.compile(rf"^{re.escape(HOSTILE)}: .*image"))
    expect(bad.get_by_text("This browser cannot show the image.")).to_be_visible()
    expect(bad.get_by_role("button", name="Try again")).to_be_hidden()  # it would be refused again
    assert tab.page.locator("[src=x]").count() == 0

    tab.page.get_by_label("Model", exact=True).select_option("mixer_cifar10")
    best = service.models.find("mixer_cifar10").predictor(photo)
    expect(tab.card("dress.jpg").get_by_role("listitem").first).to_contain_text(best.label)
    expect(tab.card("dress.jpg")).to_contain_text("mixer_cifar10, answered in")
    tab.page.get_by_text("About this model").click()
    facts = tab.page.locator("#facts").inner_text()
    assert all(text in facts for text in ("airplane, automobile, bird", "32 × 32 pixels", "Parameters"))

    tab.page.get_by_role("button", name="Remove all").click()
    expect(tab.page.get_by_role("article")).to_have_count(0)
    tab.choose(("again.jpg", photo))
    tab.says(f"again.jpg: {best.label}, ")


@needs_browser
def test_images_are_dropped_and_pasted(open_page: Open, photo: bytes):
    tab = open_page(permissions=["clipboard-read", "clipboard-write"])
    text = base64.b64encode(photo).decode()
    assert tab.page.evaluate(DROP, [[["one.jpg", text], ["two.jpg", text]], None])
    tab.says("2 images classified.")
    expect(tab.card("two.jpg").get_by_role("listitem").first).to_contain_text("dress")
    tab.page.evaluate(DROP, [[], ["text/uri-list", "https://example.org/cat.jpg"]])
    tab.says("That is an address.")  # which nobody fetches
    tab.page.evaluate(COPY, text)
    tab.page.locator("#files").focus()  # where it is after images were chosen
    tab.page.keyboard.press("Control+V")
    tab.says(re.compile(r"image\.png: \w+, "))
    tab.page.evaluate(PASTE, "some words")
    tab.says("There is no image on the clipboard.")
    expect(tab.page.get_by_role("article")).to_have_count(3)


@needs_browser
def test_a_file_is_dropped_by_the_hand_of_the_system(open_page: Open):
    tab = open_page()
    path = Path(__file__).parent / "photos" / "dress.jpg"
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    hand = tab.context.new_cdp_session(tab.page)
    for kind in ("dragEnter", "dragOver", "drop"):
        hand.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    tab.says("dress.jpg: dress, ")


@needs_browser
def test_a_camera_takes_photos_where_it_may(open_page: Open):
    tab = open_page(permissions=["camera"])
    tab.page.get_by_role("button", name="Take a photo").click()
    dialog = tab.page.get_by_role("dialog", name="Take a photo")
    expect(dialog).to_be_visible()
    expect(tab.page.locator("video")).not_to_have_js_property("srcObject", None)
    tab.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(tab.page.locator("video")).to_have_js_property("srcObject", None)  # the camera is off
    tab.page.get_by_role("button", name="Take a photo").click()
    expect(tab.page.locator("video")).to_have_js_property("readyState", 4)
    dialog.get_by_role("button", name="Take the photo").click()
    tab.says("photo-1.jpg: ")
    expect(dialog).to_be_hidden()

    other = open_page()
    other.page.get_by_role("button", name="Take a photo").click()
    other.says("The browser does not allow the camera.")


@needs_browser
def test_everything_can_be_done_with_the_keyboard(open_page: Open, service: Service, photo: bytes):
    """And heat maps: over the part that the model sees, as strong as the slider says."""
    tab = open_page()
    page = tab.page
    page.on("filechooser", lambda _: None)  # from here on none is really opened
    names = []
    for _ in range(4):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert names == ["model", "About this model", "files", "camera"]
    page.keyboard.press("Shift+Tab")
    outline = page.locator("label.button").first.evaluate("(one) => getComputedStyle(one).outlineStyle")
    assert outline == "solid"  # the input itself is not seen
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "dress.jpg", "mimeType": "image/jpeg", "buffer": photo}])
    tab.says("dress.jpg: dress, ")
    heading = page.locator("article")
    assert heading.locator("img").get_attribute("alt") == "dress.jpg, classified as dress"

    while page.evaluate("document.activeElement.textContent") != "Show heat map":
        page.keyboard.press("Tab")
    with page.expect_response("**/v1/explain*") as answer:
        page.keyboard.press("Enter")
    [found] = answer.value.json()["predictions"]
    slider = page.get_by_role("slider", name="Heat map")
    expect(slider).to_be_focused()
    image, canvas = page.locator("article img"), page.get_by_role("img", name="Heat map for dress")
    outer, inner = image.bounding_box(), canvas.bounding_box()
    assert outer
    assert inner
    shares = [(inner["x"] - outer["x"]) / outer["width"], (inner["y"] - outer["y"]) / outer["height"]]
    shares += [shares[0] + inner["width"] / outer["width"], shares[1] + inner["height"] / outer["height"]]
    assert shares == pytest.approx(found["region"], abs=0.01)
    how = service.models.find("mixer_clothing").predictor.preprocessing
    height, width = mlpmixer.data.images.pixels(photo).shape[:2]
    assert found["region"] == pytest.approx(visible_region(height, width, how), abs=1e-4)
    expect(canvas).to_have_css("opacity", "0.7")
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "65 %")
    expect(canvas).to_have_css("opacity", "0.65")
    page.keyboard.press("Home")
    expect(canvas).to_have_css("opacity", "0")
    expect(image).to_have_css("filter", "grayscale(0)")
    expect(page.locator("figcaption")).to_contain_text("orange speaks for “dress”")

    while page.evaluate("document.activeElement.ariaLabel") != "Remove dress.jpg":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#files")).to_be_focused()
    tab.says("dress.jpg is removed.")


@needs_browser
def test_it_fits_a_phone_and_each_persons_settings(open_page: Open, photo: bytes):
    phone = open_page(**PHONE, color_scheme="dark", reduced_motion="reduce")
    page = phone.page
    phone.choose(("a_very_long_name_without_any_space_in_it_" * 4 + ".jpg", photo), ("broken.jpg", b"nothing"))
    phone.says("1 image classified.")
    page.get_by_role("button", name="Show heat map").click()
    expect(page.get_by_role("slider")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    sizes = page.locator(
        "button:visible, label.button:visible, select:visible, input[type=range]:visible"
    ).evaluate_all("(all) => all.map((one) => [one.offsetHeight, one.textContent])")
    assert not [size for size in sizes if size[0] < 44]
    texts = page.evaluate(
        "[...document.querySelectorAll('main *')].map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(texts) >= 12
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(22, 24, 29)"
    assert "none" in page.evaluate(
        "getComputedStyle(document.querySelector('article .state'), '::before').animationName"
    )
    assert page.locator(".ranking b").first.evaluate("(one) => getComputedStyle(one).transitionDuration") == "0s"

    strong = open_page(forced_colors="active")
    strong.choose(("dress.jpg", photo))
    bar = strong.page.locator(".ranking b").first
    expect(bar).to_be_visible()
    colors = bar.evaluate("(one) => [one, document.body].map((one) => getComputedStyle(one).backgroundColor)")
    assert colors[0] != colors[1]


@needs_browser
def test_a_service_with_a_token_asks_for_it_once(open_page: Open, service: Service, photo: bytes):
    service.settings = replace(service.settings, token="secret-1")
    tab = open_page(loaded=False)
    field = tab.page.get_by_label("Token", exact=True)
    expect(field).to_be_focused()
    tab.choose(("dress.jpg", photo))  # waits until it may be asked
    for wrong, why in (("secret", "not the right one"), ("ünï", "ASCII")):
        field.fill(wrong)
        tab.page.keyboard.press("Enter")
        expect(tab.page.get_by_role("alert").first).to_contain_text(why)
    field.fill("secret-1")
    tab.page.keyboard.press("Enter")
    expect(field).to_be_hidden()
    tab.says("dress.jpg: dress, ")
    expect(tab.page.locator("#command")).to_contain_text("$MLPMIXER_TOKEN")
    assert "secret" not in tab.page.content()
    tab.page.reload()
    expect(tab.page.get_by_label("Model", exact=True)).to_be_visible()  # kept for this tab
    expect(field).to_be_hidden()
    assert tab.page.evaluate("localStorage.length") == 0
    assert tab.context.cookies() == []


# What a page of somebody else may try. Its answers are opaque to it at best; the service must not even begin to work.
ATTACKS = """async (url) => {
    const tried = [];
    const form = new FormData();
    form.append("image", new Blob(["x"]), "a.jpg");
    const bodies = [form, "text", new Blob(["x"], { type: "image/jpeg" }), new URLSearchParams({ a: "b" })];
    for (const mode of ["no-cors", "cors"])
        for (const body of bodies)
            for (const route of ["v1/predict", "v2/models/mixer_clothing/infer"]) {
                try {
                    const answer = await fetch(url + route, { method: "POST", mode, body, credentials: "include" });
                    tried.push(`${answer.type} ${answer.status} ${(await answer.text()).length}`);
                } catch (error) {
                    tried.push(error.name);
                }
            }
    for (const route of ["v1/models", "metrics", "openapi.json", ""])
        try {
            tried.push((await (await fetch(url + route)).text()).length ? "read" : "empty");
        } catch (error) {
            tried.push(error.name);
        }
    return tried;
}"""
FORMS = """<iframe name="f"></iframe><iframe sandbox="allow-scripts allow-forms" srcdoc='
<form id="g" method="post" enctype="multipart/form-data" action="{url}v1/predict"><input name="a" value="b"></form>
<script>document.forms[0].submit()</script>'></iframe>
<form id="h" method="post" enctype="text/plain" target="f" action="{url}v1/predict"><input name="a" value="b"></form>
<img src="{url}v1/models"><script src="{url}v1/models"></script><iframe src="{url}"></iframe>
<script>document.getElementById("h").submit()</script>"""


REFUSED = 'mixer_requests_total{route="refused",status="403"}'


@needs_browser
def test_pages_of_others_cannot_use_the_service(browser: Browser, service: Service):
    """Neither one on another port of this machine, nor one without an origin."""
    url: str = service.url  # pyright: ignore[reportAttributeAccessIssue]
    answers: list[tuple[str, int]] = []
    page_text = f"<!doctype html><title>other</title>{FORMS.replace('{url}', url)}".encode()

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page_text)

        def log_message(self, format: str, *_: object) -> None: ...

    def refusals() -> float:
        with urlopen(f"{url}metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(REFUSED))

    before, refused = {name: count.batches for name, count in service.counts.items()}, refusals()
    context = browser.new_context()
    page = context.new_page()
    page.on("response", lambda one: answers.append((one.url.removeprefix(url), one.status)))
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            page.goto(f"http://127.0.0.1:{other.server_port}/")
            tried = page.evaluate(ATTACKS, url)
            page.wait_for_load_state("networkidle")
        finally:
            other.shutdown()
            thread.join()
    assert {*tried} == {"opaque 0 0", "TypeError"}
    context.close()
    posts = {status for route, status in answers if route.endswith(("predict", "infer"))}
    assert posts == {403}
    assert refusals() - refused >= 16  # also those of which the browser tells nobody
    assert {name: count.batches for name, count in service.counts.items()} == before


@needs_browser
def test_a_name_that_is_made_to_lead_here_is_refused(browser: Browser, service: Service):
    """As by DNS rebinding: to the browser, page and service have one origin then."""
    port = service.url.rstrip("/").rpartition(":")[2]  # pyright: ignore[reportAttributeAccessIssue]
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"http://evil.test:{port}/")
    assert answer is not None
    assert answer.status == 421
    statuses = page.evaluate(
        """async () => {
            const post = { method: "POST", body: new Blob(["x"], { type: "image/jpeg" }) };
            const asked = [fetch("v1/predict", post), fetch("v1/models"), fetch("metrics"), fetch("v2/health/ready")];
            return (await Promise.all(asked)).map((one) => one.status);
        }"""
    )
    assert statuses == [421] * 4
    context.close()


@needs_browser
def test_markup_in_names_of_classes_and_models_is_text(browser: Browser, photo: bytes, tmp_path: Path):
    """Weights of a stranger may call their classes as they like."""
    classes = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "{{3}}")
    file, name = tmp_path / "model.safetensors", "<b onclick>"
    model = mlpmixer.create("mixer_pico", num_classes=3, layers=1, image_size=32, patch_size=8)
    mlpmixer.save(model, file, classes=classes)
    wrong: list[str] = []

    def dismissed(dialog: Dialog) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    with running([f"{name}={file}"]) as served:
        context = browser.new_context()
        page = context.new_page()
        page.on("dialog", dismissed)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(f"http://{served.address}/")
        expect(page.get_by_text("About this model")).to_be_visible()
        payload: Any = {"name": HOSTILE, "mimeType": "image/jpeg", "buffer": photo}
        page.set_input_files("#files", payload)
        rows = page.get_by_role("article").get_by_role("listitem")
        expect(rows).to_have_count(3)
        shown = " ".join(rows.all_inner_texts())
        assert all(label in shown for label in classes)
        page.get_by_role("button", name="Show heat map").click()
        expect(page.get_by_role("slider")).to_be_visible()
        page.get_by_text("About this model").click()
        facts = page.locator("#facts").inner_text()
        assert all(label in facts for label in classes)
        expect(page.get_by_role("article")).to_contain_text(name)
        assert page.locator("[src=x], b[onclick]").count() == 0
        context.close()
    assert not wrong


@needs_browser
def test_a_busy_or_silent_service_is_told_and_asked_again(open_page: Open, service: Service, photo: bytes):
    usual = service.settings
    service.settings = replace(usual, max_latency=-0.001)  # whatever would have to wait at all
    tab = open_page()
    with tab.page.expect_response("**/v1/predict*") as answer:
        tab.choose(("dress.jpg", photo), ("second.jpg", photo))
    assert answer.value.status == 429
    seconds = answer.value.headers["retry-after"]
    tab.says(f"The service is busy. Asking again in {seconds} s.")
    service.settings = usual
    tab.says("2 images classified.")

    tab.page.route("**/v1/predict*", lambda route: route.abort())
    tab.choose(("third.jpg", photo))
    expect(tab.card("third.jpg").locator(".answer > .error")).to_contain_text("The service does not answer.")
    tab.page.unroute("**/v1/predict*")
    tab.card("third.jpg").get_by_role("button", name="Try again").click()
    expect(tab.card("third.jpg").get_by_role("listitem").first).to_contain_text("dress")
    expect(tab.card("third.jpg")).to_be_focused()

    service.settings = replace(usual, max_latency=-0.001)
    tab.card("third.jpg").get_by_role("button", name="Show heat map").click()
    expect(tab.card("third.jpg").get_by_role("alert")).to_contain_text("try again in")


@needs_browser
def test_a_service_that_loads_and_images_that_are_too_many_or_too_large(open_page: Open, service: Service):
    slots = service.models.slots
    served = {name: slot.served for name, slot in slots.items()}
    try:
        for slot in slots.values():
            slot.served = None
        tab = open_page(loaded=False)
        tab.says("The service is loading its models.")
    finally:
        for name, slot in slots.items():
            slot.served = served[name]
    expect(tab.page.get_by_label("Model", exact=True)).to_be_visible()
    tab.page.evaluate(DROP, [[[f"{n}.jpg", ""] for n in range(102)], None])
    expect(tab.page.get_by_role("article")).to_have_count(100)
    tab.page.get_by_role("button", name="Remove all").click()
    tab.page.route("**/v1/predict*", lambda route: route.abort())
    tab.page.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(65_000_000)], "large.tif"));
        dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
    }""")
    expect(tab.card("large.tif").locator(".answer > .error")).to_have_text(
        "The image has 65.0 MB, and the service takes 64.0 MB."
    )


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl on this machine")
def test_the_docs_show_what_the_service_answers(service: Service, tmp_path: Path):
    pytest.importorskip("mlpmixer.serve.v2")
    pytest.importorskip("tritonclient.http")
    root = Path(__file__).parent
    console = runpy.run_path(str(root.parent / "docs" / "console.py"))
    shutil.copy(root / "photos" / "outwear.jpg", tmp_path / "photo.jpg")
    shutil.copy(root / "photos" / "shirt.jpg", tmp_path / "second.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    url: str = service.url  # pyright: ignore[reportAttributeAccessIssue]
    text = (root.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    wrong: list[str] = []
    for step in console["steps"](text.replace("http://127.0.0.1:8000/", url).replace("127.0.0.1:8000", url[7:-1])):
        found = console["run"](step, tmp_path)
        if step.python:
            wrong += [] if found == re.findall(r"^print.*  # (.+)$", step.command, flags=re.MULTILINE) else found
        else:
            wrong += console["differences"](step.expected, found)
    assert not wrong, "\n".join(wrong)


@needs_browser
@pytest.mark.slow
@pytest.mark.skipif(not AXE, reason="MLPMIXER_AXE is not the path of axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, PHONE, {"forced_colors": "active"}])
def test_axe_finds_nothing(open_page: Open, service: Service, photo: bytes, options: dict[str, Any]):
    tab = open_page(**options, permissions=["camera"])
    page = tab.page
    text = Path(AXE).read_text(encoding="utf-8")
    found: list[str] = []

    def look(state: str) -> None:
        page.evaluate(text)
        result = page.evaluate("axe.run()")
        found.extend(
            f"{state}: {one['id']}: {json.dumps([node['html'][:200] for node in one['nodes']])}"
            for one in result["violations"]
        )

    look("empty")
    tab.choose(("dress.jpg", photo))
    tab.says("dress.jpg: dress")
    page.get_by_text("About this model").click()
    page.get_by_role("button", name="Show heat map").click()
    expect(page.get_by_role("slider")).to_be_visible()
    look("answer")
    tab.choose(("broken.jpg", b"nothing"), (HOSTILE, b"nothing"))
    tab.says("2 images could not be.")
    look("error")
    page.get_by_role("button", name="Take a photo").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    look("camera")
    service.settings = replace(service.settings, token="secret-1")
    page.goto(page.url)
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    look("token")
    assert not found, "\n".join(found)
