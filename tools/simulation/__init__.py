"""What `tools/compare_policies.py` runs: fleets under several policies, learning, watching for drift."""
