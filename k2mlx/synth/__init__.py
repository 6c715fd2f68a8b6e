"""Seeded generators of conversations that teach a small model to chat and to call tools.

Reading order: `phrasing` (the little grammar that every table is written in), `words`, `talk`
(builds one conversation). The three tools of k2mlx: `arithmetic`, `clock`, `units`, `single_turn`.
Talk: `chat`, `small_talk`, `mixed`. Function calling over a universe of tools: `catalogue`,
`declare`, `requests`, `schemas`. `make` draws from all of them. The same seed gives the same
conversations; nothing here reads the machine's clock or the network.
"""
