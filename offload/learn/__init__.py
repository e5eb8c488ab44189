"""Learning to decide: routers trained on logged outcomes, updates from feedback, and watching for drift.

Knows: features, fitted rules, feedback, sequential tests. Does not know: models, the network, where rows are
kept.
"""
