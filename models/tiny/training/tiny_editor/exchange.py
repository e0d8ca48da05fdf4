"""A second process that lends gradients: it reads the leader's weights and hands back what it computed on them.

Neither ever waits for the other, so a helper on a busy core only helps less.
"""

import time

import numpy as np
import torch

from . import paths

FOLDER = "/dev/shm"


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


class Exchange:
    def __init__(self, parameters, leader):
        self.parameters = parameters
        self.count = sum(p.numel() for p in parameters)
        self.weights = self.shared("weights", np.float32, self.count, leader)
        self.gradient = self.shared("gradient", np.float32, self.count, leader)
        # [0]: leader's progress in the stage, [1]: 1 while a gradient waits, [2]: samples in it, [3]: 1 once published
        self.state = self.shared("state", np.float64, 4, leader)

    @staticmethod
    def shared(name, kind, count, fresh):
        path = f"{FOLDER}/tiny-editor-{paths.RUNS.stat().st_ino}-{name}"
        return np.memmap(path, kind, "w+" if fresh else "r+", shape=(count,))

    def publish(self, part):
        self.weights[:] = flat([p.detach() for p in self.parameters]).numpy()
        self.state[0], self.state[3] = part, 1

    @torch.no_grad()
    def fetch(self):
        """Takes over the leader's weights -> its progress."""
        while not self.state[3]:
            time.sleep(0.1)
        at, fresh = 0, torch.from_numpy(np.array(self.weights))
        for p in self.parameters:
            p.copy_(fresh[at:at + p.numel()].view_as(p))
            at += p.numel()
        return float(self.state[0])

    def offer(self, samples):
        """Hands over the gradients unless the last ones still wait."""
        if self.state[1]:
            return False
        self.gradient[:] = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]).numpy()
        self.state[2], self.state[1] = samples, 1
        return True

    def merge(self):
        """Averages a waiting gradient into the leader's own -> its samples."""
        if not self.state[1]:
            return 0
        at, lent = 0, torch.from_numpy(np.array(self.gradient))
        for p in self.parameters:
            if p.grad is not None:
                p.grad.add_(lent[at:at + p.numel()].view_as(p)).mul_(0.5)
            at += p.numel()
        self.state[1] = 0
        return int(self.state[2])
