"""The training steps: pretrain, sft, reward, ppo, and the alternatives dpo, expert iteration and cloning.

Each is one module that reads like its algorithm. None imports another, except that expert iteration fine-tunes with sft.
"""
