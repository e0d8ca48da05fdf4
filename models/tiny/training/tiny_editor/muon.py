"""Muon: momentum made orthogonal by five Newton-Schulz steps, for matrices and convolution kernels."""

import torch


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, same in by_shape.items():
                self.step_together(same, shape, group)

    def step_together(self, parameters, shape, group):
        directions = []
        for p in parameters:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.mul_(group["momentum"]).add_(p.grad)
            directions.append((p.grad + group["momentum"] * momentum).reshape(shape[0], -1))
        updates = orthogonal(torch.stack(directions))
        step = -group["lr"] * 0.2 * max(updates.shape[1:]) ** 0.5
        for p, update in zip(parameters, updates):
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(shape), alpha=step)


def orthogonal(x):
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16()
    for _ in range(5):
        square = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    x = x.float()
    return x.transpose(1, 2) if tall else x
