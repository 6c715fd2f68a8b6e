"""Training data: conversations and text on disk, the vocabulary, token shards and packed batches.

Read `schema.py` (what a conversation is), `corpus.py` (text to shards), `chats.py`, `sgd.py` and
`tool_chats.py` (other people's dialogues to conversations), `conversations.py` (conversations to
shards), `recipe.py` and `build.py` (all of it as one file describes it), then `pack.py` (shards to
batches).
"""
