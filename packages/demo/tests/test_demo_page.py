"""The page in a browser, without a model: fields, keyboard, phones, and texts that would like to be programs."""

import shutil
import threading
from contextlib import contextmanager

import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from etude.demo import page as of
from etude.demo.page import Answer, Demo, Panel
from etude.demo.server import Server

EVIL = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
LONG = 60_000  # milliseconds: the machine may be busy


def everything(**given):
    """Every part that an answer can have, each with a text that would like to be a program."""
    dots = of.Curve("dots", [(1, 2)], "dots")
    square = of.picture(Image.new("L", (9, 9), 200))
    return Answer(
        EVIL,
        [
            of.Bars(EVIL, [(EVIL, 0.75), ("other", 0.2499), ("least", 0.0001)], EVIL),
            of.Influence("Reasons", [(EVIL, 1.0), ("but", -0.5), ("the", 0.001)], EVIL, unknown=[1]),
            of.Tagged("Tags", [(EVIL, "NOUN"), ("b", EVIL)], {"NOUN": "noun", EVIL: EVIL}),
            of.Lines("Lines", [(EVIL, EVIL), ("", "second")]),
            of.Pictures("Pictures", [(EVIL, square)]),
            of.Chart("Chart", EVIL, "y", [of.Curve(EVIL, [(0, 1e-6), (1, 1), (2, 0)]), dots], log=True),
            of.Chart("Plane", "x", "y", [of.Curve("", [(0.5, 0.5)], "crosses")], equal=True, span=((-9, 9), (-9, 9))),
        ],
        EVIL,
    )  # fmt: skip


def echo(text):
    if text == "bug":
        raise RuntimeError("a bug of ours")
    later = (lambda: [of.Bars("Later", [(text, 1.0)])]) if text.startswith("more") else None
    return Answer(text, [of.Lines("Said", [("", text)])], later=later)


def ink(image):
    """The box around what is drawn, as parts of the sheet."""
    if image is None:
        return of.NOTHING
    box = image.convert("L").point(lambda x: 255 - x).getbbox()
    return Answer(" ".join(f"{100 * x / image.width:.0f}" for x in box))


DEMO = Demo(
    f"A question {EVIL}",
    EVIL,
    [
        Panel(
            "All",
            [
                of.Text("text", EVIL, EVIL, 300, examples=(EVIL, "an example")),
                of.Slider("number", EVIL, -1, 1, 0.25, 0.5),
                of.Choice("word", EVIL, ("a", EVIL), "a"),
                of.Plane("point", EVIL, ((-2, 2), (0, 1)), of.picture(Image.new("RGB", (90, 90), "teal")), (1, 0.5)),
            ],
            everything,
            EVIL,
        ),
        Panel("Echo", [of.Text("text", "Echo", "", 300)], echo),
        Panel("Numbers", [of.Slider("number", "Number", -1, 1, 0.25, 0.5)], lambda number: Answer(f"{number:+.2f}")),
        Panel("Draw", [of.Drawing("image", "Draw")], ink),
        Panel("Photo", [of.Photo("image", "Photo")], lambda image: Answer(str(image and image.size))),
    ],
    EVIL,
)
TOLD = {"name": EVIL, "run": EVIL, "data": EVIL, "scores": [[EVIL, 0.5, EVIL], ["loss", 1.25, "in nats"]]}


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, f"the page is tested in a browser, none of {', '.join(names)} is there: apt-get install chromium"
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server():
    one = Server(DEMO, TOLD, "127.0.0.1", 0)
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.end()


@contextmanager
def window(browser, server, **how):
    """A window with the page, in which nothing is complained of and nobody else is asked for anything."""
    said, asked = [], []
    shown = browser.new_page(**({"viewport": {"width": 1180, "height": 900}} | how))
    shown.set_default_timeout(LONG)
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("dialog", lambda dialog: said.append(dialog.message))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(server.address)
    yield shown
    assert said == []
    assert [one for one in asked if not one.startswith((server.address, "data:", "blob:"))] == []
    shown.close()


def panel(shown, name):
    shown.get_by_role("tab", name=name, exact=True).click()
    return shown.get_by_role("tabpanel", name=name, exact=True)


def headline(shown):
    return shown.locator(".panel:not([hidden]) .headline")


def says(shown, text):
    expect(headline(shown)).to_have_text(text, timeout=LONG)


@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (360, "dark")])
def test_texts_stay_texts_and_nothing_scrolls_sideways(browser, server, width, scheme):
    with window(browser, server, viewport={"width": width, "height": 740}, color_scheme=scheme) as shown:
        says(shown, EVIL)
        assert shown.title() == f"{EVIL}: {DEMO.question}"
        expect(shown.locator("h1")).to_have_text(DEMO.question)
        assert shown.locator("img[src=x]").count() == 0 and shown.locator("script").count() == 2
        assert shown.locator(".panel:not([hidden]) .shown").count() == 7
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.locator(".bars .part").all_inner_texts() == ["75.0 %", "25.0 %", "< 0.1 %"]
        assert shown.locator(".pieces s").all_inner_texts() == ["but"], "what the model does not know is struck"
        assert shown.locator("svg.chart circle").count() >= 1
        small = shown.evaluate(
            "Math.min(...[...document.querySelectorAll('p, li, button, label')].filter(e => e.offsetParent && "
            "!e.closest('.unseen')).map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert small >= 12, "letters can be read"
        plane = shown.locator(".panel:not([hidden]) svg.chart[role=img]").last
        assert {"-5", "0", "5"} <= set(plane.locator("text").all_text_contents()), "the axes hold the span"
        ticks = shown.locator(".panel:not([hidden]) svg.chart text").first
        scale = ticks.evaluate("e => e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize)")
        assert scale >= 11, "those of a chart, too, which is drawn to scale"


def test_every_field_has_a_name_and_every_picture_a_text(browser, server):
    with window(browser, server) as shown:
        says(shown, EVIL)
        nameless = "e => e.filter(e => !e.labels?.length && !e.getAttribute('aria-label')).length"
        assert shown.locator("input, textarea, select, canvas").evaluate_all(nameless) == 0
        assert shown.locator("img:not([alt])").count() == 0
        assert shown.locator("html").get_attribute("lang") == "en"
        assert headline(shown).get_attribute("role") == "status", "what is answered is read out"


def test_the_keyboard_is_enough(browser, server):
    with window(browser, server) as shown:
        says(shown, EVIL)
        shown.get_by_role("tab").first.focus()
        shown.keyboard.press("ArrowRight")
        shown.keyboard.press("Tab")
        shown.keyboard.type("good day")
        says(shown, "good day")
        shown.get_by_role("tab", name="Echo").focus()
        shown.keyboard.press("ArrowRight")
        says(shown, "+0.50")
        shown.keyboard.press("Tab")
        shown.keyboard.press("ArrowLeft")
        says(shown, "+0.25")
        shown.get_by_role("tab", name="Numbers").focus()
        shown.keyboard.press("ArrowRight")
        shown.keyboard.press("Tab")
        shown.keyboard.press(" ")
        for _ in range(10):
            shown.keyboard.press("ArrowRight")
        expect(headline(shown)).to_have_text("47 47 77 53", timeout=LONG)
        shown.keyboard.press("Delete")
        expect(headline(shown)).to_have_text("", timeout=LONG)


def test_a_mouse_draws_and_undoes(browser, server):
    with window(browser, server) as shown:
        panel(shown, "Draw")
        box = shown.locator("canvas").bounding_box()
        for y in (0.25, 0.75):
            shown.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + y * box["height"])
            shown.mouse.down()
            shown.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + y * box["height"], steps=4)
            shown.mouse.up()
        says(shown, "22 22 78 78")
        shown.get_by_role("button", name="Undo").click()
        says(shown, "22 22 78 28")
        shown.get_by_role("button", name="Clear").click()
        says(shown, "")


def test_a_picture_is_chosen_and_a_broken_one_told(browser, server, tmp_path):
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"<svg onload=\"document.title='hacked'\"/>")
    with window(browser, server) as shown:
        node = panel(shown, "Photo")
        node.locator("input[type=file]").set_input_files(tmp_path / "good.png")
        says(shown, "(40, 30)")
        node.locator("input[type=file]").set_input_files(tmp_path / "bad.png")
        expect(node.get_by_role("alert")).to_contain_text("not a picture", timeout=LONG)
        says(shown, "")
        node.locator("input[type=file]").set_input_files(tmp_path / "good.png")
        expect(node.get_by_role("alert")).to_be_hidden(timeout=LONG)


def test_a_text_that_is_too_long_is_told_and_not_cut(browser, server):
    with window(browser, server) as shown:
        field = panel(shown, "Echo").locator("input")
        field.fill("🙂" * 300)
        says(shown, "🙂" * 300)
        for length, told in ((301, "301"), (1_000_000, "1,000,000")):
            field.fill("x" * length)
            expect(panel(shown, "Echo").get_by_role("alert")).to_contain_text(f"{told} characters, at most 300")
            says(shown, "")
        field.fill("short")
        says(shown, "short")


def test_no_answer_stands_beside_what_it_is_none_to(browser, server, capfd):
    """Neither when the model fails nor while it is at work."""
    shown = browser.new_page()
    shown.set_default_timeout(LONG)
    shown.goto(server.address)
    node = panel(shown, "Echo")
    node.locator("input").fill("first")
    expect(node.locator(".lines")).to_have_text("first", timeout=LONG)
    node.locator("input").fill("bug")
    expect(node.get_by_role("alert")).to_contain_text("the model failed", timeout=LONG)
    assert headline(shown).inner_text() == "" and node.locator(".lines").count() == 0
    assert "a bug of ours" in capfd.readouterr().err
    held = []
    shown.route("**/answer", lambda route: held.append(route))
    node.locator("input").fill("second")
    expect(node.locator("> .tell")).to_have_css("opacity", "0.35", timeout=LONG)
    held.pop().continue_()
    says(shown, "second")
    expect(node.locator("> .tell")).to_have_css("opacity", "1", timeout=LONG)
    shown.close()


def test_what_comes_later_is_shown_below_what_it_belongs_to(browser, server):
    with window(browser, server) as shown:
        node, held = panel(shown, "Echo"), []
        bars = node.locator(".bars .name")
        node.locator("input").fill("more")
        expect(bars).to_have_text("more", timeout=LONG)
        assert node.locator(".shown").count() == 2 and node.locator(".shown .lines").count() == 1

        def slow(route):
            held.append(route) if "later" in route.request.post_data_json else route.continue_()

        shown.route("**/answer", slow)
        node.locator("input").fill("more of it")
        says(shown, "more of it")
        expect(node.locator(".lines")).to_have_text("more of it", timeout=LONG)
        assert bars.count() == 0, "nothing of the answer before"
        expect(node).to_have_attribute("aria-busy", "false", timeout=LONG)
        held.pop().continue_()
        expect(bars).to_have_text("more of it", timeout=LONG)
        node.locator("input").fill("more and")
        says(shown, "more and")
        node.locator("input").fill("nothing")  # while the rest is at work
        held.pop().continue_()
        says(shown, "nothing")
        expect(node.locator(".lines")).to_have_text("nothing", timeout=LONG)
        assert bars.count() == 0 and not held


def test_a_picture_that_is_dropped_beside_its_field_does_not_replace_the_page(browser, server):
    with window(browser, server) as shown:
        says(shown, EVIL)
        for kind in ("dragover", "drop"):
            event = f"new DragEvent('{kind}', {{bubbles: true, cancelable: true}})"
            assert not shown.evaluate(f"document.querySelector('h1').dispatchEvent({event})"), (
                "its default is prevented"
            )


def test_two_windows_at_once_and_the_last_of_many_keys_counts(browser, server):
    with window(browser, server) as one, window(browser, server) as other:
        for shown, word in ((one, "first"), (other, "second")):
            panel(shown, "Echo").locator("input").press_sequentially(word * 5)
        says(one, "first" * 5)
        says(other, "second" * 5)


def test_a_plane_is_clicked(browser, server):
    with window(browser, server) as shown:
        says(shown, EVIL)
        box = shown.locator(".plane").bounding_box()
        shown.locator(".plane").click(position={"x": 0.25 * box["width"], "y": 0.25 * box["height"]})
        told = shown.locator(".panel:not([hidden]) .slider output").all_inner_texts()
        assert [float(x) for x in told[1:]] == pytest.approx([-1, 0.75], abs=0.03)
