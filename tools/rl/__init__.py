"""Agents of reinforcement learning to compare with: constrained A2C and PPO on the simulated episodes."""
