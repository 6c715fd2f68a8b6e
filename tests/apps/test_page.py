"""The real page in headless Chromium, with the scripted model and, where it is, with k2-nano."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest

from k2mlx.agent.heldout import is_held_out_value
from k2mlx.home import bundled

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("page")]

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ON_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
NANO = bundled("models") / "k2-nano"
PATIENCE = 60_000  # milliseconds; a loaded machine is slow


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    found = found or (ON_MAC if os.path.exists(ON_MAC) else None)
    if found is None:
        pytest.skip("needs Chromium or Chrome, and neither is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Server:
    """A program that serves the page; its output is collected."""

    def __init__(self, *command):
        self.output = ""
        self._ready = threading.Event()
        # Without what conftest.py sets: the page must keep Gradio quiet by itself.
        loud = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
        environment = {name: value for name, value in os.environ.items() if name not in loud}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(120), self.output
        ready = re.search(r"Ready: (\S+)", self.output)
        assert ready, self.output
        self.url = ready[1]

    def _read(self):
        for line in self._process.stdout:
            self.output += line
            if "Ready:" in line:
                self._ready.set()
        self._ready.set()  # it has ended

    def interrupt(self):
        """What Ctrl-C does. Returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(30)
        self._reader.join(10)
        self._process.stdout.close()
        return code


def start(model):
    if model == "scripted":
        return Server("tests.apps.scripted")
    return Server("k2mlx", "chat", "--model", str(NANO), "--no-browser")


def needs_weights():
    missing = not list(NANO.glob("model*.safetensors"))
    return pytest.mark.skipif(missing, reason="models/k2-nano has no weights")


@pytest.fixture(scope="module")
def servers():
    """Gives the page's server for a model; each is started once."""
    running = {}

    def serve(model):
        if model not in running:
            running[model] = start(model)
        return running[model]

    yield serve
    for server in running.values():
        assert server.interrupt() == 0, server.output
        assert "outbound" not in server.output


@dataclass
class Chat:
    """The page, driven as a person would; `foreign` is every request that left this machine."""

    page: object
    server: Server
    foreign: list = field(default_factory=list)
    errors: list = field(default_factory=list)

    def __post_init__(self):
        self.page.on("request", self._note_request)
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.set_default_timeout(PATIENCE)
        self.box = self.page.get_by_placeholder("Ask something")
        self.send_button = self.page.get_by_role("button", name="Send")
        self.stop_button = self.page.get_by_role("button", name="Stop")
        self.answers = self.page.locator("#past .bot-row")
        self.cards = self.page.locator(".k2-card")

    def _note_request(self, request):
        if not re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", request.url):
            self.foreign.append(request.url)

    def _note_console(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def send(self, text):
        self.box.fill(text)
        self.box.press("Enter")

    def ask(self, text):
        """Send and wait for the whole answer; returns it."""
        before = self.answers.count()
        self.send(text)
        playwright.expect(self.answers).to_have_count(before + 1, timeout=PATIENCE)
        playwright.expect(self.send_button).to_be_visible()
        return self.answers.last

    def set_temperature(self, value):
        self.page.get_by_role("button", name="Sampling").click()
        number = self.page.get_by_label("number input for Temperature")
        number.fill(value)
        number.press("Tab")


@pytest.fixture
def open_page(chromium, servers):
    """Opens a page, as often as wanted; afterwards nothing may have left the machine."""
    opened = []

    def open_it(model, query="", **options):
        chat = Chat(chromium.new_page(**options), servers(model))
        opened.append(chat)
        chat.page.goto(chat.server.url + query)
        chat.box.wait_for()
        return chat

    yield open_it
    for chat in opened:
        chat.page.close()
    assert [chat.foreign for chat in opened] == [[] for _ in opened]
    assert [chat.errors for chat in opened] == [[] for _ in opened]


@pytest.fixture(params=["scripted", pytest.param("k2-nano", marks=needs_weights())])
def chat(request, open_page):
    """The page with either model."""
    return open_page(request.param)


@pytest.fixture
def scripted(open_page):
    """The page with the model whose answers are known word for word."""
    return open_page("scripted")


def held_out_products(count):
    """Products of which the training data holds none, as (text, value)."""
    draw = random.Random(20261122)
    found = []
    while len(found) < count:
        a, b = draw.randint(100, 9999), draw.randint(100, 9999)
        if is_held_out_value(f"{a} * {b}"):
            found.append((f"What is {a} * {b}?", str(a * b)))
    return found


@pytest.mark.parametrize(
    ("question", "value"), [("What is 1234 * 5678?", "7006652"), *held_out_products(3)]
)
def test_a_product_shows_a_card_and_the_right_number(chat, question, value):
    chat.set_temperature("0")
    answer = chat.ask(question)
    card = answer.locator(".k2-card")
    playwright.expect(card).to_have_count(1)
    playwright.expect(card).to_contain_text("Calculator")
    playwright.expect(card.locator("dd")).to_contain_text(question.split()[2])
    playwright.expect(card.locator(".k2-result")).to_contain_text(value)
    text = answer.locator(".k2-text").last.inner_text()
    assert value in text.replace(",", "")
    playwright.expect(answer.locator(".k2-cost")).to_contain_text("tokens/s")


def test_small_talk_shows_no_card(chat):
    answer = chat.ask("Hello! How are you today?")
    assert re.search(r"[A-Za-z]{2,}", answer.locator(".k2-text").inner_text())
    assert chat.cards.count() == 0


def test_stop_before_the_first_word(chat):
    chat.send("Tell me a long story. " + "word " * 900)
    chat.stop_button.click()
    playwright.expect(chat.answers).to_have_count(1, timeout=PATIENCE)
    playwright.expect(chat.answers.last).to_contain_text("stopped")
    playwright.expect(chat.send_button).to_be_visible()
    chat.ask("Hello!")  # the input is usable, and the model free


def test_the_model_says_what_it_is(chat):
    header = chat.page.locator("#model")
    for fact in ("parameters", "MB", "tokens of context", "simple English"):
        playwright.expect(header).to_contain_text(fact)


def test_new_chat_starts_over(chat):
    chat.ask("Hello! How are you today?")
    chat.page.get_by_role("button", name="New chat").click()
    playwright.expect(chat.answers).to_have_count(0)
    playwright.expect(chat.page.get_by_text("What is 1234 * 5678?")).to_be_visible()
    chat.ask("Hello!")


@pytest.mark.parametrize(
    ("query", "size"), [("", (1100, 800)), ("?__theme=dark", (1100, 800)), ("", (390, 780))]
)
def test_nothing_sticks_out(open_page, query, size):
    chat = open_page("scripted", query, viewport={"width": size[0], "height": size[1]})
    for _ in range(2):
        width = chat.page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= size[0]
        bottom = chat.page.locator("#bottom").bounding_box()
        assert bottom["y"] + bottom["height"] <= size[1] + 1
        chat.ask("What is 1234 * 5678?")


def test_stop_in_the_middle_of_an_answer(scripted):
    server = scripted.server
    cancelled = server.output.count("scripted: cancelled")
    scripted.send("a long story")
    live = scripted.page.locator("#now")
    playwright.expect(live).to_contain_text("9 sheep,")
    playwright.expect(live).to_contain_text("tokens/s")
    scripted.stop_button.click()
    playwright.expect(scripted.answers).to_have_count(1)
    answer = scripted.answers.last
    playwright.expect(answer).to_contain_text("9 sheep,")
    playwright.expect(answer).to_contain_text("stopped")
    assert server.output.count("scripted: cancelled") == cancelled + 1
    playwright.expect(live).to_be_hidden()


def test_what_is_typed_while_the_model_writes_is_kept(scripted):
    scripted.send("a long story")
    scripted.stop_button.wait_for()
    scripted.box.fill("my next question")
    scripted.box.press("Enter")  # too early: it stays where it is
    scripted.stop_button.click()
    playwright.expect(scripted.send_button).to_be_visible()
    playwright.expect(scripted.box).to_have_value("my next question")


def test_html_from_anybody_stays_text(scripted):
    evil = "echo <img src=http://example.com/x.png onerror=alert(1)> <b>2*3*4</b> & `x` $y$"
    dialogs = []
    scripted.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    answer = scripted.ask(evil)
    assert answer.locator(".k2-text").inner_text() == evil
    assert scripted.page.locator("#past .user-row").last.inner_text() == evil
    assert scripted.page.locator("#talk img, #talk .k2-text b").count() == 0
    assert dialogs == []


def test_a_failed_call_is_seen_to_have_failed(scripted):
    answer = scripted.ask("What time is it?")
    playwright.expect(answer.locator(".k2-done")).to_contain_text("Tokyo")
    playwright.expect(answer.locator(".k2-failed")).to_contain_text("no_such_tool")


def test_a_tool_that_is_off_is_not_offered(scripted):
    scripted.page.get_by_label("Calculator").uncheck()
    answer = scripted.ask("What is 12 * 34?")
    playwright.expect(answer).to_contain_text("I have no calculator.")


def test_too_long_a_message_comes_back_with_the_reason(scripted):
    text = "word " * 1500
    scripted.send(text)
    playwright.expect(scripted.page.locator("#problem")).to_contain_text("shorten it")
    playwright.expect(scripted.box).to_have_value(text)
    scripted.ask("Hello!")
    playwright.expect(scripted.page.locator("#problem")).to_be_hidden()


def test_bad_sampling_is_explained(scripted):
    scripted.page.get_by_role("button", name="Sampling").click()
    scripted.page.get_by_label("Seed").fill("abc")
    scripted.send("Hello!")
    problem = scripted.page.locator("#problem")
    playwright.expect(problem).to_contain_text("seed: got 'abc', wanted a whole number")
    scripted.page.get_by_label("Seed").fill("7")
    scripted.ask("Hello!")


def test_when_the_context_is_full_the_page_says_so(scripted):
    for i in range(5):
        scripted.ask(f"Hello {i} " + "word " * 250)
    note = scripted.page.locator("#past .k2-dropped")
    playwright.expect(note).to_contain_text("no longer sees what is above")


def test_new_chat_in_the_middle_of_an_answer(scripted):
    scripted.send("a long story")
    playwright.expect(scripted.page.locator("#now")).to_contain_text("3 sheep,")
    scripted.page.get_by_role("button", name="New chat").click()
    playwright.expect(scripted.page.locator("#now")).to_be_hidden()
    playwright.expect(scripted.send_button).to_be_visible()  # the box has been emptied
    scripted.ask("Hello!")
    assert scripted.page.locator(".message-row").count() == 2


def test_a_closed_page_stops_its_model(open_page):
    chat, other = open_page("scripted"), open_page("scripted")
    server = chat.server
    cancelled = server.output.count("scripted: cancelled")
    chat.send("a long story")
    playwright.expect(chat.page.locator("#now")).to_contain_text("3 sheep,")
    chat.page.close()
    other.ask("Hello!")  # pages do not share a conversation
    assert other.answers.count() == 1
    for _ in range(50):
        if server.output.count("scripted: cancelled") > cancelled:
            return
        other.page.wait_for_timeout(100)
    raise AssertionError("the model goes on for nobody")


def test_the_page_follows_the_answer_unless_scrolled_up(scripted):
    def below():
        root = "document.scrollingElement"
        return scripted.page.evaluate(
            f"{root}.scrollHeight - {root}.scrollTop - {root}.clientHeight"
        )

    for i in range(4):
        scripted.ask(f"echo {i} " + "line\n" * 10)
    assert below() < 5
    scripted.page.evaluate("document.scrollingElement.scrollTop = 0")
    scripted.page.wait_for_timeout(200)
    scripted.ask("Hello!")
    assert below() > 200


def test_shift_enter_makes_a_new_line(scripted):
    scripted.box.fill("echo one")
    scripted.box.press("Shift+Enter")
    scripted.box.type("two")
    playwright.expect(scripted.box).to_have_value("echo one\ntwo")


def test_the_functions_of_the_page_are_not_an_api(scripted):
    answer = scripted.page.request.get(f"{scripted.server.url}/gradio_api/info").json()
    assert answer["named_endpoints"] == {} == answer["unnamed_endpoints"]


def test_ctrl_c_ends_it_at_once():
    server = Server("tests.apps.scripted")
    assert server.interrupt() == 0
    assert server.output.count("\n") == 1
