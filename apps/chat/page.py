"""The page itself: what is on it, and what happens when something is pressed."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from k2mlx.agent.tools import BUILTIN
from k2mlx.errors import RequestError
from k2mlx.generate import Engine, Sampling

from . import view
from .conversation import Conversation

EXAMPLES = (
    "What is 1234 * 5678?",
    "What time is it in Tokyo?",
    "How many kilometres are 26.2 miles?",
    "Hello! Who are you?",
)
DEFAULT = Sampling()

Changes = dict[Any, Any]  # component -> its new value, or gr.update(...)


class Conversations:
    """One conversation for each open page, in memory; gone when the page is closed or reloaded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_page: dict[str, Conversation] = {}

    def of(self, request: gr.Request) -> Conversation:
        """The conversation of the page that asks."""
        key = request.session_hash or ""
        return self._by_page.setdefault(key, Conversation(self._engine))

    def has(self, request: gr.Request, talk: Conversation) -> bool:
        """Whether `talk` is still the page's, which may have started over or be closed."""
        return self._by_page.get(request.session_hash or "") is talk

    def forget(self, request: gr.Request) -> None:
        """End the page's conversation, and what is being written in it."""
        talk = self._by_page.pop(request.session_hash or "", None)
        if talk is not None:
            talk.stop()


class Page:
    """The page for the model that `engine` has loaded; `blocks` is Gradio's form of it.

    Two Chatbots follow each other without a seam: `past`, which changes once a turn, and `now`, the
    answer being written. In one Chatbot every update would lay out the whole conversation again.
    """

    def __init__(self, engine: Engine) -> None:
        self._info = engine.info
        self._talks = Conversations(engine)
        with gr.Blocks(title=f"{self._info.name} · k2mlx", analytics_enabled=False) as self.blocks:
            self._lay_out()
            self._connect()

    def _lay_out(self) -> None:
        with gr.Row(elem_id="top"):
            gr.HTML(view.header_html(self._info), elem_id="model")
            self.new = gr.Button("New chat", elem_id="new", size="sm", scale=0)
        with gr.Column(elem_id="talk"):
            self.past = _chatbot("past", label="Conversation", examples=True)
            self.now = _chatbot("now", label="Answer being written")
        with gr.Column(elem_id="bottom"):
            self.problem = gr.HTML(elem_id="problem")
            self.box = gr.Textbox(
                placeholder="Ask something (Enter sends)",
                label="Message",
                show_label=False,
                container=False,
                max_lines=8,
                autofocus=True,
                submit_btn="Send",
                elem_id="message",
            )
            with gr.Row(elem_id="tools-row"):
                self.tools = gr.CheckboxGroup(
                    [(view.TITLES[name], name) for name in BUILTIN],
                    value=list(BUILTIN),
                    label="Tools",
                    show_label=False,
                    container=False,
                    elem_id="tools",
                )
                self.fill = gr.HTML(view.context_html(0, self._info.context), elem_id="fill")
            with gr.Accordion("Sampling", open=False, elem_id="sampling"):
                self.sampling = _sampling(self._info.context)

    def _connect(self) -> None:
        asked = [self.box, self.tools, *self.sampling]
        shown = [self.past, self.now, self.box, self.fill, self.problem]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # The engine has its own queue, so that answers of several pages wait there, not here.
        answering: dict[str, Any] = {"concurrency_limit": None, **private}
        self.box.submit(self.answer, asked, shown, **answering)
        self.box.stop(self.stop, None, None, queue=False, **private)
        self.new.click(self.start_over, None, shown, queue=False, **private)
        self.past.example_select(self.take_example, None, self.box, queue=False, **private).then(
            self.answer, asked, shown, **answering
        )
        self.blocks.unload(self._talks.forget)

    async def answer(
        self,
        text: str,
        tools: list[str],
        temperature: float,
        top_p: float,
        max_tokens: float,
        seed: str | None,
        request: gr.Request,
    ) -> AsyncIterator[Changes]:
        """Send the text and show the answer as it grows."""
        talk = self._talks.of(request)
        if not text.strip() or talk.live is not None:
            yield {self.problem: ""}
            return
        try:
            settings = _settings(temperature, top_p, max_tokens, seed)
        except RequestError as error:
            yield {self.problem: view.problem_html(str(error))}
            return
        chosen = {name: tool for name, tool in BUILTIN.items() if name in tools}
        live = talk.ask(text, chosen, settings)
        try:
            yield {
                self.past: view.history(talk, live=True),
                self.now: view.live_messages(live.answer),
                self.box: gr.update(value="", submit_btn=False, stop_btn="Stop"),
                self.problem: "",
            }
            async with aclosing(live.watch()) as growing:
                async for answer in growing:
                    if not self._talks.has(request, talk):
                        break
                    if not answer.done:
                        yield {self.now: view.live_messages(answer)}
        finally:
            taken_back = talk.finish()
        if self._talks.has(request, talk):
            yield self._ended(talk, live.answer, taken_back)
        else:  # New chat was pressed, and an update of ours may have reached the page after it
            yield {self.now: []}

    def _ended(self, talk: Conversation, answer: view.Answer, taken_back: str | None) -> Changes:
        """The answer moves into the history; a question that failed goes back into the box."""
        changes: Changes = {self.past: view.history(talk, live=False), self.now: []}
        if taken_back is None:
            changes[self.box] = gr.update(submit_btn="Send", stop_btn=False)
            changes[self.fill] = view.context_html(answer.cost.context, self._info.context)
        else:
            changes[self.box] = gr.update(value=taken_back, submit_btn="Send", stop_btn=False)
            changes[self.problem] = view.problem_html(answer.error or "")
        return changes

    def stop(self, request: gr.Request) -> None:
        """Stop the model; `answer` then ends by itself with what there is."""
        self._talks.of(request).stop()

    def start_over(self, request: gr.Request) -> Changes:
        """Forget the conversation."""
        self._talks.forget(request)
        return {
            self.past: [],
            self.now: [],
            self.box: gr.update(value="", submit_btn="Send", stop_btn=False),
            self.fill: view.context_html(0, self._info.context),
            self.problem: "",
        }

    def take_example(self, event: gr.SelectData) -> str:
        """Put an example into the box, from where it is sent."""
        return event.value["text"]


def _chatbot(name: str, *, label: str, examples: bool = False) -> gr.Chatbot:
    """A Chatbot that shows the HTML of view.py and sanitises it once more."""
    return gr.Chatbot(
        elem_id=name,
        label=label,
        show_label=False,
        container=False,
        height=None,
        autoscroll=False,  # the page scrolls, not the component
        render_markdown=False,
        sanitize_html=True,
        allow_tags=False,
        latex_delimiters=[],
        buttons=[],
        examples=[{"text": text} for text in EXAMPLES] if examples else None,
    )


def _sampling(context: int) -> list[gr.components.Component]:
    """Temperature, top-p, tokens at most, seed: in the order that `answer` takes them."""
    most = min(DEFAULT.max_tokens, context)
    with gr.Row():
        return [
            gr.Slider(0, 2, DEFAULT.temperature, step=0.05, label="Temperature", min_width=140),
            gr.Slider(0.05, 1, DEFAULT.top_p, step=0.05, label="Top-p", min_width=140),
            gr.Slider(16, context, most, step=16, label="Tokens at most", min_width=140),
            # Not a Number, which shows an empty value as 0.
            gr.Textbox(label="Seed", placeholder="random", max_lines=1, min_width=140),
        ]


def _settings(temperature: float, top_p: float, max_tokens: float, seed: str | None) -> Sampling:
    """What the panel says. Raises: RequestError."""
    try:
        number = int(seed) if seed and seed.strip() else None
    except ValueError as error:
        raise RequestError(
            f"seed: got {seed!r}, wanted a whole number; correct it, or leave it empty"
        ) from error
    return Sampling(
        temperature=temperature, top_p=top_p, max_tokens=int(max_tokens or 0), seed=number
    )
