"""Tiny models take one thread: two that wait for each other cost more than they save, and most of all where
other processes run."""

import torch

torch.set_num_threads(1)
