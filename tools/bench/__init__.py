"""Side-by-side speed measurements of this runtime and its peers.

Knows how to run engines in processes of their own, in alternation, and how to say what was measured. Does
not know what an engine does inside: each is an adapter behind a line protocol (`protocol.py`), because the
peers live in an environment of their own (`setup_env.sh`) and must not share one with the runtime.
"""
