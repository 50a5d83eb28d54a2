"""The page in a real browser: what people do with it, and what they are told."""

import shutil

import numpy as np
import pytest
from animals import animal_model
from browser import Browser, missing
from colour_model import png
from PIL import Image

from serving.configuration.models import ModelConfig
from serving.export import export_model
from serving.local_server.server import LocalServer
from serving.page.backend import Backend, page_models
from serving.page.server import page_server
from serving.page.site import Site
from serving.warmup_records import WARMUP_FILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"needs a browser: {missing()}"),
]

RED = png((255, 0, 0))
ANSWERED = "return document.querySelectorAll('.card[aria-busy=false]').length === arguments[0]"
BOX = "const box = document.querySelector(arguments[0]).getBoundingClientRect();"


@pytest.fixture(scope="module")
def port(configs, tmp_path_factory):
    """A local server's REST port; animals are a real export, the others quick ones."""
    base = tmp_path_factory.mktemp("exported") / "animals"
    version = export_model(animal_model(0), base, batch_sizes=[1]).path
    (version / WARMUP_FILE).unlink()  # which would take as long as the export
    models = [ModelConfig("animals", str(base)), *configs]
    with LocalServer(models, port=0, rest_port=0, page=True) as server:
        yield server.rest_port


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium):
    yield chromium
    policy = [line for line in chromium.complaints() if "Content Security Policy" in line]
    chromium.open("about:blank")
    assert not policy


@pytest.fixture
def page(browser, port):
    browser.open(f"http://127.0.0.1:{port}/")
    browser.wait_for("#server", "can answer")
    return browser


@pytest.fixture
def files(tmp_path, encode, photo):
    (tmp_path / "photo.jpg").write_bytes(encode(photo(60, 80), "JPEG"))
    (tmp_path / "tall.png").write_bytes(encode(photo(90, 40), "PNG"))
    (tmp_path / "broken.jpg").write_bytes(encode(photo(60, 80), "JPEG")[:300])
    return tmp_path


def test_dropped_files_are_answered_each_for_itself(page, files):
    page.drop(files / "photo.jpg", files / "broken.jpg", files / "tall.png")
    page.wait(ANSWERED, 3)
    assert page.texts(".name") == ["tall.png", "broken.jpg", "photo.jpg"]
    assert "not an image this model can read" in page.text(".card:nth-child(2) .note")
    assert page.run("return document.querySelectorAll('.labels li').length") == 10
    rows = page.texts(".card:nth-child(3) .labels li")
    assert len(rows) == 5
    assert all(row.splitlines()[0] in ("ape", "bee", "cat", "dog", "elk") for row in rows)
    shares = [float(row.splitlines()[1].removesuffix(" %")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    facts = page.text(".card:nth-child(3) .facts")
    assert facts.startswith("animals, version 1 · server ")
    assert "round trip" in facts


def test_images_of_other_formats_are_named(page, files):
    """The browser shows them, so that "no image" would not be understood."""
    (files / "new.webp").write_bytes(b"RIFF")
    page.drop(files / "new.webp")
    page.wait_for(".note", "This model cannot read WEBP files. It takes complete JPEG")


def test_the_attention_lies_on_what_the_model_sees(page, files):
    page.drop(files / "photo.jpg")
    page.wait(ANSWERED, 1)
    relative = """
        const [image, map] = ["img", ".attention"].map((name) =>
          document.querySelector(`.card ${name}`).getBoundingClientRect());
        return [(map.left - image.left) / image.width, (map.top - image.top) / image.height,
                map.width / image.width, map.height / image.height];
    """
    # 60 x 80 becomes 35 x 46, of which 32 x 32 are kept.
    expected = [7 / 46, 2 / 35, 32 / 46, 32 / 35]
    np.testing.assert_allclose(page.run(relative), expected, atol=0.005)
    assert page.run("return document.querySelector('.attention').ariaLabel").startswith(
        "The model looks most at the "
    )
    opacity = "return getComputedStyle(document.querySelector('.attention')).opacity"
    assert page.run(opacity) == "0.7"
    page.run("document.querySelector('#overlay').focus()")
    page.type("#overlay", "\ue011")  # Home
    assert page.run(opacity) == "0"
    assert page.text("#overlay-value") == "0 %"


def test_a_turned_photograph_is_shown_as_the_model_sees_it(page, files, encode, photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    (files / "turned.jpg").write_bytes(encode(photo(60, 80), "JPEG", exif=exif))
    page.drop(files / "turned.jpg")
    page.wait(ANSWERED, 1)
    assert page.run(BOX + "return box.width / box.height", ".card img") == pytest.approx(
        4 / 3, 0.02
    )
    assert "Shown as it is stored" in page.text(".caption")


def test_pasted_and_chosen_images(page, files):
    page.paste_png((files / "tall.png").read_bytes())
    page.wait(ANSWERED, 1)
    page.type("#files", f"{files / 'photo.jpg'}\n{files / 'tall.png'}")
    page.wait(ANSWERED, 3)
    assert page.texts(".name") == ["tall.png", "photo.jpg", "image.png"]
    page.click(".card:nth-child(1) .remove")
    assert page.texts(".name") == ["photo.jpg", "image.png"]
    assert page.run("return document.activeElement.ariaLabel") == "Remove photo.jpg"
    page.click("#clear")
    assert page.texts(".name") == []
    assert page.run("return document.activeElement.id") == "choose"


def test_another_model_another_version_and_a_label_answer(page, files):
    (files / "red.png").write_bytes(RED)
    page.drop(files / "red.png")
    page.wait_for(".facts", "animals, version 1")
    page.choose("#model", "colours")
    page.wait_for(".facts", "colours, version 2")
    page.wait_for(".labels li", "rouge")
    assert page.text("#title") == "colours"
    options = page.run("return [...document.querySelector('#version')].map((o) => o.text)")
    assert options == ["Newest (version 2)", "stable (version 1)", "Version 2", "Version 1"]
    page.choose("#version", "version=1")
    page.wait_for(".facts", "colours, version 1")
    assert page.texts(".labels li")[0].startswith("red")
    page.choose("#version", "version=2")
    page.wait_for(".facts", "colours, version 2")
    page.choose("#version", "label=stable")
    page.wait_for(".facts", "colours, version 1")


def test_attention_without_a_place_is_shown_apart(page, files):
    (files / "red.png").write_bytes(RED)
    page.choose("#model", "plain")
    page.wait_for("#title", "plain")
    page.drop(files / "red.png")
    page.wait_for(".labels li", "red")
    assert "not known here" in page.text(".caption")
    image, attention = (
        page.run(BOX + "return [box.top, box.bottom]", f".card {name}")
        for name in ("img", ".attention")
    )
    assert attention[0] >= image[1]


def test_files_that_are_not_sent(page, files):
    (files / "empty.png").touch()
    with (files / "large.jpg").open("wb") as file:
        file.truncate(33 * 1024 * 1024)
    page.drop(files / "empty.png", files / "large.jpg")
    page.wait(ANSWERED, 2)
    assert page.texts(".note") == [
        "This file has 33 MB; the page takes at most 32 MB.",
        "This file is empty.",
    ]


def test_a_stopped_server_is_said_and_retried(browser, base, renamed, files):
    config = ModelConfig("colours", str(base))
    server = LocalServer([config], port=0)
    server.start()
    site = Site(Backend(server.address, lambda: page_models([config])))
    with page_server(site, "127.0.0.1", 0) as port:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait_for("#server", "Version 1 can answer")
        server.stop()
        (files / "red.png").write_bytes(RED)
        browser.drop(files / "red.png")
        browser.wait_for("#trouble-text", "The server does not answer")
        browser.wait_for(".note", "Waiting for the server")
        assert browser.run("return document.querySelector('#trouble-text').role") == "alert"
        shutil.copytree(renamed, base / "2")
        with LocalServer([config], port=server.port):
            browser.wait_for(".labels li", "rouge")
            assert browser.text("#trouble-text") == ""
            assert browser.text("#server") == "Version 2 can answer."
            browser.wait_for("#said", "red.png: rouge")


def test_keyboard_alone(page):
    """Every control is reached by Tab, in order, and shows that it has the focus."""
    reached = []
    for _ in range(4):
        for kind in ("rawKeyDown", "keyUp"):
            page.devtools("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        reached.append(page.run("return document.activeElement.id"))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert page.run(outline) == "solid", reached
    assert reached == ["choose", "model", "version", "overlay"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_is_wider_than_the_window_and_text_can_be_read(page, files, scheme, width):
    media = {"name": "prefers-color-scheme", "value": scheme}
    page.devtools("Emulation.setEmulatedMedia", features=[media])
    page.devtools(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    page.drop(files / "photo.jpg", files / "broken.jpg")
    page.wait(ANSWERED, 2)
    wide = page.run("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
    colours = """
        const parse = (text) => text.match(/[0-9.]+/g).map(Number);
        return arguments[0].map((selector) => {
          const style = getComputedStyle(document.querySelector(selector));
          let ground = document.querySelector(selector);
          const behind = () => parse(getComputedStyle(ground).backgroundColor);
          while (behind()[3] === 0) ground = ground.parentElement;
          return [parse(style.color), behind()];
        });
    """
    for text, ground in page.run(colours, [".label", ".facts", ".note.bad", "#choose", "#server"]):
        assert contrast(text[:3], ground[:3]) >= 4.5
    page.devtools("Emulation.clearDeviceMetricsOverride")
    page.devtools("Emulation.setEmulatedMedia", features=[])


def contrast(first, second):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        share = np.array(colour, np.float64) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    darker, lighter = sorted([luminance(first), luminance(second)])
    return (lighter + 0.05) / (darker + 0.05)
