"""The four training steps: pretrain, sft, reward, ppo.

Each is one module that reads like its algorithm; none imports another.
"""
