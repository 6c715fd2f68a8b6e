"""The chat page: a conversation with a model, in a browser, with tools.

`k2mlx chat` loads this package from where `k2mlx.home.bundled("apps")` says and calls `serve`.
Gradio takes seconds to import, so only `page.py` and `serve.py` import it, and late.

Reading order: `answer.py` (what an answer consists of while it grows), `live.py` (following it from
an event loop, and stopping it), `conversation.py` (turns, and which of them the model still sees),
`view.py` (all HTML), `page.py` (the page and its events), `serve.py` (ports and launching).
"""
