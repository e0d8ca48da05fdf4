"""What every training stage shares: its clock, learning rate, log and checkpoint."""

import json
import os
import random
import time

import numpy as np
import torch

from . import paths


class Stage:
    """Counts a stage's working time over interruptions, so that a later run goes on where an earlier one stopped.

    It is the processor's time, so that other work on the machine costs a run patience, not lessons.
    """

    def __init__(self, name, minutes, rank=0):
        self.name, self.seconds, self.rank = name, minutes * 60, rank
        self.folder = paths.RUNS
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / f"{name}.pt"
        self.before, self.steps, self.samples = 0.0, 0, 0
        self.started = time.process_time()

    def elapsed(self):
        return self.before + time.process_time() - self.started

    def part(self):
        """How much of the stage is done, 0 to 1."""
        return min(1.0, self.elapsed() / self.seconds)

    def restart_clock(self):
        self.before, self.started = self.elapsed(), time.process_time()

    def resume(self, **modules):
        """Loads what an earlier run saved of the named modules and optimisers; False if there is nothing."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=False)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        self.before, self.steps, self.samples = state["cpu"], state["steps"], state["samples"]
        return True

    def learn(self, loss, optimisers, samples, clipped=()):
        """One step down the slope of `loss`; the gradients of `clipped` have a length of 1 at most."""
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        if clipped:
            torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        self.steps += 1
        self.samples += samples

    def save(self, **modules):
        if self.rank:
            return
        state = {name: module.state_dict() for name, module in modules.items()}
        state |= dict(cpu=self.elapsed(), steps=self.steps, samples=self.samples)
        fresh = self.checkpoint.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, self.checkpoint)

    def log(self, **values):
        entry = dict(stage=self.name, cpu_minutes=round(self.elapsed() / 60, 1), steps=self.steps,
                     samples=self.samples, **values)
        line = json.dumps(entry)
        if not self.rank:
            print(line, flush=True)
            with open(self.folder / f"{self.name}.log", "a") as log:
                log.write(line + "\n")


def set_rate(optimisers, part, steps, warm_up=60, flat=0.35, floor=0.02):
    """Warm-up, constant, then linear to nearly nothing; each group keeps its own base rate."""
    factor = min(1, (steps + 1) / warm_up) * (1 if part < flat else max(floor, (1 - part) / (1 - flat)))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.setdefault("base", group["lr"])
            group["lr"] = group["base"] * factor


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
