"""The trainer: a policy samples text, an environment answers, PPO updates the policy.

It sees the environment through the Gymnasium API only, so that any text environment can take its place.
Importing this package imports nothing heavy.
"""
