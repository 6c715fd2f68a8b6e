"""Seeded generators of conversations that teach a small model to chat and to call tools.

Reading order: `phrasing` (the little grammar that every table is written in), `words`, `talk` (builds one
conversation), then one generator per kind: `arithmetic`, `clock`, `units`, `small_talk`, `mixed`, `schemas`
(function calling over a generated universe of tools), `chat`. `make` draws from all of them.
The same seed gives the same conversations; nothing here reads the clock of the machine or the network.
"""
